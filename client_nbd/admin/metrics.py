"""Metrics of farswap-host: a collector over the engine's counters and histograms.

Totals are families of their own beside those by cgroup, so that neither is counted twice in a
sum. Cgroups come and go by the thousand, and each costs about a hundred series: see ShownCgroups.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from farswap.client_nbd.admin import latency
from farswap.client_nbd.checks.tier import STATES, held, states
from farswap.client_nbd.survival.worker import PRIVATE
from farswap.common import metrics
from prometheus_client.core import CounterMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from farswap.client_nbd.cgroups.groups import GroupView
    from farswap.client_nbd.checks.doctor import Doctor
    from farswap.client_nbd.running_host import RunningHost
    from farswap.native import CgroupRecord
    from prometheus_client import Metric

# Values of the engine's stats() that are not counters.
_GAUGES = {
    "pool_limit_bytes": "Limit of the pool.",
    "pool_used_bytes": "Memory of slabs in use.",
    "pool_entry_bytes": "Bytes of entries, rounded up to their size classes.",
    "pool_payload_bytes": "Bytes of entries, not rounded.",
    "metadata_bytes": "Memory of the slot table.",
    "raw_pages": "Uncompressed pages in the pool.",
}
# Not exported: one has another form, the other is too short-lived.
_LEFT_OUT = ("accept_threshold_percent", "shrinking")

# Gauges of each cgroup: attributes of its record; None: not set.
_CGROUP_GAUGES = {
    "pool_bytes": "Pool memory of the cgroup's pages.",
    "tree_pool_bytes": "Pool memory of the cgroup and its descendants.",
    "pool_limit_bytes": "Limit of tree_pool_bytes, if set.",
    "tree_remote_pages": "Pages on servers of the cgroup and its descendants.",
    "remote_pages_max": "Limit of tree_remote_pages, if set.",
}
# Gauges of each memory server, likewise.
_SERVER_GAUGES = {
    "connected": "1 if the server is connected.",
    "capacity_bytes": "Bytes that the server accepts.",
    "used_bytes": "Bytes that the server has, of all hosts.",
    "at_quota": "1 if the server refuses pages of this device: its quota there is reached.",
    "shards": "Shards of this device with a replica on the server.",
}

_ATTRIBUTION = {
    "pages": "Pages swapped out since the BPF programs were loaded.",
    "unattributed": "Pages swapped out without a known cgroup.",
    "events": "Free notifications.",
    "ring_full": "Free notifications dropped by the full ring, recovered within a second.",
}

_RECENT_S = 600.0


class ShownCgroups:
    """Selection of the cgroups that have series.

    Those that hold pages or did anything in the last ten minutes, at most `most` of them, the
    largest first; the root always.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # By cgroup id: what it had done when it was last seen to have done anything, and when.
        self._active: dict[int, tuple[int, float]] = {}

    def choose(self, views: Sequence[GroupView], now_s: float) -> dict[str, CgroupRecord]:
        """Records by label: the path, or #id without one."""
        active: dict[int, tuple[int, float]] = {}
        for view in views:
            done = sum(view.record.counters.values())
            before, since_s = self._active.get(view.id, (0, now_s - _RECENT_S))
            active[view.id] = (done, since_s if done == before else now_s)
        self._active = active
        alive = [
            view
            for view in views
            if _pages(view.record) or active[view.id][1] > now_s - _RECENT_S or view.path == "/"
        ]
        alive.sort(key=lambda view: (view.path != "/", -_pages(view.record), -active[view.id][0]))
        shown: dict[str, CgroupRecord] = {}
        for view in alive[: self._most]:
            label = view.path or f"#{view.id}"
            # A path may for a moment be that of a removed cgroup and of its successor.
            shown[f"{label}#{view.id}" if label in shown else label] = view.record
        return shown


class HostMetrics(Collector):
    """Collected at every scrape, on a thread that may wait."""

    def __init__(
        self, host: RunningHost, doctor: Doctor, cgroups_max: int, meanings: Mapping[str, str]
    ) -> None:
        """`meanings`: help texts of the engine's counters."""
        self._host = host
        self._meanings = meanings
        self._doctor = doctor
        self._cgroups = ShownCgroups(cgroups_max)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client."""
        yield metrics.build_info("farswap-host")
        yield from self._tier()
        yield from self._by_cgroup()
        yield from self._servers()
        yield from self._placement()
        yield from self._membership()
        yield from self._device()
        yield from self._survival()
        yield from self._attribution()
        levels = Counter(finding.level for finding in self._doctor.problems())
        yield metrics.gauges(
            "farswap_findings",
            "Problems of this host; see farswapctl doctor.",
            ["level"],
            [([level], levels[level]) for level in ("warning", "error")],
        )

    def _survival(self) -> Iterator[Metric]:
        state, link = self._host.engine.state, self._host.link
        if link is None or state.memory[0] == PRIVATE:
            return
        yield metrics.gauge(
            "farswap_standby", "1 if a standby waits to take over.", int(link.has_standby)
        )
        yield metrics.gauge(
            "farswap_takeovers", "How often a worker has adopted the pages.", state.takeovers
        )

    def _tier(self) -> Iterator[Metric]:
        stats = self._host.engine.stats()
        for name, meaning in _GAUGES.items():
            yield metrics.gauge(f"farswap_tier_{name}", meaning, stats[name])
        yield metrics.gauges(
            "farswap_tier_pages",
            "Pages by state.",
            ["state"],
            [([state.removesuffix("_pages")], stats[state]) for state in STATES],
        )
        yield metrics.gauge(
            "farswap_tier_accept_threshold_ratio",
            "Share of its limit to which a full pool is shrunk.",
            stats["accept_threshold_percent"] / 100,
        )
        others = {*_GAUGES, *STATES, *_LEFT_OUT}
        done = {name: value for name, value in stats.items() if name not in others}
        yield from metrics.counters("tier", [], [([], done)], self._meanings)

    def _by_cgroup(self) -> Iterator[Metric]:
        views = self._host.groups.views()
        shown = self._cgroups.choose(views, time.monotonic())
        yield metrics.gauges(
            "farswap_cgroups",
            "Cgroups with pages or settings, by whether they have series here.",
            ["shown"],
            [(["true"], len(shown)), (["false"], len(views) - len(shown))],
        )
        yield metrics.gauges(
            "farswap_cgroup_pages",
            "Pages by state.",
            ["cgroup", "state"],
            [
                ([label, state.removesuffix("_pages")], pages)
                for label, record in shown.items()
                for state, pages in states(record).items()
            ],
        )
        yield from _gauges("cgroup", "cgroup", _CGROUP_GAUGES, shown)
        yield from metrics.counters(
            "cgroup",
            ["cgroup"],
            [([label], record.counters) for label, record in shown.items()],
            self._meanings,
        )
        yield from _load_times([view.record for view in views], shown)

    def _servers(self) -> Iterator[Metric]:
        known = {server.address: server for server in self._host.engine.servers()}
        yield from _gauges("memory_server", "server", _SERVER_GAUGES, known)
        yield metrics.gauges(
            "farswap_memory_server_disconnected_seconds",
            "Time since the connection was lost; 0 if connected.",
            ["server"],
            [([address], it.disconnected_ms / 1000) for address, it in known.items()],
        )
        yield metrics.gauges(
            "farswap_memory_server_fetch_p99_seconds",
            "99 % of recent fetches from the server took no longer. Absent with too few of them.",
            ["server"],
            [([at], it.fetch_p99_us / 1e6) for at, it in known.items() if it.fetch_p99_us],
        )
        yield metrics.gauges(
            "farswap_memory_server_state",
            "1 for the current state of the server.",
            ["server", "state"],
            [([address, it.state], 1) for address, it in known.items()],
        )
        counted = ("reconnects", "lost_shards", "unclean_restarts", "hedged_fetches")
        yield from metrics.counters(
            "memory_server",
            ["server"],
            [([at], {name: getattr(it, name) for name in counted}) for at, it in known.items()],
        )

    def _placement(self) -> Iterator[Metric]:
        placement = self._host.engine.placement()
        yield metrics.gauge(
            "farswap_replicas_wanted", "Replicas that each shard should have.", placement.replicas
        )
        yield metrics.gauge(
            "farswap_replication_debt_shards",
            "Shards with fewer current replicas than wanted.",
            placement.debt_shards,
        )
        yield metrics.gauge("farswap_replica_copies", "Replicas being made.", placement.copies)
        yield metrics.gauge(
            "farswap_failure_domains", "Failure domains of the memory servers.", placement.domains
        )
        yield metrics.gauge(
            "farswap_crowded_shards",
            "Shards with two replicas in one failure domain.",
            placement.crowded_shards,
        )
        yield CounterMetricFamily(
            "farswap_lost_shards",
            "Shards whose last current replica was on a store that is gone.",
            placement.lost_shards,
        )
        yield CounterMetricFamily(
            "farswap_repaired_objects",
            "Objects that a current replica lacked or had damaged, copied from another.",
            placement.repaired_objects,
        )
        yield CounterMetricFamily(
            "farswap_failed_repairs",
            "Objects that a current replica lacked or had damaged, and that no copy replaced.",
            placement.failed_repairs,
        )
        yield CounterMetricFamily(
            "farswap_missing_pages",
            "Pages that no replica of their shard had when its replicas were compared.",
            placement.missing_pages,
        )

    def _membership(self) -> Iterator[Metric]:
        state = self._host.membership.state()
        yield metrics.gauge(
            "farswap_etcd_away_seconds",
            "Time since etcd answered; 0 if it answers, or is not configured.",
            (state.away_ms or 0) / 1000 if state else 0,
        )
        yield metrics.gauge(
            "farswap_etcd_listed_servers",
            "Memory servers that etcd lists.",
            state.listed if state else 0,
        )

    def _device(self) -> Iterator[Metric]:
        host = self._host
        attached = host.device.device()
        connections = host.engine.connections()
        size = host.config.device.size
        yield metrics.gauge("farswap_device_size_bytes", "Size of the device.", size)
        yield metrics.gauge(
            "farswap_device_attached", "1 if a kernel device is attached.", int(bool(attached))
        )
        yield metrics.gauge(
            "farswap_device_swap_used_bytes",
            "Bytes that the kernel has swapped to this daemon.",
            host.devices.use().used_bytes,
        )
        yield metrics.gauge("farswap_nbd_connections", "Connected NBD clients.", len(connections))

    def _attribution(self) -> Iterator[Metric]:
        state = self._host.attribution.state()
        yield InfoMetricFamily(
            "farswap_attribution",
            "Source of attribution in use.",
            {"source": state.source, "device": state.device, "free_hook": state.free_hook},
        )
        yield from metrics.counters(
            "attribution",
            [],
            [([], {name: getattr(state, name) for name in _ATTRIBUTION})],
            _ATTRIBUTION,
        )


def _pages(record: CgroupRecord) -> int:
    return held(states(record))


def _gauges(
    part: str, label: str, meanings: Mapping[str, str], records: Mapping[str, object]
) -> Iterator[Metric]:
    """A family for each attribute in `meanings`; records without a value are left out."""
    for name, meaning in meanings.items():
        values = [([of], getattr(record, name)) for of, record in records.items()]
        set_ones = [(of, value) for of, value in values if value is not None]
        yield metrics.gauges(f"farswap_{part}_{name}", meaning, [label], set_ones)


def _load_times(
    records: Sequence[CgroupRecord], shown: Mapping[str, CgroupRecord]
) -> Iterator[Metric]:
    meaning = "Load time of pages by place; of local pages, a sample."
    yield metrics.histogram(
        "farswap_tier_load_duration_seconds",
        meaning,
        ["tier"],
        [([tier], *times) for tier, times in latency.in_total(records).items()],
    )
    yield metrics.histogram(
        "farswap_cgroup_load_duration_seconds",
        meaning,
        ["cgroup", "tier"],
        [
            ([label, tier], times.buckets, times.sum_ns)
            for label, record in shown.items()
            for tier, times in record.latency.items()
            if any(times.buckets)
        ],
    )
