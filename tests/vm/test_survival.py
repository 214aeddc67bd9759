"""The host daemon's worker is killed while the machine swaps to it, on a real kernel.

The next worker has the same memory and the same socket: the kernel notices nothing.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from vm.guest import TEST_TIMEOUT_S

if TYPE_CHECKING:
    from vm.host_guest import HostGuest

UNIT = Path(__file__).parents[2] / "deploy/systemd/farswap-host.service"

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(TEST_TIMEOUT_S)]


def test_killed_workers_lose_no_page_and_cause_no_error(host_guest: HostGuest) -> None:
    done = host_guest.swap(
        "survival",
        size="128MiB",
        pool_limit="8MiB",
        mib=48,
        limit_mib=24,
        passes=4,
        kills=8,
        seed=1,
    )
    kills = done.reports()["survival"]["kills"]
    assert kills == 8
    waits_ms = done.reports()["verifier"]["waits_ms"]
    print(f"{kills} kills; {len(waits_ms)} waits, median {statistics.median(waits_ms)} ms, ")
    print(f"longest {max(waits_ms)} ms")
    status = host_guest.answer("status")
    assert status["survival"]["takeovers"] == kills
    assert status["device"]["attached"] == "/dev/nbd0"
    checks = {check["subject"]: check for check in host_guest.answer("doctor")["checks"]}
    for subject in ("accounting", "attribution", "io_timeout"):
        assert checks[subject]["level"] == "ok", checks[subject]
    kernel = (host_guest.shared / "kernel.log").read_text()
    for noticed in ("reconnected", "Receive control failed", "Dead connection"):
        assert noticed not in kernel
    assert "I/O error" not in done.transcript
    assert "hung" not in done.transcript


def test_killed_units_lose_no_page(host_guest: HostGuest) -> None:
    shutil.copy(UNIT, host_guest.shared)
    done = host_guest.swap(
        "survival_unit",
        size="128MiB",
        pool_limit="8MiB",
        mib=48,
        limit_mib=24,
        passes=2,
        kills=3,
        seed=2,
    )
    kills = done.reports()["survival"]["kills"]
    assert kills == 3
    print(f"{kills} kills, longest wait {max(done.reports()['verifier']['waits_ms'])} ms")
    status = host_guest.answer("status")
    assert status["survival"]["takeovers"] == kills
    assert status["device"]["attached"] == "/dev/nbd0"
    assert "I/O error" not in done.transcript
