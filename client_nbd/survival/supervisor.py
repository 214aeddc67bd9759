"""The supervisor of the host daemon: holds what must outlive a worker, and starts the next ones.

    farswap-host ── supervisor            descriptors of memory and sockets, claims on the volume
                        ├── worker        serves; --worker N: the link to the supervisor
                        └── standby       a worker that has mapped the memory and waits

Every worker waits until no other one serves. So the standby takes over by itself when the active
one dies, by a mutex in the memory, and the supervisor starts another standby. If both die, it
starts a worker at once; one that dies before it has served is replaced after a delay, which grows.
An orderly stop, or memory that ends with the worker, ends all.

The supervisor imports neither grpc nor the native core and starts no thread. It reads neither
memory nor sockets, and logs nothing: the next worker logs how the last one ended. A worker dies
with its supervisor, so that two never serve the same memory.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, NoReturn, Self

from farswap.client_nbd.survival.link import Death, Link, News, Orders, Report
from farswap.client_nbd.survival.rings import make_rings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from farswap.client_nbd.survival.keeper import Keeper

    # Starts a worker, which inherits the descriptor of its link. Returns its process id.
    StartWorker = Callable[[int], int]

WORKER_OPTION = "--worker"

# NBD connections with which a successor goes on.
_COVERED_CONNECTIONS = 16
_RETRY_S = 0.1
_RETRY_S_MAX = 5.0
_STOPPING = (signal.SIGTERM, signal.SIGINT)


def start_worker(link: int) -> int:
    """Runs this program once more, as a worker."""
    program = [*sys.orig_argv, WORKER_OPTION, str(link)]
    # In a group of its own: an interrupt at the terminal comes by the supervisor alone.
    return os.posix_spawn(
        sys.executable, program, os.environ, setpgroup=0, setsigdef=[signal.SIGCHLD]
    )


class Supervisor:
    """run() keeps workers until one ends in order, or cannot be replaced."""

    def __init__(
        self, config: str, keeper: Keeper, start_worker: StartWorker = start_worker
    ) -> None:
        self._config = config
        self._keeper = keeper
        self._start_worker = start_worker
        self._rings = make_rings(_COVERED_CONNECTIONS)
        self._workers: list[_Worker] = []
        self._active: _Worker | None = None  # the last one that reported that it serves
        self._death: Death | None = None
        self._has_served = False
        self._ending = False  # in order: without a standby, which would take over
        self._stop_by: int | None = None  # of a signal that no worker has yet
        self._retry_s = 0.0
        self._start_at_s = 0.0

    def run(self) -> int:
        """How the last worker ended: its exit code, or minus a signal's number."""
        with _Signals() as signals:
            while True:
                self._start_wanted()
                self._wait(signals)
                for worker in list(self._workers):
                    for report in worker.reports():
                        self._note(worker, report)
                for worker in [worker for worker in self._workers if worker.ended()]:
                    code = self._bury(worker)
                    # Nothing swaps to a worker that is ending, however it ends.
                    if code == 0 or self._ending:
                        self._end_all_but(None)
                        self._keeper.discard()
                        return code
                    if self._is_last(code):
                        return code
                self._pass_signal()

    # --- Workers

    def _start_wanted(self) -> None:
        """One worker, and a standby for one that serves pages that can be adopted."""
        serves = self._active is not None and self._keeper.has_pages
        wanted = 2 if serves and self._stop_by is None and not self._ending else 1
        if len(self._workers) < wanted and time.monotonic() >= self._start_at_s:
            orders = Orders(
                supervisor=os.getpid(),
                config=self._config,
                kept=tuple(self._keeper.kept.values()),
                rings=self._rings,
                standby=bool(self._workers),
                death=None if self._workers else self._death,
            )
            self._workers.append(_Worker(self._start_worker, orders))

    def _note(self, worker: _Worker, report: Report) -> None:
        for kept in report.kept:
            self._keeper.keep(kept)
        for name in report.dropped:
            self._keeper.drop(name)
        for other in self._workers:
            if other is not worker and (report.kept or report.dropped):
                other.tell(News(kept=report.kept, dropped=report.dropped))
        if report.waiting and worker is not self._active and self._active is not None:
            self._active.tell(News(standby=True))
        if report.ending:
            self._ending = True
            self._end_all_but(worker)
            worker.tell(News(standby=False))
        if report.serving:
            self._active, self._has_served = worker, True
            self._retry_s = 0.0
        if report.number:
            worker.tell(News(answer=report.number))  # last: a standby has the news

    def _bury(self, worker: _Worker) -> int:
        """Its exit code, or minus the number of the signal that killed it."""
        self._workers.remove(worker)
        code = worker.reap()
        if worker.served or not self._workers:
            self._death = Death(_how(code), time.monotonic_ns())
            for successor in self._workers:
                successor.tell(News(death=self._death))
        if worker is self._active:
            self._active = None
        elif not worker.served:
            if self._active is not None:
                self._active.tell(News(standby=False))
            self._retry_s = min(max(_RETRY_S, 2 * self._retry_s), _RETRY_S_MAX)
            self._start_at_s = time.monotonic() + self._retry_s
        return code

    def _is_last(self, code: int) -> bool:
        """Whether no worker can continue: no page is kept, or the start fails."""
        if self._workers:
            return False
        return not self._keeper.has_pages or (code > 0 and not self._has_served)

    def _end_all_but(self, stays: _Worker | None) -> None:
        for worker in [worker for worker in self._workers if worker is not stays]:
            worker.send(signal.SIGKILL)
            worker.reap()
            self._workers.remove(worker)

    # --- Events

    def _wait(self, signals: _Signals) -> None:
        descriptors = [number for worker in self._workers for number in worker.descriptors]
        left_s = self._start_at_s - time.monotonic()
        signals.wait(descriptors, left_s if left_s > 0 else None)
        for number in signals.arrived():
            self._stop_by = number

    def _pass_signal(self) -> None:
        """Before it serves, a worker that adopts pages must not be stopped."""
        if self._stop_by is None:
            return
        if self._active is not None:
            self._active.send(self._stop_by)
        elif self._keeper.has_pages:
            return
        else:
            for worker in self._workers:
                worker.send(self._stop_by)
        self._stop_by = None


class _Worker:
    """A child process, and the link to it."""

    def __init__(self, start: StartWorker, orders: Orders) -> None:
        self.served = False
        ours, theirs = Link.pair()
        self._link = ours
        ours.send(orders)
        ours.never_wait()
        with theirs.inheritable() as descriptor:
            self._pid = start(descriptor)
        theirs.close()
        self._process = os.pidfd_open(self._pid)
        self._linked = True

    @property
    def descriptors(self) -> Sequence[int]:
        """Readable when there is a report, and when the worker has ended."""
        return [self._process, self._link.fileno()] if self._linked else [self._process]

    def reports(self) -> Iterator[Report]:
        """Those that have arrived."""
        while self._linked and _is_readable(self._link.fileno()):
            try:
                report = self._link.receive(Report)
            except (EOFError, OSError):
                self._linked = False
                return
            self.served = self.served or report.serving
            yield report

    def tell(self, news: News) -> None:
        """Has no effect on one that has ended. A standby that takes no news is killed."""
        try:
            self._link.send(news)
        except BlockingIOError:
            if not self.served:
                self.send(signal.SIGKILL)
        except OSError:
            pass

    def send(self, number: int) -> None:
        """A signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def ended(self) -> bool:
        """Whether it has, and all its reports are taken."""
        return not self._linked and _is_readable(self._process)

    def reap(self) -> int:
        """Waits for its end. Returns its exit code, or minus the number of a signal."""
        _, status = os.waitpid(self._pid, 0)
        os.close(self._process)
        self._link.close()
        self._linked = False
        return os.waitstatus_to_exitcode(status)


class _Signals:
    """Signals to stop, as numbers, while the context is open."""

    def __enter__(self) -> Self:
        self._wake, write_end = socket.socketpair()
        self._wake.settimeout(0)
        write_end.settimeout(0)
        self._write_end = write_end
        self._before = {number: signal.signal(number, lambda *_: None) for number in _STOPPING}
        self._wakeup_before = signal.set_wakeup_fd(write_end.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._wake.close()
        self._write_end.close()

    def wait(self, descriptors: Sequence[int], timeout_s: float | None) -> None:
        """Until one is readable, or a signal arrives."""
        poll = select.poll()
        for descriptor in [*descriptors, self._wake.fileno()]:
            poll.register(descriptor, select.POLLIN)
        poll.poll(None if timeout_s is None else timeout_s * 1000)

    def arrived(self) -> bytes:
        """The numbers of those that arrived."""
        try:
            return self._wake.recv(1024)
        except BlockingIOError:
            return b""


def end_like(code: int) -> NoReturn:
    """Ends this process, `code` as from run()."""
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
