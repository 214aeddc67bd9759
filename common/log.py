"""Structured logging to stderr: `key=value` lines, or JSON lines for collectors.

Control plane only: nothing on the store path logs, since a write to stderr may wait for a
journal that waits for memory.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

LogFormat = Literal["text", "json"]


def configure(log_format: LogFormat = "text") -> None:
    """Call once, before the first log line."""
    renderer: Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.processors.LogfmtRenderer(
            key_order=["time", "level", "event"], drop_missing=True, bool_as_flag=False
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def logger(part: str) -> FilteringBoundLogger:
    """A logger whose lines carry `part=...`: "attach", "nbd", "admin"."""
    return cast("FilteringBoundLogger", structlog.get_logger(part=part))
