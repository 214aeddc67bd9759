"""Whether a drain fits on the servers that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.admin import room
from farswap.admin.members import Member
from farswap.v1 import page_store_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1 << 20


def volume(
    shards: Iterable[int], host: str = "a", mib_a_shard: int = 1
) -> pb.DescribeResponse.Volume:
    kept = list(shards)
    return pb.DescribeResponse.Volume(
        host_id=host, device="swap0", shards=kept, bytes=len(kept) * mib_a_shard * MIB
    )


def server(
    name: str,
    free_mib: int,
    *volumes: pb.DescribeResponse.Volume,
    state: int = pb.SERVER_STATE_ACTIVE,
) -> Member:
    used = sum(each.bytes for each in volumes)
    return Member(
        f"{name}:7070",
        answer=pb.DescribeResponse(
            server_uuid=name.encode(),
            state=pb.ServerState.Name(state),
            capacity_bytes=used + free_mib * MIB,
            used_bytes=used,
            volumes=volumes,
        ),
    )


def leaving(*names: str) -> set[str]:
    return {name.encode().hex() for name in names}


def test_shards_are_spread_over_those_that_stay() -> None:
    members = [server("a", 0, volume(range(10))), server("b", 8), server("c", 8)]
    plan = room.plan(members, leaving("a"))
    assert plan.fits
    assert (plan.shards, plan.bytes, plan.free_bytes) == (10, 10 * MIB, 16 * MIB)
    assert [target.added_bytes for target in plan.targets] == [5 * MIB, 5 * MIB]


def test_what_has_no_room_is_counted() -> None:
    members = [server("a", 100, volume(range(10))), server("b", 4), server("c", 3)]
    plan = room.plan(members, leaving("a"))
    assert (plan.unplaced_shards, plan.unplaced_bytes, plan.crowded_shards) == (3, 3 * MIB, 0)
    assert plan.summary() == (
        "3 shards of 10 without a place, 3.0 MiB of 10.0 MiB: 7.0 MiB free on 2 servers"
    )


def test_a_shard_finds_no_place_where_it_has_a_replica() -> None:
    both = volume(range(4))
    members = [server("a", 9, both), server("b", 9, both), server("c", 9, volume([0, 1]))]
    plan = room.plan(members, leaving("a"))
    assert (plan.unplaced_shards, plan.crowded_shards) == (2, 2)
    assert "2 shards already on each of them" in plan.summary()


def test_the_same_shard_of_another_host_is_no_replica() -> None:
    members = [server("a", 0, volume(range(4))), server("b", 9, volume(range(4), host="b"))]
    assert room.plan(members, leaving("a")).fits


def test_several_drains_are_planned_together() -> None:
    members = [
        server("a", 9, volume(range(4))),
        server("b", 9, volume(range(4, 8))),
        server("c", 6),
    ]
    assert room.plan(members, leaving("a")).fits
    assert room.plan(members, leaving("a", "b")).unplaced_shards == 2


def test_a_drain_that_goes_on_takes_its_room_first() -> None:
    going_on = server("b", 9, volume(range(4, 8)), state=pb.SERVER_STATE_DRAINING)
    members = [server("a", 9, volume(range(4))), going_on, server("c", 6)]
    plan = room.plan(members, leaving("a"))
    assert [target.address for target in plan.targets] == ["c:7070"]
    assert plan.unplaced_shards == 2


def test_servers_that_are_full_or_silent_take_none() -> None:
    full = server("b", 9, state=pb.SERVER_STATE_DISK_FULL)
    silent = Member("c:7070", problem="no answer")
    plan = room.plan([server("a", 0, volume([0])), full, silent], leaving("a"))
    assert (plan.targets, plan.crowded_shards) == ((), 1)
    assert not plan.fits


def test_large_shards_are_placed_before_small_ones() -> None:
    members = [
        server("a", 0, volume(range(2), host="x"), volume([0], host="y", mib_a_shard=4)),
        server("b", 4),
        server("c", 2),
    ]
    assert room.plan(members, leaving("a")).fits
