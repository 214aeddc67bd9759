"""A host daemon and its memory server that have been at work, and what is asked of them."""

from __future__ import annotations

import random
import urllib.request
from typing import TYPE_CHECKING

from hang_guard import HANG_GUARD_S, until
from nbd_client import NbdClient
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from daemons import Daemon, HostDaemon, MemoryServer

    Fleet = tuple[HostDaemon, MemoryServer]

PAGE_BYTES = 4096
PAGES = 2048
METRICS = {"listen": "127.0.0.1:0"}


def scrape(daemon: Daemon) -> str:
    with urllib.request.urlopen(daemon.metrics_url, timeout=HANG_GUARD_S) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[str, float]:
    """Sums over all labels, by name."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def pages(first: int, count: int, generation: int = 0) -> bytes:
    """Contents that LZ4 makes a quarter of, and zstd half of that."""
    return b"".join(
        random.Random(number << 32 | generation).randbytes(512).hex().encode() * 4
        for number in range(first, first + count)
    )


def page(number: int, generation: int = 0) -> bytes:
    return pages(number, 1, generation)


def connected(host: HostDaemon) -> bool:
    """To all its memory servers."""
    return all(server["connected"] for server in host.ask("status")["servers"])


def write_back(host: HostDaemon, count: int) -> None:
    """Until as many pages are remote, which are all."""

    def moved() -> bool:
        host.ctl("tier", "writeback", "--bytes", f"{count * PAGE_BYTES}B")
        return host.ask("status")["tier"]["remote_pages"] == count

    until(moved)


def store_remotely(host: HostDaemon, count: int) -> None:
    """Writes the first pages of the device, until they are remote."""
    with NbdClient.of(host) as client:
        client.write(0, pages(0, count))
        write_back(host, count)
