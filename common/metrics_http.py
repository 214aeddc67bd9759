"""`/metrics` for Prometheus: a small HTTP responder on the daemon's event loop.

It answers GET /metrics from a registry of prometheus-client, one request per connection. The number
of clients, the size of a request and the time of a connection are bounded. Scrapes run one at a
time, in a worker thread, since collecting takes locks of the data path.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.common import listening, log, unix_socket
from prometheus_client.exposition import choose_encoder

if TYPE_CHECKING:
    from farswap.common.address import Address
    from prometheus_client import CollectorRegistry

_log = log.logger("metrics")

CLIENTS_MAX = 16
REQUEST_BYTES_MAX = 8192
CLIENT_TIMEOUT_S = 10.0

_TEXT = "text/plain; charset=utf-8"


class MetricsServer:
    """start(), then stop(), once."""

    def __init__(self, registry: CollectorRegistry, timeout_s: float = CLIENT_TIMEOUT_S) -> None:
        self._registry = registry
        self._timeout_s = timeout_s
        self._clients: set[asyncio.Task[None]] = set()
        self._scraping = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._unix_path: Path | None = None

    async def start(self, address: Address) -> Address:
        """Listens. Returns the address with its real port. Raises BindError."""
        sock, real = await listening.listen(address)
        serve = asyncio.start_unix_server if real.is_unix else asyncio.start_server
        self._server = await serve(self._on_client, sock=sock, limit=REQUEST_BYTES_MAX)
        self._unix_path = Path(real.path) if real.is_unix else None
        return real

    async def stop(self) -> None:
        """Stops listening and drops clients."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._unix_path is not None:
            unix_socket.remove(self._unix_path)

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(await self._answer(reader))
                writer.write_eof()
                await writer.drain()
                # Wait until the client closes: an earlier close could cut the answer off.
                while await reader.read(REQUEST_BYTES_MAX):
                    pass
        except (TimeoutError, EOFError, OSError):
            pass  # too slow, or gone
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", _TEXT, b"")
        line, *fields = head.decode("latin-1").split("\r\n")
        method, _, rest = line.partition(" ")
        target, _, protocol = rest.partition(" ")
        if not protocol.startswith("HTTP/1."):
            return _response("400 Bad Request", _TEXT, b"")
        if target.partition("?")[0] != "/metrics":
            return _response("404 Not Found", _TEXT, b"metrics are at /metrics\n")
        if method != "GET":
            return _response("405 Method Not Allowed", _TEXT, b"", "Allow: GET\r\n")
        return await self._scrape(fields)

    async def _scrape(self, fields: list[str]) -> bytes:
        accept = next((f.partition(":")[2] for f in fields if f.lower().startswith("accept:")), "")
        encode, content_type = choose_encoder(accept)
        try:
            async with self._scraping:
                body = await asyncio.to_thread(encode, self._registry)
        except Exception:  # noqa: BLE001 - the daemon survives a bug in a collector
            _log.exception("failed to collect metrics")
            return _response("500 Internal Server Error", _TEXT, b"see the daemon's log\n")
        return _response("200 OK", content_type, body)


def _response(status: str, content_type: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body
