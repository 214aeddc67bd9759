"""Which memory servers `cluster status` names, and what it adds up."""

from __future__ import annotations

from farswap.admin import cluster, lags
from farswap.admin.members import Member
from farswap.v1 import page_store_pb2 as pb


def server(name: str, *p99s_us: int, used: int = 10, live: bool = True) -> Member:
    """With a volume of each host that has measured it, in microseconds."""
    volumes = [
        pb.DescribeResponse.Volume(
            host_id=f"host{number}",
            device="swap0",
            live=live,
            bytes=100,
            placement=pb.VolumePlacement(
                replicas_wanted=2, replicas_here=number + 1, fetch_p99_us=p99_us
            ),
        )
        for number, p99_us in enumerate(p99s_us)
    ]
    return Member(
        f"{name}:7070",
        answer=pb.DescribeResponse(
            server_uuid=name.encode(),
            state=pb.SERVER_STATE_ACTIVE,
            capacity_bytes=100,
            used_bytes=used,
            volumes=volumes,
        ),
    )


def test_a_server_far_slower_than_the_others_lags() -> None:
    looked = [server("a", 800), server("b", 1_000), server("c", 40_000), server("d", 1_200)]
    assert lags.lags(looked) == [("c:7070", "slow: fetch p99 40.0 ms, 1.0 ms on other servers")]
    assert [lags.fetch_p99_us(one) for one in looked] == [800, 1_000, 40_000, 1_200]


def test_one_of_two_servers_can_lag() -> None:
    assert [at for at, _ in lags.lags([server("a", 2_000), server("b", 6_001)])] == ["b:7070"]
    assert lags.lags([server("a", 2_000), server("b", 6_000)]) == []


def test_a_server_that_is_fast_enough_does_not_lag() -> None:
    assert lags.lags([server("a", 100), server("b", 5_000), server("c", 100)]) == []


def test_one_host_with_a_slow_network_makes_no_server_slow() -> None:
    assert lags.lags([server("a", 90_000, 500, 600), server("b", 400, 500, 600)]) == []


def test_a_server_without_measures_is_neither_slow_nor_a_measure() -> None:
    unknown = [server("a"), server("b", 0), server("c", 50_000, live=False)]
    assert lags.lags([*unknown, server("d", 90_000)]) == []
    assert [lags.fetch_p99_us(one) for one in unknown] == [None, None, None]


def test_silent_and_full_servers_lag() -> None:
    looked = [
        Member("a:7070", problem="no answer: connection refused"),
        server("b", 50_000, used=95),
    ]
    assert lags.lags(looked) == [
        ("a:7070", "unreachable: connection refused"),
        ("b:7070", "95 % of its capacity is used"),
    ]


def test_shards_that_only_absent_servers_have_are_an_error() -> None:
    looked = [server("a", 500)]
    away = looked[0].answer.volumes[0].placement.away
    away.add(address="b:7070", shards=3, last_shards=2)
    away.add(address="c:7070", shards=1)
    looked[0].answer.volumes[0].placement.replication_debt_shards = 2
    view = cluster.View(tuple(looked), cluster.volume_views(looked), {})
    assert view.problems() == [
        ("error", "host0/swap0: 2 shards unreadable without b:7070"),
        (
            "warning",
            "host0/swap0: 2 shards short of replicas; its host cannot reach b:7070, c:7070",
        ),
    ]
    assert (view.health, view.document()["unreadable_shards"]) == ("error", 2)


def test_replicas_of_a_volume_are_added_up_over_its_servers() -> None:
    looked = (server("a", 500, 500), server("b", 40_000, 500))
    view = cluster.View(looked, cluster.volume_views(looked), {})
    document = view.document()
    volumes = document["volumes"]
    assert isinstance(volumes, list)
    assert [(one["host_id"], one["replicas"], one["bytes"]) for one in volumes] == [
        ("host0", 2, 200),
        ("host1", 4, 200),
    ]
    assert volumes[0]["placement"] == {
        "replicas_wanted": 2,
        "replication_debt_shards": 0,
        "lost_shards": 0,
        "replica_copies": 0,
        "away": [],
    }
    assert view.health == "warning"
