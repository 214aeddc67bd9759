"""Memory servers by etcd: what the host's engine gets, and what operators read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import hang_guard
from fake_engine import FakeEngine, memory_server
from farswap.client_nbd.checks.membership import of_membership
from farswap.client_nbd.config import ClusterSection
from farswap.client_nbd.membership import Membership, MembershipState
from farswap.common import members
from farswap.common.address import Address
from farswap.common.etcd import Etcd
from farswap.common.members import Member

if TYPE_CHECKING:
    from collections.abc import Callable

    from etcd_server import EtcdServer

ETCD = "10.0.0.9:2379"


def member(number: int) -> Member:
    return Member(f"{number:032x}", f"10.0.0.{number}:7070", "0.1.0")


async def put(etcd: Etcd, one: Member, lease: int = 0) -> None:
    await etcd.put(members.prefix_of("farswap/") + one.uuid, members.to_record(one), lease)


async def until(what: Callable[[], object]) -> None:
    await asyncio.to_thread(hang_guard.until, what)


def addresses(engine: FakeEngine) -> list[str]:
    return [server.address for server in engine.servers()]


def cluster(etcd_server: EtcdServer) -> ClusterSection:
    return ClusterSection(etcd=[Address.parse(etcd_server.address)])


async def test_the_engine_gets_listed_servers_and_keeps_them(etcd_server: EtcdServer) -> None:
    engine = FakeEngine()
    engine.server_list = [memory_server(address=member(1).address)]
    membership = Membership(engine, cluster(etcd_server))
    async with Etcd(cluster(etcd_server).etcd) as etcd:
        lease = await etcd.grant_lease(60)
        await put(etcd, member(1))
        await put(etcd, member(2), lease)
        membership.start()
        await until(lambda: len(engine.servers()) == 2)
        await put(etcd, member(3))
        await until(lambda: len(engine.servers()) == 3)
        await etcd.revoke_lease(lease)
        await until(lambda: membership.state().listed == 2)  # type: ignore[union-attr]
    await membership.stop()
    assert addresses(engine) == [member(number).address for number in (1, 2, 3)]


async def test_an_etcd_that_comes_back_empty_takes_no_server_away(etcd_server: EtcdServer) -> None:
    engine = FakeEngine()
    etcd_server.stop()
    membership = Membership(engine, cluster(etcd_server))
    membership.start()

    def state() -> MembershipState:
        found = membership.state()
        assert found is not None
        return found

    await until(lambda: state().problem)
    assert state().away_ms is not None
    etcd_server.start()
    async with Etcd(cluster(etcd_server).etcd) as etcd:
        await put(etcd, member(1))
        await until(lambda: state().listed == 1)
        etcd_server.stop()
        etcd_server.wipe()
        etcd_server.start()
        await until(lambda: state().listed == 0)
        assert state().away_ms is None
    async with Etcd(cluster(etcd_server).etcd) as etcd:
        await put(etcd, member(2))
        await until(lambda: state().listed == 1)
    await membership.stop()
    assert addresses(engine) == [member(1).address, member(2).address]


async def test_servers_beyond_a_host_s_limit_are_counted(etcd_server: EtcdServer) -> None:
    class FullEngine(FakeEngine):
        def list_servers(self, addresses) -> None:
            pass

    membership = Membership(FullEngine(), cluster(etcd_server))
    async with Etcd(cluster(etcd_server).etcd) as etcd:
        await put(etcd, member(1))
        membership.start()
        await until(lambda: membership.state().without_room == 1)  # type: ignore[union-attr]
    await membership.stop()


async def test_without_etcd_there_is_nothing_to_follow() -> None:
    membership = Membership(FakeEngine(), ClusterSection())
    membership.start()
    assert membership.state() is None
    await membership.stop()
    assert of_membership(None) == []


def test_findings_say_whether_etcd_answers_and_what_it_lists() -> None:
    def levels(**changed: object) -> tuple[str, str]:
        made = {"endpoints": ETCD, "away_ms": None, "problem": "", "listed": 3, "without_room": 0}
        (found,) = of_membership(MembershipState(**(made | changed)))
        return found.level, found.message

    assert levels() == ("ok", f"{ETCD} lists 3 memory servers")
    assert levels(listed=0) == ("warning", f"{ETCD} lists no memory server")
    assert levels(without_room=1)[0] == "warning"
    level, message = levels(away_ms=61_000, problem="connection refused")
    assert level == "warning"
    assert message == (
        f"no answer from {ETCD} for 61 s: connection refused; "
        "the memory servers that are known stay in use"
    )
