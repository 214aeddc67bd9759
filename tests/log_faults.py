"""The daemons' log in this process: configured, with what writes to stderr, and put back."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Literal

import pytest
import structlog
from farswap.common import log
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAULTS = ("none", "fails once", "fails", "blocks", "cannot be made")
Fault = Literal["none", "fails once", "fails", "blocks", "cannot be made"]


@contextlib.contextmanager
def configured(
    write: Callable[[int, memoryview], int], log_format: log.LogFormat = "text"
) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for where, name in ((sys, "stderr"), (sys, "unraisablehook"), (threading, "excepthook")):
            patch.setattr(where, name, getattr(where, name))
        logging.getLogger().handlers.clear()  # pytest's
        log.configure(log_format, write)
        yield
        logging.captureWarnings(capture=False)
        logging.getLogger().removeHandler(log._LIBRARIES)
        structlog.reset_defaults()
        patch.setattr(log, "_writer", None)


class FaultyLog:
    """Has `fault` at the line number `at`, from 0; `calls` counts what was logged."""

    def __init__(self, fault: Fault, at: int) -> None:
        self.fault = fault
        self.calls = 0
        self.text = b""
        self._at = at
        self._lines = 0
        self._unblock = threading.Event()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        as_text = log._as_text

        def faulty(*call):
            self.calls += 1
            if self.fault == "cannot be made" and self.calls - 1 == self._at:
                raise RuntimeError("no text")
            return as_text(*call)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(log, "_as_text", faulty)
            with configured(self._write):
                yield
                self._end()

    def _end(self) -> None:
        self._unblock.set()
        assert log._writer is not None
        assert log._writer.flush(HANG_GUARD_S)

    def _write(self, descriptor: int, data: memoryview) -> int:
        assert descriptor == 2
        line = self._lines
        self._lines += 1
        if self.fault == "blocks" and line == self._at:
            self._unblock.wait(HANG_GUARD_S)
        if (self.fault, line) == ("fails once", self._at):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.fault == "fails" and line >= self._at:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self.text += bytes(data)
        return len(data)
