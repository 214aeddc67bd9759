"""Activity of a host's tier, or of one of its cgroups, between two snapshots.

Counters and histograms only grow: their differences are the activity. A cgroup that is missing in
the first snapshot is new, so its counters are its activity.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.admin import latency, pages
from farswap.v1 import host_admin_pb2 as pb

if TYPE_CHECKING:
    from farswap.admin.pages import Status
    from farswap.admin.session import HostClient

# Loads without a memory server. Those of empty slots do not count.
_HITS = ("loads_same_filled", "loads_local")
_MISSES = ("loads_remote",)


@dataclass(frozen=True, slots=True)
class Look:
    """A snapshot of a host."""

    at_s: float
    tier: pb.TierStatus
    cgroups: dict[int, pb.CgroupStatus]

    @classmethod
    def at(cls, host: HostClient) -> Look:
        """Raises an error of farswap's tree."""
        status: pb.HostStatus = host.client.call(host.stub.Status, pb.HostStatusRequest())
        cgroups = {cgroup.id: cgroup for cgroup in host.cgroups()}
        return cls(time.monotonic(), status.tier, cgroups)


@dataclass(frozen=True, slots=True)
class Activity:
    """Of the tier or a cgroup. `per_second` has every counter; `loads` is a latency.buckets()."""

    now: Status
    per_second: dict[str, float]
    loads: latency.Buckets

    def rate(self, *counters: str) -> float:
        """Sum of their rates."""
        return sum(self.per_second.get(counter, 0.0) for counter in counters)

    @property
    def loads_per_second(self) -> float:
        """Loads of slots that hold a page."""
        return self.rate(*_HITS, *_MISSES)

    @property
    def hit_ratio(self) -> float | None:
        """Share of loads without a memory server. None without loads."""
        loads = self.loads_per_second
        return self.rate(*_HITS) / loads if loads else None

    def quantile_us(self, tier: str, share: float) -> float | None:
        """Quantile of the load time from "local" or "remote"."""
        return latency.quantile_us(self.loads.get(tier, []), share)

    def plain(self) -> dict[str, object]:
        """As JSON types."""
        return {
            "pages": pages.by_state(self.now),
            "per_second": {name: round(rate, 3) for name, rate in self.per_second.items()},
            "hit_ratio": self.hit_ratio,
            "load_us": {
                tier: {
                    "pages": sum(counts),
                    "p50": latency.quantile_us(counts, 0.5),
                    "p99": latency.quantile_us(counts, 0.99),
                }
                for tier, counts in self.loads.items()
            },
        }


def of_tier(earlier: Look, now: Look) -> Activity:
    """All cgroups together."""
    return _between(earlier.tier, now.tier, now.at_s - earlier.at_s)


def of_cgroups(earlier: Look, now: Look) -> list[tuple[pb.CgroupStatus, Activity]]:
    """The busiest first, then those with the most pages."""
    seconds = now.at_s - earlier.at_s
    found = [
        (cgroup, _between(earlier.cgroups.get(id_), cgroup, seconds))
        for id_, cgroup in now.cgroups.items()
    ]
    found.sort(key=lambda of: (-of[1].loads_per_second - of[1].rate("stores"), -of[0].held_pages))
    return found


def _between(earlier: Status | None, now: Status, seconds: float) -> Activity:
    before = {counter.name: counter.value for counter in earlier.counters} if earlier else {}
    return Activity(
        now,
        {
            counter.name: max(0, counter.value - before.get(counter.name, 0)) / seconds
            for counter in now.counters
        },
        latency.since(
            latency.buckets(earlier.latency) if earlier else {}, latency.buckets(now.latency)
        ),
    )
