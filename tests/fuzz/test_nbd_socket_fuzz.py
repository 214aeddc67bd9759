"""Hostile clients on the sockets of a real daemon, while another client verifies its pages.

Each attack is one connection's worth of bytes, drawn from a seed. In any case the daemon must
live, close the connection, and serve the bystander right.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd.nbd.wire import Option
from hang_guard import until
from nbd_client import (
    CACHE,
    DISCONNECT,
    FLUSH,
    READ,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    NbdClient,
    client_flags,
    go,
    info_data,
    option,
    request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon

PAGE = 4096
DEVICE_BYTES = 64 << 20
# The bystander's half; attackers that get as far as writing are given the other half's offsets.
BYSTANDER_BYTES = 32 << 20
ATTACKS_PER_KIND = 40
# Descriptors that gRPC may open meanwhile, for connections to the memory server.
OTHER_DESCRIPTORS_MAX = 8


class Bystander(threading.Thread):
    """Writes, reads back and compares, until stopped; keeps its first error."""

    def __init__(self, path: str) -> None:
        super().__init__(name="bystander")
        self._client = NbdClient.connect_unix(path)
        self._client.negotiate()
        self._client.command(FLUSH, 0, 0)  # the reply says that the hand-over is complete
        self._asked_to_stop = threading.Event()
        self.rounds = 0
        self.error: Exception | None = None

    def run(self) -> None:
        source = random.Random(0)
        written: dict[int, bytes] = {}
        try:
            while not self._asked_to_stop.is_set():
                at = source.randrange(BYSTANDER_BYTES // PAGE)
                written[at] = source.randbytes(64) * (PAGE // 64)
                self._client.write(at * PAGE, written[at])
                check = source.choice(list(written))
                assert self._client.read(check * PAGE, PAGE) == written[check]
                self.rounds += 1
        except (AssertionError, OSError) as error:
            self.error = error

    def finish(self) -> None:
        self._asked_to_stop.set()
        self.join()
        self._client.close()
        if self.error is not None:
            raise self.error
        assert self.rounds > 0


@pytest.fixture
def host(memory_server: MakeServer, host_daemon: MakeHost) -> HostDaemon:
    return host_daemon(memory_server(), nbd={"handshake_timeout": "10s"})


@pytest.fixture
def bystander(host: HostDaemon) -> Iterator[Bystander]:
    bystander = Bystander(host.nbd_path)
    bystander.start()
    yield bystander
    bystander.finish()


# --- What attackers send. Each function is a conversation that may break off anywhere.


def garbage(client: NbdClient, source: random.Random) -> None:
    client.send(source.randbytes(source.randrange(1, 2000)))


def garbled_handshake(client: NbdClient, source: random.Random) -> None:
    """A good handshake with some bytes flipped, cut off or doubled."""
    good = client_flags() + option(Option.LIST) + option(Option.INFO, info_data(b"swap0", 3)) + go()
    bad = bytearray(good * source.randrange(1, 3))
    for _ in range(source.randrange(1, 4)):
        bad[source.randrange(len(bad))] = source.randrange(256)
    client.send(bytes(bad[: source.randrange(1, len(bad) + 1)]))


def many_options(client: NbdClient, source: random.Random) -> None:
    client.send(client_flags() + option(source.randrange(100), b"x" * 100) * 200)


def oversize_option(client: NbdClient, source: random.Random) -> None:
    length = source.choice([70_000, 1 << 20, (1 << 20) + 1, 0xFFFFFFFF])
    client.send(client_flags() + option(Option.GO, bytes(65_000), length=length))


def random_requests(client: NbdClient, source: random.Random) -> None:
    """Requests of any kind, mostly illegal, that touch the attackers' half at most."""
    client.negotiate()
    stream = b""
    for _ in range(source.randrange(1, 60)):
        command = source.choice([READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, 7, 99, 65535])
        offset = BYSTANDER_BYTES + source.choice([0, 1, DEVICE_BYTES // 2, 1 << 63])
        length = source.choice([0, 1, PAGE, 70_000])
        flags = source.choice([0, 1, 2, 4, 16, 0x8000])
        payload = source.randbytes(length) if command == WRITE else b""
        stream += request(command, offset, length, flags=flags) + payload
    client.send(stream[: source.randrange(1, len(stream) + 1)])


def bytes_out_of_step(client: NbdClient, source: random.Random) -> None:
    client.negotiate()
    good = request(FLUSH, 0, 0) * source.randrange(5)
    client.send(good + source.randbytes(source.randrange(1, 10_000)))


def write_cut_off(client: NbdClient, source: random.Random) -> None:
    client.negotiate()
    length = source.choice([PAGE, 1 << 20, 2 << 20, (2 << 20) + PAGE, 32 << 20])
    sent = source.randbytes(source.randrange(min(length, 200_000)))
    client.send(request(WRITE, BYSTANDER_BYTES, length) + sent)


def reads_never_received(client: NbdClient, source: random.Random) -> None:
    client.negotiate()
    length = source.choice([PAGE, 128 << 10, 1 << 20, 2 << 20])
    client.send(request(READ, source.randrange(8) * PAGE, length) * source.randrange(1, 100))


def disconnect_in_the_middle(client: NbdClient, source: random.Random) -> None:
    client.negotiate()
    reads = request(READ, 0, 64 << 10) * source.randrange(1, 30)
    client.send(reads + request(DISCONNECT, 0, 0) + reads)


ATTACKS = [
    garbage,
    garbled_handshake,
    many_options,
    oversize_option,
    random_requests,
    bytes_out_of_step,
    write_cut_off,
    reads_never_received,
    disconnect_in_the_middle,
]


def open_descriptors(host: HostDaemon) -> int:
    return len(list(Path(f"/proc/{host.pid}/fd").iterdir()))


def assert_lets_go(host: HostDaemon, descriptors: int) -> None:
    """The attackers' sockets are closed again, soon."""
    descriptors += OTHER_DESCRIPTORS_MAX
    until(lambda: open_descriptors(host) <= descriptors)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attackers_do_not_affect_others(
    host: HostDaemon, bystander: Bystander, attack: Callable[[NbdClient, random.Random], None]
) -> None:
    descriptors = open_descriptors(host)
    for seed in range(ATTACKS_PER_KIND):
        source = random.Random(seed)
        over_tcp = source.random() < 0.5
        client = (
            NbdClient.connect_tcp(host.nbd_tcp)
            if over_tcp
            else NbdClient.connect_unix(host.nbd_path)
        )
        # Being hung up on while still talking is what an attacker has to expect.
        with client, contextlib.suppress(ConnectionError):
            attack(client, source)
            if source.random() < 0.5:
                client.sock.shutdown(socket.SHUT_WR)
                select.select([client.sock], [], [], 0.2)
    assert host.running
    assert_lets_go(host, descriptors)
    assert "Traceback" not in host.log()
    assert bystander.error is None


def test_slow_and_silent_handshakes_end_and_others_get_in(
    host: HostDaemon, bystander: Bystander
) -> None:
    descriptors = open_descriptors(host)
    stream = client_flags() + option(Option.GO, length=60_000)
    clients = [NbdClient.connect_unix(host.nbd_path) for _ in range(100)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
        for client in clients[::2]:
            client.send(stream)
        with NbdClient.connect_unix(host.nbd_path) as late:
            assert late.negotiate() == DEVICE_BYTES
            late.write(BYSTANDER_BYTES, b"x" * PAGE)
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                while client.sock.recv(PAGE):
                    pass
    assert "handshake took too long" in host.log()
    assert_lets_go(host, descriptors)
    assert bystander.error is None
