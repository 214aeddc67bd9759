"""`farswapctl server remove`: a memory server that never comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet import PAGE_BYTES, connected, pages, store_remotely
from hang_guard import until
from nbd_client import NbdClient

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer

WRITTEN = 256
SIZE = WRITTEN * PAGE_BYTES


def shard_states(host: HostDaemon) -> dict[str, str]:
    """Of the device's one shard, by address."""
    found = host.ask("shard", "show", "0")["replicas"]
    return {replica["address"]: replica["state"] for replica in found}


def with_peers(memory_server: MakeServer, count: int) -> tuple[MemoryServer, list[MemoryServer]]:
    """One that knows the others; all."""
    others = [memory_server() for _ in range(count - 1)]
    first = memory_server(cluster={"peers": [each.admin for each in others]})
    return first, [first, *others]


def used(host: HostDaemon) -> dict[str, str]:
    """States by address."""
    return {server["address"]: server["state"] for server in host.ask("status")["servers"]}


def holder_but(first: MemoryServer, host: HostDaemon, servers: list[MemoryServer]) -> MemoryServer:
    """Another server with the one shard, which moves there if need be."""
    others = [one for one in servers if one is not first]
    if first.pages in (states := shard_states(host)):
        (target, *_) = [one for one in others if one.pages not in states]
        host.ask("shard", "move", "0", "--from", first.pages, "--to", target.pages, "--wait")
    return next(one for one in others if one.pages in shard_states(host))


def test_shards_of_a_removed_server_are_repaired_at_once(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    first, servers = with_peers(memory_server, 4)
    host = host_daemon(*servers, cluster={"replicas": 2, "repair_after": "1d"})
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    dead = holder_but(first, host, servers)
    dead.kill()
    until(lambda: first.ask("cluster", "status")["replication_debt_shards"] == 1)

    def known() -> bool:
        return first.ctl("server", "remove", dead.pages, "--dry-run").returncode == 0

    until(known)
    plan = first.ask("server", "remove", dead.pages, "--dry-run")
    assert (plan["shards"], plan["last_shards"], plan["dry_run"]) == (1, 0, True)
    assert used(host)[dead.pages] == "away"
    removed = first.ctl("server", "remove", dead.pages)
    assert (removed.returncode, removed.stdout.count("passes it on")) == (0, 3), removed
    until(lambda: dead.pages not in used(host))
    until(lambda: first.ask("cluster", "status")["replication_debt_shards"] == 0)
    assert host.ask("status")["placement"]["lost_shards"] == 0
    again = first.ctl("server", "remove", plan["uuid"])
    assert again.returncode == 0, again.stderr
    assert 'call=RemoveServer request="uuid:' in first.log()
    with NbdClient.of(host) as client:
        assert client.read(0, SIZE) == pages(0, WRITTEN)


def test_the_last_replica_is_given_up_only_by_the_operators_word(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    first, servers = with_peers(memory_server, 3)
    host = host_daemon(*servers)
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    dead = holder_but(first, host, servers)
    answers = first.ctl("server", "remove", dead.pages)
    assert answers.returncode == 1
    assert "answers, and has 1 shard: drain it first" in answers.stderr
    dead.kill()

    def counted() -> bool:
        return "1 shard with the last" in first.ctl("server", "remove", dead.pages).stderr

    until(counted)
    assert host.ask("status")["placement"]["lost_shards"] == 0
    first.ask("server", "remove", dead.pages, "--lose-pages")
    until(lambda: host.ask("status")["placement"]["lost_shards"] == 1)
    assert set(used(host)) == {one.pages for one in servers if one is not dead}


def test_a_drained_server_leaves_the_lists(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    first, servers = with_peers(memory_server, 3)
    host = host_daemon(*servers)
    until(lambda: connected(host))
    store_remotely(host, WRITTEN)
    leaver = holder_but(first, host, servers)
    assert leaver.ctl("server", "drain", "--wait").returncode == 0
    leaver.stop()

    def removed() -> bool:
        return first.ctl("server", "remove", leaver.pages).returncode == 0

    until(removed)  # hosts name it once they miss it
    until(lambda: leaver.pages not in used(host))
    assert host.ask("status")["placement"]["lost_shards"] == 0
    unknown = first.ctl("server", "remove", "10.0.0.1:7070")
    assert "no memory server and no host knows 10.0.0.1:7070" in unknown.stderr
