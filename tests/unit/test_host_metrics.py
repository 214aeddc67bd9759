"""Metrics of farswap-host, from an engine of Python objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from fake_cgroups import FakeGroups, latency, record
from fake_engine import FakeEngine, memory_server, placement
from farswap.client_nbd.admin.metrics import HostMetrics, ShownCgroups
from farswap.client_nbd.attribution import AttributionState
from farswap.client_nbd.kernel.files import KernelFiles
from farswap.client_nbd.membership import MembershipState
from farswap.common import metrics
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from pathlib import Path

# A cgroup may be called almost anything.
BUILD = '/build "x"\n'

STATE = AttributionState("bpf", "/dev/nbd0", "swap_entries_free", "", 3, 100, 2, 0)

ETCD = MembershipState("10.0.0.9:2379", 61_500, "connection refused", 3, 0)

Samples = dict[tuple[str, ...], float]


@pytest.fixture
def engine() -> FakeEngine:
    made = FakeEngine()
    made.group_records = [
        record(0, local_pages=5, counters={"stores": 7, "remote_wait_us": 1_500_000}),
        record(
            7,
            remote_pages=3,
            pool_limit_bytes=1 << 20,
            latency={
                "local": latency((0, 1), (3, 10), (23, 2), sum_ns=9_000_000_000),
                "remote": latency(),
            },
        ),
        record(8),
    ]
    made.server_list = [
        memory_server(shards=3, reconnects=2, hedged_fetches=6, fetch_p99_us=12_000)
    ]
    made.placed = placement(
        replicas=2, debt_shards=5, copies=1, lost_shards=3, repaired_objects=9, failed_repairs=4
    )
    made.placed.domains, made.placed.crowded_shards, made.placed.missing_pages = 2, 4, 7
    return made


@pytest.fixture
def samples(engine: FakeEngine, tmp_path: Path) -> Samples:
    """By name and label values."""
    host = SimpleNamespace(
        engine=engine,
        groups=FakeGroups(engine, {7: BUILD, 8: "/idle"}),
        device=SimpleNamespace(device=lambda: ""),
        devices=SimpleNamespace(use=lambda: SimpleNamespace(used_bytes=5 << 20)),
        attribution=SimpleNamespace(state=lambda: STATE),
        membership=SimpleNamespace(state=lambda: ETCD),
        link=SimpleNamespace(has_standby=True),
        files=KernelFiles(tmp_path),
        config=SimpleNamespace(device=SimpleNamespace(size=1 << 30)),
    )
    doctor = SimpleNamespace(problems=lambda: [SimpleNamespace(level="warning")])
    collector = HostMetrics(host, doctor, 100, {"stores": "pages kept"})
    text = generate_latest(metrics.registry(collector)).decode()
    assert "# HELP farswap_tier_stores_total pages kept" in text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_counter_is_a_total_and_times_are_seconds(samples: Samples) -> None:
    assert samples["farswap_tier_stores_total",] == 4000
    assert samples["farswap_tier_remote_wait_seconds_total",] == 2.5
    assert samples["farswap_cgroup_remote_wait_seconds_total", "/"] == 1.5


def test_gauges_are_no_counters(samples: Samples) -> None:
    assert samples["farswap_tier_pool_used_bytes",] == 3 << 20
    assert samples["farswap_device_swap_used_bytes",] == 5 << 20
    assert samples["farswap_tier_accept_threshold_ratio",] == 0.9
    assert samples["farswap_tier_pages", "remote"] == 2000
    names = {name for name, *_ in samples}
    assert not any("shrinking" in name or "local_pages" in name for name in names)


def test_cgroups_are_labels_whatever_is_in_their_names(samples: Samples) -> None:
    assert samples["farswap_cgroup_pages", BUILD, "remote"] == 3
    assert samples["farswap_cgroup_pool_limit_bytes", BUILD] == 1 << 20
    assert ("farswap_cgroup_pool_limit_bytes", "/") not in samples
    assert (samples["farswap_cgroups", "true"], samples["farswap_cgroups", "false"]) == (2, 1)


def test_load_times_are_histograms_in_seconds(samples: Samples) -> None:
    name = "farswap_cgroup_load_duration_seconds"
    buckets = [("1e-06", 1), ("8e-06", 11), ("4.194304", 11), ("+Inf", 13)]
    for bound, count in buckets:
        assert samples[f"{name}_bucket", BUILD, bound, "local"] == count
    assert samples[f"{name}_count", BUILD, "local"] == 13
    assert samples[f"{name}_sum", BUILD, "local"] == 9
    assert samples["farswap_tier_load_duration_seconds_count", "local"] == 13
    assert samples["farswap_tier_load_duration_seconds_count", "remote"] == 0


def test_attribution_is_exported(samples: Samples) -> None:
    names = ("/dev/nbd0", "swap_entries_free", "bpf")
    assert samples["farswap_attribution_info", *names] == 1
    assert samples["farswap_attribution_pages_total",] == 100
    assert samples["farswap_attribution_unattributed_total",] == 2


def test_servers_and_findings_are_exported(samples: Samples) -> None:
    assert samples["farswap_memory_server_connected", "10.0.0.7:7070"] == 1
    assert samples["farswap_memory_server_reconnects_total", "10.0.0.7:7070"] == 2
    assert samples["farswap_memory_server_hedged_fetches_total", "10.0.0.7:7070"] == 6
    assert samples["farswap_memory_server_fetch_p99_seconds", "10.0.0.7:7070"] == 0.012
    assert samples["farswap_findings", "warning"] == 1
    assert samples["farswap_findings", "error"] == 0


def test_the_debt_in_replicas_is_exported(samples: Samples) -> None:
    assert samples["farswap_replicas_wanted",] == 2
    assert samples["farswap_replication_debt_shards",] == 5
    assert samples["farswap_replica_copies",] == 1
    assert samples["farswap_lost_shards_total",] == 3
    assert samples["farswap_repaired_objects_total",] == 9
    assert samples["farswap_failed_repairs_total",] == 4
    assert samples["farswap_missing_pages_total",] == 7
    assert samples["farswap_failure_domains",] == 2
    assert samples["farswap_crowded_shards",] == 4


def test_the_state_of_etcd_is_exported(samples: Samples) -> None:
    assert samples["farswap_etcd_away_seconds",] == 61.5
    assert samples["farswap_etcd_listed_servers",] == 3


def view(id_: int, path: str, **changed: object) -> SimpleNamespace:
    return SimpleNamespace(id=id_, path=path, record=record(id_, **changed))


class TestShownCgroups:
    def test_what_holds_nothing_and_does_nothing_is_folded_away_in_time(self) -> None:
        shown = ShownCgroups(10)
        views = [view(0, "/"), view(1, "/busy", counters={"loads_local": 5}), view(2, "/idle")]
        assert list(shown.choose(views, 1000)) == ["/", "/busy"]
        assert list(shown.choose(views, 1500)) == ["/", "/busy"]
        assert list(shown.choose(views, 1601)) == ["/"]
        views[1].record.counters["loads_local"] = 6
        assert list(shown.choose(views, 1602)) == ["/", "/busy"]

    def test_the_largest_are_shown_when_there_are_too_many(self) -> None:
        views = [view(0, "/"), *(view(n, f"/{n}", local_pages=n) for n in range(1, 100))]
        assert list(ShownCgroups(3).choose(views, 0)) == ["/", "/99", "/98"]

    def test_labels_are_unique(self) -> None:
        views = [
            view(1, "/x", local_pages=2),
            view(2, "/x", local_pages=1),
            view(3, "", local_pages=1),
        ]
        assert list(ShownCgroups(9).choose(views, 0)) == ["/x", "/x#2", "#3"]
