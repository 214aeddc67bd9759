"""Ready line, systemd's notifications, signals, and the order of stopping."""

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest
from farswap.common import lifecycle
from hang_guard import HANG_GUARD_S


@pytest.fixture
def notify_socket(short_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(short_path / "notify"))
        receiver.settimeout(HANG_GUARD_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        yield receiver


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(lifecycle, "_STDOUT", writer)
    with os.fdopen(reader, "rb") as file:
        yield file
    os.close(writer)


def test_ready_is_one_line_and_a_notification(notify_socket: socket.socket, stdout) -> None:
    lifecycle.announce_ready(nbd="unix:/x,tcp:127.0.0.1:1", admin="unix:/y", pid=7)
    line = "ready nbd=unix:/x,tcp:127.0.0.1:1 admin=unix:/y pid=7"
    assert stdout.readline().decode() == line + "\n"
    assert notify_socket.recv(4096).decode() == f"READY=1\nSTATUS={line}"


def test_ready_words_with_blanks_or_without_utf8_are_unambiguous(stdout) -> None:
    lifecycle.announce_ready(nbd="unix:/a b", admin="unix:/caf\udce9", metrics="unix:/ünï")
    line = 'ready nbd="unix:/a b" admin=unix:/caf\\udce9 metrics=unix:/ünï'
    assert stdout.readline().decode() == line + "\n"


def test_stdout_that_fails_or_blocks_is_no_error(
    notify_socket: socket.socket, stdout, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.set_blocking(lifecycle._STDOUT, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(lifecycle._STDOUT, bytes(4096))
    os.set_blocking(lifecycle._STDOUT, True)
    lifecycle.announce_ready(pid=7)
    assert notify_socket.recv(4096) == b"READY=1\nSTATUS=ready pid=7"
    monkeypatch.setattr(lifecycle, "_STDOUT", -1)
    lifecycle.announce_ready(pid=7)
    assert notify_socket.recv(4096) == b"READY=1\nSTATUS=ready pid=7"


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not lifecycle.sd_notify("READY=1")


def test_a_notification_socket_that_is_gone_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not lifecycle.sd_notify("READY=1")


def test_an_abstract_notification_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"farswap-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        receiver.settimeout(HANG_GUARD_S)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert lifecycle.sd_notify("READY=1")
        assert receiver.recv(64) == b"READY=1"


async def test_each_signal_can_be_waited_for_again() -> None:
    signals = lifecycle.StopSignals()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(signals.wait(), HANG_GUARD_S) == "SIGTERM"
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(signals.wait(), HANG_GUARD_S) == "SIGINT"


async def test_parts_stop_in_reverse_order_also_when_one_fails() -> None:
    stopped: list[str] = []
    parts = lifecycle.StopStack()

    def part(name: str, *, fails: bool = False) -> None:
        async def stop() -> None:
            stopped.append(name)
            if fails:
                raise RuntimeError(name)

        parts.push(name, stop)

    part("engine")
    part("nbd", fails=True)
    part("admin")
    await parts.stop()
    assert stopped == ["admin", "nbd", "engine"]
    await parts.stop()
    assert stopped == ["admin", "nbd", "engine"]
