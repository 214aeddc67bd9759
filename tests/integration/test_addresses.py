"""Addresses as operators write them: daemons, gRPC and farswapctl take them for the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hang_guard import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import MakeHost, MakeServer

ODD_NAMES = (
    *("with blank", "per%20cent", "hash#x", "quest?x", "colon:1", r"swap\x2d0", "ünï", "q'uote"),
    *('q"uote', "@at", "a&b=c", "100%", "[x]", "semi;colon"),
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_socket_path_is_served_and_reached(
    host_daemon: MakeHost, short_path: Path, name: str
) -> None:
    directory = short_path / name
    directory.mkdir()
    host = host_daemon(
        nbd={"listen": [f"unix:{directory}/nbd"]},
        admin={"listen": f"unix:{directory}/admin"},
        metrics={"listen": f"unix:{directory}/metrics"},
    )
    host.ready["admin"] = f"unix:{directory}/admin"  # as the operator writes it
    status = host.ask("status")
    assert status["device"]["listen"] == [f"unix:{directory}/nbd"]
    assert {path.name for path in directory.iterdir()} == {"nbd", "admin", "metrics"}
    assert host.stop() == 0
    assert list(directory.iterdir()) == []


class Namespace:
    """A network namespace with two interfaces that share a link-local address."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.by = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def set_up(self) -> None:
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._holder.pid}/ns/net").readlink() == own:
            assert self._holder.poll() is None
        for command in (
            "link set lo up",
            # The second's name begins like an escape of a URI.
            "link add farswap0 type veth peer name d0",
            "link set farswap0 up",
            "link set d0 up",
            "addr add fe80::1/64 dev farswap0 nodad",
            "addr add fe80::1/64 dev d0 nodad",
        ):
            subprocess.run([*self.by, "ip", *command.split()], check=True)

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        pytest.skip("needs root, and ip, unshare and nsenter")
    made = Namespace()
    try:
        made.set_up()
        yield made
    finally:
        made.close()


# Connects to host and port, sends its third argument, and prints the first line of the answer.
CONVERSE = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as peer:
    peer.sendall(sys.argv[3].encode())
    print(peer.recv(8))
"""


@pytest.mark.root
@pytest.mark.parametrize("zone", ["farswap0", "d0"])
def test_ipv6_zones_go_wherever_addresses_go(
    memory_server: MakeServer, host_daemon: MakeHost, namespace: Namespace, zone: str
) -> None:
    by, anywhere = namespace.by, f"[fe80::1%{zone}]:0"
    server = memory_server(
        by=by, server={"listen": anywhere, "advertise": anywhere}, admin={"listen": anywhere}
    )
    assert server.pages.startswith(f"[fe80::1%{zone}]:")
    host = host_daemon(
        server,
        by=by,
        nbd={"listen": [f"tcp:{anywhere}"], "allow_remote": True},
        admin={"listen": anywhere},
        metrics={"listen": anywhere},
    )
    until(lambda: host.ask("status")["servers"][0]["connected"])
    assert host.ask("status")["servers"][0]["address"] == server.pages
    assert server.ask("server", "show")["advertise"] == server.pages

    def converse(address: str, text: str) -> str:
        peer, _, port = address.removeprefix("tcp:").rpartition(":")
        program = [*by, sys.executable, "-c", CONVERSE, peer.strip("[]"), port, text]
        return subprocess.run(program, check=True, capture_output=True, text=True).stdout

    assert converse(host.ready["nbd"], "") == "b'NBDMAGIC'\n"
    assert converse(host.ready["metrics"], "GET /metrics HTTP/1.1\r\n\r\n") == "b'HTTP/1.1'\n"
