"""Verified page operations while the memory server is killed and comes back.

A leg is one load on one running cluster: four connections read, write, trim and zero at random; the
pool holds a fraction of what they write, so that writeback and remote reads never rest; at even
distances, counted in page operations, the server is killed with SIGKILL, stays away for a moment
and is started on the same store. Then everything is read once more.

Right means no wrong byte, no stall, an answer to every request, counters that add up, and no error
but those that the faults justify: ENOSPC of a write, when the pool is full and the server that
would take pages is away. A read has no excuse (the server is back long before the host gives up on
it), and trims and zeroes need no server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.load_generator import LoadSession, phase
from bench.local_cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.load_generator import PhaseReport, Progress

MIB = 1 << 20
CONNECTIONS = 4
DEPTH = 16
DEVICE_BYTES = 256 * MIB
POOL_BYTES = 24 * MIB
MIX = "read:45/write:40/trim:8/zero:7"
REQUEST_BYTES = "4k-128k"
JUSTIFIED_ERRORS = frozenset({"write ENOSPC"})
STALL_MS = 90_000
# How long a killed server stays away before it is started again.
OUTAGE_S = 0.3
NEVER_COUNTED = ("fail_checksum", "decompress_fail", "fetch_missing", "fetch_unavailable")


class SoakError(Exception):
    """Something that the faults do not justify."""


@dataclass(frozen=True)
class Leg:
    """One load; `options` are the load generator's."""

    name: str
    page_ops: int
    server_kills: int
    options: tuple[str, ...] = ()
    seed: int = 1


@dataclass(frozen=True)
class LegResult:
    """What a leg did."""

    leg: Leg
    load: PhaseReport
    check: PhaseReport
    server_kills: int


def soak_cluster() -> LocalCluster:
    """What the legs run on."""
    return LocalCluster(device_bytes=DEVICE_BYTES, pool_bytes=POOL_BYTES)


def run_leg(
    cluster: LocalCluster, leg: Leg, on_progress: Callable[[int], None] = lambda _done: None
) -> LegResult:
    """Runs the leg; SoakError or LoadError when something was wrong."""
    kills_before = cluster.server_kills
    kill_at = [leg.page_ops * (n + 1) // (leg.server_kills + 1) for n in range(leg.server_kills)]

    def progressed(progress: Progress) -> None:
        on_progress(progress.page_ops if progress.name == "load" else 0)
        if progress.name == "load" and kill_at and progress.page_ops >= kill_at[0]:
            del kill_at[0]
            cluster.server.kill()
            time.sleep(OUTAGE_S)
            cluster.kill_and_restart_server()

    phases = [
        phase("blank", mix="zero", order="once", size="256k"),
        phase("load", mix=MIX, size=REQUEST_BYTES, depth=DEPTH, ops=leg.page_ops),
        phase("check", mix="read", order="once-random", size="16k", depth=DEPTH),
    ]
    with LoadSession(
        cluster.connect,
        phases,
        export=cluster.export,
        connections=CONNECTIONS,
        options=["--stall-ms", str(STALL_MS), "--seed", str(leg.seed), *leg.options],
        on_progress=progressed,
    ) as session:
        blank, load, check = (session.run(name) for name in ("blank", "load", "check"))
        session.finish()
    result = LegResult(leg, load, check, cluster.server_kills - kills_before)
    _check_errors([blank, load, check])
    _check_work(cluster, result)
    check_counters(cluster)
    return result


def _check_errors(reports: Sequence[PhaseReport]) -> None:
    for report in reports:
        unjustified = {e: n for e, n in report.errors.items() if e not in JUSTIFIED_ERRORS}
        if unjustified:
            raise SoakError(f"{report.name}: errors that no fault justifies: {unjustified}")


def _check_work(cluster: LocalCluster, result: LegResult) -> None:
    """A leg that tested nothing must not pass."""
    if result.server_kills != result.leg.server_kills:
        raise SoakError(f"the server was killed {result.server_kills} times only")
    counters = cluster.counters()
    for name in ("written_back_pages", "loads_remote", "loads_local"):
        if not counters[name]:
            raise SoakError(f"nothing was counted as {name}: the load did not reach it")


def check_counters(cluster: LocalCluster) -> None:
    """With nothing under way, what came in and what went adds up to what is there."""
    cluster.settle()
    tier = cluster.tier()
    counters = {counter.name: counter.value for counter in tier.counters}
    failed = {name: counters[name] for name in NEVER_COUNTED if counters[name]}
    if failed:
        raise SoakError(f"counters of failures are not zero: {failed}")
    gone = counters["overwrites"] + counters["trims"] + counters["lost_failed_store"]
    by_tier = tier.same_filled_pages + tier.local_pages + tier.writing_pages
    by_tier += tier.clean_pages + tier.remote_pages
    if not counters["stores"] - gone == tier.held_pages == by_tier:
        raise SoakError(
            f"{counters['stores']} stored, {gone} gone; {tier.held_pages} there, {by_tier} by tier"
        )
