"""The worker's end of the link to the supervisor."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from farswap.client_nbd.survival import process
from farswap.client_nbd.survival.link import KeptMemory, Link, Orders, Report
from farswap.common import log

if TYPE_CHECKING:
    from farswap.native import HostEngine

_log = log.logger("survival")

# The kind of memory that ends with its process.
PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class Takeover:
    """Of the pages of an earlier worker. `stall_ms`: from its end until this one served."""

    predecessor: str
    stall_ms: int | None
    pages: int


class WorkerLink:
    """Created first of all: this process ends with its supervisor."""

    def __init__(self, descriptor: int) -> None:
        self._link = Link.inherited(descriptor)
        self.orders = self._link.receive(Orders)
        self.takeover: Takeover | None = None  # once this worker serves
        process.die_with(self.orders.supervisor)

    @property
    def adopts(self) -> bool:
        """Whether there are pages of an earlier worker."""
        return self.orders.memory is not None

    def made(self, engine: HostEngine) -> None:
        """Has the supervisor hold the engine's memory, before it has a page."""
        kind, number = engine.memory
        if not self.adopts and kind != PRIVATE:
            self._send(Report(memory=KeptMemory(kind, number)))

    def serving(self, engine: HostEngine) -> None:
        """The worker is ready."""
        if self.adopts:
            death = self.orders.death
            self.takeover = Takeover(
                "unknown" if death is None else death.how,
                None if death is None else (time.monotonic_ns() - death.at_ns) // 10**6,
                engine.stats()["recovered"],
            )
            _log.warning("took the pages over", **asdict(self.takeover))
        self._send(Report(serving=True))

    def _send(self, report: Report) -> None:
        # Without a supervisor this process is about to end.
        with contextlib.suppress(OSError):
            self._link.send(report)


def end_at_once(code: int) -> None:
    """Ends the process as a death does: servers keep the pages, and a successor adopts the memory.

    The engine's own end would close the volume.
    """
    log.flush()
    os._exit(code)
