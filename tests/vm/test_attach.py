"""farswap-host binds the kernel's device by itself: attach, swap, detach, on a real kernel.

The host daemon runs inside the guest, whose root file system is this machine's; the memory server
runs on this machine.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemons import toml
from vm.guest import HOST_ADDRESS, SCRIPTS

if TYPE_CHECKING:
    from conftest import MakeServer
    from vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(400)]


def test_attached_device_swaps_and_is_let_go_empty(
    guest: Guest, memory_server: MakeServer, tmp_path: Path
) -> None:
    server = memory_server()
    port = server.pages.rpartition(":")[2]
    shared = tmp_path / "shared"
    shared.mkdir()
    for program in guest.programs:
        shutil.copy(program, shared)
    sections = {
        "device": {"name": "swap0", "size": "128MiB", "host_id": "guest"},
        "nbd": {"listen": []},
        "tier": {"pool_limit": "8MiB"},
        "cluster": {"servers": [f"{HOST_ADDRESS}:{port}"]},
    }
    (shared / "host.toml").write_text(toml(sections))
    guest.memory_mib = 1024
    run = guest.run_overlay(
        SCRIPTS / "attach",
        300,
        shared=shared,
        programs=Path(sys.executable).parent,
        mib=48,
        limit_mib=24,
    )
    assert run.status == 0, run.transcript
    result = run.reports()["verifier"]
    assert result["wrong_pages"] == 0
    assert result["swapped_out"] > result["pages"] // 4

    swapping = json.loads((shared / "status.json").read_text())
    assert swapping["device"]["attached"] == "/dev/nbd0"
    assert swapping["device"]["swap_active"] is True
    assert int(swapping["tier"]["pages_remote"]) > 0
    report = json.loads((shared / "doctor.json").read_text())
    checks = {check["subject"]: check for check in report["checks"]}
    kernel = {"io_timeout", "trim", "swap_priority", "zswap", "attribution", "early_frees"}
    for subject in kernel | {"memlock", "io_flusher", "server", "server_place", "books"}:
        assert checks[subject]["level"] == "ok", checks[subject]
    detached = json.loads((shared / "status-detached.json").read_text())
    assert detached["device"]["attached"] == ""
    # Detaching discards the whole device: no page of the programs that swapped stays anywhere.
    assert int(detached["tier"]["pages_stored"]) == 0
