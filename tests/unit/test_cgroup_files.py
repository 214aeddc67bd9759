"""What the files of a cgroup say, and where cgroups are mounted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd.cgroups import tree as cgroup_tree
from farswap.client_nbd.cgroups.index import LimitFiles
from farswap.client_nbd.cgroups.tree import CgroupTree

if TYPE_CHECKING:
    from pathlib import Path


def id_at(path: Path) -> int:
    return path.stat().st_ino & 0xFFFF_FFFF


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/d", "e"):
        (tmp_path / "cg" / name).mkdir(parents=True)
    return tmp_path / "cg"


def test_limits_are_read_at_first_sight_and_when_written(root: Path) -> None:
    (root / "a/memory.zswap.max").write_text("1048576\n")
    (root / "a/d/memory.zswap.max").write_text("max\n")
    (root / "a/d/memory.zswap.writeback").write_text("0\n")
    tree = CgroupTree(root)
    tree.refresh()
    a, d, e = (id_at(root / name) for name in ("a", "a/d", "e"))
    assert tree.limits(a) == LimitFiles(1 << 20, zswap_writeback=True)
    assert tree.limits(d) == LimitFiles(None, zswap_writeback=False)
    assert tree.limits(e) == tree.limits(12345) == LimitFiles()
    (root / "a/memory.zswap.max").write_text("4096\n")
    (root / "a/memory.high").write_text("4096\n")
    assert tree.refresh().limits == [a]
    assert tree.limits(a).zswap_max_bytes == 4096
    assert tree.reread_limits([a, d, e, 12345]) == []
    (root / "a/d/memory.zswap.writeback").write_text("1\n")
    assert tree.reread_limits([a, d]) == [d]
    assert tree.refresh().limits == []
    tree.close()


@pytest.mark.parametrize("text", ["", "x", "-1", "1 2", "1e3"])
def test_a_limit_that_is_no_number_limits_nothing(root: Path, text: str) -> None:
    (root / "e/memory.zswap.max").write_text(text)
    tree = CgroupTree(root, watch=False)
    tree.refresh()
    assert tree.limits(id_at(root / "e")) == LimitFiles()
    assert tree.problem == ""


def test_pressure_of_a_cgroup(root: Path) -> None:
    tree = CgroupTree(root, watch=False)
    tree.refresh()
    (root / "e/memory.pressure").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=123456\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=99\n"
    )
    assert tree.stall_us(id_at(root / "e")) == 123456
    assert tree.stall_us(id_at(root / "a")) is None
    e = id_at(root / "e")
    (root / "e/memory.pressure").unlink()
    (root / "e").rmdir()
    assert tree.stall_us(e) is None


V1 = "35 31 0:32 / {v1} rw,relatime - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 / {v2} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER = "36 31 0:33 / /sys/fs/cgroup/devices rw shared:9 - cgroup cgroup rw,devices\n"


@pytest.mark.parametrize(
    ("lines", "controllers", "expected"),
    [
        (OTHER + V1 + V2, "cpu memory io", "v2"),
        (OTHER + V1 + V2, "", "v1"),
        (OTHER + V2, "cpu io", None),
        (V2, "memory", "v2"),
        (OTHER, "memory", None),
    ],
)
def test_the_hierarchy_with_the_memory_controller_is_detected(
    tmp_path: Path, lines: str, controllers: str, expected: str | None
) -> None:
    for name in ("v1 x", "v2"):
        (tmp_path / name).mkdir()
    (tmp_path / "v2/cgroup.controllers").write_text(controllers + "\n")
    mounts = {"v1": f"{tmp_path}/v1\\040x", "v2": f"{tmp_path}/v2"}
    (tmp_path / "mountinfo").write_text(lines.format(**mounts))
    roots = {"v1": tmp_path / "v1 x", "v2": tmp_path / "v2", None: None}
    assert cgroup_tree.detect_root(tmp_path / "mountinfo") == roots[expected]


def test_no_mounts_can_be_read(tmp_path: Path) -> None:
    assert cgroup_tree.detect_root(tmp_path / "none") is None
