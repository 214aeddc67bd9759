"""A verifying load beside the faults: four NBD connections that read, write and trim at random."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from bench.load_generator import LoadError, LoadSession, phase

if TYPE_CHECKING:
    from bench.load_generator import PhaseReport, Progress
    from chaos.cluster import ChaosCluster

CONNECTIONS = 4
DEPTH = 8
STALL_MS = 120_000
MILLISECONDS_MAX = 7 * 86_400_000  # the load ends by command


@dataclass(frozen=True)
class Shape:
    """Of the load: what its first phase does with each page once, and then at random."""

    first: str = "zero"
    mix: str = "read:50/write:40/trim:10"
    size: str = "4k-64k"
    rate: int = 0  # pages a second; 0: as many as it can


class Load:
    """Runs while the block does; then every page is read once more. `reports`: of all phases."""

    def __init__(self, cluster: ChaosCluster, seed: int, shape: Shape, checks: int) -> None:
        self._checks = [f"check{n}" for n in range(checks)]
        phases = [
            phase("first", mix=shape.first, order="once", size="256k"),
            phase(
                "load",
                mix=shape.mix,
                size=shape.size,
                depth=DEPTH,
                milliseconds=MILLISECONDS_MAX,
                rate=shape.rate,
            ),
            *(
                phase(name, mix="read", order="once-random", size="16k", depth=DEPTH)
                for name in self._checks
            ),
        ]
        self._session = LoadSession(
            cluster.connect,
            phases,
            export=cluster.host.export,
            connections=CONNECTIONS,
            options=["--stall-ms", str(STALL_MS), "--seed", str(seed)],
            on_progress=self._note,
        )
        self.reports: dict[str, PhaseReport] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: LoadError | None = None
        self.progress: Progress | None = None
        self._slowest_us: dict[str, float] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._session)
            self._keep(self._session.run("first"))
            self._thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        os.kill(self._session.pid, signal.SIGKILL)
        self._thread.join()
        self._stack.close()

    def check(self) -> None:
        """Raises LoadError once a byte was wrong, or the load has ended."""
        if self._error:
            raise self._error
        if not self._thread.is_alive():
            raise LoadError("the load has ended early")

    def mark(self, *, faulty: bool) -> dict[str, float]:
        """Latencies are from now on those of a fault, or not; returns the slowest until now."""
        self._session.command("mark" if faulty else "unmark")
        slowest, self._slowest_us = self._slowest_us, {}
        return slowest

    def end(self) -> None:
        """Ends the load; check_pages() follows."""
        self.check()
        self._session.command("end")
        self._thread.join()
        if self._error:
            raise self._error

    def check_pages(self) -> None:
        """Reads every page once, as often as `checks` at most."""
        self._keep(self._session.run(self._checks.pop(0)))

    def _run(self) -> None:
        try:
            self._keep(self._session.run("load"))
        except LoadError as error:
            self._error = error

    def _keep(self, report: PhaseReport) -> None:
        self.reports[report.name] = report

    def _note(self, progress: Progress) -> None:
        self.progress = progress
        for kind, slowest in progress.slowest_us.items():
            self._slowest_us[kind] = max(slowest, self._slowest_us.get(kind, 0))
