"""Network namespaces as machines: sockets, and child processes, belong to the one that made them.

A `Network` joins several by a router, which can drop what one of them sends to another: to both
that looks like a broken network, without FIN or RST.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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
            ip("link", "set", "lo", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in it."""
        with _staying_here():
            _checked(_libc.setns(self.fd, _CLONE_NEWNET))
            yield

    def close(self) -> None:
        os.close(self.fd)

    @property
    def path(self) -> str:
        """For other processes, while this one has it open."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def by(self) -> tuple[str, ...]:
        """The command that runs another one in it."""
        return ("nsenter", f"--net={self.path}", "--")


class Network:
    """`count` machines, numbered from 0, behind a router. Needs root."""

    def __init__(self, count: int) -> None:
        self.router = NetworkNamespace()
        self.machines = [NetworkNamespace() for _ in range(count)]
        self._cuts: set[tuple[int, int]] = set()
        with self.router.entered():
            settings = Path("/proc/sys/net/ipv4")
            (settings / "ip_forward").write_text("1")
            # The rules of cut() are for what is sent, and none for the way back.
            for name in ("all", "default"):
                (settings / "conf" / name / "rp_filter").write_text("0")
        for number in range(count):
            self._connect(number)

    def address(self, number: int) -> str:
        """Of the machine."""
        return f"10.99.{number}.2"

    def cut(self, sender: int, receiver: int) -> None:
        """Nothing that the sender sends reaches the receiver any more."""
        self._cuts.add((sender, receiver))
        self._rule("add", sender, receiver)

    def join(self) -> None:
        """Ends all cuts."""
        while self._cuts:
            self._rule("del", *self._cuts.pop())

    def close(self) -> None:
        """Once no process needs it."""
        for namespace in (self.router, *self.machines):
            namespace.close()

    def _connect(self, number: int) -> None:
        machine, link = self.machines[number], f"link{number}"
        with self.router.entered():
            ip("link", "add", link, "type", "veth", "peer", "name", "link0", "netns", machine.path)
            ip("address", "add", f"10.99.{number}.1/24", "dev", link)
            ip("link", "set", link, "up")
        with machine.entered():
            ip("address", "add", f"{self.address(number)}/24", "dev", "link0")
            ip("link", "set", "link0", "up")
            ip("route", "add", "default", "via", f"10.99.{number}.1")

    def _rule(self, verb: str, sender: int, receiver: int) -> None:
        ends = ("from", self.address(sender), "to", self.address(receiver))
        with self.router.entered():
            ip("rule", verb, *ends, "blackhole")


@contextlib.contextmanager
def _staying_here() -> Iterator[None]:
    """Brings this thread back to the namespace that it is in."""
    here = os.open(_OF_THREAD, os.O_RDONLY)
    try:
        yield
    finally:
        _checked(_libc.setns(here, _CLONE_NEWNET))
        os.close(here)


def ip(*arguments: str) -> None:
    """Runs ip(8), in the namespace of this thread."""
    subprocess.run(["ip", *arguments], check=True)
