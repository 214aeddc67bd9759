"""Functions that run again and again beside the event loop, whatever happens to them."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from farswap.client_nbd.periodic import Periodic


class Runs:
    """Counts, and fails when told to. An event at each run."""

    def __init__(self) -> None:
        self.count = 0
        self.error: Exception | None = None
        self.took_s = 0.0
        self.ran = threading.Event()

    def __call__(self) -> None:
        time.sleep(self.took_s)
        self.count += 1
        self.ran.set()
        if self.error is not None:
            raise self.error

    async def another(self) -> None:
        self.ran.clear()
        assert await asyncio.to_thread(self.ran.wait, 20)


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
    await runs.another()
    began = time.monotonic()
    await runs.another()
    await periodic.stop()
    assert time.monotonic() - began > 0.5
