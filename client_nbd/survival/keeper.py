"""Holds what outlives a worker, for the next one, and for the next supervisor where that works.

A supervisor that dies takes its descriptors along, unless systemd has them: the unit's descriptor
store keeps memory until the unit is stopped. A System V segment outlives everything but the
machine: a file in the runtime directory has its id. Sockets end with the supervisor.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.client_nbd.kernel import tables
from farswap.client_nbd.survival.link import SYSV, Kept
from farswap.common import systemd

if TYPE_CHECKING:
    from farswap.client_nbd.config import HostConfig

RUNTIME_DIRECTORY = Path("/run/farswap")
SEGMENTS = Path("/proc/sysvipc/shm")

# The memory with the pages. It alone is of use to another supervisor.
PAGES = "pages"
_STORED_PREFIX = "pages-"  # then the kind


class Keeper:
    """`kept` by name, at first the pages of an earlier supervisor."""

    def __init__(self, config: HostConfig, directory: Path = RUNTIME_DIRECTORY) -> None:
        self._record = directory / f"{config.host_id}.{config.device.name}.segment"
        pages = _stored() or _recorded(self._record)
        self.kept = {} if pages is None else {PAGES: pages}

    @property
    def has_pages(self) -> bool:
        """Whether a worker has made the memory for them."""
        return PAGES in self.kept

    def keep(self, kept: Kept) -> None:
        """In place of what had the name. The descriptor is the keeper's."""
        self.drop(kept.name)
        self.kept[kept.name] = kept
        if kept.name != PAGES:
            return
        # Without systemd or a writable directory the supervisor alone keeps it.
        with contextlib.suppress(OSError):
            if kept.kind == SYSV:
                self._record.write_text(str(kept.number))
            else:
                systemd.store(_STORED_PREFIX + kept.kind, kept.number)

    def drop(self, name: str) -> None:
        """What has ended; of the pages, a device without any. The worker has removed segments."""
        kept = self.kept.pop(name, None)
        if kept is None:
            return
        kept.close()
        if name != PAGES:
            return
        with contextlib.suppress(OSError):
            if kept.kind == SYSV:
                self._record.unlink()
            else:
                systemd.remove_stored(_STORED_PREFIX + kept.kind)

    def discard(self) -> None:
        """All of it."""
        for name in list(self.kept):
            self.drop(name)


def _stored() -> Kept | None:
    pages = None
    for name, descriptor in systemd.stored_descriptors().items():
        if pages is None and name.startswith(_STORED_PREFIX):
            pages = Kept(PAGES, name.removeprefix(_STORED_PREFIX), descriptor)
        else:
            os.close(descriptor)
    return pages


def attached_processes(segment: int) -> int | None:
    """How many processes have mapped a System V segment; None: it does not exist."""
    columns, *lines = tables.rows(SEGMENTS.read_bytes())
    for line in lines:
        fields = dict(zip(columns, line, strict=True))
        if int(fields[b"shmid"]) == segment:
            return int(fields[b"nattch"])
    return None


def _recorded(record: Path) -> Kept | None:
    try:
        segment = int(record.read_text())
        exists = attached_processes(segment) is not None
    except (OSError, ValueError):
        return None
    return Kept(PAGES, SYSV, segment) if exists else None
