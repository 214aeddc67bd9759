"""A fault at each log call of a host daemon's life changes nothing else in it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest
from hang_guard import HANG_GUARD_S
from host_in_process import Host
from log_faults import FAULTS, Fault, FaultyLog

if TYPE_CHECKING:
    from pathlib import Path

SWAPOFF = "swapoff /dev/nbd0"


async def life(host: Host) -> None:
    """Start, an attached device, a client, swap that is not let off at once, a stop."""
    task = await host.start()
    await host.attach()
    _, writer = await asyncio.open_unix_connection(host.root / "nbd")
    writer.write(b"nonsense" * 8)
    host.swap_on(active=True)
    host.swapoff_error = OSError(errno.ENOMEM, "Cannot allocate memory")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(host.swapoff_tried.wait(), HANG_GUARD_S)
    status = await host.status()
    assert status.device.swap_active
    assert not task.done()
    host.swapoff_error = None
    await host.stop()
    writer.close()


async def live(directory: Path, fault: Fault, at: int) -> FaultyLog:
    """The log of a life with a fault in it, whose outcome must be that of one without."""
    await asyncio.to_thread(directory.mkdir)
    with pytest.MonkeyPatch.context() as patch:
        host = Host(directory, patch)
        log = FaultyLog(fault, at)
        try:
            with log.applied():
                await life(host)
        finally:
            await host.end()
    assert set(host.events) == {SWAPOFF, "disconnect", "engine"}
    assert host.events[-3:] == [SWAPOFF, "disconnect", "engine"]
    assert not (host.root / "nbd").exists()
    assert not (host.root / "admin").exists()
    return log


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_at_any_log_call_changes_nothing_else(short_path: Path, fault: Fault) -> None:
    whole = await live(short_path / "whole", "none", 0)
    assert b"event=stopping" in whole.text
    assert whole.calls >= 8
    for at in range(whole.calls if fault != "none" else 0):
        log = await live(short_path / str(at), fault, at)
        assert log.calls >= whole.calls
        if fault not in ("fails", "none"):
            assert log.text.count(b"log lines were lost") == (0 if fault == "blocks" else 1)
