"""Messages between the supervisor and a worker, over a socketpair.

    supervisor ──▶ worker      Orders, first of all
    worker ──▶ supervisor      Report, when it has made the memory, and when it serves

A message is JSON; the descriptor of a memory travels with it. The socket keeps messages apart, and
what a worker has sent is received also after its death.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

_MESSAGE_BYTES_MAX = 1 << 20

# A kind without a descriptor: a segment is found by its id.
SYSV = "sysv"


class KeptMemory(msgspec.Struct, frozen=True):
    """Memory that outlives a worker. `number` is a descriptor of this process, or a System V id."""

    kind: str
    number: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor, if it has one."""
        return () if self.kind == SYSV else (self.number,)

    def close(self) -> None:
        """Closes the descriptor."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class Death(msgspec.Struct, frozen=True):
    """End of the last worker. `at_ns` is of CLOCK_MONOTONIC."""

    how: str
    at_ns: int


class Orders(msgspec.Struct, frozen=True):
    """For a new worker. `config` is the text of the configuration file.

    It stays the same over the workers of a supervisor: memory of other sizes would not fit.
    """

    supervisor: int  # its process id
    config: str
    memory: KeptMemory | None
    death: Death | None


class Report(msgspec.Struct, frozen=True):
    """Of a worker. `memory` was made by it."""

    memory: KeptMemory | None = None
    serving: bool = False


Message = TypeVar("Message", Orders, Report)


class Link:
    """One end. Raises EOFError when the other end is closed, OSError."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Link, Link]:
        """Two ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    @classmethod
    def inherited(cls, descriptor: int) -> Link:
        """Of a descriptor that the program was started with. It is closed at the next exec."""
        os.set_inheritable(descriptor, False)  # noqa: FBT003
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """For poll()."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()

    @contextlib.contextmanager
    def inheritable(self) -> Iterator[int]:
        """The descriptor, which a program started meanwhile has."""
        os.set_inheritable(self.fileno(), True)  # noqa: FBT003
        try:
            yield self.fileno()
        finally:
            os.set_inheritable(self.fileno(), False)  # noqa: FBT003

    def send(self, message: Orders | Report) -> None:
        """The other end has the memory's descriptor as well from then on."""
        descriptors = message.memory.descriptors if message.memory else ()
        socket.send_fds(self._socket, [msgspec.json.encode(message)], descriptors)

    def receive(self, kind: type[Message]) -> Message:
        """Waits for a message of this kind."""
        # Not socket.recv_fds(), which ignores the flag (Python 3.11).
        data, ancillary, _, _ = self._socket.recvmsg(
            _MESSAGE_BYTES_MAX, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        descriptors = [number for _, _, rights in ancillary for number in array.array("i", rights)]
        if not data:
            raise EOFError("the other end is closed")
        message = msgspec.json.decode(data, type=kind)
        if not descriptors or message.memory is None:
            return message
        here = msgspec.structs.replace(message.memory, number=descriptors[0])
        return msgspec.structs.replace(message, memory=here)
