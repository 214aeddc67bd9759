"""A scenario beside a load, and its verdict. A scenario injects faults one by one.

Each fault ends when it is healed and no shard lacks a replica.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bench.load_generator import LoadError
from chaos.faults import heal, inject, victim_of
from chaos.load import Load, Shape
from chaos.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.cluster import ChaosCluster
    from chaos.faults import Fault

    Log = Callable[[dict[str, Any]], None]

PROBLEMS = (LoadError, RuntimeError, TimeoutError)


class Run:
    """One scenario."""

    def __init__(
        self, cluster: ChaosCluster, seed: int, log: Log, shape: Shape | None = None
    ) -> None:
        self.cluster = cluster
        self.log = log
        self.verdict = Verdict(seed)
        self.load = Load(cluster, seed, shape or Shape(), checks=1 + len(cluster.servers))

    def play(self, scenario: Callable[[Run], None]) -> Verdict:
        """Runs it, then reads every page, also while each server is away."""
        with self.load:
            self.verdict.reports = self.load.reports
            try:
                scenario(self)
                self.load.end()
                self.load.check_pages()
                self._check_without_each()
            except PROBLEMS as error:
                self.verdict.problems.append(str(error))
            self._take_figures()
        self.verdict.judge()
        self.log(self.verdict.document())
        return self.verdict

    def fault(self, fault: Fault) -> None:
        """Injects it, and waits until it is healed and its debt is paid."""
        server = victim_of(self.cluster, fault)

        def happen() -> None:
            try:
                inject(self.cluster, server, fault)
            except BaseException:
                heal(self.cluster, server)
                raise

        self.watch(fault.kind, server.name, happen, way=fault.way, seconds=fault.seconds)

    def watch(self, kind: str, victim: str, happen: Callable[[], None], **details: object) -> None:
        """Records what `happen` costs, until no debt is left."""
        self.load.check()
        self.cluster.note_copies()
        self.load.mark(faulty=True)
        began = time.monotonic()
        happen()
        healed = time.monotonic()
        self.cluster.await_no_debt()
        slowest_us = self.load.mark(faulty=False)
        record = {
            "event": "fault",
            "number": len(self.verdict.faults) + 1,
            "kind": kind,
            "victim": victim,
            **details,
            "lasted_s": round(healed - began, 1),
            "debt_s": round(time.monotonic() - healed, 1),
            "slowest_ms": {op: round(us / 1000, 1) for op, us in slowest_us.items()},
            "errors": self.load.progress.errors if self.load.progress else 0,
        }
        self.verdict.faults.append(record)
        self.log(record)

    def _check_without_each(self) -> None:
        for server in self.cluster.servers:
            self.cluster.note_copies()
            server.kill()
            self.load.check_pages()
            server.start()
            self.cluster.await_no_debt()

    def _take_figures(self) -> None:
        status = self.cluster.status()
        self.verdict.counters = {counter.name: counter.value for counter in status.tier.counters}
        self.verdict.lost_shards = status.placement.lost_shards
        self.verdict.copied_bytes = self.cluster.note_copies()
