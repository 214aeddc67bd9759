"""A host daemon and its memory server that have been at work, and what is asked of them."""

from __future__ import annotations

import random
import urllib.request
from typing import TYPE_CHECKING

from hang_guard import HANG_GUARD_S
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
