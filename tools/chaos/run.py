"""A load and faults: the next one begins when the last is healed and no shard lacks a replica."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

from bench.load_generator import LoadError
from chaos.faults import heal, inject, victim_of
from chaos.load import Load
from chaos.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from chaos.cluster import ChaosCluster
    from chaos.faults import Fault

    Log = Callable[[dict[str, Any]], None]

PROBLEMS = (LoadError, RuntimeError, TimeoutError)


def run_faults(
    cluster: ChaosCluster,
    seed: int,
    faults: Iterator[Fault],
    more: Callable[[int], bool],
    log: Log,
) -> Verdict:
    """Injects faults while more(how many there were)."""
    verdict = Verdict(seed)
    planned = itertools.takewhile(lambda _: more(len(verdict.faults)), faults)
    with Load(cluster, seed, checks=1 + len(cluster.servers)) as load:
        verdict.reports = load.reports
        try:
            _inject_all(cluster, load, planned, verdict, log)
            load.end()
            load.check_pages()
            _check_without_each(cluster, load)
        except PROBLEMS as error:
            verdict.problems.append(str(error))
        _take_figures(cluster, verdict)
    verdict.judge()
    log(verdict.document())
    return verdict


def _inject_all(
    cluster: ChaosCluster, load: Load, faults: Iterable[Fault], verdict: Verdict, log: Log
) -> None:
    for fault in faults:
        load.check()
        cluster.note_copies()
        server = victim_of(cluster, fault)
        began = time.monotonic()
        record = {
            "event": "fault",
            "number": len(verdict.faults) + 1,
            "kind": fault.kind,
            "server": server.name,
            "way": fault.way,
            "seconds": fault.seconds,
        }
        load.mark(faulty=True)
        try:
            inject(cluster, server, fault)
        except BaseException:
            heal(cluster, server)
            raise
        healed = time.monotonic()
        cluster.await_no_debt()
        slowest_us = load.mark(faulty=False)
        record |= {
            "lasted_s": round(healed - began, 1),
            "debt_s": round(time.monotonic() - healed, 1),
            "slowest_ms": {kind: round(us / 1000, 1) for kind, us in slowest_us.items()},
            "errors": load.progress.errors if load.progress else 0,
        }
        verdict.faults.append(record)
        log(record)


def _check_without_each(cluster: ChaosCluster, load: Load) -> None:
    """Every replica of every page is right: each server is away while all pages are read."""
    for server in cluster.servers:
        cluster.note_copies()
        server.kill()
        load.check_pages()
        server.start()
        cluster.await_no_debt()


def _take_figures(cluster: ChaosCluster, verdict: Verdict) -> None:
    status = cluster.status()
    verdict.counters = {counter.name: counter.value for counter in status.tier.counters}
    verdict.lost_shards = status.placement.lost_shards
    verdict.copied_bytes = cluster.note_copies()
