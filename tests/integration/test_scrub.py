"""Damage on the disk of a memory server: found, repaired from the other replica, and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from farswap.common import text
from fleet import METRICS, PAGE_BYTES, connected, pages, samples, scrape, write_back
from hang_guard import until
from nbd_client import NbdClient

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer

WRITTEN = 1024
SIZE = WRITTEN * PAGE_BYTES


def write(host: HostDaemon, client: NbdClient, count: int) -> None:
    """Until the pages are remote."""
    for first in range(0, count, 256):
        client.write(first * PAGE_BYTES, pages(first, 256))
    write_back(host, count)


def read(client: NbdClient) -> bytes:
    return b"".join(
        client.read(first * PAGE_BYTES, 256 * PAGE_BYTES) for first in range(0, WRITTEN, 256)
    )


def damage(server: MemoryServer) -> int:
    """Inverts a byte in each 64 KiB of the store's files of pages; returns their number."""
    count = 0
    for path in Path(server.store_path).glob("*.sst"):
        # The end has the index, without which RocksDB does not open the file.
        for at in range(10_000, path.stat().st_size * 3 // 4, 1 << 16):
            with path.open("r+b") as file:
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 0xFF]))
            count += 1
    return count


def counters(server: MemoryServer) -> dict[str, int]:
    found: dict[str, int] = server.ask("server", "show")["counters"]
    return {name: int(value) for name, value in found.items()}


def flush(server: MemoryServer, host_daemon: MakeHost) -> None:
    """Moves all pages from memory to files, as the end of a volume does."""
    other = host_daemon(server, device={"host_id": "other"})
    until(lambda: connected(other))
    with NbdClient.of(other) as client:
        write(other, client, 256)
    other.kill()
    deleted = server.ctl("volume", "delete", f"other/{other.export}", "--force", "--yes")
    assert deleted.returncode == 0, deleted.stderr
    until(lambda: counters(server)["garbage_volumes_deleted"] == 1)


def test_scrub_repairs_damage_from_the_other_replica_before_that_is_lost(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    # No read fills the block cache before the scrub.
    servers = [memory_server(store={"scrub_interval": "off"}, metrics=METRICS) for _ in range(2)]
    host = host_daemon(*servers, cluster={"replicas": 2})
    until(lambda: connected(host))
    damaged, other = servers

    def show() -> dict[str, Any]:
        return damaged.ask("server", "show")

    with NbdClient.of(host) as client:
        write(host, client, WRITTEN)
        stored = show()["pages"]
        flush(damaged, host_daemon)
        assert damage(damaged) > 3
        damaged.ask("server", "scrub")
        until(lambda: show()["scrub_passes"] == 1)
        found = counters(damaged)["scrub_damaged_records"]
        assert found > 0
        until(lambda: show()["scrub_damaged_shards"] == 0)
        assert counters(damaged)["scrub_repaired_objects"] == found
        assert host.ask("status")["placement"]["repaired_objects"] == found
        assert show()["pages"] == stored
        scraped = samples(scrape(damaged))
        assert scraped["farswap_server_scrub_damaged_records_total"] == found
        assert scraped["farswap_server_scrub_damaged_shards"] == 0
        assert scraped["farswap_server_scrub_passes"] == 1
        other.kill()
        assert read(client) == pages(0, WRITTEN)
        assert counters(damaged)["gets_corrupt"] == counters(damaged)["gets_not_found"] == 0
    shown = damaged.ctl("server", "show").stdout
    assert f"{text.count(found, 'damaged object')} found, {found} repaired" in shown


def test_damage_of_the_only_replica_is_counted_and_logged(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    server = memory_server(store={"scrub_interval": "1m"})
    host = host_daemon(server)
    until(lambda: connected(host))
    with NbdClient.of(host) as client:
        write(host, client, WRITTEN)
    server.stop()
    assert damage(server) > 3
    server.start()
    server.ask("server", "scrub")
    until(lambda: counters(server)["scrub_damaged_records"] > 0)
    until(lambda: "pages are damaged" in server.log())
    assert counters(server)["scrub_repaired_objects"] == 0
