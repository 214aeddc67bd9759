"""Limits and overrides of cgroups: settings in the engine, and settings reported in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cgroup_machine import machine
from farswap.client_nbd.cgroups import groups as cgroup_groups
from farswap.client_nbd.cgroups.groups import NO_LIMIT, GroupChange
from farswap.common.errors import InvalidArgumentError, NotFoundError, NotPossibleError

if TYPE_CHECKING:
    from cgroup_machine import Machine

__all__ = ["machine"]


def test_limits_of_files_are_applied_before_the_first_page(machine: Machine) -> None:
    machine.make("a/b", max="1048576")
    machine.make("c", writeback="0")
    machine.groups.update()
    assert machine.settings("a/b") == {"pool_limit_bytes": 1 << 20}
    assert machine.settings("c") == {"writeback": False}
    assert machine.settings("a") == {}


def test_a_written_limit_is_applied_in_the_next_pass(machine: Machine) -> None:
    machine.make("a")
    machine.groups.update()
    machine.make("a", max="8192")
    machine.groups.update()
    assert machine.settings("a") == {"pool_limit_bytes": 8192}
    machine.make("a", max="max")
    machine.groups.update()
    assert machine.settings("a") == {}
    assert machine.engine.calls["configure"] == 2


@pytest.mark.parametrize("files", [{"writeback": "0"}, {"max": "1048576"}])
def test_cgroups_below_one_with_settings_are_placed_early(
    machine: Machine, files: dict[str, str]
) -> None:
    machine.make("a/b/c")
    machine.make("x/y")
    machine.groups.update()
    machine.make("a", **files)
    machine.groups.update()
    machine.make("a/b/d")
    machine.groups.update()
    assert machine.engine.group(machine.id("a/b/c")).placed
    assert machine.engine.group(machine.id("a/b/d")).placed
    assert machine.engine.group(machine.id("x/y")) is None


def test_cgroups_below_one_that_an_operator_has_limited_are_placed_early(machine: Machine) -> None:
    machine.make("a/b")
    machine.groups.set("/a", GroupChange(remote_pages_max=7))
    assert machine.engine.group(machine.id("a/b")).placed
    machine.make("a/c")
    machine.groups.update()
    assert machine.engine.group(machine.id("a/c")).placed
    machine.groups.set("/a", GroupChange(remote_pages_max=None))
    machine.make("a/d")
    machine.groups.update()
    assert machine.engine.group(machine.id("a/d")) is None


def test_groups_placed_early_leave_room_for_others(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup_groups, "_EARLY_MAX", 10)
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


def test_an_override_has_precedence_over_the_file_and_can_be_removed(machine: Machine) -> None:
    machine.make("a", max="8192", writeback="0")
    machine.groups.update()
    machine.groups.set("/a", GroupChange(pool_limit_bytes=4096, writeback=True))
    assert machine.settings("a") == {"pool_limit_bytes": 4096}
    machine.groups.set("/a", GroupChange(pool_limit_bytes=NO_LIMIT, compressor=("zstd", 3)))
    assert machine.settings("a") == {"compressor": ("zstd", 3)}
    machine.groups.set("a/", GroupChange(pool_limit_bytes=None, writeback=None, compressor=None))
    assert machine.settings("a") == {"pool_limit_bytes": 8192, "writeback": False}


def test_an_override_outlives_the_cgroup(machine: Machine) -> None:
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


def test_an_override_that_is_refused_is_not_kept(machine: Machine) -> None:
    machine.make("a")
    machine.make("b")
    machine.groups.update()
    machine.groups.set("/a", GroupChange(pool_limit_bytes=4096))
    with pytest.raises(InvalidArgumentError, match="/a: lz5 is no compressor"):
        machine.groups.set("/a", GroupChange(pool_limit_bytes=8192, compressor=("lz5", 1)))
    machine.engine.groups_max = 2
    with pytest.raises(NotPossibleError, match="no room for another group of pages: /b"):
        machine.groups.set("/b", GroupChange(pool_limit_bytes=8192))
    machine.now_s = 5.0
    machine.groups.update()
    assert machine.settings("a") == {"pool_limit_bytes": 4096}
    assert machine.engine.group(machine.id("b")) is None


def test_overrides_of_the_root_cgroup(machine: Machine) -> None:
    machine.groups.update()
    machine.groups.set("/", GroupChange(writeback=False))
    assert machine.engine.root.settings["writeback"] is False
    (view,) = machine.groups.views()
    assert (view.writeback, view.writeback_source) == (False, "operator")


# --- Looking up


def test_views_show_what_is_in_force_and_its_source(machine: Machine) -> None:
    machine.make("a", writeback="0")
    machine.make("a/b", max="4096")
    machine.engine.store(machine.make("c/d"), "page")
    machine.groups.update()
    machine.groups.set("/c", GroupChange(pool_limit_bytes=0, compressor=("lz4", 1)))
    views = {view.path: view for view in machine.groups.views()}
    assert set(views) == {"/", "/a", "/a/b", "/c", "/c/d"}
    b, c, d = views["/a/b"], views["/c"], views["/c/d"]
    assert (b.pool_limit_bytes, b.pool_limit_source) == (4096, "file")
    assert (b.writeback, b.writeback_source) == (False, "file")
    assert (b.parent_path, views["/a"].parent_path, views["/"].parent_path) == ("/a", "/", "")
    assert (c.pool_limit_bytes, c.pool_limit_source) == (0, "operator")
    assert (d.pool_limit_bytes, d.pool_limit_source) == (None, "default")
    assert (d.compressor, d.compressor_source) == (("lz4", 1), "operator")
    assert (d.remote_pages_max, d.writeback, d.writeback_source) == (None, True, "default")
    assert d.record.local_pages == 1
    assert d.id == machine.groups.id_of("/c/d") == machine.id("c/d")
    assert machine.groups.path_of(d.id) == "/c/d"
    assert (machine.groups.path_of(0), machine.groups.path_of(4711)) == ("/", "")
    with pytest.raises(NotFoundError, match="/c/e is not a cgroup"):
        machine.groups.id_of("/c/e")
