"""Listening stream sockets at an `Address`, and detection of vanished clients."""

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
    """Closes TCP connections accepted here whose peer is silent for `keepalive_ms`.

    Accepted sockets inherit the options. The kernel probes a connection that is idle for a third of
    the time. TCP_USER_TIMEOUT replaces TCP_KEEPCNT and also closes connections whose data waits for
    so long, unacknowledged or unread. That is intended: such a peer holds a thread, and can connect
    again.
    """
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, max(1, keepalive_ms // 3000)),
        (socket.TCP_KEEPINTVL, max(1, keepalive_ms // 9000)),
        (socket.TCP_USER_TIMEOUT, keepalive_ms),
    ):
        listening.setsockopt(socket.IPPROTO_TCP, option, value)


def drop_vanished_at(port: int, keepalive_ms: int) -> None:
    """The same for gRPC's listening sockets in this process, which gRPC does not expose.

    gRPC's pings close such connections too, but its timers stop while the wall clock is behind an
    earlier value.
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
