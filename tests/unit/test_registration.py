"""A server's record in etcd."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import hang_guard
import pytest
from farswap.common.address import Address
from farswap.common.config_sections import ClusterSection
from farswap.common.members import Member, list_members
from farswap.server import registration
from farswap.server.registration import Registration

if TYPE_CHECKING:
    from etcd_server import EtcdServer

SERVER = Member("0" * 32, "10.0.0.7:7070", "0.1.0")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_REFRESH_EVERY_S", 0.05)


def listed(etcd_server: EtcdServer) -> list[Member]:
    return list_members([Address.parse(etcd_server.address)], "farswap/", hang_guard.HANG_GUARD_S)


async def until_listed(etcd_server: EtcdServer, wanted: list[Member]) -> None:
    await asyncio.to_thread(hang_guard.until, lambda: listed(etcd_server) == wanted)


def registered(etcd_server: EtcdServer) -> Registration:
    config = ClusterSection(etcd=[Address.parse(etcd_server.address)])
    made = Registration(config, SERVER)
    made.start()
    return made


async def test_a_server_is_listed_until_it_stops(etcd_server: EtcdServer) -> None:
    server = registered(etcd_server)
    await until_listed(etcd_server, [SERVER])
    await server.stop()
    assert await asyncio.to_thread(listed, etcd_server) == []


async def test_a_server_registers_again_with_an_etcd_that_comes_back_empty(
    etcd_server: EtcdServer,
) -> None:
    etcd_server.stop()
    server = registered(etcd_server)
    await asyncio.to_thread(hang_guard.until, lambda: server.problem)
    etcd_server.start()
    await until_listed(etcd_server, [SERVER])
    etcd_server.stop()
    etcd_server.wipe()
    etcd_server.start()
    await until_listed(etcd_server, [SERVER])
    assert server.problem == ""
    await server.stop()


async def test_a_record_that_was_deleted_is_put_again(etcd_server: EtcdServer) -> None:
    server = registered(etcd_server)
    await until_listed(etcd_server, [SERVER])
    await asyncio.to_thread(etcd_server.delete_all)
    await until_listed(etcd_server, [SERVER])
    await server.stop()


async def test_a_lease_that_has_ended_is_replaced(etcd_server: EtcdServer) -> None:
    server = registered(etcd_server)
    await until_listed(etcd_server, [SERVER])
    lease = server._lease
    await asyncio.to_thread(etcd_server.ask, "/v3/lease/revoke", {"ID": lease})
    await until_listed(etcd_server, [SERVER])
    assert server._lease != lease
    await server.stop()


async def test_a_stop_does_not_wait_for_an_etcd_that_is_away(etcd_server: EtcdServer) -> None:
    server = registered(etcd_server)
    await until_listed(etcd_server, [SERVER])
    etcd_server.stop()
    await asyncio.to_thread(hang_guard.until, lambda: server.problem)
    await server.stop()


async def test_without_etcd_there_is_nothing_to_do() -> None:
    server = Registration(ClusterSection(), SERVER)
    server.start()
    assert server.problem == ""
    await server.stop()
