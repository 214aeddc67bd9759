"""Cgroups of a real directory tree and groups of a model engine, in every order of events."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd import cgroup_groups, inotify
from farswap.client_nbd.cgroup_groups import NO_LIMIT, CgroupGroups, GroupChange
from farswap.client_nbd.cgroup_tree import CgroupTree
from farswap.common.errors import NotFoundError
from group_model import NOTHING_SET, GroupModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Machine:
    """Cgroups below `root`, an engine, and what ties them together."""

    def __init__(self, root: Path, *, watch: bool = True) -> None:
        self.root = root
        self.now_s = 0.0
        self.engine = GroupModel()
        self.tree = CgroupTree(root, watch=watch)
        self.groups = CgroupGroups(self.engine, self.tree, lambda: self.now_s)
        self.held: list[int] = []

    def make(self, path: str, **files: str) -> int:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / f"memory.zswap.{name}").write_text(text + "\n")
        return self.id(path)

    def remove(self, path: str, *, number_is_free: bool = False) -> None:
        """cgroupfs does not give out the inode number again, unless it is said to be free."""
        directory = self.root / path
        if not number_is_free:
            self.held.append(os.open(directory, os.O_RDONLY))
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()

    def id(self, path: str) -> int:
        return (self.root / path).stat().st_ino & 0xFFFF_FFFF

    def owner(self, page: str) -> str:
        group = self.engine.owner(page)
        return "/" if group is self.engine.root else self.tree.path_of(group.id)

    def settings(self, path: str) -> dict[str, object]:
        """As the engine was told, where they differ from none."""
        group = self.engine.group(self.id(path))
        assert group is not None, f"{path} has no group"
        return {name: value for name, value in group.settings.items() if value != NOTHING_SET[name]}

    def close(self) -> None:
        self.tree.close()
        for descriptor in self.held:
            os.close(descriptor)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "cg")
    made.root.mkdir()
    yield made
    made.close()


# --- Placing


def test_pages_before_anybody_looked(machine: Machine) -> None:
    c = machine.make("a/b/c")
    machine.engine.store(c, "page")
    machine.groups.update()
    b = machine.engine.group(c).parent
    assert machine.owner("page") == "/a/b/c"
    assert [b.id, b.parent.id, b.parent.parent] == [
        machine.id("a/b"),
        machine.id("a"),
        machine.engine.root,
    ]


def test_a_cgroup_made_and_used_between_two_passes(machine: Machine) -> None:
    machine.groups.update()
    machine.engine.store(machine.make("a/b"), "page")
    machine.groups.update()
    assert machine.owner("page") == "/a/b"
    assert machine.engine.group(machine.id("a/b")).placed


def test_idle_cgroups_cost_the_engine_nothing(machine: Machine) -> None:
    for number in range(100):
        machine.make(f"a/c{number}")
    machine.groups.update()
    for number in range(100):
        machine.remove(f"a/c{number}")
    machine.groups.update()
    assert machine.engine.calls == {"place": 1}, "the root's"
    assert len(machine.engine.cgroups()) == 1


def test_pages_of_the_root_cgroup_are_the_root_groups(machine: Machine) -> None:
    machine.groups.update()
    machine.engine.store(machine.id("."), "page")
    machine.groups.update()
    assert machine.owner("page") == "/"
    assert [view.path for view in machine.groups.views()] == ["/"]


def test_pages_of_the_root_cgroup_that_came_first(machine: Machine) -> None:
    machine.engine.store(machine.id("."), "page")
    machine.groups.update()
    machine.engine.store(machine.id("."), "later")
    machine.groups.update()
    assert machine.owner("page") == machine.owner("later") == "/"


# --- Removing


def test_pages_of_a_removed_cgroup_are_its_parents(machine: Machine) -> None:
    b = machine.make("a/b")
    machine.engine.store(b, "page")
    machine.groups.update()
    machine.remove("a/b")
    machine.groups.update()
    machine.engine.store(b, "later")
    assert machine.owner("page") == machine.owner("later") == "/a"


def test_a_cgroup_that_nobody_saw_alive(machine: Machine) -> None:
    b = machine.make("a/b")
    machine.engine.store(b, "page")
    machine.remove("a/b")
    machine.groups.update()
    machine.engine.store(b, "later")
    machine.groups.update()
    assert machine.owner("page") == machine.owner("later") == "/"


def test_pages_of_one_that_was_idle_while_it_lived(machine: Machine) -> None:
    c = machine.make("a/b/c")
    machine.groups.update()
    machine.remove("a/b/c")
    machine.groups.update()
    machine.remove("a/b")
    machine.groups.update()
    machine.engine.store(c, "page")
    machine.groups.update()
    assert machine.owner("page") == "/a"
    assert machine.engine.group(c) is None


def test_a_page_and_the_end_between_two_passes(machine: Machine) -> None:
    b = machine.make("a/b")
    machine.groups.update()
    machine.engine.store(b, "page")
    machine.remove("a/b")
    machine.groups.update()
    assert machine.owner("page") == "/a"


def test_a_whole_subtree_goes_at_once(machine: Machine) -> None:
    for path in ("a", "a/b", "a/b/c", "a/b/d"):
        machine.engine.store(machine.make(path), path)
    machine.groups.update()
    for path in ("a/b/c", "a/b/d", "a/b"):
        machine.remove(path)
    machine.groups.update()
    assert {machine.owner(path) for path in ("a", "a/b", "a/b/c", "a/b/d")} == {"/a"}
    assert len(machine.engine.cgroups()) == 2


def test_one_made_again_under_its_name_is_another(machine: Machine) -> None:
    old = machine.make("a/b")
    machine.engine.store(old, "old")
    machine.groups.update()
    machine.remove("a/b")
    new = machine.make("a/b")
    machine.engine.store(new, "new")
    machine.engine.store(old, "straggler")
    machine.groups.update()
    machine.engine.store(old, "late")
    assert [machine.owner(page) for page in ("old", "new", "straggler", "late")] == [
        "/a",
        "/a/b",
        "/a",
        "/a",
    ]


# --- Ids given out again


def reuse(machine: Machine, old_path: str, new_path: str) -> int:
    """Removes one cgroup and makes another with the same id."""
    old = machine.id(old_path)
    machine.remove(old_path, number_is_free=True)
    if machine.make(new_path) != old:
        pytest.skip("needs a file system that gives out inode numbers again at once")
    return old


def test_an_id_of_a_placed_group_is_given_out_again(machine: Machine) -> None:
    machine.make("x")
    machine.engine.store(machine.make("a/b"), "old")
    machine.groups.update()
    id_ = reuse(machine, "a/b", "x/y")
    machine.groups.update()
    machine.engine.store(id_, "new")
    machine.groups.update()
    assert [machine.owner("old"), machine.owner("new")] == ["/a", "/x/y"]


def test_an_id_of_a_group_that_was_met_only_now_is_given_out_again(machine: Machine) -> None:
    machine.make("x")
    id_ = machine.make("a/b")
    machine.groups.update()
    machine.engine.store(id_, "old")
    reuse(machine, "a/b", "x/y")
    machine.groups.update()
    machine.engine.store(id_, "new")
    machine.groups.update()
    assert [machine.owner("old"), machine.owner("new")] == ["/a", "/x/y"]


def test_an_id_of_the_long_dead_is_given_out_again(machine: Machine) -> None:
    machine.make("x")
    old = machine.make("a/b")
    machine.engine.store(old, "old")
    machine.groups.update()
    machine.remove("a/b", number_is_free=True)
    machine.groups.update()
    machine.engine.store(old, "straggler")
    if machine.make("x/y") != old:
        pytest.skip("needs a file system that gives out inode numbers again at once")
    machine.groups.update()
    machine.engine.store(old, "new")
    machine.groups.update()
    pages = [machine.owner(page) for page in ("old", "straggler", "new")]
    assert pages == ["/a", "/a", "/x/y"]


def test_a_group_placed_elsewhere_by_an_end_that_was_missed(machine: Machine) -> None:
    machine.make("x")
    b = machine.make("a/b")
    machine.engine.store(b, "old")
    machine.groups.update()
    (machine.root / "a/b").rename(machine.root / "x/b")
    machine.tree._inotify.read()
    machine.tree.refresh(rescan=True)
    machine.groups.set("/x/b", GroupChange(writeback=False))
    machine.engine.store(b, "new")
    assert [machine.owner("old"), machine.owner("new")] == ["/a", "/x/b"]
    assert machine.settings("x/b") == {"writeback": False}


# --- Settings


def test_limits_of_files_are_told_before_the_first_page(machine: Machine) -> None:
    machine.make("a/b", max="1048576")
    machine.make("c", writeback="0")
    machine.groups.update()
    assert machine.settings("a/b") == {"pool_limit_bytes": 1 << 20}
    assert machine.settings("c") == {"writeback": False}
    assert machine.settings("a") == {}


def test_a_written_limit_is_told_in_the_next_pass(machine: Machine) -> None:
    machine.make("a")
    machine.groups.update()
    machine.make("a", max="8192")
    machine.groups.update()
    assert machine.settings("a") == {"pool_limit_bytes": 8192}
    machine.make("a", max="max")
    machine.groups.update()
    assert machine.settings("a") == {}
    assert machine.engine.calls["configure"] == 2


def test_cgroups_below_one_without_writeback_are_placed_ahead(machine: Machine) -> None:
    machine.make("a/b/c")
    machine.make("x/y")
    machine.groups.update()
    machine.make("a", writeback="0")
    machine.groups.update()
    machine.make("a/b/d")
    machine.groups.update()
    assert machine.engine.group(machine.id("a/b/c")).placed
    assert machine.engine.group(machine.id("a/b/d")).placed
    assert machine.engine.group(machine.id("x/y")) is None


def test_groups_placed_ahead_leave_room_for_others(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup_groups, "_AHEAD_MAX", 10)
    for number in range(20):
        machine.make(f"c{number}", max="4096")
    machine.groups.update()
    assert len(machine.engine.cgroups()) == 10
    for number in range(20):
        machine.engine.store(machine.id(f"c{number}"), number)
    machine.groups.update()
    for number in range(20):
        assert machine.settings(f"c{number}") == {"pool_limit_bytes": 4096}


def test_a_limit_whose_event_was_missed_is_read_in_time(machine: Machine) -> None:
    machine.engine.store(machine.make("a"), "page")
    machine.groups.update()
    machine.make("a", max="8192")
    machine.tree._inotify.read()
    machine.groups.update()
    assert machine.settings("a") == {}
    machine.now_s = 5.0
    machine.groups.update()
    assert machine.settings("a") == {"pool_limit_bytes": 8192}


def test_an_operators_wish_comes_before_the_file_and_can_be_taken_back(machine: Machine) -> None:
    machine.make("a", max="8192", writeback="0")
    machine.groups.update()
    machine.groups.set("/a", GroupChange(pool_limit=4096, writeback=True))
    assert machine.settings("a") == {"pool_limit_bytes": 4096}
    machine.groups.set("/a", GroupChange(pool_limit=NO_LIMIT, compressor=("zstd", 3)))
    assert machine.settings("a") == {"compressor": ("zstd", 3)}
    machine.groups.set("a/", GroupChange(pool_limit=None, writeback=None, compressor=None))
    assert machine.settings("a") == {"pool_limit_bytes": 8192, "writeback": False}


def test_a_wish_outlives_the_cgroup(machine: Machine) -> None:
    machine.make("a/b")
    machine.groups.update()
    machine.groups.set("/a/b", GroupChange(remote_pages_max=7))
    assert machine.settings("a/b") == {"remote_pages_max": 7}
    machine.remove("a/b")
    machine.groups.update()
    machine.make("a/b")
    machine.groups.update()
    assert machine.settings("a/b") == {"remote_pages_max": 7}
    machine.remove("a/b")
    machine.groups.update()
    machine.groups.set("/a/b", GroupChange(remote_pages_max=None))
    with pytest.raises(NotFoundError, match="/a/b is not a cgroup"):
        machine.groups.set("/a/b", GroupChange(remote_pages_max=None))


def test_wishes_for_the_root_cgroup(machine: Machine) -> None:
    machine.groups.update()
    machine.groups.set("/", GroupChange(writeback=False))
    assert machine.engine.root.settings["writeback"] is False
    (view,) = machine.groups.views()
    assert (view.writeback, view.writeback_source) == (False, "operator")


# --- Looking up


def test_views_tell_what_is_in_force_and_why(machine: Machine) -> None:
    machine.make("a", writeback="0")
    machine.make("a/b", max="4096")
    machine.engine.store(machine.make("c/d"), "page")
    machine.groups.update()
    machine.groups.set("/c", GroupChange(pool_limit=0, compressor=("lz4", 1)))
    views = {view.path: view for view in machine.groups.views()}
    assert set(views) == {"/", "/a", "/a/b", "/c", "/c/d"}
    b, c, d = views["/a/b"], views["/c"], views["/c/d"]
    assert (b.pool_limit, b.pool_limit_source) == (4096, "file")
    assert (b.writeback, b.writeback_source) == (False, "file")
    assert (b.parent_path, views["/a"].parent_path, views["/"].parent_path) == ("/a", "/", "")
    assert (c.pool_limit, c.pool_limit_source) == (0, "operator")
    assert (d.pool_limit, d.pool_limit_source) == (None, "default")
    assert (d.compressor, d.compressor_source) == (("lz4", 1), "operator")
    assert (d.remote_pages_max, d.writeback, d.writeback_source) == (None, True, "default")
    assert d.record.pages_local == 1
    assert d.id == machine.groups.id_of("/c/d") == machine.id("c/d")
    assert machine.groups.path_of(d.id) == "/c/d"
    assert (machine.groups.path_of(0), machine.groups.path_of(4711)) == ("/", "")
    with pytest.raises(NotFoundError, match="/c/e is not a cgroup"):
        machine.groups.id_of("/c/e")


def test_a_full_engine_is_a_finding_as_long_as_it_is_full(machine: Machine) -> None:
    machine.engine.groups_max = 2
    machine.engine.store(machine.make("a/b"), "page")
    machine.groups.update()
    assert [finding.subject for finding in machine.groups.findings()] == ["groups"]
    machine.engine.groups_max = 10
    machine.groups.update()
    assert machine.groups.findings() == []
    assert machine.owner("page") == "/a/b"


def test_without_watches_unknown_ids_lead_to_a_rescan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inotify.Inotify, "add", refuse)
    machine = Machine(tmp_path)
    machine.groups.update()
    (finding,) = machine.groups.findings()
    assert finding.subject == "cgroups"
    assert "cannot be watched" in finding.message
    machine.engine.store(machine.make("a"), "page")
    machine.groups.update()
    assert machine.owner("page") == "/a"
    machine.remove("a")
    machine.groups.update()
    assert machine.owner("page") == "/a", "nothing asks for a rescan yet"
    machine.now_s = 5.0
    machine.groups.update()
    assert machine.owner("page") == "/"
    machine.close()
