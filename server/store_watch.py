"""Logs when the store starts to refuse pages, and when it accepts them again.

The store's threads serve pages and log nothing, so its state is polled. A store at its capacity
counts as having room only when a part is free: else each discarded page would be reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.common import log

if TYPE_CHECKING:
    from farswap.native import PageServer

_log = log.logger("store")

# Share of the capacity below which the store has room again.
_ROOM_SHARE = 0.95


class StoreWatch:
    """Watch of one store. look() runs in one thread at a time."""

    def __init__(self, pages: PageServer, path: str) -> None:
        """`path`: the store's directory, for the log."""
        self._pages = pages
        self._path = path
        self._refused_full = pages.stats()["puts_full"]
        self._failing = False
        self._full = False

    def look(self) -> None:
        """Logs changes since the last call."""
        self._look_at_disk()
        now = self._pages.stats()
        used, capacity, refused = now["used_bytes"], now["capacity_bytes"], now["puts_full"]
        if refused > self._refused_full and not self._full:
            self._full = True
            _log.warning("refusing pages: store.capacity is reached", capacity_bytes=capacity)
        elif self._full and used < capacity * _ROOM_SHARE:
            self._full = False
            _log.info(
                "accepting pages again: below store.capacity",
                used_bytes=used,
                capacity_bytes=capacity,
            )
        self._refused_full = refused

    def _look_at_disk(self) -> None:
        problem = self._pages.disk_problem()
        if problem and not self._failing:
            _log.error(
                "refusing pages: the disk is full or failing",
                problem=problem,
                path=self._path,
                do="free space on the disk of store.path; the server then resumes by itself",
            )
        elif self._failing and not problem:
            _log.info("accepting pages again: the disk works", path=self._path)
        self._failing = bool(problem)
