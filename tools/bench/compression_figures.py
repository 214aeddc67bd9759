"""What each way of compressing costs and gains on real pages: the codec by itself, then faults.

The peer of every figure is LZ4, and pages that are sent to servers as they are. Faults are reads of
one page at depth 1, client, host and server on one CPU. Those from the server begin with nothing in
the pool: pages far apart, each of which is fetched; all pages of a range at random, where a bundle
brings neighbours for later; and in order, where they are what is read next.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.cases import Case
from bench.load_generator import LoadSession, phase
from bench.local_cluster import LocalCluster
from bench.page_corpus import PAGE_BYTES
from bench.programs import native_program, pin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.cases import Skipped
    from bench.load_generator import Latency
    from bench.measurements import Effort

COST_DEADLINE_S = 600
ONE_CPU = {0}
FAULTS_MAX = 4096
# What pages are compressed with as they come in, and what is done to them on their way out.
COMPRESSORS = ("lz4", "lz4:8", "zstd:1", "zstd:3")
AS_THEY_ARE = "as they are"
WAYS_OUT: dict[str, dict[str, object]] = {
    AS_THEY_ARE: {"recompress": "off"},
    "recompressed by zstd:1": {"recompress": "zstd:1"},
    "packed": {"pack": True, "recompress": "off"},
    "packed, else recompressed": {"pack": True, "recompress": "zstd:1"},
}
# Far apart: of this many pages one is read.
SPARSE = 48
ORDERS: dict[str, dict[str, str | int]] = {
    "far apart": {"order": "random", "ops": FAULTS_MAX // SPARSE},
    "at random": {"order": "once-random"},
    "in order": {"order": "once"},
}


@dataclass(frozen=True)
class RemoteFaults:
    """Of one way out, by order."""

    bytes_a_page: float
    latency: dict[str, Latency]
    fetched: dict[str, float]  # share of the reads that fetched from the server


def measure_compression(corpus: Path, _effort: Effort) -> list[Case | Skipped]:
    """Ratio and CPU time per page, then faults from the pool, then faults from the server."""
    return [*_codec_cases(corpus), *_local_cases(corpus), *_remote_cases(corpus)]


def _codec_cases(corpus: Path) -> list[Case | Skipped]:
    command = [str(native_program("farswap-codec-cost")), str(corpus)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=COST_DEADLINE_S
    )
    costs = json.loads(done.stdout)
    peer = costs["pages"][0]
    figures = (("ratio", "ratio", "to 1"), ("CPU in", "in_us", "µs"), ("CPU out", "out_us", "µs"))
    return [
        Case(f"{cost['name']}: {label}", unit, cost[key], peer[key], peer["name"])
        for cost in (*costs["pages"], *costs["recompress"], *costs["bundles"])
        for label, key, unit in figures
    ]


def _local_cases(corpus: Path) -> list[Case | Skipped]:
    p50_us = {}
    for compressor in COMPRESSORS:
        with _filled(corpus, {"compressor": compressor}, ["at random"]) as (_, session):
            p50_us[compressor] = session.run("at random").latency["read"].p50_us
    peer = COMPRESSORS[0]
    return [
        Case(f"fault from the pool p50, {compressor}", "µs", us, p50_us[peer], peer)
        for compressor, us in p50_us.items()
    ]


def _remote_cases(corpus: Path) -> list[Case | Skipped]:
    taken = {name: _remote_faults(corpus, tier) for name, tier in WAYS_OUT.items()}
    peer = taken[AS_THEY_ARE]
    cases: list[Case | Skipped] = []
    for name, faults in taken.items():
        figures = [
            ("bytes a page on the server", "B", faults.bytes_a_page, peer.bytes_a_page),
            (
                "fault far apart p50",
                "µs",
                faults.latency["far apart"].p50_us,
                peer.latency["far apart"].p50_us,
            ),
        ]
        for order in ("at random", "in order"):
            mean_us = faults.latency[order].mean_us, peer.latency[order].mean_us
            figures.append((f"fault {order} mean", "µs", *mean_us))
            figures.append(
                (f"fetches a fault {order}", "", faults.fetched[order], peer.fetched[order])
            )
        cases += [
            Case(f"{label}, {name}", unit, ours, theirs, AS_THEY_ARE)
            for label, unit, ours, theirs in figures
        ]
    return cases


def _remote_faults(corpus: Path, tier: dict[str, object]) -> RemoteFaults:
    latency = {}
    fetched = {}
    with _filled(corpus, tier, list(ORDERS)) as (cluster, session):
        cluster.write_back()
        remote = cluster.tier().remote_pages
        bytes_a_page = cluster.server_status().used_bytes / max(remote, 1)
        for order in ORDERS:
            before = cluster.counters()["loads_remote"]
            report = session.run(order)
            fetches = cluster.counters()["loads_remote"] - before
            latency[order] = report.latency["read"]
            fetched[order] = fetches / max(report.page_ops, 1)
    return RemoteFaults(bytes_a_page, latency, fetched)


@contextmanager
def _filled(
    corpus: Path, tier: dict[str, object], orders: list[str]
) -> Iterator[tuple[LocalCluster, LoadSession]]:
    """A device that holds the corpus in its pool; then each order reads pages of its own."""
    size_bytes = corpus.stat().st_size
    count = min(FAULTS_MAX, size_bytes // PAGE_BYTES // len(orders))
    same: dict[str, str | int] = {"mix": "read", "depth": 1, "connections": 1, "skip_repeated": 1}
    reads = [
        phase(name, **same, **ORDERS[name], first=number * count, count=count)
        for number, name in enumerate(orders)
    ]
    fill = phase("fill", mix="write", order="once", size="64k", depth=16)
    with (
        LocalCluster(
            device_bytes=size_bytes, pool_bytes=size_bytes, tier=tier, directory=corpus.parent
        ) as cluster,
        LoadSession(
            cluster.connect,
            [fill, *reads],
            export=cluster.export,
            corpus=corpus,
            options=["--pure"],
        ) as session,
    ):
        session.run("fill")
        for pid in (*cluster.pids(), session.pid):
            pin(pid, ONE_CPU)
        yield cluster, session
