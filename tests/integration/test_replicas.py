"""A host that keeps each page on two real memory servers, as its operator sees it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from fleet import METRICS, PAGE_BYTES, connected, pages, samples, scrape, write_back
from hang_guard import until
from nbd_client import NbdClient

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer

WRITTEN = 256
SIZE = WRITTEN * PAGE_BYTES


def two_replicas(
    memory_server: MakeServer, host_daemon: MakeHost
) -> tuple[HostDaemon, list[MemoryServer]]:
    """A host that is connected to both of its servers."""
    servers = [memory_server(), memory_server()]
    host = host_daemon(*servers, cluster={"replicas": 2}, metrics=METRICS)
    until(lambda: connected(host))
    return host, servers


def placement(host: HostDaemon) -> dict[str, Any]:
    return host.ask("status")["placement"]


def replicas(host: HostDaemon) -> dict[str, str]:
    """States by address."""
    found = host.ask("slot", "explain", "7")["replicas"]
    return {replica["address"]: replica["state"] for replica in found}


def away_finding(host: HostDaemon) -> Any:
    """Of the one server that is away."""
    (found,) = (one for one in host.ask("status")["findings"] if one["subject"] == "server")
    return found


def test_a_page_stays_readable_while_one_of_its_two_servers_is_dead(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    host, (dead, alive) = two_replicas(memory_server, host_daemon)
    with NbdClient.of(host) as client:
        client.write(0, pages(0, WRITTEN))
        write_back(host, WRITTEN)
        assert replicas(host) == {dead.pages: "current", alive.pages: "current"}
        assert placement(host) == {
            "replicas_wanted": 2,
            "replication_debt_shards": 0,
            "replica_copies": 0,
            "lost_shards": 0,
            "repaired_objects": 0,
            "failed_repairs": 0,
            "failure_domains": 2,
            "crowded_shards": 0,
            "missing_pages": 0,
            "spread": "host",
        }
        dead.kill()
        until(lambda: placement(host)["replication_debt_shards"] == 1)
        assert replicas(host) == {dead.pages: "stale", alive.pages: "current"}
        assert samples(scrape(host))["farswap_replication_debt_shards"] == 1
        assert client.read(0, SIZE) == pages(0, WRITTEN)
    degraded, debt = (
        finding["message"]
        for finding in host.ask("status")["findings"]
        if finding["subject"] == "replicas"
    )
    assert degraded == "degraded: cluster.replicas is 2, with 1 of 2 memory servers connected"
    assert debt.startswith(f"1 shard with fewer than 2 current replicas ({dead.pages} is ")
    until(lambda: away_finding(host)["level"] == "warning")
    assert "its pages are read from other replicas" in away_finding(host)["message"]
    alive.kill()
    until(lambda: f"no answer from {alive.pages}" in str(host.ask("status")["findings"]))
    until(lambda: "1 shard unreadable" in str(host.ask("status")["findings"]))


@pytest.mark.parametrize("wiped", [False, True])
def test_a_server_that_returns_gets_all_pages_and_then_serves_them_alone(
    memory_server: MakeServer, host_daemon: MakeHost, *, wiped: bool
) -> None:
    host, (returning, other) = two_replicas(memory_server, host_daemon)
    half = WRITTEN // 2
    with NbdClient.of(host) as client:
        client.write(0, pages(0, WRITTEN))
        write_back(host, WRITTEN)
        returning.kill()
        until(lambda: placement(host)["replication_debt_shards"] == 1)
        client.write(0, pages(0, half, 1))
        write_back(host, WRITTEN)
        if wiped:
            shutil.rmtree(returning.store_path)
        returning.start()
        until(lambda: placement(host)["replication_debt_shards"] == 0)
        assert placement(host)["lost_shards"] == 0
        other.kill()
        assert client.read(0, SIZE) == pages(0, half, 1) + pages(half, half)
