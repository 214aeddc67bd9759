"""Holds the memory of a device for the next worker, and for the next supervisor where that works.

A supervisor that dies takes its descriptors along, unless systemd has them: the unit's descriptor
store keeps them until the unit is stopped. A System V segment outlives everything but the machine:
a file in the runtime directory has its id.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.client_nbd.survival.link import SYSV, KeptMemory
from farswap.common import systemd

if TYPE_CHECKING:
    from farswap.client_nbd.config import HostConfig

RUNTIME_DIRECTORY = Path("/run/farswap")
_STORED_PREFIX = "pages-"  # then the kind


class MemoryKeeper:
    """`memory` is what is kept, at first of an earlier supervisor."""

    def __init__(self, config: HostConfig, directory: Path = RUNTIME_DIRECTORY) -> None:
        self._record = directory / f"{config.host_id}.{config.device.name}.segment"
        self.memory = _stored() or _recorded(self._record)

    def keep(self, memory: KeptMemory) -> None:
        """From now on, in place of nothing. The descriptor is the keeper's."""
        self.memory = memory
        # Without systemd or a writable directory the supervisor alone keeps it.
        with contextlib.suppress(OSError):
            if memory.kind == SYSV:
                self._record.write_text(str(memory.number))
            else:
                systemd.store(_STORED_PREFIX + memory.kind, memory.number)

    def discard(self) -> None:
        """Of a device without pages. The segment was removed by the worker."""
        if self.memory is None:
            return
        memory, self.memory = self.memory, None
        memory.close()
        with contextlib.suppress(OSError):
            if memory.kind == SYSV:
                self._record.unlink()
            else:
                systemd.remove_stored(_STORED_PREFIX + memory.kind)


def _stored() -> KeptMemory | None:
    memory = None
    for name, descriptor in systemd.stored_descriptors().items():
        if memory is None and name.startswith(_STORED_PREFIX):
            memory = KeptMemory(name.removeprefix(_STORED_PREFIX), descriptor)
        else:
            os.close(descriptor)
    return memory


def _recorded(record: Path) -> KeptMemory | None:
    try:
        return KeptMemory(SYSV, int(record.read_text()))
    except (OSError, ValueError):
        return None
