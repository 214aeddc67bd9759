"""Runs a blocking function again and again, in a thread, next to an event loop.

Between two runs it rests for the interval, or longer after a long run, so that it never takes more
than a twentieth of a CPU. A run that fails is the first of a burst, and is logged, or one of those
that follow it, and is not. stop() returns when no run is under way: what the function uses may be
taken down then.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from farswap.common import log

if TYPE_CHECKING:
    from collections.abc import Callable

_REST_PER_RUN = 19

_log = log.logger("periodic")


class Periodic:
    """start(), then stop(), once each, in the event loop."""

    def __init__(self, what: str, run: Callable[[], None], interval_s: float) -> None:
        self._what = what
        self._run = run
        self._interval_s = interval_s
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def start(self) -> None:
        """Returns when the function has run once."""
        await asyncio.to_thread(self._run_once)
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        """Waits for a run that is under way. Idempotent."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _go_on(self) -> None:
        rest_s = self._interval_s
        while not await self._stops_within(rest_s):
            began_s = time.monotonic()
            await asyncio.to_thread(self._run_once)
            rest_s = max(self._interval_s, _REST_PER_RUN * (time.monotonic() - began_s))

    async def _stops_within(self, rest_s: float) -> bool:
        try:
            async with asyncio.timeout(rest_s):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    def _run_once(self) -> None:
        try:
            self._run()
        except Exception:  # noqa: BLE001 - the daemon serves pages whatever happens here
            if not self._failing:
                _log.exception("failed; further failures are not logged", what=self._what)
            self._failing = True
            return
        if self._failing:
            _log.info("works again", what=self._what)
        self._failing = False
