"""Accepts NBD clients: asyncio around the sans-IO handshake, then native threads get the socket.

One task per listening socket accepts; one task per client negotiates, under a deadline. The number
of clients in their handshake is bounded (further ones wait in the backlog), and so is the number of
all clients (further ones are disconnected). A client's error ends its connection and is logged;
other clients are not affected.

Sockets are raw and non-blocking during the handshake, so that no library reads bytes of the
transmission phase. The engine owns the descriptor from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.client_nbd.nbd.handshake import (
    Aborted,
    Export,
    Handshake,
    NeedData,
    Negotiated,
    Violation,
)
from farswap.common import listening, log, unix_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from farswap.common.address import Address
    from farswap.native import HostEngine

    # As HostEngine.serve().
    Serve = Callable[[int, bytes, str], int]


HANDSHAKES_MAX = 64
_RECEIVE_BYTES = 64 << 10
# When descriptors have run out, accept() fails at once and would spin.
_ACCEPT_RETRY_S = 0.1

_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid

_log = log.logger("nbd")


class NbdListener:
    """The NBD addresses of one export. start(), then stop(), once."""

    def __init__(
        self,
        *,
        export_name: str,
        export_bytes: int,
        engine: HostEngine,
        serve: Serve,
        connections_max: int,
        handshake_timeout_ms: int,
        keepalive_ms: int,
    ) -> None:
        self._export = Export(export_name, export_bytes, "farswap swap device")
        self._engine = engine
        self._serve = serve
        self._connections_max = connections_max
        self._handshake_timeout_s = handshake_timeout_ms / 1000
        self._keepalive_ms = keepalive_ms
        self._handshakes = asyncio.Semaphore(HANDSHAKES_MAX)
        self._listening: list[socket.socket] = []
        self._unix_paths: list[Path] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._negotiating: set[asyncio.Task[None]] = set()

    async def start(self, addresses: Sequence[Address]) -> list[Address]:
        """Listens on all of them; returns the real addresses. On BindError it listens on none."""
        try:
            real = [await self._listen(address) for address in addresses]
        except BaseException:
            await self.stop()
            raise
        self._accepting = [asyncio.create_task(self._accept(sock)) for sock in self._listening]
        return real

    async def stop(self) -> None:
        """Stops listening and drops clients in their handshake; served ones are the engine's."""
        tasks = [*self._accepting, *self._negotiating]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._accepting.clear()
        for sock in self._listening:
            sock.close()
        self._listening.clear()
        for path in self._unix_paths:
            unix_socket.remove(path)
        self._unix_paths.clear()

    # --- Listening

    async def _listen(self, address: Address) -> Address:
        sock, real = await listening.listen(address)
        self._listening.append(sock)
        if real.is_unix:
            self._unix_paths.append(Path(real.path))
        else:
            listening.drop_vanished(sock, self._keepalive_ms)
        return real

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._handshakes.acquire()
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as error:
                self._handshakes.release()
                _log.warning("failed to accept a client", error=error.strerror)
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            except asyncio.CancelledError:
                self._handshakes.release()
                raise
            task = asyncio.create_task(self._negotiate(client))
            self._negotiating.add(task)
            task.add_done_callback(functools.partial(self._negotiated, client))

    def _negotiated(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        client.close()  # no longer open if it was handed over
        self._negotiating.discard(task)
        self._handshakes.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("internal error in the handshake", exc_info=error)

    # --- One client

    async def _negotiate(self, client: socket.socket) -> None:
        peer = _peer_name(client)
        try:
            async with asyncio.timeout(self._handshake_timeout_s):
                event = await _converse(client, Handshake(self._export))
        except TimeoutError:
            _log.warning("handshake took too long", peer=peer)
            return
        except OSError as error:
            _log.info("client left in its handshake", peer=peer, error=error.strerror)
            return
        match event:
            case Negotiated(initial):
                self._hand_over(client, initial, peer)
            case Violation(reason):
                _log.warning("handshake refused", peer=peer, reason=reason)
            case Aborted():
                _log.debug("client ended its handshake", peer=peer)

    def _hand_over(self, client: socket.socket, initial: bytes, peer: str) -> None:
        if len(self._engine.connections()) >= self._connections_max:
            _log.warning(
                "refusing client: nbd.connections_max is reached",
                peer=peer,
                connections_max=self._connections_max,
            )
            return
        client.settimeout(None)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection = self._serve(client.detach(), initial, peer)
        except RuntimeError as error:
            _log.error("failed to serve a client", peer=peer, error=str(error))
            return
        _log.info("client connected", peer=peer, connection=connection)


async def _converse(
    client: socket.socket, handshake: Handshake
) -> Negotiated | Aborted | Violation:
    """Runs the handshake to its last event. Raises OSError if the client leaves."""
    loop = asyncio.get_running_loop()
    while True:
        event = handshake.next_event()
        answer = handshake.data_to_send()
        if answer:
            # A client may abort without waiting for the answer.
            quiet = contextlib.suppress(OSError) if event == Aborted() else contextlib.nullcontext()
            with quiet:
                await loop.sock_sendall(client, answer)
        if not isinstance(event, NeedData):
            return event
        received = await loop.sock_recv(client, _RECEIVE_BYTES)
        if not received:
            raise ConnectionResetError(0, "end of stream")
        handshake.receive_data(received)


def _peer_name(client: socket.socket) -> str:
    """`unix pid=N` or `tcp:IP:PORT`, for logs and status."""
    try:
        if client.family == socket.AF_UNIX:
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            return f"unix pid={_UCRED.unpack(credentials)[0]}"
        host, port, *_ = client.getpeername()
    except OSError as error:
        return f"gone ({os.strerror(error.errno or 0)})"
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
