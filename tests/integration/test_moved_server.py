"""A memory server that is started at another address, on the same store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fleet import METRICS, PAGE_BYTES, pages, samples, scrape, store_remotely
from hang_guard import until
from nbd_client import NbdClient

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer
    from etcd_server import EtcdServer

PAGES = 256


def start_at(server: MemoryServer, address: str) -> None:
    server.sections["server"] |= {"listen": address, "advertise": address}
    server.start()


def servers(host: HostDaemon) -> dict[str, Any]:
    return {server["address"]: server for server in host.ask("status")["servers"]}


def connected(host: HostDaemon) -> set[str]:
    return {address for address, server in servers(host).items() if server["connected"]}


def check_pages(host: HostDaemon) -> None:
    with NbdClient.of(host) as client:
        assert client.read(0, PAGES * PAGE_BYTES) == pages(0, PAGES)


def test_a_server_at_another_address_in_etcd_keeps_its_pages(
    etcd_server: EtcdServer, memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    etcd = {"etcd": [etcd_server.address]}
    moves, stays = (memory_server(cluster=etcd, metrics=METRICS) for _ in range(2))
    host = host_daemon(cluster=etcd | {"replicas": 2}, metrics=METRICS)
    until(lambda: connected(host) == {moves.pages, stays.pages})
    store_remotely(host, PAGES)
    former = moves.pages
    uuid = servers(host)[former]["uuid"]
    moves.stop()
    start_at(moves, "127.0.0.1:0")
    assert moves.pages != former
    until(lambda: servers(host).keys() == {moves.pages, stays.pages})
    until(lambda: connected(host) == {moves.pages, stays.pages})
    assert servers(host)[moves.pages]["uuid"] == uuid
    until(lambda: host.ask("status")["placement"]["replication_debt_shards"] == 0)
    check_pages(host)
    listed = {server["address"] for server in stays.ask("server", "list")}
    assert listed == {moves.pages, stays.pages}
    seen = samples(scrape(host))
    assert seen["farswap_lost_shards_total"] == seen["farswap_missing_pages_total"] == 0
    assert seen["farswap_memory_server_connected"] == 2
    # Its pages are compared, and none is copied.
    for server in (moves, stays):
        assert samples(scrape(server))["farswap_server_copied_objects_total"] == 0
    stays.stop()
    check_pages(host)


def test_the_former_address_of_a_server_that_moved_within_the_configuration_is_silent(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    moves, spare = memory_server(), memory_server()
    spare.stop()
    host = host_daemon(moves, spare)
    until(lambda: connected(host) == {moves.pages})
    store_remotely(host, PAGES)
    former = moves.pages
    moves.stop()
    start_at(moves, spare.pages)
    until(lambda: connected(host) == {moves.pages})
    check_pages(host)
    silent = servers(host)[former]
    assert (silent["state"], silent["uuid"], silent["shards"]) == ("connecting", "", 0)
    (finding,) = (f for f in host.ask("status")["findings"] if former in f["message"])
    assert "cluster.servers" in finding["remedy"]
    assert sum(former in line for line in host.log().splitlines()) <= 3
