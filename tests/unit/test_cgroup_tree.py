"""The tree of cgroups against real directories that come, go, and are made again."""

from __future__ import annotations

import errno
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd.cgroups import inotify
from farswap.client_nbd.cgroups import tree as cgroup_tree
from farswap.client_nbd.cgroups.tree import CgroupTree

if TYPE_CHECKING:
    from collections.abc import Iterator


def id_at(path: Path) -> int:
    return path.stat().st_ino & 0xFFFF_FFFF


def known(tree: CgroupTree) -> dict[str, int]:
    return {tree.path_of(id_): id_ for id_ in [tree.root_id, *tree.descendants(tree.root_id)]}


def present(root: Path) -> dict[str, int]:
    found = [Path(directory) for directory, _, _ in os.walk(root)]
    return {"/" + str(path.relative_to(root)).lstrip("."): id_at(path) for path in found}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / "cg" / name).mkdir(parents=True)
    return tmp_path / "cg"


@pytest.fixture
def tree(root: Path) -> Iterator[CgroupTree]:
    tree = CgroupTree(root)
    tree.refresh()
    yield tree
    tree.close()


def test_what_is_there_is_found_with_ids_and_paths(root: Path) -> None:
    tree = CgroupTree(root)
    changes = tree.refresh()
    assert known(tree) == present(root)
    assert changes.removed == []
    assert sorted([*changes.added, tree.root_id]) == sorted(present(root).values())
    tree.close()


def test_parents_are_reported_before_their_children(root: Path, tree: CgroupTree) -> None:
    (root / "x/y/z").mkdir(parents=True)
    added = tree.refresh().added
    assert [tree.path_of(id_) for id_ in added] == ["/x", "/x/y", "/x/y/z"]


def test_lookups(root: Path, tree: CgroupTree) -> None:
    a, b, c = (id_at(root / name) for name in ("a", "a/b", "a/b/c"))
    assert tree.lineage(c) == [a, b, c]
    assert tree.lineage(tree.root_id) == []
    assert tree.lineage(12345) == []
    assert tree.id_of("/a/b/c") == c
    assert tree.id_of("/a//b/") == b
    assert tree.id_of("/") == tree.root_id == id_at(root)
    assert [tree.id_of(path) for path in ("/a/x", "a", "")] == [0, 0, 0]
    assert tree.path_of(12345) == ""
    assert set(tree.descendants(a)) == {b, c, id_at(root / "a/d")}


def test_children_are_removed_before_their_parents(root: Path, tree: CgroupTree) -> None:
    a, b, c = (id_at(root / name) for name in ("a", "a/b", "a/b/c"))
    for name in ("a/b/c", "a/b", "a/d", "a"):
        (root / name).rmdir()
    removed = tree.refresh().removed
    assert removed.index((c, b)) < removed.index((b, a)) < removed.index((a, tree.root_id))
    assert known(tree) == present(root)


def test_nothing_new_costs_nothing(tree: CgroupTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "stat", lambda *_, **__: pytest.fail("looked at a directory"))
    changes = tree.refresh()
    assert (changes.removed, changes.added, changes.limits) == ([], [], [])


def test_one_made_again_in_between_is_another_one(root: Path, tree: CgroupTree) -> None:
    before = id_at(root / "e")
    held = os.open(root / "e", os.O_RDONLY)  # so that its inode number is not given out again
    (root / "e").rmdir()
    (root / "e").mkdir()
    changes = tree.refresh()
    os.close(held)
    assert changes.removed == [(before, tree.root_id)]
    assert changes.added == [id_at(root / "e")]


def test_a_late_event_of_a_predecessor_does_not_remove_the_successor(
    root: Path, tree: CgroupTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = os.open(root / "e", os.O_RDONLY)
    (root / "e").rmdir()
    (root / "e").mkdir()
    tree.refresh()
    watch = tree._directories[tree.root_id].watch
    late = inotify.Event(watch, inotify.IN_DELETE | inotify.IN_ISDIR, "e")
    monkeypatch.setattr(inotify.Inotify, "read", lambda _: [late])
    changes = tree.refresh()
    os.close(held)
    assert (changes.removed, changes.added) == ([], [])
    assert known(tree) == present(root)


def test_an_inode_number_given_out_again_at_once_is_another_cgroup(
    root: Path, tree: CgroupTree
) -> None:
    before = id_at(root / "e")
    (root / "e").rmdir()
    (root / "f").mkdir()
    if id_at(root / "f") != before:
        pytest.skip("needs a file system that gives out inode numbers again at once")
    changes = tree.refresh()
    assert changes.removed == [(before, tree.root_id)]
    assert changes.added == [before]
    assert tree.path_of(before) == "/f"


def test_the_same_name_and_number_again_is_another_cgroup(root: Path, tree: CgroupTree) -> None:
    before = id_at(root / "e")
    (root / "e").rmdir()
    (root / "e").mkdir()
    if id_at(root / "e") != before:
        pytest.skip("needs a file system that gives out inode numbers again at once")
    changes = tree.refresh()
    assert changes.removed == [(before, tree.root_id)]
    assert changes.added == [before]
    (root / "e/sub").mkdir()
    assert tree.refresh().added == [id_at(root / "e/sub")], "the new one is watched"


def test_a_renamed_cgroup_stays_what_it_is(root: Path, tree: CgroupTree) -> None:
    b, c = id_at(root / "a/b"), id_at(root / "a/b/c")
    (root / "a/b").rename(root / "a/n")
    changes = tree.refresh()
    assert (changes.removed, changes.added) == ([], [])
    assert (tree.path_of(b), tree.path_of(c)) == ("/a/n", "/a/n/c")
    (root / "a/n/new").mkdir()
    tree.refresh()
    assert known(tree) == present(root)


def test_names_that_change_places(root: Path, tree: CgroupTree) -> None:
    b, d = id_at(root / "a/b"), id_at(root / "a/d")
    (root / "a/b").rename(root / "a/t")
    (root / "a/d").rename(root / "a/b")
    (root / "a/t").rename(root / "a/d")
    changes = tree.refresh()
    assert (changes.removed, changes.added) == ([], [])
    assert (tree.path_of(b), tree.path_of(d)) == ("/a/d", "/a/b")


def test_what_happens_below_a_renamed_cgroup_is_not_missed(root: Path, tree: CgroupTree) -> None:
    b, c = id_at(root / "a/b"), id_at(root / "a/b/c")
    (root / "a").rename(root / "n")
    (root / "n/b").rename(root / "n/m")
    (root / "n/m/new").mkdir()
    (root / "n/d").rmdir()
    changes = tree.refresh()
    assert changes.added == [id_at(root / "n/m/new")]
    assert len(changes.removed) == 1
    assert known(tree) == present(root)
    assert (tree.path_of(b), tree.path_of(c)) == ("/n/m", "/n/m/c")


def test_a_cgroup_made_below_one_that_is_renamed_meanwhile(
    root: Path, tree: CgroupTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = inotify.Inotify.read

    def read_then_rename(self: inotify.Inotify) -> list[inotify.Event]:
        events = read(self)
        if (root / "a").exists():
            (root / "a").rename(root / "n")
        return events

    monkeypatch.setattr(inotify.Inotify, "read", read_then_rename)
    (root / "a/new").mkdir()
    tree.refresh()
    tree.refresh()
    assert known(tree) == present(root)


def test_a_renamed_then_removed_one_is_gone(root: Path, tree: CgroupTree) -> None:
    e = id_at(root / "e")
    (root / "e").rename(root / "f")
    (root / "f").rmdir()
    assert tree.refresh().removed == [(e, tree.root_id)]
    assert known(tree) == present(root)


@pytest.mark.parametrize("again", [False, True])
def test_one_that_vanishes_while_it_is_explored(
    root: Path, tree: CgroupTree, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    add = inotify.Inotify.add
    vanished = []

    def vanish_then_add(self: inotify.Inotify, directory: str, mask: int) -> int:
        watch = add(self, directory, mask)
        if directory.endswith("/x") and not vanished:
            vanished.append(os.open(directory, os.O_RDONLY))
            Path(directory).rmdir()
            if again:
                (Path(directory) / "y").mkdir(parents=True)
        return watch

    monkeypatch.setattr(inotify.Inotify, "add", vanish_then_add)
    (root / "x").mkdir()
    tree.refresh()
    os.close(vanished[0])
    assert known(tree) == present(root)
    if again:
        (root / "x/z").mkdir()
        tree.refresh()
        assert known(tree) == present(root), "the second one is watched"


def test_watches_of_removed_cgroups_are_given_back(root: Path, tree: CgroupTree) -> None:
    def watches() -> int:
        info = Path(f"/proc/self/fdinfo/{tree._inotify._fd}").read_text()
        return info.count("inotify wd:")

    before = watches()
    # Held, it lives on as a directory of cgroupfs does for the kernel.
    (root / "x").mkdir()
    held = os.open(root / "x", os.O_RDONLY)
    tree.refresh()
    assert watches() == before + 1
    (root / "x").rmdir()
    tree.refresh()
    assert watches() == before
    os.close(held)


def test_an_overflow_of_the_queue_leads_to_a_rescan(root: Path, tree: CgroupTree) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    e = id_at(root / "e")
    gone = root / "a/gone"
    gone.mkdir()
    tree.refresh()
    for number in range(limit // 2 + 1):
        (root / f"a/x{number}").mkdir()
        (root / f"a/x{number}").rmdir()
    gone.rmdir()
    (root / "e/late").mkdir()
    assert id_at(root / "e") == e
    tree.refresh()
    assert known(tree) == present(root)
    (root / "e/later").mkdir()
    tree.refresh()
    assert known(tree) == present(root)


def test_without_watches_rescans_keep_the_tree_right(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = inotify.Inotify.add
    left = iter([1, 1, 1])

    def add_three(self: inotify.Inotify, directory: str, mask: int) -> int:
        if not next(left, 0):
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(self, directory, mask)

    monkeypatch.setattr(inotify.Inotify, "add", add_three)
    tree = CgroupTree(root)
    tree.refresh()
    assert not tree.watching
    assert "fs.inotify.max_user_watches" in tree.problem
    assert known(tree) == present(root)
    (root / "e").rmdir()
    (root / "a/b/c/x").mkdir()
    assert tree.refresh().added == []
    changes = tree.refresh(rescan=True)
    assert len(changes.removed) == len(changes.added) == 1
    assert known(tree) == present(root)


def readable(tree: CgroupTree) -> bool:
    events = tree.events()
    assert events is not None
    try:
        return bool(select.select([events], [], [], 0)[0])
    finally:
        os.close(events)


def test_a_change_can_be_waited_for(root: Path, tree: CgroupTree) -> None:
    assert not readable(tree)
    (root / "x").mkdir()
    assert readable(tree)
    tree.refresh()
    assert not readable(tree)
    (root / "x/memory.zswap.max").write_text("4096\n")
    assert readable(tree)
    tree.refresh()
    assert not readable(tree)
    (root / "x/memory.zswap.max").read_text()
    assert not readable(tree), "who only looks changes nothing"
    tree.close()
    assert tree.events() is None


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path / "none")
    tree.refresh()
    assert len(tree) == 0
    assert "No such file" in tree.problem
    (tmp_path / "none/x").mkdir(parents=True)
    tree.refresh()
    assert tree.problem == ""
    assert tree.id_of("/x") == id_at(tmp_path / "none/x")
    tree.close()
    nowhere = CgroupTree(None)
    nowhere.refresh()
    assert (len(nowhere), nowhere.root_id) == (0, 0)
    assert "memory controller" in nowhere.problem


def test_directories_of_another_file_system_are_not_cgroups(root: Path, tree: CgroupTree) -> None:
    tree._device += 1
    (root / "mounted").mkdir()
    tree.refresh()
    assert tree.id_of("/mounted") == 0


@pytest.mark.root
def test_cgroups_of_the_running_kernel() -> None:
    """Made, renamed where it can be, and removed; five thousand of them in a second or two."""
    root = cgroup_tree.detect_root()
    if os.geteuid() or root is None:
        pytest.skip("needs root and cgroups with the memory controller")
    tree = CgroupTree(root)
    tree.refresh()
    mine = root / f"farswap-test-{os.getpid()}"
    try:
        (mine / "x").mkdir(parents=True)
        added = tree.refresh().added
        assert [tree.path_of(id_) for id_ in added] == [f"/{mine.name}", f"/{mine.name}/x"]
        assert added == [id_at(mine), id_at(mine / "x")]
        (mine / "x").rmdir()
        (mine / "x").mkdir()
        changes = tree.refresh()
        assert changes.removed == [(added[1], added[0])]
        assert changes.added == [id_at(mine / "x")] != [added[1]]
    finally:
        for path in (mine / "x", mine):
            path.rmdir()
        removed = tree.refresh().removed
        tree.close()
    assert [parent for _, parent in removed] == [added[0], tree.root_id]


def test_five_thousand_directories_are_little_work(tmp_path: Path) -> None:
    for number in range(5_000):
        (tmp_path / f"s{number // 100}/c{number}").mkdir(parents=True)
    tree = CgroupTree(tmp_path)
    began = time.process_time()
    tree.refresh()
    scan_s = time.process_time() - began
    began = time.process_time()
    tree.refresh(rescan=True)
    rescan_s = time.process_time() - began
    tree.close()
    assert len(tree) == 5_051
    # A tenth of each on an idle machine.
    assert scan_s < 3
    assert rescan_s < 2
