"""Deletes expired volumes of silent hosts, and logs changes of owners.

The log warns a day before a volume expires, or when half of a shorter time is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.common import log
from farswap.common.units import Milliseconds

if TYPE_CHECKING:
    from farswap.native import Owner, OwnerEvent, PageServer, Volume

_log = log.logger("owners")

_WARN_MS = 86_400_000


class OwnerWatch:
    """Watch of one store. look() runs every few seconds, in one thread at a time."""

    def __init__(self, pages: PageServer) -> None:
        self._pages = pages
        self._warned: set[int] = set()

    def look(self) -> None:
        """Logs changes since the last call."""
        for event in self._pages.watch_owners():
            _log_event(event)
        ending = {
            volume.volume_id: volume for volume in self._pages.volumes() if _ends_soon(volume)
        }
        for volume_id in ending.keys() - self._warned:
            volume = ending[volume_id]
            _log.warning(
                "volume will expire because its host is silent;"
                " to keep it, start farswap-host there or raise volumes.expire_after",
                volume=f"{volume.host_id}/{volume.device}",
                owner=who(volume.owner),
                silent=_minutes(volume.silent_ms),
                deleted_in=_minutes(volume.expires_in_ms or 0),
            )
        self._warned = set(ending)


def who(owner: Owner) -> str:
    """Name and address of the machine that opened the volume."""
    return f"{owner.host_name or 'unnamed'} ({owner.address or 'unknown address'})"


def _ends_soon(volume: Volume) -> bool:
    left_ms = volume.expires_in_ms
    if volume.garbage or left_ms is None:
        return False
    return left_ms <= min(_WARN_MS, (left_ms + volume.silent_ms) // 2)


def _log_event(event: OwnerEvent) -> None:
    volume = f"{event.host_id}/{event.device}"
    if event.kind == "expired":
        _log.warning(
            "deleting volume: its host was silent for volumes.expire_after",
            volume=volume,
            owner=who(event.before),
        )
    elif event.kind == "displaced":
        _log.warning(
            "take-over displaced a live owner",
            volume=volume,
            owner=who(event.before),
            by=who(event.after),
        )
    else:
        _log.info(
            "volume has a new owner",
            volume=volume,
            before=who(event.before),
            owner=who(event.after),
        )


def _minutes(ms: int) -> str:
    return str(Milliseconds(ms // 60_000 * 60_000))
