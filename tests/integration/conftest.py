"""What tests of real daemons share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fleet import METRICS, PAGE_BYTES, PAGES, pages
from nbd_client import TRIM, NbdClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import MakeHost, MakeServer
    from fleet import Fleet


@pytest.fixture
def fleet(memory_server: MakeServer, host_daemon: MakeHost) -> Iterator[Fleet]:
    """A host that has done everything that leaves traces in counters, and its server."""
    server = memory_server(metrics=METRICS)
    host = host_daemon(server, metrics=METRICS)
    with NbdClient.of(host) as client:
        for first in range(0, PAGES, 64):
            client.write(first * PAGE_BYTES, pages(first, 64))
        client.write(0, pages(0, 100, 1))
        client.write(PAGES * PAGE_BYTES, bytes(PAGE_BYTES))
        client.command(TRIM, 0, 10 * PAGE_BYTES)
        moved = host.ctl("tier", "writeback", "--bytes", "4MiB")
        assert moved.returncode == 0, moved.stderr
        for first in range(128, PAGES, 64):
            assert client.read(first * PAGE_BYTES, 64 * PAGE_BYTES) == pages(first, 64)
        yield host, server
