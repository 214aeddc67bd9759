"""Lines for a descriptor that may fail, block or have no reader, without effect on the caller.

put() adds a line to a bounded queue and returns at once; a thread writes. Lines that do not fit or
cannot be written are counted as lost, and reported before the next line that can be written.

The descriptor keeps its flags, since other processes may share its open file and would get
O_NONBLOCK too. A write may block the thread, which does not delay the exit of the process.
"""

from __future__ import annotations

import os
import select
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LINES_MAX = 1024
LINE_BYTES_MAX = 16 << 10


class LineWriter:
    """Writer for one descriptor. `report` renders the report of lost lines; default: none.

    Methods may be called from any thread, also by a finalizer that interrupts another call.
    """

    def __init__(
        self,
        descriptor: int,
        report: Callable[[int], bytes] = lambda _: b"",
        write: Callable[[int, memoryview], int] = os.write,
    ) -> None:
        self._descriptor = descriptor
        self._report = report
        self._write_some = write
        self._lines: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        self._lost = 0
        self._losing = threading.RLock()
        self._cut = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    @property
    def lost(self) -> int:
        """Number of lines not written, or not completely."""
        return self._lost

    def lose(self) -> None:
        """Counts a line that could not be rendered."""
        with self._losing:
            self._lost += 1

    def put(self, line: bytes) -> None:
        """Queues a line. Adds a line end if there is none."""
        if self._lines.qsize() < LINES_MAX:
            self._lines.put(line[:LINE_BYTES_MAX].removesuffix(b"\n") + b"\n")
        else:
            self.lose()

    def flush(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s` until all queued lines are written or lost."""
        reached = threading.Event()
        self._lines.put(reached)
        return reached.wait(timeout_s)

    def close(self) -> None:
        """Ends the thread after all queued lines."""
        self._lines.put(None)

    def _run(self) -> None:
        reported = 0
        while (next_ := self._lines.get()) is not None:
            lost = self._lost
            if lost != reported and self._written(self._report, lost - reported):
                reported = lost
            if isinstance(next_, threading.Event):
                next_.set()
            elif not self._written(bytes, next_):
                self.lose()

    def _written(self, make: Callable[[Any], bytes], of: object) -> bool:
        try:
            self._write(make(of))
        except Exception:  # noqa: BLE001 - the next line may succeed
            return False
        return True

    def _write(self, line: bytes) -> None:
        left = memoryview(b"\n" + line if self._cut else line)
        while left:
            try:
                left = left[self._write_some(self._descriptor, left) :]
                self._cut = bool(left)
            except BlockingIOError:
                # Another process made the open file non-blocking.
                writable = select.poll()
                writable.register(self._descriptor, select.POLLOUT)
                writable.poll()
