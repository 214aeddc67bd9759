"""The engine's histograms of load times, summed over cgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from farswap.native import CgroupRecord, Latency

# The engine's names; "local" is also same-filled and empty.
_TIERS = ("local", "remote")
# As many as the engine's.
_BUCKETS = 24


def in_total(records: Sequence[CgroupRecord]) -> dict[str, tuple[list[int], int]]:
    """By tier: counts by power of two of microseconds, and the sum in nanoseconds."""
    return {tier: _sum(record.latency[tier] for record in records) for tier in _TIERS}


def _sum(parts: Iterable[Latency]) -> tuple[list[int], int]:
    counts, sum_ns = [0] * _BUCKETS, 0
    for part in parts:
        counts = [total + count for total, count in zip(counts, part.buckets, strict=True)]
        sum_ns += part.sum_ns
    return counts, sum_ns
