"""The responder of /metrics: what it answers, and what slow or abusive clients cost it."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest
from farswap.common.address import Address
from farswap.common.errors import BindError
from farswap.common.metrics_http import CLIENTS_MAX, REQUEST_BYTES_MAX, MetricsServer
from hang_guard import HANG_GUARD_S
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ANY_PORT = Address.parse("127.0.0.1:0")
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Gauge("answer", "Of all questions.", registry=made).set(42)
    return made


@pytest.fixture
async def server(registry: CollectorRegistry) -> AsyncIterator[Address]:
    made = MetricsServer(registry, timeout_s=HANG_GUARD_S)
    yield await made.start(ANY_PORT)
    await made.stop()


async def talk(address: Address, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_metrics_are_in_the_text_format(server: Address) -> None:
    def get() -> tuple[str, str]:
        with urllib.request.urlopen(f"http://{server}/metrics", timeout=HANG_GUARD_S) as answer:
            return answer.headers["Content-Type"], answer.read().decode()

    kind, text = await asyncio.to_thread(get)
    assert kind.startswith("text/plain; version=")
    assert "answer 42.0\n" in text


async def test_metrics_are_in_openmetrics_on_request(server: Address) -> None:
    accept = b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n"
    answer = await talk(server, accept)
    assert b"application/openmetrics-text" in answer
    assert answer.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (GET, b"200 OK"),
        (b"GET /metrics?name=x HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"\x00\xff\r\n\r\n", b"400 Bad Request"),
        (b"GET /metrics HTTP/2\r\n\r\n", b"400 Bad Request"),
        (b"GET /" + b"x" * REQUEST_BYTES_MAX * 2, b"431 Request Header Fields Too Large"),
    ],
)
async def test_each_request_gets_its_status(
    server: Address, request_: bytes, status: bytes
) -> None:
    assert (await talk(server, request_)).startswith(b"HTTP/1.1 " + status)


async def test_a_client_that_does_not_finish_its_request_is_cut_off(
    registry: CollectorRegistry,
) -> None:
    server = MetricsServer(registry, timeout_s=0.1)
    address = await server.start(ANY_PORT)
    cut_off = talk(address, b"GET /metrics HTTP/1.1\r\n")
    assert await asyncio.wait_for(cut_off, HANG_GUARD_S) == b""
    await server.stop()


async def test_clients_beyond_the_limit_are_disconnected_and_the_others_are_served(
    server: Address,
) -> None:
    idle = [await asyncio.open_connection(server.host, server.port) for _ in range(CLIENTS_MAX)]
    assert await asyncio.wait_for(talk(server, GET), HANG_GUARD_S) == b""
    for _, writer in idle:
        writer.close()
    async with asyncio.timeout(HANG_GUARD_S):
        answer = b""
        while not answer:  # until the server has noticed that they left
            answer = await talk(server, GET)
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_client_that_does_not_read_is_cut_off(registry: CollectorRegistry) -> None:
    Gauge("big", "More than any socket buffers. " * (1 << 20), registry=registry)
    server = MetricsServer(registry, timeout_s=15)  # also for telling so much
    address = await server.start(ANY_PORT)
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.settimeout(0)
        await loop.sock_connect(client, (address.host, address.port))
        await loop.sock_sendall(client, GET)
        assert await loop.sock_recv(client, 4) == b"HTTP"
        (serving,) = server._clients
        await asyncio.wait_for(serving, HANG_GUARD_S)
    await server.stop()


async def test_a_bug_in_a_collector_is_reported_and_costs_nothing_else(
    server: Address, registry: CollectorRegistry
) -> None:
    class Broken(Collector):
        broken = False

        def collect(self):
            assert not self.broken
            return []

    collector = Broken()
    registry.register(collector)
    collector.broken = True
    assert (await talk(server, GET)).startswith(b"HTTP/1.1 500")
    collector.broken = False
    assert (await talk(server, GET)).startswith(b"HTTP/1.1 200")


async def test_an_address_that_is_taken_is_reported(
    server: Address, registry: CollectorRegistry
) -> None:
    with pytest.raises(BindError, match="Address already in use"):
        await MetricsServer(registry).start(server)


async def test_a_unix_socket_does_as_well(registry: CollectorRegistry, short_path: Path) -> None:
    server = MetricsServer(registry)
    await server.start(Address.parse(f"unix:{short_path}/m"))
    reader, writer = await asyncio.open_unix_connection(short_path / "m")
    writer.write(GET)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    await server.stop()
    assert not (short_path / "m").exists()
