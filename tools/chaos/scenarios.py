"""What `make chaos` can do to a cluster, each with the cluster and the load that it needs."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos.cluster import LOOK_S, MIB, Sizes
from chaos.faults import Fault
from chaos.load import Shape
from etcd_server import EtcdServer
from hang_guard import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from chaos.cluster import Server
    from chaos.run import Run

OUTAGE_S = 1.0
# A rolling restart copies what was written meanwhile, of what the servers hold at most this share.
COPIED_PERCENT_MAX = 2.0
ETA_ERROR_PERCENT_MAX = 30.0
LOOKS_MIN = 4  # fewer say nothing: a small drain ends between two
# Parts of the drained shards that are left when the command, the drained server and a target die.
KILLED_AT = (0.9, 0.8, 0.7)


@dataclass(frozen=True)
class Scenario:
    """`play` is for Run.play()."""

    play: Callable[[Run], None]
    servers: int = 3
    replicas: int = 2
    sizes: Sizes = field(default_factory=Sizes)
    shape: Shape = field(default_factory=Shape)
    store_wait: str = "2s"  # the host's default
    by_etcd: bool = False  # finds the servers, instead of a list


def faults(
    planned: Iterable[Fault], more: Callable[[int], bool], calm_s: float
) -> Callable[[Run], None]:
    """While more(how many there were), with calm in between, whose latencies are those without."""

    def play(run: Run) -> None:
        for fault in itertools.takewhile(lambda _: more(len(run.verdict.faults)), planned):
            time.sleep(calm_s)
            run.fault(fault)

    return play


def wipes(run: Run) -> None:
    """With three replicas, two stores are lost one after the other."""
    for number in range(2 * len(run.cluster.servers)):
        run.fault(Fault("wipe", victim=number, way=0, seconds=OUTAGE_S))


def rolling(run: Run) -> None:
    """All servers are restarted in order, one after the other."""
    held, before = run.cluster.held_bytes(), run.cluster.note_copies()

    def restart(server: Server) -> None:
        server.stop()
        server.start()

    for server in run.cluster.servers:
        run.watch("restart", server.name, lambda server=server: restart(server))
    copied = run.cluster.note_copies() - before
    percent = 100 * copied / held
    run.verdict.figures["copied by the rolling restart"] = (
        f"{copied:,} of {held:,} bytes, {percent:.2f} %"
    )
    if percent > COPIED_PERCENT_MAX:
        run.verdict.problems.append(f"the rolling restart copied {percent:.2f} %")


def etcd_fails(seconds: float) -> Callable[[Run], None]:
    """Etcd stops for so long, is compacted, and comes back empty; no shard moves for it."""

    def happen(run: Run, change: Callable[[EtcdServer], None]) -> None:
        with run.cluster.etcd() as etcd:
            change(etcd)

    def stop(etcd: EtcdServer) -> None:
        etcd.stop()
        time.sleep(seconds)
        etcd.start()

    def empty(etcd: EtcdServer) -> None:
        etcd.stop()
        etcd.wipe()
        time.sleep(seconds)
        etcd.start()

    def play(run: Run) -> None:
        for name, change in (("stop", stop), ("compact", EtcdServer.compact), ("empty", empty)):
            run.watch(name, "etcd", lambda change=change: happen(run, change))
            time.sleep(seconds)
        if copied := run.cluster.note_copies():
            run.verdict.problems.append(f"{copied} bytes moved because of etcd")
        run.fault(Fault("kill", victim=0, way=0, seconds=OUTAGE_S))

    return play


def drain(run: Run) -> None:
    """One server is drained; the command, the server and a target die meanwhile."""
    cluster = run.cluster
    server = max(cluster.servers, key=lambda server: cluster.seen(server).shards)
    target = cluster.others[server][0]
    shards, held = cluster.seen(server).shards, server.status().used_bytes

    def left(part: float) -> None:
        until(lambda: cluster.seen(server).shards <= part * shards, LOOK_S / 2)

    def emptied() -> float:
        left(0)
        until(lambda: not server.status().used_bytes, LOOK_S)
        return time.monotonic()

    def happen() -> None:
        with _Command(server):
            left(KILLED_AT[0])
        with _Command(server) as command, ThreadPoolExecutor() as beside:
            end = beside.submit(emptied)
            for part, killed in zip(KILLED_AT[1:], (server, target), strict=True):
                left(part)
                cluster.note_copies()
                killed.kill()
                time.sleep(OUTAGE_S)
                killed.start()
            looks = command.finish()
        for at, look in looks:
            seen = {key: look[key] for key in ("shards", "bytes", "bytes_per_second", "eta_s")}
            run.log({"event": "look", "before_end_s": round(looks[-1][0] - at, 1), **seen})
        run.verdict.figures |= _eta_figures(looks, end.result(), run.verdict.problems)

    began = time.monotonic()
    run.watch("drain", server.name, happen)
    run.verdict.figures["drained"] = (
        f"{held / MIB:,.0f} MiB, {shards} shards in {time.monotonic() - began:.1f} s"
    )
    if cluster.seen(server).shards:
        run.verdict.problems.append("the drained server has shards")
    server.ctl("server", "undrain")


class _Command:
    """`farswapctl server drain --wait`, with the time of each look that it prints."""

    def __init__(self, server: Server) -> None:
        program = [sys.executable, "-m", "farswap.admin.main", "--server", server.admin]
        self._words = [*server.by, *program, "server", "drain", "--wait", "-o", "json"]

    def __enter__(self) -> _Command:
        self._process = subprocess.Popen(self._words, stdout=subprocess.PIPE, text=True)
        self._first = next(self._looks())  # the server has the drain
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def finish(self) -> Sequence[tuple[float, dict[str, Any]]]:
        """Its looks, once it has ended."""
        looks = [self._first, *self._looks()]
        if self._process.wait():
            raise RuntimeError(f"the drain ended with status {self._process.returncode}")
        return looks

    def _looks(self) -> Iterator[tuple[float, dict[str, Any]]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            look = json.loads(line)
            if look["stalled_s"]:
                raise RuntimeError(f"the drain stalled: {line}")
            yield time.monotonic(), look


def _eta_figures(
    looks: Sequence[tuple[float, dict[str, Any]]], end: float, problems: list[str]
) -> dict[str, str]:
    """Of the second half: how far the remaining times were from the end: the server was empty."""
    began = looks[0][0]
    half = [
        (end - at, look["eta_s"])
        for at, look in looks
        if (began + end) / 2 <= at < end and look["eta_s"] is not None
    ]
    if len(half) < LOOKS_MIN:
        return {}
    error = statistics.median(100 * abs(eta - real) / real for real, eta in half)
    if error > ETA_ERROR_PERCENT_MAX:
        problems.append(f"the median error of the remaining time is {error:.0f} %")
    name = "median error of the remaining time over the second half"
    return {name: f"{error:.0f} % ({len(half)} looks)"}


GIB = 1 << 30
# Three servers with about a GiB of pages each, of 1.7 KiB on average.
LARGE = Sizes(device=4 * GIB, pool=64 * MIB, store=4 * GIB, disk=8 * GIB)
SMALL = Sizes(device=256 * MIB, pool=16 * MIB, store=512 * MIB, disk=GIB)
# Reads and writes that leave time for others.
STEADY = Shape(first="write", mix="read:90/write:10", size="4k", rate=2_000)


def named(name: str, *, small: bool = False) -> Scenario:
    """All but `faults`."""
    sizes = SMALL if small else LARGE
    return {
        "wipes": Scenario(wipes, servers=4, replicas=3),
        "rolling": Scenario(rolling, sizes=sizes, shape=STEADY),
        "drain": Scenario(drain, sizes=sizes, shape=STEADY),
        "etcd": Scenario(etcd_fails(1.0 if small else 60.0), by_etcd=True),
    }[name]


NAMES = ("faults", "wipes", "rolling", "drain", "etcd")
