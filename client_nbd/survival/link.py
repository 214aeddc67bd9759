"""Messages between the supervisor and a worker, over a socketpair.

    supervisor ──▶ worker      Orders, first of all; then News
    worker ──▶ supervisor      Report: what outlives it, and when it serves

A message is JSON; the descriptors of what it names travel with it. The socket keeps messages apart,
and what a worker has sent is received also after its death.
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
_DESCRIPTORS_MAX = 250  # SCM_MAX_FD of the kernel: 253

# A kind of memory without a descriptor: a segment is found by its id.
SYSV = "sysv"


class Kept(msgspec.Struct, frozen=True):
    """What outlives a worker: memory of a kind, or a socket.

    `number` is a descriptor of this process, or a System V id.
    """

    name: str
    kind: str
    number: int

    @property
    def has_descriptor(self) -> bool:
        """Whether `number` is one."""
        return self.kind != SYSV

    def close(self) -> None:
        """Closes the descriptor."""
        if self.has_descriptor:
            os.close(self.number)


class Ring(msgspec.Struct, frozen=True):
    """An io_uring: its descriptor, the same in all workers, and its io_uring_params in hex."""

    descriptor: int
    parameters: str


class Death(msgspec.Struct, frozen=True):
    """End of a worker. `at_ns` is of CLOCK_MONOTONIC, some time after it."""

    how: str
    at_ns: int


class Orders(msgspec.Struct, frozen=True):
    """For a new worker. `config` is the text of the configuration file.

    It stays the same over the workers of a supervisor: memory of other sizes would not fit. A
    standby has a worker before it that lives; `death` is that of the last worker, if it is known.
    """

    supervisor: int  # its process id
    config: str
    kept: tuple[Kept, ...]
    rings: tuple[Ring, ...] = ()
    standby: bool = False
    death: Death | None = None


class News(msgspec.Struct, frozen=True):
    """For a worker that waits, or has just taken over."""

    kept: tuple[Kept, ...] = ()
    dropped: tuple[str, ...] = ()
    death: Death | None = None
    standby: bool | None = None  # whether one waits now; None: as before
    answer: int = 0  # to the report with this number: it has been carried out


class Report(msgspec.Struct, frozen=True):
    """Of a worker. `kept` was made by it; `dropped` are names of what has ended.

    `waiting`: it has the memory of another worker and waits for its end; `serving`: all works;
    `ending`: in order, so that no other worker may take over. A report with a number is answered.
    """

    kept: tuple[Kept, ...] = ()
    dropped: tuple[str, ...] = ()
    waiting: bool = False
    serving: bool = False
    ending: bool = False
    number: int = 0


Message = TypeVar("Message", Orders, News, Report)


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

    def send(self, message: Orders | News | Report) -> None:
        """The other end has the descriptors as well from then on."""
        descriptors = [kept.number for kept in message.kept if kept.has_descriptor]
        socket.send_fds(self._socket, [msgspec.json.encode(message)], descriptors)

    def never_wait(self) -> None:
        """From now on send() and receive() raise BlockingIOError instead."""
        self._socket.settimeout(0)

    def receive(self, kind: type[Message], *, wait: bool = True) -> Message:
        """A message of this kind. Raises BlockingIOError if there is none and it may not wait."""
        # Not socket.recv_fds(), which ignores the flags (Python 3.11).
        flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
        data, ancillary, _, _ = self._socket.recvmsg(
            _MESSAGE_BYTES_MAX, socket.CMSG_SPACE(4 * _DESCRIPTORS_MAX), flags
        )
        if not data:
            raise EOFError("the other end is closed")
        message = msgspec.json.decode(data, type=kind)
        descriptors = iter(array.array("i", ancillary[0][2]) if ancillary else ())
        here = tuple(
            msgspec.structs.replace(kept, number=next(descriptors)) if kept.has_descriptor else kept
            for kept in message.kept
        )
        return msgspec.structs.replace(message, kept=here)
