"""Listening stream sockets at an `Address`, for services that are not gRPC's."""

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


async def listen(address: Address) -> tuple[socket.socket, Address]:
    """A listening, non-blocking socket, and its address with the real port. Raises BindError."""
    if address.is_unix:
        return unix_socket.listen(Path(address.path), backlog=_BACKLOG), address
    sock = await _listen_tcp(address)
    return sock, address.with_port(sock.getsockname()[1])


async def _listen_tcp(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
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
