"""Each page counts for the cgroup that it was charged to, on a real kernel with cgroup v2.

The host daemon runs inside the guest and attributes pages by BPF; the memory server runs on this
machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from vm.guest import TEST_TIMEOUT_S

if TYPE_CHECKING:
    from vm.host_guest import HostGuest

TESTS = Path(__file__).resolve().parents[1]
MIB = 1 << 20
pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(TEST_TIMEOUT_S)]


def by_path(listed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cgroup["path"]: cgroup for cgroup in listed["cgroups"]}


def test_limits_and_writeback_hold_by_cgroup(host_guest: HostGuest) -> None:
    # What goes to the server goes because of the limit.
    sizes = {"size": "384MiB", "pool_limit": "96MiB", "mib": 128, "limit_mib": 48, "pool_mib": 16}
    run = host_guest.run("cgroup_limits", proactive=False, tests=TESTS, **sizes)
    reports = run.reports()
    stamps = reports["stamps"]
    status = host_guest.answer("status")
    cgroups = by_path(host_guest.answer("cgroups"))
    limited, kept = cgroups["/limited"], cgroups["/kept"]
    print(f"stamped pages: {stamps}\nattribution: {status['attribution']}")
    for name, cgroup in (("limited", limited), ("kept", kept)):
        print(f"{name}: pool {cgroup['pool_bytes']} bytes, on servers {cgroup['remote_pages']}")

    assert [reports[name]["wrong_pages"] for name in ("limited", "kept")] == [0, 0]
    assert stamps["right"] >= 15_000
    assert (stamps["crossed"], stamps["unknown"]) == (0, 0)
    assert int(limited["remote_pages"]) > 1_000
    assert int(limited["counters"]["writeback_started_cgroup_limit"]) > 1_000
    assert int(limited["pool_bytes"]) <= 16 * MIB
    assert int(kept["remote_pages"]) == 0
    assert int(kept["pool_bytes"]) > 16 * MIB

    attribution = status["attribution"]
    assert (attribution["source"], attribution["device"]) == ("bpf", "/dev/nbd0")
    assert (attribution["free_hook"], attribution["problem"]) == ("swap_entry_range_free", "")
    assert "slots" in (host_guest.shared / "pins").read_text().split()
    detached = host_guest.answer("status-detached")
    assert detached["attribution"]["source"] == "root"
    assert int(detached["tier"]["held_pages"]) == 0
