"""Functions that run periodically beside the event loop, also after failures."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from farswap.common.periodic import Periodic
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Iterator


class Runs:
    """Counts, and fails on request. An event at each run."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.took_s = 0.0
        self.ran = threading.Event()
        self.rested_s = 0.0  # before the last run
        self._ended_s = 0.0

    def __call__(self) -> None:
        self.rested_s = time.monotonic() - self._ended_s
        time.sleep(self.took_s)
        self.count += 1
        self._ended_s = time.monotonic()
        self.ran.set()
        if self.error is not None:
            raise self.error

    async def another(self) -> None:
        self.ran.clear()
        assert await asyncio.to_thread(self.ran.wait, HANG_GUARD_S)


@pytest.fixture
def runs() -> Runs:
    return Runs()


async def test_it_has_run_once_when_it_has_started(runs: Runs) -> None:
    periodic = Periodic("test", runs, 3600)
    await periodic.start()
    assert runs.count == 1
    await periodic.stop()
    await periodic.stop()
    assert runs.count == 1


async def test_stop_waits_for_the_run_under_way(runs: Runs) -> None:
    periodic = Periodic("test", runs, 0.001)
    await periodic.start()
    runs.took_s = 0.2
    await runs.another()
    await periodic.stop()
    count = runs.count
    await asyncio.sleep(0.3)
    assert runs.count == count


async def test_what_was_never_started_can_be_stopped(runs: Runs) -> None:
    await Periodic("test", runs, 1).stop()
    assert runs.count == 0


class Events:
    """A pipe; every run but the first reads it empty."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._read, self._write = os.pipe()
        self.handed_out: list[int] = []

    def happen(self) -> None:
        os.write(self._write, b"x")

    def run(self) -> None:
        if self._runs.count > 0:
            os.read(self._read, 100)
        self._runs()

    def descriptor(self) -> int:
        self.handed_out.append(os.dup(self._read))
        return self.handed_out[-1]

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def events(runs: Runs) -> Iterator[Events]:
    made = Events(runs)
    yield made
    made.close()


async def test_an_event_brings_the_next_run_forward(runs: Runs, events: Events) -> None:
    periodic = Periodic("test", events.run, 3600, events.descriptor)
    await periodic.start()
    for count in (2, 3, 4):
        runs.ran.clear()
        events.happen()
        assert await asyncio.to_thread(runs.ran.wait, HANG_GUARD_S)
        assert runs.count == count
    await periodic.stop()
    assert runs.count == 4
    for descriptor in events.handed_out:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


async def test_events_do_not_shorten_the_rest_after_a_long_run(runs: Runs, events: Events) -> None:
    periodic = Periodic("test", events.run, 3600, events.descriptor)
    await periodic.start()
    runs.took_s = 0.05
    events.happen()
    await runs.another()
    events.happen()
    await runs.another()
    await periodic.stop()
    assert runs.rested_s > 0.5


async def test_events_do_not_hurry_what_fails(runs: Runs, events: Events) -> None:
    runs.error = ValueError("it is broken")
    events.happen()
    periodic = Periodic("test", events.run, 0.2, events.descriptor)
    began = time.monotonic()
    await periodic.start()
    await runs.another()
    await periodic.stop()
    assert time.monotonic() - began >= 0.2
    assert events.handed_out == []


async def test_failures_are_logged_once_a_burst(
    runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    runs.error = ValueError("it is broken")
    periodic = Periodic("test", runs, 0.001)
    await periodic.start()
    for _ in range(3):
        await runs.another()
    runs.error = None
    for _ in range(2):
        await runs.another()
    runs.error = ValueError("it is broken")
    for _ in range(2):
        await runs.another()
    await periodic.stop()
    written = capfd.readouterr()
    assert (written.err + written.out).count("it is broken") == 2
    assert (written.err + written.out).count("works again") == 1


async def test_long_runs_leave_time_for_others(runs: Runs) -> None:
    periodic = Periodic("test", runs, 0.001)
    await periodic.start()
    runs.took_s = 0.05
    for _ in range(3):  # the first may have begun before
        await runs.another()
    await periodic.stop()
    assert runs.rested_s > 0.5
