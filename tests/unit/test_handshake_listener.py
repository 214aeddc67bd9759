"""The NBD listener with real sockets and an engine of Python objects."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest
from fake_engine import FakeEngine
from farswap.client_nbd.nbd import listener
from farswap.client_nbd.nbd.listener import NbdListener
from farswap.client_nbd.nbd.wire import Option, Reply
from farswap.common.address import Address
from farswap.common.errors import BindError
from hang_guard import HANG_GUARD_S, until
from nbd_client import NbdClient, client_flags, go, option

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.stop()


def make(
    engine: FakeEngine,
    *,
    connections_max: int = 8,
    handshake_timeout_ms: int = int(HANG_GUARD_S * 1000),
    keepalive_ms: int = 30_000,
) -> NbdListener:
    return NbdListener(
        export_name="swap0",
        export_bytes=1 << 20,
        engine=engine,
        serve=engine.serve,
        connections_max=connections_max,
        handshake_timeout_ms=handshake_timeout_ms,
        keepalive_ms=keepalive_ms,
    )


@contextlib.asynccontextmanager
async def listening(
    engine: FakeEngine, directory: Path, **limits: int
) -> AsyncIterator[Callable[[], NbdClient]]:
    """A listener at a unix socket in `directory`; yields what connects to it."""
    path = str(directory / "nbd")
    listener = make(engine, **limits)
    await listener.start([Address(path=path)])
    yield functools.partial(NbdClient.connect_unix, path)
    await listener.stop()


def trickle_until_disconnected(nbd: NbdClient) -> bool:
    """Sends a byte whenever 10 ms have passed without the server hanging up."""
    nbd.sock.settimeout(0.01)
    for _ in range(2000):
        try:
            return nbd.at_end()
        except TimeoutError:
            with contextlib.suppress(BrokenPipeError):
                nbd.send(b"x")
    return False


async def in_thread(function: Callable[..., object], *args: object) -> object:
    return await asyncio.to_thread(function, *args)


async def test_hands_over_a_blocking_socket_with_what_came_along(engine, short_path) -> None:
    def client(path: str) -> None:
        with NbdClient.connect_unix(path) as nbd:
            nbd.receive_greeting()
            nbd.send(client_flags() + go(b"swap0") + b"first request")
            assert nbd.receive_option_reply()[1] == Reply.INFO
            assert nbd.receive_option_reply()[1] == Reply.ACK
            nbd.send(b"more")
            assert nbd.receive(5) == b"reply"

    listener = make(engine)
    address = Address(path=str(short_path / "nbd"))
    assert await listener.start([address]) == [address]
    talking = asyncio.create_task(in_thread(client, address.path))
    await in_thread(until, lambda: engine.served)
    fd, peer = engine.served[1]
    assert engine.initial == b"first request"
    assert peer == f"unix pid={os.getpid()}"
    assert os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    assert await in_thread(os.read, fd, 100) == b"more"
    os.write(fd, b"reply")
    await talking
    await listener.stop()


async def test_tcp_reports_its_port_and_sends_at_once(engine) -> None:
    listener = make(engine)
    (address,) = await listener.start([Address.parse("tcp:127.0.0.1:0")])
    assert address.port > 0
    nbd = await asyncio.to_thread(NbdClient.connect_tcp, (address.host, address.port))
    with nbd:
        assert await in_thread(nbd.negotiate) == 1 << 20
        await in_thread(until, lambda: engine.served)
        fd, peer = engine.served[1]
        host, port = nbd.sock.getsockname()
        assert peer == f"tcp:{host}:{port}"
        sock = socket.socket(fileno=fd)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        sock.detach()
    await listener.stop()


async def test_socket_file_is_private_and_goes_with_the_listener(engine, short_path) -> None:
    path = short_path / "nbd"
    async with listening(engine, short_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_stale_socket_is_replaced_and_a_live_one_respected(engine, short_path) -> None:
    path = short_path / "nbd"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    async with listening(engine, short_path):
        second = [Address.parse("tcp:127.0.0.1:0"), Address(path=str(path))]
        with pytest.raises(BindError, match="another process serves it"):
            await make(engine).start(second)
        assert path.exists()


async def test_taken_port_is_a_bind_error(engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"tcp:127.0.0.1:{port}"):
            await make(engine).start([Address(host="127.0.0.1", port=port)])


async def test_silent_client_is_disconnected(engine, short_path) -> None:
    async with listening(engine, short_path, handshake_timeout_ms=100) as connect:
        with connect() as nbd:
            await in_thread(nbd.receive_greeting)
            assert await in_thread(nbd.at_end)
    assert not engine.served


async def test_trickling_client_does_not_stretch_its_deadline(engine, short_path) -> None:
    async with listening(engine, short_path, handshake_timeout_ms=100) as connect:
        with connect() as nbd:
            await in_thread(nbd.receive_greeting)
            with contextlib.suppress(BrokenPipeError):  # the timeout has passed
                nbd.send(client_flags() + option(Option.GO, length=60_000))
            assert await in_thread(trickle_until_disconnected, nbd)


async def test_violation_closes_that_client_alone(engine, short_path) -> None:
    async with listening(engine, short_path) as connect:
        good = connect()
        with good, connect() as bad:
            await in_thread(bad.receive_greeting)
            bad.send(b"GET / HTTP/1.1\r\n\r\n")
            assert await in_thread(bad.at_end)
            assert await in_thread(good.negotiate, "swap0") == 1 << 20


async def test_more_handshakes_than_allowed_wait_for_their_turn(
    engine, short_path, monkeypatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKES_MAX", 2)
    async with listening(engine, short_path) as connect:
        clients = [connect() for _ in range(3)]
        for nbd in clients[:2]:
            await in_thread(nbd.receive_greeting)
        waiting = asyncio.create_task(in_thread(clients[2].negotiate))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        clients[0].close()
        assert await waiting == 1 << 20
        for nbd in clients[1:]:
            nbd.close()


async def test_clients_beyond_the_limit_are_disconnected(engine, short_path) -> None:
    async with listening(engine, short_path, connections_max=1) as connect:
        first, second = (connect() for _ in range(2))
        with first, second:
            await in_thread(first.negotiate)
            await in_thread(second.negotiate)
            assert await in_thread(second.at_end)
            assert len(engine.served) == 1


async def test_engine_that_refuses_is_survived(engine, short_path) -> None:
    async with listening(engine, short_path) as connect:
        engine.serve_error = RuntimeError("no memory for the connection")
        with connect() as nbd:
            await in_thread(nbd.negotiate)
            assert await in_thread(nbd.at_end)
        engine.serve_error = None
        with connect() as nbd:
            await in_thread(nbd.negotiate)


async def test_stop_drops_clients_in_their_handshake(engine, short_path) -> None:
    async with listening(engine, short_path) as connect:
        nbd = connect()
        await in_thread(nbd.receive_greeting)
    with nbd:
        assert await in_thread(nbd.at_end)


async def test_abort_and_departures_leave_no_trace(engine, short_path) -> None:
    async with listening(engine, short_path) as connect:
        for parting in (b"", client_flags(), client_flags() + option(Option.ABORT)):
            with connect() as nbd:
                nbd.send(parting)
        with connect() as nbd:
            await in_thread(nbd.negotiate)
    assert len(engine.served) == 1
