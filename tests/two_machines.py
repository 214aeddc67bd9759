"""Two network namespaces with a link that can be cut: to each other they are two machines.

After cut() one of them has lost its power or its network, as seen by the other: no FIN, no RST.
Sockets, and child processes, belong to the namespace in which they were made.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NEAR, FAR = "10.99.0.1", "10.99.0.2"

_CLONE_NEWNET = 0x40000000
_OF_THREAD = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class NetworkNamespace:
    """With nothing in it but a loopback device. It ends with the last who uses it."""

    def __init__(self) -> None:
        with _staying_here():
            _checked(_libc.unshare(_CLONE_NEWNET))
            self.fd = os.open(_OF_THREAD, os.O_RDONLY)
            _ip("link", "set", "lo", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in it."""
        with _staying_here():
            _checked(_libc.setns(self.fd, _CLONE_NEWNET))
            yield

    def close(self) -> None:
        os.close(self.fd)


class TwoMachines:
    """`near`, at NEAR, and `far`, at FAR."""

    def __init__(self) -> None:
        self.near, self.far = NetworkNamespace(), NetworkNamespace()
        far = f"/proc/{os.getpid()}/fd/{self.far.fd}"
        with self.near.entered():
            _ip("link", "add", "link0", "type", "veth", "peer", "name", "link0", "netns", far)
        for namespace, address in ((self.near, NEAR), (self.far, FAR)):
            with namespace.entered():
                _ip("address", "add", f"{address}/24", "dev", "link0")
                _ip("link", "set", "link0", "up")

    def cut(self) -> None:
        """Nothing that one of them sends from now on reaches the other."""
        with self.far.entered():
            _ip("link", "set", "link0", "down")

    def join(self) -> None:
        """Ends cut()."""
        with self.far.entered():
            _ip("link", "set", "link0", "up")

    def close(self) -> None:
        self.near.close()
        self.far.close()


@contextlib.contextmanager
def _staying_here() -> Iterator[None]:
    """Brings this thread back to the namespace that it is in."""
    here = os.open(_OF_THREAD, os.O_RDONLY)
    try:
        yield
    finally:
        _checked(_libc.setns(here, _CLONE_NEWNET))
        os.close(here)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
