"""First half of the demonstration: real pages through NBD, most of them to the memory server and
back, every byte compared; then the latency of local and of remote pages, each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.load_generator import LoadSession, phase
from bench.page_corpus import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.load_generator import Latency, PhaseReport
    from bench.local_cluster import LocalCluster
    from bench.page_corpus import RealPages
    from demo.interrupts import Interrupts
    from farswap.v1 import host_admin_pb2, server_admin_pb2

CONNECTIONS = 2
SAMPLE_PAGES = 2048
# Minimum share of a sample's pages that come from the place under test.
SAMPLE_PURITY = 0.99


class DemoError(Exception):
    """The demonstration failed; the message is the reason."""


@dataclass(frozen=True)
class PagesResult:
    """What the first half showed."""

    pages: int
    device_pages: int
    written: PhaseReport
    read: PhaseReport
    local: Latency
    remote: Latency
    tier: host_admin_pb2.TierStatus
    server: server_admin_pb2.ServerStatus


def run(
    cluster: LocalCluster,
    interrupts: Interrupts,
    pages: RealPages,
    on_progress: Callable[[str, int, int], None],
) -> PagesResult:
    """Writes all pages once, reads all back in random order. Calls on_progress(stage, done, of)."""
    count = pages.bytes_wanted // PAGE_BYTES
    sample = min(SAMPLE_PAGES, count // 16)
    single: dict[str, str | int] = {"mix": "read", "depth": 1, "connections": 1}
    single |= {"order": "once-random", "skip_repeated": 1, "count": sample}
    totals = {"write": count, "read back": count, "trim": count + sample}
    totals |= dict.fromkeys(("write more", "local", "remote"), sample)
    phases = [
        phase("write", mix="write", order="once", size="64k", depth=8, count=count),
        # Beside the pages that are counted: what is written now is local.
        phase("write more", mix="write", order="once", first=count, count=sample),
        phase("local", first=count, **single),
        # What was written first is remote.
        phase("remote", first=0, **single),
        phase("read back", mix="read", order="once-random", depth=32, count=count),
        phase("trim", mix="trim", order="once", size="256k", count=count + sample),
    ]
    load = LoadSession(
        cluster.connect,
        phases,
        export=cluster.export,
        connections=CONNECTIONS,
        corpus=pages.path,
        options=["--pure"],
        on_progress=lambda at: on_progress(at.name, at.page_ops, totals[at.name]),
    )
    with interrupts.shield(load) as session:

        def step(name: str) -> PhaseReport:
            on_progress(name, 0, totals[name])
            report = session.run(name)
            if report.errors:
                raise DemoError(f"{name}: requests failed: {report.errors}")
            on_progress(name, totals[name], totals[name])
            return report

        written = step("write")
        cluster.settle()
        tier = cluster.tier()
        server = cluster.server_status()
        step("write more")
        local = _sample(cluster, step, "local")
        remote = _sample(cluster, step, "remote")
        read = step("read back")
        if read.verified_pages != count:
            raise DemoError(f"{read.verified_pages} of {count} pages were compared")
        step("trim")
        session.finish()
    left = cluster.tier().held_pages
    if left:
        raise DemoError(f"{left} pages are left after a trim of all")
    return PagesResult(
        count, cluster.device_bytes // PAGE_BYTES, written, read, local, remote, tier, server
    )


def _sample(cluster: LocalCluster, step: Callable[[str], PhaseReport], kind: str) -> Latency:
    before = cluster.counters()[f"loads_{kind}"]
    report = step(kind)
    from_there = cluster.counters()[f"loads_{kind}"] - before
    if from_there < SAMPLE_PURITY * report.page_ops:
        raise DemoError(f"only {from_there} of {report.page_ops} sampled pages were {kind}")
    return report.latency["read"]
