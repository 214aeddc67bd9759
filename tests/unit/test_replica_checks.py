"""What an operator reads about the replicas of shards."""

from __future__ import annotations

import pytest
from fake_engine import memory_server, placement
from farswap.client_nbd.checks.replicas import replicas
from farswap.common.units import Milliseconds

UP = memory_server(address="a:1")
AWAY = memory_server(address="b:1", connected=False, state="away")
REFUSED = memory_server(address="c:1", connected=False, state="already_open")
FULL = memory_server(address="d:1", used_bytes=95)
REPAIR_AFTER = Milliseconds(300_000)


def test_a_daemon_without_servers_has_no_replicas_to_check() -> None:
    assert replicas(placement(), [], REPAIR_AFTER) == []


@pytest.mark.parametrize(("wanted", "words"), [(1, "1 current replica"), (2, "2 current replicas")])
def test_as_many_replicas_as_wanted_are_ok(wanted: int, words: str) -> None:
    (found,) = replicas(placement(replicas=wanted), [UP, FULL], REPAIR_AFTER)
    assert (found.level, found.message) == ("ok", f"no shard has fewer than {words}")


@pytest.mark.parametrize(
    ("servers", "have"),
    [
        ([UP, FULL], "2 memory servers"),
        ([UP, AWAY, REFUSED], "1 of 3 memory servers connected"),
    ],
)
def test_fewer_servers_than_replicas_is_degraded(servers: list, have: str) -> None:
    (found,) = replicas(placement(replicas=3), servers, REPAIR_AFTER)
    assert found.level == "warning"
    assert found.message == f"degraded: cluster.replicas is 3, with {have}"
    assert found.remedy


def test_servers_that_are_all_away_are_findings_of_their_own() -> None:
    (found,) = replicas(placement(replicas=2), [AWAY, REFUSED], REPAIR_AFTER)
    assert found.level == "ok"


def test_a_debt_is_reported_with_the_servers_that_cause_it_and_the_remedy() -> None:
    placed = placement(replicas=2, debt_shards=7, copies=2)
    (found,) = replicas(placed, [UP, AWAY, REFUSED, FULL, UP], REPAIR_AFTER)
    assert found.level == "warning"
    assert found.message == (
        "7 shards with fewer than 2 current replicas "
        "(b:1 is away, c:1 is already open, d:1 is nearly full); copies under way: 2"
    )
    assert "5m after a server went away" in found.remedy


def test_pages_that_no_replica_has_are_an_error() -> None:
    (found,) = replicas(placement(replicas=2, missing_pages=3), [UP, UP], REPAIR_AFTER)
    assert found.level == "error"
    assert "slot table: 3; reads of them fail" in found.message
    assert found.remedy


def test_a_debt_that_is_only_being_repaired_has_no_other_reason() -> None:
    (found,) = replicas(placement(replicas=2, debt_shards=7, copies=2), [UP, UP], REPAIR_AFTER)
    assert found.message == "7 shards with fewer than 2 current replicas; copies under way: 2"


def test_fewer_failure_domains_than_replicas_are_degraded() -> None:
    placed = placement(replicas=2, domains=1, crowded_shards=7)
    (found,) = replicas(placed, [UP, UP], REPAIR_AFTER)
    assert found.level == "warning"
    assert found.message == (
        "degraded: cluster.replicas is 2, and the servers are in 1 failure domain by the label "
        "host; shards with two replicas in one: 7"
    )
    assert "server.labels" in found.remedy


def test_servers_without_the_label_of_the_spread_are_named() -> None:
    racked = memory_server(address="e:1", labels={"rack": "r1"})
    placed = placement(replicas=2, spread="rack")
    assert replicas(placed, [racked, racked], REPAIR_AFTER)[0].level == "ok"
    (found,) = replicas(placed, [UP, racked, FULL], REPAIR_AFTER)
    assert found.level == "warning"
    assert "by the label rack, which a:1, d:1 do not have" in found.message
    unknown = memory_server(address="f:1", connected=False, state="connecting", uuid="")
    assert replicas(placed, [racked, racked, unknown], REPAIR_AFTER)[0].level == "ok"


def test_replicas_that_share_a_domain_though_there_are_others_move_by_themselves() -> None:
    placed = placement(replicas=2, domains=3, crowded_shards=7)
    (found,) = replicas(placed, [UP, UP], REPAIR_AFTER)
    assert found.level == "warning"
    assert found.remedy.startswith("wait")
