"""Figures of the local tier by itself (bench/tier/tier_bench.cc): what a scan leaves of a hot set,
what a page costs in metadata, what attribution and a list per cgroup cost, and who loses how much
at the pool's limit. The peer is the tier itself without the thing in question, or its budget.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from bench.cases import Case, Samples
from bench.programs import native_program

if TYPE_CHECKING:
    from pathlib import Path

    from bench.cases import Skipped
    from bench.measurements import Effort

LOCAL_BUDGET_BYTES = 32
REMOTE_BUDGET_BYTES = 16
PAGES = 4 << 20
PAGES_QUICK = 256 << 10
SMALL_DEVICE_PAGES = 4096
ROUNDS_EACH = 10


def measure_tier(_corpus: Path, effort: Effort) -> list[Case | Skipped]:
    """All of them."""
    return [*_scan(), *_metadata(effort), *_attribution(effort), *_fairness()]


def _run(*words: object) -> dict[str, Any]:
    command = [native_program("farswap-tier-bench"), *(str(word) for word in words)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(ran.stdout)
    return figures


def _scan() -> list[Case]:
    percent = {}
    for kind in ("second-chance", "plain"):
        ran = _run("scan", kind)
        percent[kind] = 100.0 * ran["hits"] / ran["reads"]
    name = "hot reads from the pool during a scan of 20 times its size"
    ours = percent["second-chance"]
    return [
        Case(name, "%", ours, 100.0, "all of them", "at least", 0.9),
        Case(name, "%", ours, percent["plain"], "the tier without second chance"),
    ]


def _metadata(effort: Effort) -> list[Case]:
    """Of a device with many pages over one with few: the pool and all that is fixed is the same."""
    pages = PAGES if effort.rounds > 1 else PAGES_QUICK
    cases = []
    for state, budget in (("local", LOCAL_BUDGET_BYTES), ("remote", REMOTE_BUDGET_BYTES)):
        few = _run("memory", SMALL_DEVICE_PAGES, 1, state)
        many = _run("memory", pages, pages, state)
        # In the pool an entry takes more than the bytes of its page; what it takes is ours as well.
        in_pool = (many["entry_bytes"] - many["payload_bytes"]) / pages
        grown = (many["resident_bytes"] - few["resident_bytes"]) / (pages - SMALL_DEVICE_PAGES)
        name = f"metadata of a {state} page, {pages >> 10} k pages"
        figure = round(in_pool + grown, 1)
        cases.append(Case(name, "bytes", figure, budget, "budget", "at most", 1.0))
    return cases


def _attribution(effort: Effort) -> list[Case]:
    cases = []
    for threads in (1, 2):
        rounds = effort.rounds * ROUNDS_EACH
        ran = _run("stores", threads, rounds, effort.phase_ms // ROUNDS_EACH)
        samples = Samples(
            [rate / 1000 for rate in ran["attributed"]], [rate / 1000 for rate in ran["plain"]]
        )
        name = f"stores with slot words and 64 cgroups, {threads} thread{'s' * (threads > 1)}"
        cases.append(samples.case(name, "k/s", "neither", "at least", 0.95))
    return cases


def _fairness() -> list[Case]:
    ran = _run("fairness")
    shares = [100.0 * lost / pages for lost, pages in zip(ran["lost"], ran["pages"], strict=True)]
    name = "pages that a cgroup loses at the pool's limit"
    peer = f"one {ran['pages'][-1] // ran['pages'][0]:.0f} times as large"
    return [Case(name, "%", shares[0], shares[-1], peer, "at most", 1.1)]
