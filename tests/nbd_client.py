"""The client's side of NBD, byte by byte, for tests that must also say what no library would.

Uses a blocking socket; every receive has the socket's timeout.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from farswap.client_nbd.nbd import wire
from farswap.client_nbd.nbd.wire import HandshakeFlag, Option, Reply
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from daemons import HostDaemon

REQUEST = struct.Struct(">IHHQQI")
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY = struct.Struct(">IIQ")
SIMPLE_REPLY_MAGIC = 0x67446698
READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, WRITE_ZEROES = range(7)

FIXED = HandshakeFlag.FIXED_NEWSTYLE
NO_ZEROES = HandshakeFlag.NO_ZEROES


def client_flags(flags: int = FIXED | NO_ZEROES) -> bytes:
    return wire.CLIENT_FLAGS.pack(flags)


def option(number: int, data: bytes = b"", *, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return wire.OPTION.pack(wire.OPTION_MAGIC, number, size) + data


def info_data(name: bytes = b"", *types: int) -> bytes:
    requests = struct.pack(f">H{len(types)}H", len(types), *types)
    return wire.LENGTH.pack(len(name)) + name + requests


def go(name: bytes = b"", *types: int) -> bytes:
    return option(Option.GO, info_data(name, *types))


def request(command: int, offset: int, length: int, *, cookie: int = 1, flags: int = 0) -> bytes:
    return REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)


def parse_option_replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """(option, reply type, data) of each; all of `data` must be replies."""
    replies = []
    while data:
        magic, number, kind, length = wire.OPTION_REPLY.unpack_from(data)
        assert magic == wire.OPTION_REPLY_MAGIC
        end = wire.OPTION_REPLY.size + length
        assert len(data) >= end
        replies.append((number, kind, data[wire.OPTION_REPLY.size : end]))
        data = data[end:]
    return replies


class NbdError(Exception):
    """A reply with an error: its number."""


class NbdClient:
    """One connection. connect_unix() or connect_tcp(), negotiate(), then commands."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(HANG_GUARD_S)
        self._cookie = 0

    @classmethod
    def connect_unix(cls, path: str) -> NbdClient:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(HANG_GUARD_S)
        sock.connect(path)
        return cls(sock)

    @classmethod
    def of(cls, host: HostDaemon) -> NbdClient:
        """In the transmission phase."""
        client = cls.connect_unix(host.nbd_path)
        client.negotiate(host.export)
        return client

    @classmethod
    def connect_tcp(cls, address: tuple[str, int]) -> NbdClient:
        return cls(socket.create_connection(address, HANG_GUARD_S))

    def __enter__(self) -> NbdClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise ConnectionResetError(f"end of stream after {len(data)} of {count} bytes")
            data += piece
        return bytes(data)

    def at_end(self) -> bool:
        """Whether the server hangs up, without having sent anything more."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def receive_greeting(self) -> int:
        """The handshake flags."""
        magic, option_magic, flags = wire.GREETING.unpack(self.receive(wire.GREETING.size))
        assert (magic, option_magic) == (wire.NBD_MAGIC, wire.OPTION_MAGIC)
        return flags

    def receive_option_reply(self) -> tuple[int, int, bytes]:
        header = self.receive(wire.OPTION_REPLY.size)
        data = self.receive(wire.OPTION_REPLY.unpack(header)[3])
        return parse_option_replies(header + data)[0]

    def negotiate(self, name: str = "") -> int:
        """The export's size; the transmission phase follows."""
        self.receive_greeting()
        self.send(client_flags() + go(name.encode()))
        size = 0
        while True:
            _, kind, data = self.receive_option_reply()
            if kind == Reply.ACK:
                return size
            assert kind == Reply.INFO, f"refused: {data!r}"
            _, size, _ = wire.INFO_EXPORT.unpack(data)

    def command(self, number: int, offset: int, length: int, payload: bytes = b"") -> bytes:
        """One request and its reply. Raises NbdError."""
        self._cookie += 1
        self.send(request(number, offset, length, cookie=self._cookie) + payload)
        magic, error, cookie = SIMPLE_REPLY.unpack(self.receive(SIMPLE_REPLY.size))
        assert (magic, cookie) == (SIMPLE_REPLY_MAGIC, self._cookie)
        if error:
            raise NbdError(error)
        return self.receive(length) if number == READ else b""

    def read(self, offset: int, length: int) -> bytes:
        return self.command(READ, offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self.command(WRITE, offset, len(data), data)
