"""The worker's end of the link to the supervisor."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import msgspec
from farswap.client_nbd.survival import process
from farswap.client_nbd.survival.keeper import PAGES
from farswap.client_nbd.survival.link import Kept, Link, News, Orders, Report
from farswap.common import log

if TYPE_CHECKING:
    from farswap.client_nbd.survival.link import Death
    from farswap.native import HostEngine, State

_log = log.logger("survival")

_ANSWER_S = 10.0

# The kind of memory that ends with its process.
PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class Takeover:
    """Of the pages of another worker. `stall_ms`: from its end until this one served."""

    stall_ms: float | None
    pages: int


class WorkerLink:
    """Created first of all: this process ends with its supervisor."""

    def __init__(self, descriptor: int) -> None:
        self._link = Link.inherited(descriptor)
        self.orders = self._link.receive(Orders)
        self._kept = {kept.name: kept for kept in self.orders.kept}
        # Guards what news change; held while they are received, so that none is between.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._asked = self._answered = 0  # numbers of reports
        self._death = self.orders.death
        self._adopted_at_ns = 0
        self._telling = False
        self.takeover: Takeover | None = None
        self.has_standby = False
        self.problem = ""  # why the pages end with this process though they need not
        process.die_with(self.orders.supervisor)

    @property
    def pages(self) -> Kept | None:
        """The memory with pages of another worker."""
        return self._kept.get(PAGES)

    @property
    def adopts(self) -> bool:
        """Whether there is one."""
        return any(kept.name == PAGES for kept in self.orders.kept)

    @property
    def death(self) -> Death | None:
        """Of the worker before; None: unknown so far."""
        with self._lock:
            return self._death

    def made(self, state: State) -> None:
        """Has the supervisor hold memory that this worker has made, before it has a page."""
        kind, number = state.memory
        if kind != PRIVATE:
            self._send(Report(kept=(Kept(PAGES, kind, number),)))

    def discards(self, state: State) -> None:
        """The memory, of a device that no page was stored on: its volume is closed."""
        state.remove()
        self.drop(PAGES)

    def ends(self) -> None:
        """In order: returns when no other worker can take over. Blocks."""
        self._ask(Report(ending=True))

    def keep(self, *kept: Kept) -> None:
        """Returns when the supervisor holds these, and a standby has them too. Blocks."""
        self._ask(Report(kept=kept))

    def drop(self, name: str) -> None:
        """Of what was kept."""
        self._send(Report(dropped=(name,)))

    def take_kept(self) -> dict[str, Kept]:
        """What the worker before had, but its pages. The descriptors are the caller's."""
        with self._lock:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    self._take(self._link.receive(News, wait=False))
            return {name: self._kept.pop(name) for name in [*self._kept] if name != PAGES}

    def waits(self) -> None:
        """The memory of the worker before is mapped, and only its end is missing."""
        self._send(Report(waiting=True))

    def listen(self) -> None:
        """Receives news in a thread from now on."""
        threading.Thread(target=self._listen, name="link", daemon=True).start()

    def adopted(self) -> None:
        """The worker before is dead, and this one has its pages."""
        self._adopted_at_ns = time.monotonic_ns()

    def answers(self, engine: HostEngine) -> None:
        """Requests are answered from now on, or were before."""
        if not self.adopts or self.takeover is not None:
            return
        # A standby that waits notices the death first, else the supervisor does.
        noticed_ns = [self._adopted_at_ns] if self.orders.standby else []
        if (death := self.death) is not None:
            noticed_ns.append(death.at_ns)
        stall_ms = (time.monotonic_ns() - min(noticed_ns)) / 1e6 if noticed_ns else None
        pages = engine.stats()["recovered"]
        self.takeover = Takeover(stall_ms and round(stall_ms, 1), pages)

    def await_death(self) -> None:
        """Returns when the kernel has closed the sockets of the worker before. Blocks.

        Its mutex is free earlier, and its addresses would seem to be in use.
        """
        with self._changed:
            if self.orders.standby:
                self._changed.wait_for(lambda: self._death is not None, _ANSWER_S)

    def tell(self) -> None:
        """Logs the takeover; before there is no log."""
        with self._lock:
            self._telling = True
            how = "unknown" if self._death is None else self._death.how
        if self.takeover is not None:
            _log.warning("took the pages over", predecessor=how, **asdict(self.takeover))

    def serves(self) -> None:
        """All of the daemon works."""
        self._send(Report(serving=True))

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._link.fileno(), select.POLLIN)
        with contextlib.suppress(EOFError, OSError):
            while poll.poll():
                with self._lock, contextlib.suppress(BlockingIOError):
                    self._take(self._link.receive(News, wait=False))

    def _take(self, news: News) -> None:
        """With the lock."""
        if news.standby is not None:
            self.has_standby = news.standby
        for name in (*news.dropped, *(kept.name for kept in news.kept)):
            if (ended := self._kept.pop(name, None)) is not None:
                ended.close()
        self._kept |= {kept.name: kept for kept in news.kept}
        self._answered = max(self._answered, news.answer)
        if news.death is not None:
            self._death = news.death
            if self._telling:
                _log.warning("the worker before this one has ended", how=news.death.how)
        self._changed.notify_all()

    def _ask(self, report: Report) -> None:
        with self._changed:
            self._asked = number = self._asked + 1
            self._send(msgspec.structs.replace(report, number=number))
            # Without a supervisor this process is about to end.
            self._changed.wait_for(lambda: self._answered >= number, _ANSWER_S)

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
