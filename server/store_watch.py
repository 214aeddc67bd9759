"""A line in the log whenever the store begins to refuse pages, and when it takes them again.

The store itself counts what it refuses, and logs nothing: its threads serve pages. So its counters
are looked at from time to time. A disk has room again when pages were written and none failed in
between two looks; the configured capacity when a part of it is free again, so that a store at its
limit, where each discarded page makes room for one, is not told of again and again.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from farswap.common import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from farswap.native import PageServer

_log = log.logger("store")

# Of the capacity, below which the store has room again.
_ROOM_SHARE = 0.95
_COUNTERS = ("stores", "stores_io_error", "stores_full")


class StoreWatch:
    """Of one store; look() is called by one thread at a time."""

    def __init__(
        self,
        pages: PageServer,
        path: str,
        free_bytes: Callable[[str], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        """`free_bytes`: of the file system that a path is on; may raise OSError."""
        self._pages = pages
        self._path = path
        self._free_bytes = free_bytes
        self._earlier = pages.stats()
        self._failing = False
        self._full = False

    def look(self) -> None:
        """Logs what has changed since the last time."""
        now, earlier = self._pages.stats(), self._earlier
        self._earlier = now
        grown = {name: now[name] - earlier[name] for name in _COUNTERS}
        if grown["stores_io_error"] and not self._failing:
            self._failing = True
            _log.error(
                "pages are refused: the disk is full or failing",
                path=self._path,
                disk_free_mib=self._disk_free_mib(),
            )
        elif self._failing and grown["stores"] and not grown["stores_io_error"]:
            self._failing = False
            _log.info("the disk takes pages again", disk_free_mib=self._disk_free_mib())
        used, capacity = now["used_bytes"], now["capacity_bytes"]
        if grown["stores_full"] and not self._full:
            self._full = True
            _log.warning("pages are refused: store.capacity is reached", capacity_bytes=capacity)
        elif self._full and used < capacity * _ROOM_SHARE:
            self._full = False
            _log.info("there is room for pages again", used_bytes=used, capacity_bytes=capacity)

    def _disk_free_mib(self) -> int | None:
        try:
            return self._free_bytes(self._path) >> 20
        except OSError:
            return None
