"""farswap-host binds the kernel's device by itself: attach, swap, detach, on a real kernel.

The host daemon runs inside the guest, whose root file system is this machine's; the memory server
runs on this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vm.guest import TEST_TIMEOUT_S

if TYPE_CHECKING:
    from vm.host_guest import HostGuest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(TEST_TIMEOUT_S)]


def test_attached_device_swaps_and_is_detached_empty(host_guest: HostGuest) -> None:
    host_guest.swap("attach", size="128MiB", pool_limit="8MiB", mib=48, limit_mib=24)
    swapping = host_guest.answer("status")
    assert swapping["device"]["attached"] == "/dev/nbd0"
    assert swapping["device"]["swap_active"] is True
    assert int(swapping["tier"]["remote_pages"]) > 0
    report = host_guest.answer("doctor")
    checks = {check["subject"]: check for check in report["checks"]}
    kernel = {"io_timeout", "trim", "swap_priority", "zswap", "attribution", "early_frees"}
    for subject in kernel | {"memlock", "io_flusher", "server", "server_place", "accounting"}:
        assert checks[subject]["level"] == "ok", checks[subject]
    detached = host_guest.answer("status-detached")
    assert detached["device"]["attached"] == ""
    # Detaching discards the whole device: no page of the programs that swapped stays anywhere.
    assert int(detached["tier"]["held_pages"]) == 0


def test_a_device_that_another_is_stacked_on_is_not_detached(host_guest: HostGuest) -> None:
    host_guest.swap("stacked", size="96MiB", pool_limit="64MiB", mib=40, limit_mib=24)
    device = host_guest.answer("status")["device"]
    assert device["swap_areas"] == device["stacked"] == ["/dev/loop0"]
    checks = {check["subject"]: check for check in host_guest.answer("doctor")["checks"]}
    assert checks["stacking"]["level"] == "warning"
    refusals = (host_guest.shared / "refusals").read_text()
    for refusal in ("used by swap on /dev/loop0", "/dev/loop0 is on it", "exclusively: in use"):
        assert refusal in refusals
