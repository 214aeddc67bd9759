"""Structured logging to stderr: `key=value` lines, or JSON lines for collectors.

A log call returns at once and never raises, for any values and any state of stderr (see
line_writer). All other output to sys.stderr goes the same way: warnings, the logging of libraries,
exceptions that end a thread.
"""

from __future__ import annotations

import atexit
import functools
import io
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog
from farswap.common.line_writer import LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import ReadableBuffer as Buffer
    from structlog.typing import EventDict, FilteringBoundLogger, Processor

LogFormat = Literal["text", "json"]

_STDERR = 2
# Time to write queued lines at exit.
_FLUSH_S = 1.0

_writer: LineWriter | None = None


def configure(
    log_format: LogFormat = "text", write: Callable[[int, memoryview], int] = os.write
) -> None:
    """Starts the log's thread. Call it once, before the first line, in a process that stays.

    `write` replaces os.write() in tests.
    """
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _as_text,
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.processors.LogfmtRenderer(
            key_order=["time", "level", "event"], drop_missing=True, bool_as_flag=False
        ),
    ]
    writer = LineWriter(_STDERR, functools.partial(_report_of_lost, processors), write)
    structlog.configure(
        processors=processors,
        wrapper_class=_Logger,
        logger_factory=lambda *_: _Queue(writer),
        cache_logger_on_first_use=False,
    )
    global _writer  # noqa: PLW0603 - a process has one stderr
    _writer = writer
    atexit.register(flush)
    _redirect_python(writer)


def logger(part: str) -> FilteringBoundLogger:
    """A logger whose lines carry `part=...`: "attach", "nbd", "admin"."""
    return cast("FilteringBoundLogger", structlog.get_logger(part=part))


def lines_lost() -> int:
    """Number of lines lost since the process started."""
    return _writer.lost if _writer is not None else 0


def flush() -> None:
    """Writes queued lines, before a process that ends without atexit handlers."""
    if _writer is not None:
        _writer.flush(_FLUSH_S)


class _Logger(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    """Raises nothing."""

    def _proxy_to_logger(
        self, method_name: str, event: str | None = None, **fields: object
    ) -> None:
        try:
            super()._proxy_to_logger(method_name, event, **fields)
        except Exception:  # noqa: BLE001 - no caller can handle it
            self._logger.lose()


class _Queue:
    """The sink of rendered lines for structlog."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        self.lose = writer.lose

    def debug(self, line: str) -> None:
        self._writer.put(line.encode("utf-8", "backslashreplace"))

    info = warning = error = critical = debug


def _as_text(_: object, __: str, fields: EventDict) -> EventDict:
    """Values that every renderer can render, without terminal control characters."""
    return {key: _plain(value) for key, value in fields.items()}


def _plain(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - of any type's __str__()
        return f"<{type(value).__name__}: {type(error).__name__}>"
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _report_of_lost(processors: Iterable[Processor], count: int) -> bytes:
    line: Any = {"event": "log lines were lost", "part": "log", "lines": count}
    for processor in processors:
        line = processor(None, "warning", line)
    return cast("str", line).encode() + b"\n"


# --- Output of libraries and of Python itself


def _redirect_python(writer: LineWriter) -> None:
    sys.stderr = io.TextIOWrapper(
        cast("Any", _Lines(writer)),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    logging.getLogger().addHandler(_LIBRARIES)
    logging.captureWarnings(capture=True)
    threading.excepthook = _on_thread_exception
    sys.unraisablehook = _on_unraisable


class _Lines(io.RawIOBase):
    """The raw stream below sys.stderr."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, text: Buffer) -> int:
        line = bytes(text)
        self._writer.put(line)
        return len(line)


class _FromLogging(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the message
            message = str(record.msg)
        level = logging.ERROR if record.levelno >= logging.ERROR else logging.WARNING
        logger(record.name).log(level, message, exc_info=record.exc_info)


_LIBRARIES = _FromLogging(logging.WARNING)


def _on_thread_exception(thrown: threading.ExceptHookArgs) -> None:
    name = thrown.thread.name if thrown.thread is not None else "unknown"
    logger("python").error("thread ended by an exception", thread=name, exc_info=thrown.exc_value)


def _on_unraisable(thrown: sys.UnraisableHookArgs) -> None:
    logger("python").error("exception ignored", where=thrown.object, exc_info=thrown.exc_value)
