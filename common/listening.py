"""Listening stream sockets at an `Address`, and how their clients are noticed to have vanished."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.common import unix_socket
from farswap.common.errors import BindError

if TYPE_CHECKING:
    from farswap.common.address import Address

_BACKLOG = 128


def drop_vanished(listening: socket.socket, keepalive_ms: int) -> None:
    """Ends TCP connections accepted here whose peer's machine stays silent for so long.

    Accepted sockets inherit the options. The kernel probes a connection on which nothing has come
    for a third of the time. TCP_USER_TIMEOUT takes the place of TCP_KEEPCNT and also ends a
    connection whose data waits for so long: unacknowledged, or because a live peer reads nothing.
    The last is meant: such a peer holds a thread, and may connect again.
    """
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, max(1, keepalive_ms // 3000)),
        (socket.TCP_KEEPINTVL, max(1, keepalive_ms // 9000)),
        (socket.TCP_USER_TIMEOUT, keepalive_ms),
    ):
        listening.setsockopt(socket.IPPROTO_TCP, option, value)


def drop_vanished_at(port: int, keepalive_ms: int) -> None:
    """The same for what gRPC listens on in this process, which it does not show.

    gRPC's own pings end such connections too, but its timers stand still for as long as the wall
    clock has been set back.
    """
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found = socket.socket(fileno=int(descriptor.name))
        except OSError:
            continue  # no socket, or closed meanwhile
        try:
            if found.family != socket.AF_UNIX and _listens_at(found, port):
                drop_vanished(found, keepalive_ms)
        finally:
            found.detach()


def _listens_at(sock: socket.socket, port: int) -> bool:
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return bool(listens) and sock.getsockname()[1] == port


async def listen(address: Address) -> tuple[socket.socket, Address]:
    """A listening, non-blocking socket, and its address with the real port. Raises BindError."""
    if address.is_unix:
        return unix_socket.listen(Path(address.path), backlog=_BACKLOG), address
    sock = await _listen_tcp(address)
    return sock, address.with_port(sock.getsockname()[1])


async def _listen_tcp(address: Address) -> socket.socket:
    try:
        # Not the loop's getaddrinfo(): that of uvloop loses the zone of an IPv6 address.
        found = await asyncio.to_thread(
            socket.getaddrinfo,
            address.host,
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        family, _, _, _, where = found[0]
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise BindError(f"{address.with_scheme}: {error.strerror}") from error
    return sock
