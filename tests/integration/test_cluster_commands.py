"""The cluster as its operator sees it: real memory servers, and hosts that use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fleet import PAGE_BYTES, connected, pages, store_remotely
from hang_guard import until
from nbd_client import NbdClient

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer

WRITTEN = 256
SIZE = WRITTEN * PAGE_BYTES


def placed(host: HostDaemon) -> dict[str, Any]:
    """The one volume, once its host has said where its shards are."""
    found: dict[str, Any] = {}

    def known() -> bool:
        (found["volume"],) = host.ask("cluster", "status")["volumes"]
        return found["volume"]["replicas"] == 2

    until(known)
    return found["volume"]


def page_addresses(*servers: MemoryServer) -> str:
    return ",".join(server.pages for server in servers)


def test_cluster_status_adds_up_what_servers_and_hosts_know(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    servers = [memory_server(), memory_server()]
    host = host_daemon(*servers, cluster={"replicas": 2})
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    volume = placed(host)
    assert (volume["owner_live"], volume["placement"]["replicas_wanted"]) == (True, 2)
    status = host.ask("cluster", "status")
    assert (status["health"], status["replication_debt_shards"]) == ("ok", 0)
    assert [(one["address"], one["shards"]) for one in status["servers"]] == [
        (server.pages, 1) for server in servers
    ]
    assert host.ask("server", "list") == status["servers"]
    servers[1].kill()
    until(lambda: host.ask("cluster", "status")["replication_debt_shards"] == 1)
    status = host.ask("cluster", "status")
    assert status["health"] == "warning"
    assert servers[1].pages in status["problems"][0]["message"]
    assert (status["unreadable_shards"], status["lost_shards"]) == (0, 0)
    screen = host.ctl("cluster", "status").stdout
    assert "1 shard short of replicas" in screen
    assert "unreachable" in screen


def test_shards_that_a_dead_server_alone_has_are_an_error(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    servers = [memory_server(), memory_server()]
    host = host_daemon(*servers)
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    (holder,) = [one for one in servers if one.ask("server", "show")["volumes"][0]["shards"]]
    holder.kill()
    until(lambda: host.ctl("cluster", "status").returncode == 1)
    screen = host.ctl("cluster", "status")
    assert f"1 shard unreadable without {holder.pages}" in screen.stdout
    assert "shards are lost or unreadable" in screen.stderr
    holder.start()
    until(lambda: host.ctl("cluster", "status").returncode == 0)


def test_fetch_times_that_hosts_measure_are_shown_by_server(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    server = memory_server()
    host = host_daemon(server)
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    assert host.ask("status")["servers"][0]["fetch_p99_us"] == 0
    with NbdClient.of(host) as client:
        for page in range(WRITTEN):
            assert client.read(page * PAGE_BYTES, PAGE_BYTES) == pages(page, 1)
    assert host.ask("status")["servers"][0]["fetch_p99_us"] > 0
    until(lambda: server.ask("cluster", "status")["servers"][0]["fetch_p99_us"])


def test_a_drain_that_cannot_fit_is_refused_with_the_numbers(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    servers = [memory_server(), memory_server()]
    host = host_daemon(*servers, cluster={"replicas": 2})
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    first = servers[0]
    everyone = page_addresses(*servers)
    refused = first.ctl("server", "drain", "--servers", everyone)
    assert refused.returncode == 1
    assert "nothing changed: 1 shard of 1 without a place" in refused.stderr
    assert "already on each of them" in refused.stderr
    assert first.ask("server", "show")["draining"] is False
    dry = first.ask("server", "drain", "--dry-run", "--servers", everyone)
    assert (dry["plan"]["fits"], dry["plan"]["crowded_shards"]) == (False, 1)
    third = memory_server()
    wider = page_addresses(*servers, third)
    plan = first.ask("server", "drain", "--dry-run", "--servers", wider)["plan"]
    assert plan["fits"] is True
    assert [target["added_bytes"] > 0 for target in plan["targets"]] == [False, True]
    assert first.ask("server", "drain", "--force", "--servers", everyone)["draining"] is True
    status = first.ask("cluster", "status", "--servers", everyone)
    assert status["drains"][first.pages]["shards"] == 1


def test_one_server_names_its_peers(memory_server: MakeServer, host_daemon: MakeHost) -> None:
    peers = [memory_server(), memory_server()]
    first = memory_server(cluster={"peers": [peer.admin for peer in peers]})
    servers = [first, *peers]
    host = host_daemon(*servers, cluster={"replicas": 2})
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    assert [one["address"] for one in first.ask("server", "list")] == [
        server.pages for server in servers
    ]
    plan = first.ask("server", "drain", "--dry-run")["plan"]
    assert (plan["fits"], len(plan["targets"])) == (True, 2)
    peers[1].kill()
    status = first.ask("cluster", "status")
    unreachable = [one["address"] for one in status["servers"] if one["state"] == "unreachable"]
    assert unreachable == [peers[1].admin]


def test_two_servers_are_drained_at_once(memory_server: MakeServer, host_daemon: MakeHost) -> None:
    servers = [memory_server() for _ in range(3)]
    host = host_daemon(*servers)
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    (holder,) = [one for one in servers if one.ask("server", "show")["volumes"][0]["shards"]]
    (other, last) = [one for one in servers if one is not holder]
    everyone = page_addresses(*servers)
    drains = ("server", "drain", holder.admin, other.admin)
    done = holder.ctl(*drains, "--wait", "--servers", everyone)
    assert (done.returncode, done.stderr.count("nothing changed")) == (0, 0)
    assert done.stdout.count("drained: no shard is left") == 2
    assert last.ask("server", "show")["volumes"][0]["shards"] == 1
    ended = holder.ctl("server", "undrain", holder.admin, other.admin)
    assert ended.stdout.count("not draining; state: active") == 2


def shard_states(host: HostDaemon) -> dict[str, str]:
    """Of the device's one shard, by address."""
    found = host.ask("shard", "show", "0")["replicas"]
    return {replica["address"]: replica["state"] for replica in found}


def test_an_operator_moves_a_shard_and_changes_the_number_of_replicas(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    servers = [memory_server(), memory_server()]
    host = host_daemon(*servers)
    until(lambda: connected(host))
    assert host.ctl("shard", "list").stdout == "no shard\n"
    store_remotely(host, WRITTEN)
    (source,) = shard_states(host)
    (target,) = {server.pages for server in servers} - {source}
    moved = host.ctl("shard", "move", "0", "--from", source, "--to", target, "--wait")
    assert (moved.returncode, moved.stderr) == (0, "")
    assert shard_states(host) == {target: "current"}
    assert [shard["shard"] for shard in host.ask("shard", "list", "--on", target)["shards"]] == [0]
    refused = host.ctl("shard", "move", "0", "--from", source, "--to", target)
    assert "shard 0 stays: the shard has no current replica there" in refused.stderr
    unknown = host.ctl("shard", "move", "0", "--from", target, "--to", "127.0.0.1:1")
    assert "127.0.0.1:1 is no memory server of this host" in unknown.stderr
    assert host.ask("device", "set", "--replicas", "2")["replicas_wanted"] == 2
    until(lambda: shard_states(host) == {source: "current", target: "current"})
    host.ask("device", "set", "--replicas", "1")
    until(lambda: len(shard_states(host)) == 1)
    with NbdClient.of(host) as client:
        assert client.read(0, SIZE) == pages(0, WRITTEN)
    assert "out of range" in host.ctl("shard", "show", "99").stderr


def test_a_volume_is_limited_and_deleted_on_all_servers(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    servers = [memory_server(), memory_server()]
    host = host_daemon(*servers, cluster={"replicas": 2})
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    (volume,) = servers[0].ask("volume", "list")["volumes"]
    name = f"{volume['host_id']}/{volume['device']}"
    everyone = ("--servers", page_addresses(*servers))
    limited = host.ask("volume", "set-quota", name, "8MiB", *everyone)["servers"]
    assert [one["quota_bytes"] for one in limited] == [8 << 20] * 2
    servers[1].kill()
    delete = ("volume", "delete", name, "--yes", "--force", *everyone)
    partly = host.ctl(*delete)
    assert partly.returncode == 1
    assert f"{servers[0].pages}: deleted {WRITTEN} pages" in partly.stdout
    assert "not done on 1 of 2 servers" in partly.stderr
    servers[1].start()
    host.stop()
    (deleted,) = host.ask(*delete)["servers"]
    assert (deleted["address"], deleted["pages"]) == (servers[1].pages, WRITTEN)
    assert "no server that answers has a volume" in host.ctl(*delete).stderr
