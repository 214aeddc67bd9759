"""The supervisor of the host daemon: holds what must outlive a worker, and starts the next one.

    farswap-host ── supervisor            descriptors of the memory, claims on the volume
                        └── worker        everything else; --worker N: the link to the supervisor

A worker that dies after it served is replaced at once, one that dies before after a delay, which
grows. The next worker adopts the memory, so no page is lost. An orderly stop, or memory that ends
with the worker, ends both.

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

from farswap.client_nbd.survival.link import Death, Link, Orders, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from farswap.client_nbd.survival.memory_keeper import MemoryKeeper

    # Starts a worker, which inherits the descriptor of its link. Returns its process id.
    StartWorker = Callable[[int], int]

WORKER_OPTION = "--worker"

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
    """run() starts workers until one ends in order, or cannot be replaced."""

    def __init__(
        self, config: str, keeper: MemoryKeeper, start_worker: StartWorker = start_worker
    ) -> None:
        self._config = config
        self._keeper = keeper
        self._start_worker = start_worker
        self._death: Death | None = None
        self._has_served = False
        self._stop_by: int | None = None  # of a signal that no worker has yet

    def run(self) -> int:
        """How the last worker ended: its exit code, or minus a signal's number."""
        retry_s = 0.0
        with _Signals() as signals:
            while True:
                worker = _Worker(self._start_worker, self._orders())
                status = self._attend(worker, signals)
                code = os.waitstatus_to_exitcode(status)
                if code == 0:
                    self._keeper.discard()
                    return 0
                if self._is_last(code):
                    return code
                self._death = Death(_how(code), time.monotonic_ns())
                retry_s = 0.0 if worker.served else min(max(_RETRY_S, 2 * retry_s), _RETRY_S_MAX)
                self._pause(retry_s, signals)

    def _orders(self) -> Orders:
        return Orders(
            supervisor=os.getpid(),
            config=self._config,
            memory=self._keeper.memory,
            death=self._death,
        )

    def _is_last(self, code: int) -> bool:
        """Whether no worker can continue: no page is kept, or the start fails."""
        if self._keeper.memory is None:
            return True
        return code > 0 and not self._has_served

    def _attend(self, worker: _Worker, signals: _Signals) -> int:
        """Until it has ended. Returns its wait status."""
        while True:
            ready = signals.wait(worker.descriptors, None)
            for number in signals.arrived():
                self._stop_by = number
            if worker.link in ready or worker.process in ready:
                for report in worker.reports():
                    self._note(worker, report)
            if worker.process in ready:
                return worker.reap()
            self._pass_signal(worker)

    def _note(self, worker: _Worker, report: Report) -> None:
        if report.memory is not None:
            self._keeper.keep(report.memory)
        if report.serving:
            worker.served = self._has_served = True

    def _pass_signal(self, worker: _Worker) -> None:
        """Before it serves, a worker that adopts pages must not be stopped."""
        if self._stop_by is not None and (worker.served or self._keeper.memory is None):
            worker.send(self._stop_by)
            self._stop_by = None

    def _pause(self, seconds: float, signals: _Signals) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            signals.wait((), left)
            for number in signals.arrived():
                self._stop_by = number


class _Worker:
    """A child process, and the link to it."""

    def __init__(self, start: StartWorker, orders: Orders) -> None:
        self.served = False
        ours, theirs = Link.pair()
        self._link = ours
        ours.send(orders)
        with theirs.inheritable() as descriptor:
            self._pid = start(descriptor)
        theirs.close()
        self.process = os.pidfd_open(self._pid)
        self._linked = True

    @property
    def link(self) -> int:
        """Its descriptor."""
        return self._link.fileno()

    @property
    def descriptors(self) -> Sequence[int]:
        """Readable when there is a report, and when the worker has ended."""
        return [self.process, self.link] if self._linked else [self.process]

    def reports(self) -> Iterator[Report]:
        """Those that have arrived."""
        poll = select.poll()
        poll.register(self.link, select.POLLIN)
        while self._linked and poll.poll(0):
            try:
                yield self._link.receive(Report)
            except (EOFError, OSError):
                self._linked = False

    def send(self, number: int) -> None:
        """A signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def reap(self) -> int:
        """Once it has ended. Returns its wait status."""
        _, status = os.waitpid(self._pid, 0)
        os.close(self.process)
        self._link.close()
        return status


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

    def wait(self, descriptors: Sequence[int], timeout_s: float | None) -> set[int]:
        """Those of `descriptors` that are readable. Also returns when a signal arrives."""
        poll = select.poll()
        for descriptor in [*descriptors, self._wake.fileno()]:
            poll.register(descriptor, select.POLLIN)
        return {ready for ready, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)}

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


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
