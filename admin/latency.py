"""Load times, counted by powers of two of microseconds: quantiles and text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from farswap.v1 import host_admin_pb2 as pb

Buckets = dict[str, list[int]]


def buckets(latency: Sequence[pb.Latency]) -> Buckets:
    """Counts by tier."""
    return {times.tier: list(times.buckets) for times in latency}


def since(earlier: Mapping[str, Sequence[int]], now: Buckets) -> Buckets:
    """Counts since `earlier`."""
    return {
        tier: [
            max(0, count - before)
            for count, before in zip(counts, earlier.get(tier) or [0] * len(counts), strict=False)
        ]
        for tier, counts in now.items()
    }


def quantile_us(counts: Sequence[int], share: float) -> float | None:
    """As in Prometheus: linear within a bucket, the lower bound of the last one. None if empty."""
    total = sum(counts)
    if not total:
        return None
    below = 0
    for power, count in enumerate(counts):
        lowest = 2.0 ** (power - 1) if power else 0.0
        if below + count >= share * total and count:
            if power == len(counts) - 1:
                return lowest
            return lowest + (2.0**power - lowest) * (share * total - below) / count
        below += count
    raise AssertionError("the shares of all buckets are 1")


def text(us: float | None) -> str:
    """`1.4 \N{MICRO SIGN}s`, `12 \N{MICRO SIGN}s`, `1.4 ms`, `2.0 s`, `-`."""
    if us is None:
        return "-"
    if us < 10:
        return f"{us:.1f} \N{MICRO SIGN}s"
    if us < 1000:
        return f"{us:.0f} \N{MICRO SIGN}s"
    if us < 1_000_000:
        return f"{us / 1000:.1f} ms"
    return f"{us / 1_000_000:.1f} s"
