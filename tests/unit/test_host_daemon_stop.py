"""How farswap-host starts and stops, in this process, on an engine and a driver of objects."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd import daemon, safe_stop
from farswap.common import unix_socket
from farswap.common.errors import BindError
from farswap.v1 import host_admin_pb2 as pb
from hang_guard import HANG_GUARD_S
from host_in_process import Host

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def host(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    made = Host(short_path, monkeypatch)
    yield made
    await made.end()


async def test_a_signal_stops_the_parts_and_removes_the_sockets(host: Host) -> None:
    await host.start()
    assert (host.root / "nbd").is_socket()
    await host.stop()
    assert host.events == ["engine"]
    assert not (host.root / "nbd").exists()
    assert not (host.root / "admin").exists()


async def test_stopping_swaps_off_first_then_lets_the_device_go(host: Host) -> None:
    await host.start()
    await host.attach()
    host.swap_on(active=True)
    await host.stop()
    assert host.events == ["swapoff /dev/nbd0", "disconnect", "engine"]


async def test_stopping_swaps_off_a_device_that_was_only_named(host: Host) -> None:
    # Without programs in the kernel the device is known all the same.
    host.engine.attribution_problem = "the kernel refused"
    await host.start()
    await asyncio.to_thread(host.call, "Attribute", pb.AttributeRequest(device="/dev/loop7"))
    host.swap_on(active=True, device="/dev/loop7")
    status = await host.status()
    assert (status.device.swap_active, status.device.swap_used_bytes) == (True, 100 << 10)
    await host.stop()
    assert host.events == ["swapoff /dev/loop7", "engine"]


@pytest.fixture
def no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a signal makes a daemon try again to stop."""
    monkeypatch.setattr(safe_stop, "_RETRY_S", 3600)
    monkeypatch.setattr(safe_stop, "_RETRY_S_MAX", 3600)


async def reason_not_to_stop(host: Host) -> str:
    while True:
        status = await host.status()
        for finding in status.findings:
            if finding.subject == "stop":
                return finding.message


@pytest.mark.usefixtures("no_retry")
async def test_a_refused_swapoff_keeps_the_daemon_serving_until_it_works(host: Host) -> None:
    task = await host.start()
    await host.attach()
    host.swap_on(active=True)
    host.swapoff_error = OSError(errno.ENOMEM, "Cannot allocate memory")
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(host.swapoff_tried.wait(), HANG_GUARD_S)
    status = await host.status()
    assert status.device.attached == "/dev/nbd0"
    assert status.device.swap_active
    assert not task.done()
    host.swapoff_error = None
    await host.stop()
    assert host.events == ["swapoff /dev/nbd0"] * 2 + ["disconnect", "engine"]


@pytest.mark.usefixtures("no_retry")
async def test_swapoff_is_not_tried_where_the_kernel_would_kill_us_for_it(host: Host) -> None:
    task = await host.start()
    await host.attach()
    host.swap_on(active=True)
    host.machine.memory_available(32)
    os.kill(os.getpid(), signal.SIGTERM)
    assert "memory has no room for the pages" in await reason_not_to_stop(host)
    assert host.events == []
    assert not task.done()
    host.machine.memory_available(512)
    await host.stop()
    assert host.events == ["swapoff /dev/nbd0", "disconnect", "engine"]


async def test_a_daemon_that_could_not_stop_tries_again_by_itself(host: Host) -> None:
    task = await host.start()
    await host.attach()
    mounts = host.root / "proc/self/mountinfo"
    mounts.rename(host.root / "away")
    os.kill(os.getpid(), signal.SIGTERM)
    assert "unknown whether" in await reason_not_to_stop(host)
    assert host.events == []
    (host.root / "away").rename(mounts)
    await asyncio.wait_for(task, HANG_GUARD_S)
    assert host.events == ["disconnect", "engine"]


@pytest.mark.usefixtures("no_retry")
async def test_swap_on_a_stacked_device_goes_off_before_the_daemon_stops(host: Host) -> None:
    await host.start()
    await host.attach()
    host.machine.add_device("dm-0", (252, 0), on="nbd0")
    host.swap_on(active=True, device="/dev/dm-0")
    status = await host.status()
    assert list(status.device.swap_areas) == list(status.device.stacked) == ["/dev/dm-0"]
    assert "stacking" in [finding.subject for finding in status.findings]
    await host.stop()
    assert host.events == ["swapoff /dev/dm-0", "disconnect", "engine"]


async def test_trouble_with_cgroups_never_ends_the_daemon(
    host: Host, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(daemon, "_CGROUPS_EVERY_S", 0.001)
    host.engine.cgroups_error = RuntimeError("no groups today")
    await host.start()
    await asyncio.sleep(0.2)
    await host.stop()
    assert host.events == ["engine"]
    written = capfd.readouterr()
    assert (written.out + written.err).count("RuntimeError: no groups today") == 1


async def test_a_limit_that_is_written_does_not_wait_for_the_next_pass(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_CGROUPS_EVERY_S", 3600)
    await host.start()
    for name in ("first", "second"):
        host.engine.configured.clear()
        (host.root / "cgroup" / name).mkdir()
        (host.root / "cgroup" / name / "memory.zswap.max").write_text("1048576\n")
        assert await asyncio.to_thread(host.engine.configured.wait, HANG_GUARD_S)
    await host.stop()


async def test_a_taken_admin_address_undoes_the_start(host: Host) -> None:
    with unix_socket.listen(host.root / "admin"):
        task = await host.start()
        with pytest.raises(BindError, match="another process serves it"):
            await task
    assert host.events == ["engine"]
    assert not (host.root / "nbd").exists()


async def test_clients_reach_the_engine_by_the_unix_socket(host: Host) -> None:
    await host.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANG_GUARD_S)
        await asyncio.to_thread(client.connect, str(host.root / "nbd"))
        assert await asyncio.to_thread(client.recv, 8) == b"NBDMAGIC"
    await host.stop()
