"""A daemon's life: the ready line, systemd, signals, the order of stopping.

Order: parts start one after the other, each `push`ed on a `StopStack` once it runs; then
`announce_ready()`; then the daemon waits on `StopSignals`; then `StopStack.stop()` stops the parts,
last first. It logs a part that fails to stop, and goes on.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import uvloop
from farswap.common import log, systemd
from farswap.common.errors import FarswapError
from farswap.common.line_writer import LineWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_log = log.logger("lifecycle")

_STDOUT = 1


def run(serve: Coroutine[Any, Any, None]) -> None:
    """Runs a daemon on a new event loop. Raises what `serve` raises; logs internal errors first."""
    try:
        uvloop.run(serve)
    except FarswapError:
        raise
    except Exception:
        _log.exception("ended by an internal error")
        raise


def announce_ready(**fields: str | int) -> None:
    """Prints `ready key=value ...` to stdout and notifies systemd. Neither waits nor fails.

    A value with blanks is in double quotes.
    """
    words = (
        f'{key}="{value}"' if " " in str(value) else f"{key}={value}"
        for key, value in fields.items()
    )
    line = " ".join(["ready", *words])
    stdout = LineWriter(_STDOUT)
    stdout.put(line.encode("utf-8", "backslashreplace"))
    stdout.close()
    sd_notify(f"READY=1\nSTATUS={line}")


def sd_notify(state: str) -> bool:
    """systemd.notify(). False if that fails or is not set."""
    try:
        return systemd.notify(state)
    except OSError as error:
        _log.warning("failed to notify systemd", error=error.strerror)
        return False


class StopSignals:
    """SIGTERM and SIGINT as events."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._arrived.put_nowait, number.name)

    async def wait(self) -> str:
        """Name of the next signal. Signals that arrive together count as one."""
        name = await self._arrived.get()
        while not self._arrived.empty():
            self._arrived.get_nowait()
        return name


class StopStack:
    """Started parts, in the order of their start."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def push(self, part: str, stop: Callable[[], Awaitable[object]]) -> None:
        """Adds a part; its `stop` is awaited after those of all parts pushed later."""
        self._parts.append((part, stop))

    async def stop(self) -> None:
        """Stops all parts, last first. Idempotent."""
        sd_notify("STOPPING=1")
        while self._parts:
            part, stop = self._parts.pop()
            try:
                await stop()
            except Exception:  # noqa: BLE001 - the other parts must stop too
                _log.exception("failed to stop a part", stopping=part)
