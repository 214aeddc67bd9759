"""The kernel's nbd driver by generic netlink: connect, reconfigure, disconnect, state of a device.

Two rings. The functions of the first are sans-IO: they turn requests into bytes and bytes into
values (netlink(7); linux/genetlink.h; linux/nbd-netlink.h). `NbdNetlink` is the thin second
ring: one socket, one request at a time, blocking with a deadline. Call it from a worker thread.

Not pyroute2: only four commands of one family are needed, and that package brings a framework with
threads into a daemon in the reclaim path.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# linux/netlink.h
_NETLINK_GENERIC = 16
_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLMSG_ERROR = 2
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
# struct nlmsghdr: length, type, flags, sequence, port; all netlink is in host byte order.
_MESSAGE_HEADER = struct.Struct("=IHHII")
# struct genlmsghdr: command, version, reserved.
_GENERIC_HEADER = struct.Struct("=BBH")
_ATTRIBUTE_HEADER = struct.Struct("=HH")

# linux/genetlink.h
_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2

# linux/nbd-netlink.h
_NBD_VERSION = 1
_NBD_CMD_CONNECT = 1
_NBD_CMD_DISCONNECT = 2
_NBD_CMD_RECONFIGURE = 3
_NBD_CMD_STATUS = 5
_NBD_ATTR_INDEX = 1
_NBD_ATTR_SIZE_BYTES = 2
_NBD_ATTR_BLOCK_SIZE_BYTES = 3
_NBD_ATTR_TIMEOUT = 4
_NBD_ATTR_SERVER_FLAGS = 5
_NBD_ATTR_SOCKETS = 7
_NBD_ATTR_DEAD_CONN_TIMEOUT = 8
_NBD_ATTR_DEVICE_LIST = 9
_NBD_ATTR_BACKEND_IDENTIFIER = 10
_NBD_SOCK_ITEM = 1
_NBD_SOCK_FD = 1
_NBD_DEVICE_INDEX = 1
_NBD_DEVICE_CONNECTED = 2

# linux/nbd.h, transmission flags of the NBD protocol
FLAG_HAS_FLAGS = 1 << 0
FLAG_SEND_TRIM = 1 << 5
FLAG_CAN_MULTI_CONN = 1 << 8

# CONNECT answers after the driver has started the device, without I/O.
_DEADLINE_S = 10.0
_RECEIVE_BYTES = 1 << 16


class Message(NamedTuple):
    """One netlink message: its type, sequence number and payload."""

    kind: int
    sequence: int
    payload: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """struct nlattr with its payload, padded to four bytes."""
    header = _ATTRIBUTE_HEADER.pack(_ATTRIBUTE_HEADER.size + len(payload), kind)
    return header + payload + bytes(-len(payload) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each attribute. Raises ValueError for invalid bytes."""
    for (_, kind), payload in _parts(data, _ATTRIBUTE_HEADER, "attribute"):
        yield kind & _NLA_TYPE_MASK, payload


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises ValueError for invalid bytes."""
    for (_, kind, _, sequence, _), payload in _parts(data, _MESSAGE_HEADER, "message"):
        yield Message(kind, sequence, payload)


def _parts(
    data: bytes, header: struct.Struct, what: str
) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Fields of each header, of which the first is the length of the part, and the payload."""
    at = 0
    while at < len(data):
        if len(data) - at < header.size:
            raise ValueError(f"netlink {what} cut short")
        size, *_ = fields = header.unpack_from(data, at)
        if size < header.size or at + size > len(data):
            raise ValueError(f"netlink {what} of {size} bytes")
        yield fields, data[at + header.size : at + size]
        at += (size + 3) & ~3


def request(family: int, command: int, version: int, sequence: int, body: bytes) -> bytes:
    """A generic netlink request with acknowledgement."""
    generic = _GENERIC_HEADER.pack(command, version, 0) + body
    flags = _NLM_F_REQUEST | _NLM_F_ACK
    size = _MESSAGE_HEADER.size + len(generic)
    return _MESSAGE_HEADER.pack(size, family, flags, sequence, 0) + generic


def generic_body(payload: bytes) -> bytes:
    """The attributes of a generic netlink message, without its header."""
    return payload[_GENERIC_HEADER.size :]


def error_number(payload: bytes) -> int:
    """errno of a NLMSG_ERROR's payload; 0 is an acknowledgement."""
    return -int(struct.unpack_from("=i", payload)[0])


def get_family_body(name: str) -> bytes:
    """CTRL_CMD_GETFAMILY."""
    return attribute(_CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")


def family_id(body: bytes) -> int:
    """The number of the family, of a GETFAMILY answer's attributes."""
    return int(struct.unpack("=H", dict(attributes(body))[_CTRL_ATTR_FAMILY_ID])[0])


def connect_body(
    *,
    index: int,
    size_bytes: int,
    block_bytes: int,
    flags: int,
    timeout_s: int,
    dead_connection_timeout_s: int,
    backend: str,
    descriptors: Sequence[int],
) -> bytes:
    """NBD_CMD_CONNECT."""
    return b"".join(
        (
            attribute(_NBD_ATTR_INDEX, struct.pack("=I", index)),
            attribute(_NBD_ATTR_SIZE_BYTES, struct.pack("=Q", size_bytes)),
            attribute(_NBD_ATTR_BLOCK_SIZE_BYTES, struct.pack("=Q", block_bytes)),
            attribute(_NBD_ATTR_SERVER_FLAGS, struct.pack("=Q", flags)),
            attribute(_NBD_ATTR_TIMEOUT, struct.pack("=Q", timeout_s)),
            attribute(_NBD_ATTR_DEAD_CONN_TIMEOUT, struct.pack("=Q", dead_connection_timeout_s)),
            _backend(backend),
            _sockets(descriptors),
        )
    )


def reconfigure_body(*, index: int, backend: str, descriptor: int) -> bytes:
    """NBD_CMD_RECONFIGURE: a socket for a connection that has ended. `backend` as at CONNECT."""
    return index_body(index) + _backend(backend) + _sockets([descriptor])


def _backend(backend: str) -> bytes:
    return attribute(_NBD_ATTR_BACKEND_IDENTIFIER, backend.encode() + b"\0")


def _sockets(descriptors: Sequence[int]) -> bytes:
    items = b"".join(
        attribute(
            _NBD_SOCK_ITEM | _NLA_F_NESTED, attribute(_NBD_SOCK_FD, struct.pack("=I", descriptor))
        )
        for descriptor in descriptors
    )
    return attribute(_NBD_ATTR_SOCKETS | _NLA_F_NESTED, items)


def index_body(index: int) -> bytes:
    """NBD_CMD_DISCONNECT and NBD_CMD_STATUS of one device."""
    return attribute(_NBD_ATTR_INDEX, struct.pack("=I", index))


def connected_by_index(body: bytes) -> dict[int, bool]:
    """Devices and whether they have a server, of a NBD_CMD_STATUS answer's attributes."""
    found: dict[int, bool] = {}
    for kind, devices in attributes(body):
        if kind != _NBD_ATTR_DEVICE_LIST:
            continue
        for _, device in attributes(devices):
            fields = dict(attributes(device))
            index = struct.unpack("=I", fields[_NBD_DEVICE_INDEX])[0]
            found[index] = fields[_NBD_DEVICE_CONNECTED] != b"\0"
    return found


class NbdNetlink:
    """A socket to the driver. Methods raise OSError; ENOENT: the driver is not loaded."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC
        )
        self._sequence = 0
        try:
            self._socket.settimeout(_DEADLINE_S)
            self._socket.bind((0, 0))
            # The kernel answers, or refuses with ENOENT; it never only acknowledges.
            (answer,) = self._call(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, 1, get_family_body("nbd"))
            self._family = family_id(answer)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def connect(self, body: bytes) -> None:
        """`body` is of connect_body(). EBUSY: the device has a server."""
        self._call(self._family, _NBD_CMD_CONNECT, _NBD_VERSION, body)

    def reconfigure(self, body: bytes) -> None:
        """`body` is of reconfigure_body(). If no connection has ended, the socket is closed."""
        self._call(self._family, _NBD_CMD_RECONFIGURE, _NBD_VERSION, body)

    def disconnect(self, index: int) -> None:
        """The driver sends NBD_CMD_DISC on every socket and releases the device."""
        self._call(self._family, _NBD_CMD_DISCONNECT, _NBD_VERSION, index_body(index))

    def is_connected(self, index: int) -> bool:
        """Whether the device has a server."""
        answers = self._call(self._family, _NBD_CMD_STATUS, _NBD_VERSION, index_body(index))
        return any(connected_by_index(body).get(index, False) for body in answers)

    def _call(self, family: int, command: int, version: int, body: bytes) -> list[bytes]:
        """Attributes of the answers before the acknowledgement."""
        self._sequence += 1
        self._socket.send(request(family, command, version, self._sequence, body))
        answers: list[bytes] = []
        while True:
            for message in messages(self._socket.recv(_RECEIVE_BYTES)):
                if message.sequence != self._sequence:
                    continue
                if message.kind != _NLMSG_ERROR:
                    answers.append(generic_body(message.payload))
                    continue
                number = error_number(message.payload)
                if number:
                    raise OSError(number, os.strerror(number))
                return answers
