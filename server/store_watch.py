"""A line in the log whenever the store begins to refuse pages, and when it takes them again.

The store itself counts what it refuses and knows what is wrong with its disk, but logs nothing: its
threads serve pages. So it is asked from time to time. The configured capacity has room again when a
part of it is free, so that a store at its limit, where each discarded page makes room for one, is
not reported again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.common import log

if TYPE_CHECKING:
    from farswap.native import PageServer

_log = log.logger("store")

# Of the capacity, below which the store has room again.
_ROOM_SHARE = 0.95


class StoreWatch:
    """Of one store; look() is called by one thread at a time."""

    def __init__(self, pages: PageServer, path: str) -> None:
        """`path`: the store's directory, for the log."""
        self._pages = pages
        self._path = path
        self._refused_full = pages.stats()["puts_full"]
        self._failing = False
        self._full = False

    def look(self) -> None:
        """Logs what has changed since the last time."""
        self._look_at_disk()
        now = self._pages.stats()
        used, capacity, refused = now["used_bytes"], now["capacity_bytes"], now["puts_full"]
        if refused > self._refused_full and not self._full:
            self._full = True
            _log.warning("pages are refused: store.capacity is reached", capacity_bytes=capacity)
        elif self._full and used < capacity * _ROOM_SHARE:
            self._full = False
            _log.info("there is room for pages again", used_bytes=used, capacity_bytes=capacity)
        self._refused_full = refused

    def _look_at_disk(self) -> None:
        problem = self._pages.disk_problem()
        if problem and not self._failing:
            _log.error(
                "pages are refused: the disk is full or failing",
                problem=problem,
                path=self._path,
                do="make room on the disk of store.path; the server then goes on by itself",
            )
        elif self._failing and not problem:
            _log.info("the disk takes pages again", path=self._path)
        self._failing = bool(problem)
