"""The tree of cgroups on a real kernel with cgroup v2 and the files of its zswap."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vm.guest import SCRIPTS, TEST_TIMEOUT_S

if TYPE_CHECKING:
    from vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(TEST_TIMEOUT_S)]


def test_cgroups_and_their_limits_are_followed(guest: Guest, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    run = guest.run_overlay(
        SCRIPTS / "cgroups",
        shared=shared,
        programs=Path(sys.executable).parent,
        follow=Path(__file__).with_name("follow_cgroups.py"),
    )
    assert run.status == 0, run.transcript
    seen = run.reports()["tree"]
    assert seen["root"] == "/sys/fs/cgroup"
    assert seen["added"] == ["/top", "/top/a"]
    assert seen["id_is_inode"]
    assert seen["before"] == [None, True]
    assert seen["changed"], "a write to a limit file is seen at once"
    assert seen["after"] == [1 << 20, False]
    assert seen["stall_us"] is not None
    print(f"300 cgroups made, removed and followed in {seen['took_ms']} ms of the guest's time")
    assert seen["made"] == seen["removed"] == 300
    assert seen["last"]
    assert seen["watches_left_over"] == 0, "cgroupfs does not end watches by itself"
