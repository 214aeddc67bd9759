"""The daemon never stops while swap may be on: a fault of each kind at each step of the stop.

The steps are found by running: every call of the kernel's files, of the engine, of swapoff, of the
log and of systemd is one. A fault is put at the first, the second, and so on, until a run has none.
"""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from fake_engine import FakeEngine
from fake_machine import FakeMachine
from farswap.client_nbd import safe_stop
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel.device_use import ExportDevices
from farswap.client_nbd.safe_stop import SafeStop, StopGate
from farswap.common import lifecycle
from farswap.common.errors import BusyError
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NBD0 = (43, 0)
# A swap area on the device, one stacked on it, and one that cannot be looked up.
LINES = [
    "/dev/nbd0 partition 4092 100 -2",
    "/dev/loop1 partition 4092 100 -3",
    "/gone file 4092 100 -4",
]


class Steps:
    """Counts the calls; the one with the number `at` first does what `fault` does."""

    def __init__(self, fault: Callable[[], None], at: int) -> None:
        self.fault = fault
        self.at = at
        self.names: list[str] = []

    def of(self, target: Any) -> Any:
        return Stepped(target, self)

    def step(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 == self.at:
            self.fault()


class Stepped:
    def __init__(self, target: Any, steps: Steps) -> None:
        self._target, self._steps = target, steps

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return self._counted(name, value) if callable(value) else value

    def _counted(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._steps.step(name)
            return act(*arguments, **options)

        return call


class Run:
    """A machine with swap on, and its daemon that is to stop."""

    def __init__(self, root: Path, steps: Steps, patch: pytest.MonkeyPatch) -> None:
        self.machine = FakeMachine(root)
        self.machine.add_device("nbd0", NBD0)
        self.machine.add_device("loop1", (7, 1), backing="/dev/nbd0")
        self.swaps(LINES)
        self.signals: asyncio.Queue[str] = asyncio.Queue()
        self.gate = StopGate()
        files = steps.of(self.machine)
        devices = ExportDevices(files)
        devices.add("/dev/nbd0", NBD0)
        self.host = SimpleNamespace(
            files=files,
            devices=steps.of(devices),
            gate=steps.of(self.gate),
            engine=steps.of(FakeEngine()),
        )
        patch.setattr(safe_stop, "_RETRY_S", 0.001)
        patch.setattr(safe_stop, "_log", steps.of(MagicMock()))
        functions = steps.of(SimpleNamespace(swapoff=self.swapoff, sd_notify=lambda _: True))
        patch.setattr(kernel_files, "swapoff", functions.swapoff)
        patch.setattr(lifecycle, "sd_notify", functions.sd_notify)
        self.safe = SafeStop(self.host)

    def swapoff(self, path: str) -> None:
        self.swaps([line for line in self.lines if not line.startswith(f"{path} ")])

    def swaps(self, lines: list[str]) -> None:
        self.lines = lines
        self.machine.swaps(*lines)

    async def wait(self) -> None:
        signals = SimpleNamespace(wait=self.signals.get)
        await self.safe.wait(signals)
        assert self.lines == [LINES[-1]], "stopped while the machine swapped to it"
        with pytest.raises(BusyError):
            self.gate.admit(lambda: None)
        self.safe.release()


def raising(error: BaseException) -> Callable[[], None]:
    def fault() -> None:
        in_loop = threading.current_thread() is threading.main_thread()
        if isinstance(error, Exception) or not in_loop:
            raise error

    return fault


FAULTS = [OSError(5, "Input/output error"), ValueError(), RuntimeError("a bug"), SystemExit(1)]


@pytest.mark.parametrize("error", FAULTS, ids=repr)
async def test_whatever_is_raised_at_whatever_step_the_daemon_serves_until_swap_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    at = 0
    while True:
        steps = Steps(raising(error), at)
        run = Run(tmp_path / str(at), steps, monkeypatch)
        run.signals.put_nowait("SIGTERM")
        await asyncio.wait_for(run.wait(), HANG_GUARD_S)
        if len(steps.names) <= at:
            break
        at += 1
    assert at > 20
    expected = {"swap_areas", "mounts", "backings", "holders", "look_up", "claim", "swapoff"}
    assert expected | {"close", "available_bytes", "info", "connections"} <= {*steps.names}


async def test_without_a_thread_for_the_check_the_daemon_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, Steps(lambda: None, -1), monkeypatch)
    refusals = [RuntimeError("can't start new thread")] * 3
    to_thread = asyncio.to_thread

    async def short_of_threads(act: Callable[[], Any]) -> Any:
        if refusals:
            raise refusals.pop()
        return await to_thread(act)

    monkeypatch.setattr(asyncio, "to_thread", short_of_threads)
    run.signals.put_nowait("SIGTERM")
    await asyncio.wait_for(run.wait(), HANG_GUARD_S)
    assert not refusals


async def test_a_step_that_blocks_keeps_the_daemon_serving_whatever_signals_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    at = 0
    while True:
        blocked, released = asyncio.Event(), threading.Event()

        def block(blocked: asyncio.Event = blocked, released: threading.Event = released) -> None:
            if threading.current_thread() is threading.main_thread():
                return  # the log's and systemd's calls never wait
            loop.call_soon_threadsafe(blocked.set)
            assert released.wait(HANG_GUARD_S)

        steps = Steps(block, at)
        run = Run(tmp_path / str(at), steps, monkeypatch)
        ended = asyncio.create_task(run.wait())
        run.signals.put_nowait("SIGTERM")
        waiting = asyncio.create_task(blocked.wait())
        await asyncio.wait(
            [ended, waiting], timeout=HANG_GUARD_S, return_when=asyncio.FIRST_COMPLETED
        )
        if blocked.is_set():
            run.signals.put_nowait("SIGTERM")
            await asyncio.sleep(0.005)
            assert not ended.done()
        waiting.cancel()
        released.set()
        await asyncio.wait_for(ended, HANG_GUARD_S)
        if len(steps.names) <= at:
            break
        at += 1
    assert at > 20


async def test_a_reason_is_logged_once_and_the_next_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, Steps(raising(ValueError()), -1), monkeypatch)
    reasons: list[str] = []
    tried = 0

    def error(_: str, *, reason: str, **__: object) -> None:
        reasons.append(reason)

    def available() -> int:
        nonlocal tried
        tried += 1
        return [0, 1 << 20, 2 << 20, None, None, 1 << 30][min(tried, 6) - 1]

    monkeypatch.setattr(safe_stop, "_log", SimpleNamespace(error=error, info=lambda *_, **__: 0))
    monkeypatch.setattr(run.machine, "available_bytes", available)
    run.signals.put_nowait("SIGTERM")
    await asyncio.wait_for(run.wait(), HANG_GUARD_S)
    assert tried == 6
    assert ["memory has no room" in reasons[0], "/proc/meminfo" in reasons[1]] == [True, True]
    assert len(reasons) == 2


async def test_swap_that_goes_on_again_meanwhile_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, Steps(raising(ValueError()), -1), monkeypatch)
    seen = []

    def claim(number: tuple[int, int], flags: int = 0) -> int:
        if not seen:
            seen.append(number)
            run.swaps(LINES)
        return FakeMachine.claim(run.machine, number, flags)

    monkeypatch.setattr(run.machine, "claim", claim)
    run.signals.put_nowait("SIGTERM")
    await asyncio.wait_for(run.wait(), HANG_GUARD_S)


async def test_a_device_that_is_being_attached_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, Steps(raising(ValueError()), -1), monkeypatch)
    attaching, go_on = threading.Event(), threading.Event()

    def attach() -> None:
        attaching.set()
        assert go_on.wait(HANG_GUARD_S)

    attached = asyncio.create_task(asyncio.to_thread(run.gate.admit, attach))
    assert await asyncio.to_thread(attaching.wait, HANG_GUARD_S)
    ended = asyncio.create_task(run.wait())
    run.signals.put_nowait("SIGTERM")
    while "attached" not in run.safe._doing:
        await asyncio.wait([ended], timeout=0.01)
    assert run.lines == LINES
    go_on.set()
    await attached
    await asyncio.wait_for(ended, HANG_GUARD_S)
