"""Each page counts for the cgroup that it was charged to, on a real kernel with cgroup v2.

The host daemon runs inside the guest and attributes pages by BPF; the memory server runs on this
machine.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemons import toml
from vm.guest import HOST_ADDRESS, SCRIPTS

if TYPE_CHECKING:
    from conftest import MakeServer
    from vm.guest import Guest

TESTS = Path(__file__).resolve().parents[1]
MIB = 1 << 20
pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(500)]


def by_path(listed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cgroup["path"]: cgroup for cgroup in listed["cgroups"]}


def test_limits_and_writeback_hold_by_cgroup(
    guest: Guest, memory_server: MakeServer, tmp_path: Path
) -> None:
    server = memory_server()
    port = server.pages.rpartition(":")[2]
    shared = tmp_path / "shared"
    shared.mkdir()
    for program in guest.programs:
        shutil.copy(program, shared)
    sections = {
        "device": {"name": "swap0", "size": "384MiB", "host_id": "guest"},
        "nbd": {"listen": []},
        "tier": {"pool_limit": "96MiB"},
        "cluster": {"servers": [f"{HOST_ADDRESS}:{port}"]},
        # What goes to the server goes because of the limit.
        "shrinker": {"ahead": False},
    }
    (shared / "host.toml").write_text(toml(sections))
    guest.memory_mib = 1024
    run = guest.run_overlay(
        SCRIPTS / "cgroup_limits",
        450,
        shared=shared,
        programs=Path(sys.executable).parent,
        tests=TESTS,
        mib=128,
        limit_mib=48,
        pool_mib=16,
    )
    assert run.status == 0, run.transcript
    reports = run.reports()
    stamps = reports["stamps"]
    status = json.loads((shared / "status.json").read_text())
    cgroups = by_path(json.loads((shared / "cgroups.json").read_text()))
    limited, kept = cgroups["/limited"], cgroups["/kept"]
    print(f"stamped pages: {stamps}\nattribution: {status['attribution']}")
    for name, cgroup in (("limited", limited), ("kept", kept)):
        print(f"{name}: pool {cgroup['pool_bytes']} bytes, on servers {cgroup['pages_remote']}")

    assert [reports[name]["wrong_pages"] for name in ("limited", "kept")] == [0, 0]
    assert stamps["right"] >= 15_000
    assert (stamps["crossed"], stamps["unknown"]) == (0, 0)
    assert int(limited["pages_remote"]) > 1_000
    assert int(limited["counters"]["writeback_started_cgroup_limit"]) > 1_000
    assert int(limited["pool_bytes"]) <= 16 * MIB
    assert int(kept["pages_remote"]) == 0
    assert int(kept["pool_bytes"]) > 16 * MIB

    attribution = status["attribution"]
    assert (attribution["source"], attribution["device"]) == ("bpf", "/dev/nbd0")
    assert (attribution["free_hook"], attribution["problem"]) == ("swap_entry_range_free", "")
    assert "slots" in (shared / "pins").read_text().split()
    detached = json.loads((shared / "status-detached.json").read_text())
    assert detached["attribution"]["source"] == "root"
    assert int(detached["tier"]["pages_stored"]) == 0
