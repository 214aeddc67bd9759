"""What farswap-host tells Prometheus: a collector over the engine's own counters and histograms.

Totals are families of their own beside those by cgroup, so that neither is counted twice in a
sum. Cgroups come and go by the thousand, and each costs about a hundred series: see ShownCgroups.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from farswap.client_nbd.admin import latency
from farswap.client_nbd.checks.tier import STATES, held, states
from farswap.common import metrics
from prometheus_client.core import InfoMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from farswap.client_nbd.cgroups.groups import GroupView
    from farswap.client_nbd.checks.doctor import Doctor
    from farswap.client_nbd.running_host import RunningHost
    from farswap.native import CgroupRecord
    from prometheus_client import Metric

# Values of the engine's stats() that are no counters.
_GAUGES = {
    "pool_limit_bytes": "The most that the pool may take.",
    "pool_used_bytes": "Memory of the pool's slabs in use.",
    "pool_entry_bytes": "Bytes of entries, rounded to their size classes.",
    "pool_payload_bytes": "Bytes of entries themselves.",
    "metadata_bytes": "Memory of the slot table.",
    "raw_pages": "Of the pages in the pool, those kept uncompressed.",
}
# Nor are these: told in another form, and of no use to who sees it later.
_LEFT_OUT = ("accept_threshold_percent", "shrinking")

# Of each cgroup; None: it has none.
_CGROUP_GAUGES: tuple[tuple[str, str, Callable[[CgroupRecord], int | None]], ...] = (
    ("pool_bytes", "Pool memory of its pages.", lambda of: of.pool_bytes),
    ("tree_pool_bytes", "The same with all below it.", lambda of: of.tree_pool_bytes),
    ("pool_limit_bytes", "Limit of that, where it has one.", lambda of: of.pool_limit_bytes),
    ("tree_remote_pages", "On servers, with all below it.", lambda of: of.tree_remote_pages),
    ("remote_pages_max", "Limit of that, where it has one.", lambda of: of.remote_pages_max),
)

_ATTRIBUTION = {
    "pages": "Pages swapped out since the BPF programs are in the kernel.",
    "unattributed": "Of these, pages whose cgroup the kernel did not know.",
    "events": "Notices of freed slots.",
    "ring_full": "Notices that found no room, made up for within a second.",
}

_RECENT_S = 600.0


class ShownCgroups:
    """Which cgroups have series of their own.

    Those that hold pages or did anything in the last ten minutes, at most `most` of them, the
    largest first; the root always.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # By cgroup id: what it had done when it was last seen to have done anything, and when.
        self._active: dict[int, tuple[int, float]] = {}

    def choose(self, views: Sequence[GroupView], now_s: float) -> dict[str, CgroupRecord]:
        """By their labels: the path, or #id where there is none."""
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
    """Collected at every scrape, one at a time, on a thread that may wait."""

    def __init__(
        self, host: RunningHost, doctor: Doctor, cgroups_max: int, meanings: Mapping[str, str]
    ) -> None:
        """`meanings`: of the engine's counters, in words."""
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
        yield from self._device()
        yield from self._attribution()
        levels = Counter(finding.level for finding in self._doctor.problems())
        yield metrics.gauges(
            "farswap_findings",
            "What is wrong with this host, see farswapctl doctor.",
            ["level"],
            [([level], levels[level]) for level in ("warning", "error")],
        )

    def _tier(self) -> Iterator[Metric]:
        stats = self._host.engine.stats()
        for name, meaning in _GAUGES.items():
            yield metrics.gauge(f"farswap_tier_{name}", meaning, stats[name])
        yield metrics.gauges(
            "farswap_tier_pages",
            "Pages by where they are.",
            ["state"],
            [([state.removesuffix("_pages")], stats[state]) for state in STATES],
        )
        yield metrics.gauge(
            "farswap_tier_accept_threshold_ratio",
            "Share of the limit down to which a full pool is shrunk.",
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
            "Cgroups that have pages or settings, and those of them that have series here.",
            ["shown"],
            [(["true"], len(shown)), (["false"], len(views) - len(shown))],
        )
        yield metrics.gauges(
            "farswap_cgroup_pages",
            "Pages by where they are.",
            ["cgroup", "state"],
            [
                ([label, state.removesuffix("_pages")], pages)
                for label, record in shown.items()
                for state, pages in states(record).items()
            ],
        )
        for name, meaning, value_of in _CGROUP_GAUGES:
            values = [(label, value_of(record)) for label, record in shown.items()]
            yield metrics.gauges(
                f"farswap_cgroup_{name}",
                meaning,
                ["cgroup"],
                [([label], value) for label, value in values if value is not None],
            )
        yield from metrics.counters(
            "cgroup",
            ["cgroup"],
            [([label], record.counters) for label, record in shown.items()],
            self._meanings,
        )
        yield from _load_times([view.record for view in views], shown)

    def _servers(self) -> Iterator[Metric]:
        known = self._host.engine.servers()
        for name, meaning, values in (
            ("connected", "1 when it answers.", [int(it.connected) for it in known]),
            ("capacity_bytes", "What it accepts in all.", [it.capacity_bytes for it in known]),
            ("used_bytes", "What it holds, of all hosts.", [it.used_bytes for it in known]),
            ("shards", "Shards of our device that it has.", [it.shards for it in known]),
            (
                "disconnected_seconds",
                "Since when it does not answer; 0 when it does.",
                [it.disconnected_ms / 1000 for it in known],
            ),
        ):
            yield metrics.gauges(
                f"farswap_memory_server_{name}",
                meaning,
                ["server"],
                [([it.address], value) for it, value in zip(known, values, strict=True)],
            )
        yield metrics.gauges(
            "farswap_memory_server_state",
            "1: how the server stands to this host.",
            ["server", "state"],
            [([it.address, it.state], 1) for it in known],
        )
        counted = ("reconnects", "lost_shards", "unclean_restarts")
        yield from metrics.counters(
            "memory_server",
            ["server"],
            [([it.address], {name: getattr(it, name) for name in counted}) for it in known],
        )

    def _device(self) -> Iterator[Metric]:
        host = self._host
        attached = host.device.device()
        connections = host.engine.connections()
        yield metrics.gauge(
            "farswap_device_size_bytes", "What can be swapped out.", host.config.device.size
        )
        yield metrics.gauge(
            "farswap_device_attached", "1 when a kernel device is attached.", int(bool(attached))
        )
        yield metrics.gauge(
            "farswap_device_swap_used_bytes",
            "What the kernel has swapped to this daemon.",
            host.devices.use().used_bytes,
        )
        yield metrics.gauge("farswap_nbd_connections", "NBD clients served.", len(connections))

    def _attribution(self) -> Iterator[Metric]:
        state = self._host.attribution.state()
        yield InfoMetricFamily(
            "farswap_attribution",
            "How it is known whose pages there are.",
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


def _load_times(
    records: Sequence[CgroupRecord], shown: Mapping[str, CgroupRecord]
) -> Iterator[Metric]:
    meaning = "How long pages took to be read, by where they were; of local ones, a sample."
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
