"""Peers whose machine loses its power or its network: each daemon frees what it held for them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hang_guard import HANG_GUARD_S, until
from nbd_client import READ, NbdClient, request
from two_machines import NEAR, TwoMachines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import MakeHost, MakeServer
    from daemons import Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]

KEEPALIVE = "3s"
# An HTTP/2 client's first words, with settings that change nothing.
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PAGES_READ_BY_NOBODY = 1024


@pytest.fixture
def machines() -> Iterator[TwoMachines]:
    made = TwoMachines()
    yield made
    made.close()


def open_sockets(daemon: Daemon) -> int:
    count = 0
    for descriptor in Path(f"/proc/{daemon.worker_pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += str(descriptor.readlink()).startswith("socket:")
    return count


def probed_by_the_kernel(machines: TwoMachines, port: int) -> int:
    """How many connections at the near machine's port have a timer that probes the peer."""
    with machines.near.entered():
        listed = subprocess.run(
            ["ss", "-tnoH", "state", "established", f"sport = :{port}"],
            capture_output=True,
            text=True,
            check=True,
        )
    return listed.stdout.count("timer:(keepalive")


def wait_until_open(daemon: Daemon, count: int) -> None:
    until(lambda: open_sockets(daemon) == count)


def test_nbd_clients_that_vanish_give_their_places_back(
    machines: TwoMachines, host_daemon: MakeHost
) -> None:
    with machines.near.entered():
        host = host_daemon(
            nbd={
                "listen": [f"tcp:{NEAR}:0"],
                "allow_remote": True,
                "connections_max": 3,
                "keepalive": KEEPALIVE,
                "handshake_timeout": KEEPALIVE,
            }
        )
        sockets = open_sockets(host)
        alive = NbdClient.connect_tcp(host.nbd_tcp)
    with machines.far.entered():
        idle, reading, greeted = (NbdClient.connect_tcp(host.nbd_tcp) for _ in range(3))
    with alive, idle, reading, greeted:
        for client in (alive, idle, reading):
            client.negotiate()
        alive.write(0, b"x" * 4096)
        greeted.receive_greeting()
        # More than both sockets hold: the daemon's thread waits in the middle of its replies.
        reading.send(request(READ, 0, 4096) * PAGES_READ_BY_NOBODY)
        assert idle.read(0, 4096) == b"x" * 4096
        wait_until_open(host, sockets + 4)
        machines.cut()
        # The one within the near machine stays, though it says nothing either.
        wait_until_open(host, sockets + 1)
        assert alive.read(0, 4096) == b"x" * 4096
        with machines.near.entered():
            others = [NbdClient.connect_tcp(host.nbd_tcp) for _ in range(2)]
        for other in others:
            with other:
                other.negotiate()
                assert other.read(0, 4096) == b"x" * 4096


def test_clients_of_memory_servers_that_vanish_are_disconnected(
    machines: TwoMachines, memory_server: MakeServer
) -> None:
    with machines.near.entered():
        server = memory_server(
            server={"listen": f"{NEAR}:0", "advertise": f"{NEAR}:0", "keepalive": KEEPALIVE},
            admin={"listen": f"{NEAR}:0", "keepalive": KEEPALIVE},
            metrics={"listen": f"{NEAR}:0"},
        )
    addresses = [server.pages, server.admin, server.ready["metrics"]]
    ports = [int(address.rpartition(":")[2]) for address in addresses]
    sockets = open_sockets(server)
    with machines.far.entered():
        silent = [socket.create_connection((NEAR, port), HANG_GUARD_S) for port in ports]
        speaking = [socket.create_connection((NEAR, port), HANG_GUARD_S) for port in ports[:2]]
        for connection in speaking:
            connection.sendall(HTTP2_HELLO)
            assert connection.recv(1)
    wait_until_open(server, sockets + 5)
    # Not by gRPC alone, whose timers depend on the wall clock. Until all that was sent is
    # acknowledged, a connection has another timer.
    until(lambda: probed_by_the_kernel(machines, ports[0]) == 2)
    until(lambda: probed_by_the_kernel(machines, ports[1]) == 2)
    machines.cut()
    wait_until_open(server, sockets)
    with machines.near.entered():
        assert server.ask("server", "show")["pages"] == 0
    for connection in silent + speaking:
        connection.close()
