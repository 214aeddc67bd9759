"""Two replicas against one: what a second memory server costs reads, writes and the network."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench.cases import Case, Samples
from bench.load_generator import LoadSession, phase
from bench.local_cluster import LocalCluster
from bench.page_corpus import PAGE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from bench.measurements import Effort

POOL_BYTES = 16 << 20
REPLICAS = (1, 2)


class _Side:
    """A cluster with its load: fills it, then reads pages that have left the pool."""

    def __init__(self, stack: ExitStack, corpus: Path, effort: Effort, replicas: int) -> None:
        size_bytes = corpus.stat().st_size
        half: dict[str, str | int] = {"count": size_bytes // PAGE_BYTES // 2, "mix": "read"}
        half |= {"order": "once-random", "skip_repeated": 1, "depth": 1, "connections": 1}
        phases = [phase("fill", mix="write", order="once", size="64k", depth=16)]
        phases += [
            phase(f"read{n}", milliseconds=effort.phase_ms, **half) for n in range(effort.rounds)
        ]
        self.cluster = stack.enter_context(
            LocalCluster(
                device_bytes=size_bytes,
                pool_bytes=POOL_BYTES,
                directory=corpus.parent,
                replicas=replicas,
            )
        )
        self.session = stack.enter_context(
            LoadSession(
                self.cluster.connect,
                phases,
                export=self.cluster.export,
                connections=2,
                corpus=corpus,
                options=["--pure"],
            )
        )

    def fill(self) -> tuple[float, float]:
        """Thousands of pages written a second, and bytes sent to servers for each written back."""
        report = self.session.run("fill")
        self.cluster.settle()
        pages = self.cluster.counters()["written_back_pages"]
        return report.page_ops_per_s / 1000, self.cluster.put_bytes() / pages

    def read_p50_us(self, number: int) -> float:
        """Of a page from a memory server."""
        return self.session.run(f"read{number}").latency["read"].p50_us


def measure_replicas(corpus: Path, effort: Effort) -> list[Case]:
    """Both sides take turns."""
    with ExitStack() as stack:
        one, two = (_Side(stack, corpus, effort, replicas) for replicas in REPLICAS)
        (one_rate, one_bytes), (two_rate, two_bytes) = one.fill(), two.fill()
        reads = Samples()
        for number in range(effort.rounds):
            reads.peer.append(one.read_p50_us(number))
            reads.farswap.append(two.read_p50_us(number))
    peer = "one replica"
    return [
        reads.case("two replicas: remote page p50, depth 1", "µs", peer, "at most", 1.05),
        Case("two replicas: writes with writeback", "k pages/s", two_rate, one_rate, peer),
        Case("two replicas: sent for a page written back", "bytes", two_bytes, one_bytes, peer),
    ]
