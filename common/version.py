"""Release, API version and the ServerInfo of both daemons.

Every incompatible change of the admin services in proto/farswap/v1 raises `API_VERSION`; farswapctl
refuses answers with another one.
"""

from __future__ import annotations

import os
import time
from importlib import metadata

from farswap.common import log
from farswap.v1 import types_pb2

API_VERSION = 1


def release() -> str:
    """The release, e.g. "0.1.0"; "unpackaged" in a source tree."""
    try:
        return metadata.version("farswap")
    except metadata.PackageNotFoundError:
        return "unpackaged"


class Identity:
    """One run of a program; its uptime counts from the constructor. `pid` takes its signals."""

    def __init__(self, program: str, pid: int | None = None) -> None:
        self._program = program
        self._pid = pid or os.getpid()
        self._started_ns = time.monotonic_ns()

    def server_info(self) -> types_pb2.ServerInfo:
        """The current ServerInfo."""
        return types_pb2.ServerInfo(
            program=self._program,
            version=release(),
            api_version=API_VERSION,
            uptime_ms=(time.monotonic_ns() - self._started_ns) // 1_000_000,
            pid=self._pid,
            log_lines_lost=log.lines_lost(),
        )
