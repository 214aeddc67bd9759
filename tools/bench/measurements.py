"""The measurements of `make bench`. Each starts what it needs, takes turns with its peer (A B A B:
the machine is noisy, and what disturbs one round disturbs both), and returns cases of medians.

Per-request cost is measured with client and server on one CPU: there it is quiet and repeatable,
and waking another CPU is not what is measured.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import peers
from bench.cases import Case, Samples, Skipped
from bench.compression_figures import measure_compression
from bench.fairness_figures import measure_fairness
from bench.load_generator import LoadSession, phase
from bench.local_cluster import LocalCluster
from bench.page_corpus import PAGE_BYTES
from bench.programs import pin
from bench.replica_figures import measure_replicas
from bench.tier_figures import measure_tier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.load_generator import PhaseReport

ONE_CPU = {0}
DEEP = 64
READ_KINDS = ("deep", "single", "both")
FILL_REQUEST = "64k"
POOL_FOR_REMOTE_BYTES = 16 << 20
# A Fetch message in its gRPC and HTTP/2 frames, and what surrounds a page in the answer.
FETCH_REQUEST_BYTES = 64
FETCH_REPLY_EXTRA_BYTES = 64
# The CPU of the client's side (load generator and host) of a remote read; the memory server has the
# last one. Apart is what it is like over a network: left alone, the kernel puts a ping-pong on one.
PLACEMENTS = {"apart": 0, "together": -1}


@dataclass(frozen=True)
class Effort:
    """How long and how often each figure is taken."""

    rounds: int
    phase_ms: int


def all_cpus() -> set[int]:
    """What this process may run on."""
    return os.sched_getaffinity(0)


def fill_phase() -> str:
    """Every slot written once, which makes the device a copy of the corpus."""
    return phase("fill", mix="write", order="once", size=FILL_REQUEST, depth=16)


def pin_all(pids: Sequence[int], cpus: set[int]) -> None:
    """Moves all of these processes."""
    for pid in pids:
        pin(pid, cpus)


def measure_local(corpus: Path, effort: Effort) -> list[Case | Skipped]:
    """Reads against nbdkit memory and writes against its zstd allocator, everything in the pool."""
    size_bytes = corpus.stat().st_size
    with ExitStack() as stack:
        cluster = stack.enter_context(
            LocalCluster(device_bytes=size_bytes, pool_bytes=size_bytes, directory=corpus.parent)
        )
        plain = stack.enter_context(peers.nbdkit_memory(size_bytes))
        packed = stack.enter_context(peers.nbdkit_memory(size_bytes, "zstd"))
        names = [f"{kind}{n}" for n in range(effort.rounds) for kind in READ_KINDS]
        reads = [fill_phase(), *(_read_phase(name, effort.phase_ms) for name in names)]
        writes = [_write_phase(f"write{n}", effort.phase_ms) for n in range(effort.rounds)]
        ours = stack.enter_context(
            _session(cluster.connect, cluster.export, corpus, reads + writes)
        )
        theirs = stack.enter_context(_session(plain.connect, "", corpus, reads))
        zstd = stack.enter_context(_session(packed.connect, "", corpus, [fill_phase(), *writes]))
        pids = [*cluster.pids(), plain.pid, packed.pid, ours.pid, theirs.pid, zstd.pid]
        for session in (ours, theirs, zstd):
            session.run("fill")
        memory = _pool_memory(cluster, corpus)
        cases = _read_cases(pids, ours, theirs, effort)
        pin_all(pids, ONE_CPU)
        cases.append(_write_case(ours, zstd, effort))
    return [*cases, memory]


def _session(connect: str, export: str, corpus: Path, phases: list[str]) -> LoadSession:
    return LoadSession(
        connect, phases, export=export, connections=2, corpus=corpus, options=["--pure"]
    )


def _read_phase(name: str, phase_ms: int) -> str:
    depth = 1 if name.startswith("single") else DEEP
    connections = 2 if name.startswith("both") else 1
    return phase(name, mix="read", depth=depth, connections=connections, milliseconds=phase_ms)


def _write_phase(name: str, phase_ms: int) -> str:
    return phase(name, mix="write", depth=DEEP, connections=1, milliseconds=phase_ms)


def _read_cases(
    pids: list[int], ours: LoadSession, theirs: LoadSession, effort: Effort
) -> list[Case | Skipped]:
    taken = {kind: Samples() for kind in READ_KINDS}
    for n in range(effort.rounds):
        for kind, samples in taken.items():
            pin_all(pids, all_cpus() if kind == "both" else ONE_CPU)
            samples.farswap.append(_figure(kind, ours.run(f"{kind}{n}")))
            samples.peer.append(_figure(kind, theirs.run(f"{kind}{n}")))
    peer = "nbdkit memory"
    return [
        taken["deep"].case("4 KiB random reads, depth 64, one CPU", "k/s", peer, "at least", 1.5),
        taken["single"].case("4 KiB read p50, depth 1, one CPU", "µs", peer, "at most", 1.0),
        taken["both"].case("4 KiB random reads, 2 connections, all CPUs", "k/s", peer),
    ]


def _figure(kind: str, report: PhaseReport) -> float:
    return report.latency["read"].p50_us if kind == "single" else report.requests_per_s / 1000


def _write_case(ours: LoadSession, zstd: LoadSession, effort: Effort) -> Case:
    samples = Samples()
    for n in range(effort.rounds):
        samples.farswap.append(ours.run(f"write{n}").requests_per_s / 1000)
        samples.peer.append(zstd.run(f"write{n}").requests_per_s / 1000)
    name = "4 KiB random writes, depth 64, one CPU"
    return samples.case(name, "k/s", "nbdkit memory allocator=zstd", "at least", 10.0)


def _pool_memory(cluster: LocalCluster, corpus: Path) -> Case | Skipped:
    size_mib = corpus.stat().st_size >> 20
    name = f"pool memory of {size_mib} MiB of real pages"
    tier = cluster.tier()
    if tier.remote_pages or tier.writing_pages:
        raise AssertionError("pages left the pool while it was to hold all of them")
    reason = peers.zram_missing()
    if reason is not None:
        return Skipped(name, reason)
    zram_bytes = peers.zram_used_bytes(corpus)
    ours_bytes = tier.pool_used_bytes
    return Case(name, "MiB", ours_bytes / 2**20, zram_bytes / 2**20, "zram lz4", "at most", 1.08)


def measure_remote(corpus: Path, effort: Effort) -> list[Case | Skipped]:
    """Pages read back from the memory server, and written back to it, over TCP."""
    size_bytes = corpus.stat().st_size
    # The first half was written first: all of it has left the pool.
    half: dict[str, str | int] = {"count": size_bytes // PAGE_BYTES // 2, "mix": "read"}
    half |= {"order": "once-random", "skip_repeated": 1}
    singles = [
        phase(f"{kind}{n}", depth=1, connections=1, milliseconds=effort.phase_ms, **half)
        for n in range(effort.rounds)
        for kind in PLACEMENTS
    ]
    deep = phase("deep", depth=DEEP, connections=2, **half)
    with (
        LocalCluster(
            device_bytes=size_bytes, pool_bytes=POOL_FOR_REMOTE_BYTES, directory=corpus.parent
        ) as cluster,
        _session(cluster.connect, cluster.export, corpus, [fill_phase(), *singles, deep]) as ours,
    ):
        written = ours.run("fill")
        cluster.settle()
        cases = _remote_latency(cluster, ours, effort)
        read = ours.run("deep")
    rates = peers.rocksdb_rates(corpus, corpus.parent)
    puts, gets = rates["puts_per_s"] / 1000, rates["gets_per_s"] / 1000
    peer = "RocksDB in one process"
    return [
        *cases,
        Case("writes with writeback", "k pages/s", written.page_ops_per_s / 1000, puts, peer),
        Case("remote reads, 2 x depth 64", "k pages/s", read.page_ops_per_s / 1000, gets, peer),
    ]


def _remote_latency(cluster: LocalCluster, ours: LoadSession, effort: Effort) -> list[Case]:
    status = cluster.server_status()
    reply_bytes = status.used_bytes // max(status.pages, 1) + FETCH_REPLY_EXTRA_BYTES
    cpus = sorted(all_cpus())
    pin(cluster.server.pid, {cpus[-1]})
    taken = {kind: Samples() for kind in PLACEMENTS}
    for n in range(effort.rounds):
        for kind, position in PLACEMENTS.items():
            pin_all([cluster.host.worker_pid, ours.pid], {cpus[position]})
            floor_us = peers.pingpong_p50_us(
                FETCH_REQUEST_BYTES, reply_bytes, effort.phase_ms / 1000, cpus[position], cpus[-1]
            )
            taken[kind].farswap.append(_remote_p50_us(cluster, ours, f"{kind}{n}"))
            taken[kind].peer.append(floor_us)
    pin_all([*cluster.pids(), ours.pid], all_cpus())
    name = "page from the memory server p50, depth 1"
    peer = f"TCP ping-pong, {FETCH_REQUEST_BYTES} and {reply_bytes} bytes"
    return [
        taken["apart"].case(name, "µs", peer, "at most", 3.0),
        taken["together"].case(f"{name}, one CPU", "µs", f"{peer}, one CPU"),
    ]


def _remote_p50_us(cluster: LocalCluster, ours: LoadSession, phase_name: str) -> float:
    before = cluster.counters()["loads_remote"]
    report = ours.run(phase_name)
    came_remote = cluster.counters()["loads_remote"] - before
    if came_remote < 0.99 * report.page_ops:
        raise AssertionError(f"{report.page_ops - came_remote} pages were not remote")
    return report.latency["read"].p50_us


MEASUREMENTS: tuple[Callable[[Path, Effort], Sequence[Case | Skipped]], ...] = (
    measure_local,
    measure_remote,
    measure_replicas,
    measure_tier,
    measure_compression,
    measure_fairness,
)
