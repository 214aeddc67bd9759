"""Runs a blocking function periodically, in a thread beside an event loop.

The next run starts after the interval, or earlier when a descriptor becomes readable, but never
before 19 times the duration of the last run has passed: at most a twentieth of a CPU. Only the
first of consecutive failures is logged. When stop() returns, no run is in progress, and the objects
that the function uses may be destroyed.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from farswap.common import log

if TYPE_CHECKING:
    from collections.abc import Callable

_REST_PER_RUN = 19

_log = log.logger("periodic")


class Periodic:
    """start(), then stop(), once each, in the event loop.

    `events` is called before each rest. It returns a descriptor that becomes readable when the next
    run should start, or None. The run must read it empty; it is closed here.
    """

    def __init__(
        self,
        what: str,
        run: Callable[[], None],
        interval_s: float,
        events: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._what = what
        self._run = run
        self._interval_s = interval_s
        self._events = events
        self._stopping = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def start(self) -> None:
        """Returns after the first run."""
        await asyncio.to_thread(self._run_once)
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        """Waits for the current run. Idempotent."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def _go_on(self) -> None:
        took_s = 0.0
        while True:
            least_s = _REST_PER_RUN * took_s
            await self._rest(least_s)
            await self._rest_until_events(self._interval_s - least_s)
            if self._stopping:
                return
            self._wake.clear()
            took_s = await asyncio.to_thread(self._run_once)

    async def _rest_until_events(self, rest_s: float) -> None:
        # A run that failed may not have read them.
        events = None if self._failing else self._events()
        if events is None:
            await self._rest(rest_s)
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(events, self._wake.set)
        try:
            await self._rest(rest_s)
        finally:
            loop.remove_reader(events)
            os.close(events)

    async def _rest(self, rest_s: float) -> None:
        try:
            async with asyncio.timeout(rest_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _run_once(self) -> float:
        """Returns the duration in seconds."""
        began_s = time.monotonic()
        try:
            self._run()
        except Exception:  # noqa: BLE001 - the daemon goes on serving pages
            if not self._failing:
                _log.exception(
                    "periodic task failed; repeated failures are not logged", what=self._what
                )
            self._failing = True
        else:
            if self._failing:
                _log.info("periodic task works again", what=self._what)
            self._failing = False
        return time.monotonic() - began_s
