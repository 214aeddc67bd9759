"""Runs in a guest: what the tree of cgroups sees on a kernel with cgroup v2, as one report."""

import json
import time
from pathlib import Path

from farswap.client_nbd.cgroups import tree as cgroup_tree
from farswap.client_nbd.cgroups.tree import CgroupTree

MANY = 300


def write(path: Path, text: str) -> None:
    path.write_text(text)


def main() -> None:
    root = cgroup_tree.detect_root()
    assert root is not None
    tree = CgroupTree(root)
    tree.refresh()
    top = root / "top"
    (top / "a").mkdir(parents=True)
    write(top / "cgroup.subtree_control", "+memory")
    added = [tree.path_of(id_) for id_ in tree.refresh().added]
    a = tree.id_of("/top/a")
    before = tree.limits(a)
    write(top / "a/memory.zswap.max", "1048576")
    write(top / "a/memory.zswap.writeback", "0")
    changed = tree.refresh().limits
    limits = tree.limits(a)
    began = time.monotonic()
    for number in range(MANY):
        (top / f"c{number}").mkdir()
    made = len(tree.refresh().added)
    for number in range(MANY):
        (top / f"c{number}").rmdir()
    removed = tree.refresh().removed
    took_s = time.monotonic() - began
    (top / "a").rmdir()
    last = tree.refresh().removed
    watches = Path(f"/proc/self/fdinfo/{tree._inotify._fd}").read_text().count("inotify wd:")
    report = {
        "root": str(root),
        "added": added,
        "id_is_inode": tree.id_of("/top") == top.stat().st_ino,
        "before": [before.zswap_max_bytes, before.zswap_writeback],
        "changed": changed == [a],
        "after": [limits.zswap_max_bytes, limits.zswap_writeback],
        "stall_us": tree.stall_us(tree.id_of("/top")),
        "made": made,
        "removed": len(removed),
        "last": last == [(a, tree.id_of("/top"))],
        "watches_left_over": watches - len(tree),
        "took_ms": int(took_s * 1000),
    }
    print("report tree", json.dumps(report))


main()
