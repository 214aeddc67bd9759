"""Logs when the store starts to refuse pages, when it accepts them again, and what is damaged.

The store's threads serve pages and log nothing, so its state is polled. A store at its capacity
counts as having room only when a part is free: else each discarded page would be reported.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from farswap.common import log

if TYPE_CHECKING:
    from farswap.native import PageServer

_log = log.logger("store")

# Share of the capacity below which the store has room again.
_ROOM_SHARE = 0.95
# Between two lines about damage.
_DAMAGE_EVERY_S = 60.0


class StoreWatch:
    """Watch of one store. look() runs in one thread at a time."""

    def __init__(self, pages: PageServer, path: str) -> None:
        """`path`: the store's directory, for the log."""
        self._pages = pages
        self._path = path
        stats = pages.stats()
        self._refused_full = stats["puts_full"]
        self._damaged = _damage(stats)
        self._damage_at = float("-inf")
        self._failing = False
        self._full = False

    def look(self) -> None:
        """Logs changes since the last call."""
        self._look_at_disk()
        now = self._pages.stats()
        self._look_at_damage(now)
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

    def _look_at_damage(self, stats: dict[str, int]) -> None:
        damaged, now = _damage(stats), time.monotonic()
        if damaged == self._damaged or now - self._damage_at < _DAMAGE_EVERY_S:
            return
        self._damage_at = now
        objects, blocks = (new - old for new, old in zip(damaged, self._damaged, strict=True))
        self._damaged = damaged
        _log.error(
            "pages are damaged: hosts with another replica copy them again",
            objects=objects,
            blocks=blocks,
            path=self._path,
            do="if it happens again, drain this server and replace the disk of store.path",
        )

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


def _damage(stats: dict[str, int]) -> tuple[int, int]:
    """Damaged objects and blocks found so far."""
    return stats["scrub_damaged_records"], stats["scrub_damaged_blocks"]
