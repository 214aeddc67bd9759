"""Memory servers by a real etcd: found, added at run time, kept while etcd is away or empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from farswap.common.address import Address
from farswap.common.members import list_members
from fleet import METRICS, PAGE_BYTES, pages, samples, scrape
from hang_guard import HANG_GUARD_S, until
from nbd_client import NbdClient

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer
    from etcd_server import EtcdServer

SHARD = 4096  # pages
SHARDS = 12
PAGES = 96  # of each shard: all are a third of CAPACITY
CAPACITY = "2MiB"


class Cluster:
    """What registers in one etcd. Each shard has pages of its own."""

    def __init__(self, etcd: EtcdServer, memory_server: MakeServer, host_daemon: MakeHost) -> None:
        self.etcd = etcd
        self._memory_server = memory_server
        self._host_daemon = host_daemon

    def server(self, **labels: str) -> MemoryServer:
        return self._memory_server(
            server={"labels": labels},
            store={"capacity": CAPACITY},
            cluster={"etcd": [self.etcd.address]},
        )

    def host(self, **cluster: object) -> HostDaemon:
        return self._host_daemon(
            device={"size": f"{SHARDS * SHARD * PAGE_BYTES}B"},
            cluster={"etcd": [self.etcd.address]} | cluster,
            metrics=METRICS,
        )

    def listed(self) -> set[str]:
        endpoints = [Address.parse(self.etcd.address)]
        members = list_members(endpoints, "farswap/", HANG_GUARD_S)
        return {member.address for member in members}


@pytest.fixture
def cluster(etcd_server: EtcdServer, memory_server: MakeServer, host_daemon: MakeHost) -> Cluster:
    return Cluster(etcd_server, memory_server, host_daemon)


def servers(host: HostDaemon) -> list[Any]:
    return host.ask("status")["servers"]


def until_connected(host: HostDaemon, count: int) -> None:
    until(lambda: sum(server["connected"] for server in servers(host)) == count)


def write_all(host: HostDaemon, client: NbdClient) -> None:
    """Some pages of each shard, until all are remote."""
    for shard in range(SHARDS):
        client.write(shard * SHARD * PAGE_BYTES, pages(shard * SHARD, PAGES))

    def moved() -> bool:
        host.ctl("tier", "writeback", "--bytes", f"{SHARDS * PAGES * PAGE_BYTES}B")
        return host.ask("status")["tier"]["remote_pages"] == SHARDS * PAGES

    until(moved)


def check_all(client: NbdClient) -> None:
    for shard in range(SHARDS):
        read = client.read(shard * SHARD * PAGE_BYTES, PAGES * PAGE_BYTES)
        assert read == pages(shard * SHARD, PAGES)


def replicas(host: HostDaemon) -> list[set[str]]:
    """Addresses, by shard."""
    return [
        {
            replica["address"]
            for replica in host.ask("slot", "explain", str(shard * SHARD))["replicas"]
        }
        for shard in range(SHARDS)
    ]


def shards(host: HostDaemon) -> dict[str, int]:
    return {server["address"]: server["shards"] for server in servers(host)}


def test_a_host_that_starts_without_etcd_serves_and_finds_the_servers_later(
    cluster: Cluster,
) -> None:
    cluster.etcd.stop()
    host = cluster.host()
    with NbdClient.of(host) as client:
        client.write(0, pages(0, 8))
        assert client.read(0, 8 * PAGE_BYTES) == pages(0, 8)
        until(lambda: "connection refused" in host.ask("status")["membership"]["problem"])
        (finding,) = (f for f in host.ask("status")["findings"] if f["subject"] == "etcd")
        assert cluster.etcd.address in finding["message"]
        assert samples(scrape(host))["farswap_etcd_away_seconds"] > 0
        assert "etcd does not answer" in host.log()
        server = cluster.server()
        cluster.etcd.start()
        until_connected(host, 1)
        assert [found["address"] for found in servers(host)] == [server.pages]
        write_all(host, client)
        check_all(client)


def test_a_server_that_is_added_at_run_time_gets_shards(cluster: Cluster) -> None:
    first = [cluster.server(), cluster.server()]
    host = cluster.host(replicas=2, rebalance_every="1s")
    until_connected(host, 2)
    with NbdClient.of(host) as client:
        write_all(host, client)
        assert shards(host) == {server.pages: SHARDS for server in first}
        added = cluster.server()
        until_connected(host, 3)
        until(lambda: shards(host)[added.pages] > 0)
        check_all(client)
    listed = added.ask("server", "list", "--etcd", cluster.etcd.address)
    assert {server["address"] for server in listed} == {server.pages for server in (*first, added)}
    assert host.ask("status")["placement"]["lost_shards"] == 0


def test_an_etcd_that_stops_is_compacted_and_comes_back_empty_moves_nothing(
    cluster: Cluster,
) -> None:
    started = [cluster.server() for _ in range(3)]
    addresses = {server.pages for server in started}
    host = cluster.host(replicas=2)
    until_connected(host, 3)
    assert {server["address"] for server in servers(host)} == addresses
    with NbdClient.of(host) as client:
        write_all(host, client)
        placed = replicas(host)
        before = samples(scrape(host))
        cluster.etcd.stop()
        until(lambda: host.ask("status")["membership"]["problem"])
        until(lambda: all(server.ask("server", "show")["etcd_problem"] for server in started))
        check_all(client)
        cluster.etcd.start()
        until(lambda: not host.ask("status")["membership"]["problem"])
        cluster.etcd.compact()
        cluster.etcd.stop()
        cluster.etcd.wipe()
        cluster.etcd.start()
        until(lambda: cluster.listed() == addresses)
        until(lambda: host.ask("status")["membership"]["listed"] == 3)
        check_all(client)
        write_all(host, client)
        after = samples(scrape(host))
    assert replicas(host) == placed
    for counter in (
        "farswap_memory_server_reconnects_total",
        "farswap_tier_fetch_unavailable_total",
    ):
        assert after[counter] == before[counter]
    assert after["farswap_replication_debt_shards"] == 0


def test_a_server_that_stops_leaves_the_list_and_keeps_its_pages(cluster: Cluster) -> None:
    stays, stops = cluster.server(), cluster.server()
    host = cluster.host(replicas=2)
    until_connected(host, 2)
    with NbdClient.of(host) as client:
        write_all(host, client)
        stops.stop()
        assert cluster.listed() == {stays.pages}
        until(lambda: host.ask("status")["membership"]["listed"] == 1)
        assert shards(host) == {stays.pages: SHARDS, stops.pages: SHARDS}
        check_all(client)
        stops.start()
        until(lambda: cluster.listed() == {stays.pages, stops.pages})
        until(lambda: host.ask("status")["placement"]["replication_debt_shards"] == 0)
    assert host.ask("status")["placement"]["lost_shards"] == 0


def test_two_replicas_never_share_a_failure_domain(cluster: Cluster) -> None:
    racks = {cluster.server(rack=rack).pages: rack for rack in ("r7", "r7", "r8")}
    host = cluster.host(replicas=2, spread="rack")
    until_connected(host, 3)
    with NbdClient.of(host) as client:
        write_all(host, client)
        check_all(client)
    assert all({racks[address] for address in both} == {"r7", "r8"} for both in replicas(host))
    assert {server["failure_domain"] for server in servers(host)} == {"r7", "r8"}
    status = host.ask("status")
    assert status["placement"]["failure_domains"] == 2
    assert status["placement"]["crowded_shards"] == 0
    assert [finding for finding in status["findings"] if finding["subject"] == "replicas"] == []


def test_a_server_lists_the_others_by_etcd(cluster: Cluster) -> None:
    both = [cluster.server(), cluster.server()]
    until(lambda: len(cluster.listed()) == 2)
    for server in both:
        found = {one["address"]: one["state"] for one in server.ask("server", "list")}
        assert found == {one.pages: "active" for one in both}
    cluster.etcd.stop()
    alone = both[0].ctl("server", "list")
    assert (alone.returncode, alone.stdout.count("active")) == (0, 1)
    assert "the list of servers may be incomplete: etcd" in alone.stderr


def test_fewer_domains_than_replicas_are_reported_until_another_one_comes(
    cluster: Cluster,
) -> None:
    for _ in range(2):
        cluster.server(rack="r7")
    host = cluster.host(replicas=2, spread="rack")
    until_connected(host, 2)
    with NbdClient.of(host) as client:
        write_all(host, client)
        (finding,) = (f for f in host.ask("status")["findings"] if f["subject"] == "replicas")
        assert "in 1 failure domain" in finding["message"]
        assert samples(scrape(host))["farswap_crowded_shards"] == SHARDS
        other = cluster.server(rack="r8")
        until(lambda: host.ask("status")["placement"]["crowded_shards"] == 0)
        assert shards(host)[other.pages] == SHARDS
        check_all(client)
    findings = host.ask("status")["findings"]
    assert [finding for finding in findings if finding["subject"] == "replicas"] == []


def test_another_spread_moves_the_replicas_of_a_live_volume_apart(cluster: Cluster) -> None:
    zones = {
        cluster.server(rack=rack, zone=zone).pages: zone
        for rack, zone in (("r1", "a"), ("r2", "a"), ("r3", "b"))
    }
    host = cluster.host(replicas=2, spread="rack")
    until_connected(host, 3)
    with NbdClient.of(host) as client:
        write_all(host, client)
        assert host.ask("status")["placement"]["failure_domains"] == 3
        changed = host.ask("device", "set", "--spread", "zone")
        assert (changed["spread"], changed["failure_domains"]) == ("zone", 2)
        until(lambda: host.ask("status")["placement"]["crowded_shards"] == 0)
        assert all({zones[address] for address in both} == {"a", "b"} for both in replicas(host))
        check_all(client)
        changed = host.ask("device", "set", "--spread", "row")
        assert changed["failure_domains"] == 3
        (finding,) = (f for f in host.ask("status")["findings"] if f["subject"] == "replicas")
        assert "by the label row, which" in finding["message"]
        assert host.ask("status")["placement"]["replication_debt_shards"] == 0
    refused = host.ctl("device", "set", "--spread", "a\tb")
    assert (refused.returncode, "is not a label of 1 to 128 bytes" in refused.stderr) == (2, True)
    assert host.ctl("device", "set").returncode == 2
