"""What a host's fetches cost while another host writes to the same memory server at full rate.

The peer is the same run with processes that take as much CPU time as the other host, its load
generator and the server's work for it, so that only what the two hosts share at the server differs.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cases import Samples
from bench.load_generator import LoadSession, phase
from bench.local_cluster import LocalCluster
from bench.page_corpus import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.cases import Case, Skipped
    from bench.measurements import Effort

POOL_BYTES = 16 << 20
LEAD_S = 0.3  # of the load before the fetches begin
BURN_PERIOD_S = 0.002
_BURN = """
import sys, time
busy_s, period_s = map(float, sys.argv[1:])
while True:
    began = time.monotonic()
    while time.monotonic() - began < busy_s:
        pass
    time.sleep(max(0.0, period_s - busy_s))
"""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def measure_fairness(corpus: Path, effort: Effort) -> list[Case | Skipped]:
    """p50 and p99 of fetches beside a writer, and beside an equal CPU load."""
    size_bytes = corpus.stat().st_size
    # The first half was written first: all of it has left the pool.
    half: dict[str, str | int] = {"count": size_bytes // PAGE_BYTES // 2, "mix": "read"}
    half |= {"order": "once-random", "skip_repeated": 1, "depth": 1, "connections": 1}
    fill = phase("fill", mix="write", order="once", size="64k", depth=16)
    taken = {figure: Samples() for figure in ("p50", "p99")}
    with ExitStack() as stack:
        cluster = stack.enter_context(
            LocalCluster(device_bytes=size_bytes, pool_bytes=POOL_BYTES, directory=corpus.parent)
        )
        other = cluster.add_host("other")
        names = [f"{kind}{n}" for n in range(effort.rounds) for kind in ("burner", "writer")]
        reads = [phase(name, milliseconds=effort.phase_ms, **half) for name in names]
        writes_ms = effort.phase_ms + int(3000 * LEAD_S)
        writes = [
            phase(f"write{n}", mix="write", depth=64, size="64k", milliseconds=writes_ms)
            for n in range(effort.rounds + 1)
        ]
        reader = stack.enter_context(
            LoadSession(
                cluster.connect,
                [fill, *reads],
                export=cluster.export,
                corpus=corpus,
                options=["--pure"],
            )
        )
        writer = stack.enter_context(
            LoadSession(
                f"unix:{other.nbd_path}",
                [fill, *writes],
                export=other.export,
                corpus=corpus,
                options=["--pure"],
            )
        )
        reader.run("fill")
        cluster.settle()
        writer.run("fill")
        load = [writer.pid, other.pid, cluster.server.pid]
        cpus = _cpu_share(load, lambda: writer.run("write0"))
        for n in range(effort.rounds):
            with _burner(cpus):
                time.sleep(LEAD_S)
                burnt = reader.run(f"burner{n}").latency["read"]
            with _running(writer, f"write{n + 1}"):
                time.sleep(LEAD_S)
                shared = reader.run(f"writer{n}").latency["read"]
            for figure, samples in taken.items():
                samples.farswap.append(getattr(shared, f"{figure}_us"))
                samples.peer.append(getattr(burnt, f"{figure}_us"))
    peer = f"a load of {cpus:.1f} CPUs in its place"
    name = "of fetches while another host writes at full rate"
    return [
        taken["p50"].case(f"p50 {name}", "µs", peer),
        taken["p99"].case(f"p99 {name}", "µs", peer, "at most", 3.0),
    ]


def _cpu_ticks(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def _cpu_share(pids: Sequence[int], run: Callable[[], object]) -> float:
    """The CPUs that the processes use while `run` runs."""
    before, began_s = _cpu_ticks(pids), time.monotonic()
    run()
    return (_cpu_ticks(pids) - before) / _TICKS_PER_S / (time.monotonic() - began_s)


@contextmanager
def _burner(cpus: float) -> Iterator[None]:
    """Processes that use `cpus` CPUs."""
    count = math.ceil(cpus)
    busy_s = BURN_PERIOD_S * cpus / count
    command = [sys.executable, "-c", _BURN, str(busy_s), str(BURN_PERIOD_S)]
    burning = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


@contextmanager
def _running(session: LoadSession, name: str) -> Iterator[None]:
    """Its next phase runs meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        phase_run = pool.submit(session.run, name)
        yield
        phase_run.result()
