"""Cgroups of a real directory tree and groups of a model engine, in every order of events."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from cgroup_machine import Machine, machine
from farswap.client_nbd.cgroups import inotify
from farswap.client_nbd.cgroups.groups import GroupChange

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["machine"]


def test_names_that_are_not_utf_8_can_be_shown(machine: Machine) -> None:
    machine.engine.store(machine.make(os.fsdecode(b"a/\xff\xc3\xa4")), "page")
    machine.groups.update()
    parents = {view.path: view.parent_path for view in machine.groups.views()}
    assert parents == {"/": "", "/a": "/", "/a/\\xff\xe4": "/a"}


# --- Placing


def test_pages_before_the_first_pass(machine: Machine) -> None:
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


def test_a_cgroup_younger_than_the_last_pass_can_be_set_and_found(machine: Machine) -> None:
    machine.groups.update()
    a = machine.make("a")
    machine.groups.set("/a", GroupChange(pool_limit_bytes=1 << 20))
    assert machine.engine.group(a).placed
    b = machine.make("b")
    assert machine.groups.id_of("/b") == b


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


def test_a_cgroup_that_no_pass_saw_alive(machine: Machine) -> None:
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


def test_a_page_and_the_end_of_its_cgroup_and_the_parent_between_two_passes(
    machine: Machine,
) -> None:
    c = machine.make("a/b/c")
    machine.groups.update()
    machine.engine.store(c, "page")
    machine.remove("a/b/c")
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


def make_again(machine: Machine, path: str, id_: int) -> None:
    """Makes a cgroup with the id of a removed one."""
    if machine.make(path) != id_:
        pytest.skip("needs a file system that gives out inode numbers again at once")


def reuse(machine: Machine, old_path: str, new_path: str) -> int:
    """Removes one cgroup and makes another with the same id."""
    old = machine.id(old_path)
    machine.remove(old_path, number_is_free=True)
    make_again(machine, new_path, old)
    return old


def owners(machine: Machine, id_: int, *pages: str) -> list[str]:
    """Of these pages and of a new one of the cgroup, stored after the next pass."""
    machine.groups.update()
    machine.engine.store(id_, "new")
    machine.groups.update()
    return [machine.owner(page) for page in (*pages, "new")]


def test_an_id_of_a_placed_group_is_given_out_again(machine: Machine) -> None:
    machine.make("x")
    machine.engine.store(machine.make("a/b"), "old")
    machine.groups.update()
    assert owners(machine, reuse(machine, "a/b", "x/y"), "old") == ["/a", "/x/y"]


def test_an_id_of_a_group_that_was_unknown_so_far_is_given_out_again(machine: Machine) -> None:
    machine.make("x")
    id_ = machine.make("a/b")
    machine.groups.update()
    machine.engine.store(id_, "old")
    assert owners(machine, reuse(machine, "a/b", "x/y"), "old") == ["/a", "/x/y"]


def test_an_id_of_the_long_dead_is_given_out_again(machine: Machine) -> None:
    machine.make("x")
    old = machine.make("a/b")
    machine.engine.store(old, "old")
    machine.groups.update()
    machine.remove("a/b", number_is_free=True)
    machine.groups.update()
    machine.engine.store(old, "straggler")
    make_again(machine, "x/y", old)
    assert owners(machine, old, "old", "straggler") == ["/a", "/a", "/x/y"]


def test_an_id_of_one_that_no_pass_saw_alive_is_given_out_again(machine: Machine) -> None:
    old = machine.make("b")
    machine.engine.store(old, "old")
    machine.remove("b", number_is_free=True)
    machine.groups.update()
    make_again(machine, "x", old)
    assert owners(machine, old, "old") == ["/", "/x"]


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


def test_overrides_stay_at_the_path_when_a_cgroup_is_renamed(machine: Machine) -> None:
    machine.make("a/c")
    machine.groups.update()
    machine.groups.set("/a", GroupChange(writeback=False))
    machine.groups.set("/a/c", GroupChange(pool_limit_bytes=1 << 20))
    (machine.root / "a").rename(machine.root / "n")
    machine.groups.update()
    assert [machine.settings("n"), machine.settings("n/c")] == [{}, {}]
    (machine.root / "n").rename(machine.root / "a")
    machine.groups.update()
    assert machine.settings("a") == {"writeback": False}
    assert machine.settings("a/c") == {"pool_limit_bytes": 1 << 20}


def test_a_full_engine_is_a_finding_as_long_as_it_is_full(machine: Machine) -> None:
    machine.engine.groups_max = 2
    machine.engine.store(machine.make("a/b"), "page")
    machine.groups.update()
    assert list(machine.groups.problems()) == ["groups"]
    machine.engine.groups_max = 10
    machine.groups.update()
    assert machine.groups.problems() == {}
    assert machine.owner("page") == "/a/b"


def test_without_watches_unknown_ids_lead_to_a_rescan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(inotify.Inotify, "add", refuse)
    machine = Machine(tmp_path)
    machine.groups.update()
    problems = machine.groups.problems()
    assert list(problems) == ["cgroups"]
    assert "cannot be watched" in problems["cgroups"]
    machine.engine.store(machine.make("a"), "page")
    machine.groups.update()
    assert machine.owner("page") == "/a"
    machine.remove("a")
    machine.groups.update()
    assert machine.owner("page") == "/a", "no rescan is due yet"
    machine.now_s = 5.0
    machine.groups.update()
    assert machine.owner("page") == "/"
    machine.close()
