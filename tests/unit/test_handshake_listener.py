"""The NBD listener with real sockets and an engine that only keeps them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest
import uvloop
from farswap.client_nbd.nbd import listener
from farswap.client_nbd.nbd.listener import NbdListener
from farswap.client_nbd.nbd.wire import Option, Reply
from farswap.common.address import Address
from farswap.common.errors import BindError
from hang_guard import HANG_GUARD_S
from nbd_client import NbdClient, client_flags, go, option

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


class KeepingEngine:
    """Serves nothing: keeps the sockets, open, with what came along."""

    def __init__(self) -> None:
        self.served: list[tuple[socket.socket, bytes, str]] = []
        self.error: RuntimeError | None = None
        self.has_served = asyncio.Event()

    def serve(self, fd: int, initial: bytes, peer: str, /) -> int:
        if self.error is not None:
            os.close(fd)
            raise self.error
        self.served.append((socket.socket(fileno=fd), initial, peer))
        self.has_served.set()
        return len(self.served)

    def connections(self) -> list[object]:
        return list(self.served)

    def close(self) -> None:
        for sock, _, _ in self.served:
            sock.close()


@pytest.fixture
def engine() -> Iterator[KeepingEngine]:
    engine = KeepingEngine()
    yield engine
    engine.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Runs a test's body on either loop; what it does not close is an error."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def run(body: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(body)

    return run


def make(
    engine: KeepingEngine,
    *,
    connections_max: int = 8,
    handshake_timeout_ms: int = int(HANG_GUARD_S * 1000),
    keepalive_ms: int = 30_000,
) -> NbdListener:
    return NbdListener(
        export_name="swap0",
        export_bytes=1 << 20,
        engine=engine,
        connections_max=connections_max,
        handshake_timeout_ms=handshake_timeout_ms,
        keepalive_ms=keepalive_ms,
    )


def unix(path: Path) -> list[Address]:
    return [Address(path=str(path))]


def trickle_until_hung_up_on(nbd: NbdClient) -> bool:
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


def test_hands_over_a_blocking_socket_with_what_came_along(engine, run, short_path) -> None:
    def client(path: str) -> None:
        with NbdClient.connect_unix(path) as nbd:
            nbd.receive_greeting()
            nbd.send(client_flags() + go(b"swap0") + b"first request")
            assert nbd.receive_option_reply()[1] == Reply.INFO
            assert nbd.receive_option_reply()[1] == Reply.ACK
            nbd.send(b"more")
            assert nbd.receive(5) == b"reply"

    async def body() -> None:
        listener = make(engine)
        address = unix(short_path / "nbd")
        assert await listener.start(address) == address
        talking = asyncio.create_task(in_thread(client, address[0].path))
        await engine.has_served.wait()
        sock, initial, peer = engine.served[0]
        assert initial == b"first request"
        assert peer == f"unix pid={os.getpid()}"
        assert sock.getblocking()
        assert not os.get_inheritable(sock.fileno())
        assert await in_thread(sock.recv, 100) == b"more"
        sock.sendall(b"reply")
        await talking
        await listener.stop()

    run(body())


def test_tcp_reports_its_port_and_sends_at_once(engine, run) -> None:
    async def body() -> None:
        listener = make(engine)
        (address,) = await listener.start([Address.parse("tcp:127.0.0.1:0")])
        assert address.port > 0
        nbd = await asyncio.to_thread(NbdClient.connect_tcp, (address.host, address.port))
        with nbd:
            assert await in_thread(nbd.negotiate) == 1 << 20
            await engine.has_served.wait()
            sock, _, peer = engine.served[0]
            host, port = nbd.sock.getsockname()
            assert peer == f"tcp:{host}:{port}"
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        await listener.stop()

    run(body())


def test_socket_file_is_private_and_goes_with_the_listener(engine, run, short_path) -> None:
    path = short_path / "nbd"

    async def body() -> None:
        listener = make(engine)
        await listener.start(unix(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await listener.stop()
        assert not path.exists()

    run(body())


def test_stale_socket_is_replaced_and_a_live_one_respected(engine, run, short_path) -> None:
    path = short_path / "nbd"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()

    async def body() -> None:
        first = make(engine)
        await first.start(unix(path))
        second = make(engine)
        with pytest.raises(BindError, match="another process serves it"):
            await second.start([Address.parse("tcp:127.0.0.1:0"), *unix(path)])
        assert path.exists()
        await first.stop()

    run(body())


def test_taken_port_is_a_bind_error(engine, run) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(BindError, match=f"tcp:127.0.0.1:{port}"):
                await make(engine).start([Address(host="127.0.0.1", port=port)])

    run(body())


def test_silent_client_is_hung_up_on(engine, run, short_path) -> None:
    async def body() -> None:
        listener = make(engine, handshake_timeout_ms=100)
        await listener.start(unix(short_path / "nbd"))
        with NbdClient.connect_unix(str(short_path / "nbd")) as nbd:
            await in_thread(nbd.receive_greeting)
            assert await in_thread(nbd.at_end)
        await listener.stop()
        assert not engine.served

    run(body())


def test_trickling_client_does_not_stretch_its_deadline(engine, run, short_path) -> None:
    async def body() -> None:
        listener = make(engine, handshake_timeout_ms=100)
        await listener.start(unix(short_path / "nbd"))
        with NbdClient.connect_unix(str(short_path / "nbd")) as nbd:
            await in_thread(nbd.receive_greeting)
            with contextlib.suppress(BrokenPipeError):  # the timeout has passed
                nbd.send(client_flags() + option(Option.GO, length=60_000))
            assert await in_thread(trickle_until_hung_up_on, nbd)
        await listener.stop()

    run(body())


def test_violation_closes_that_client_alone(engine, run, short_path) -> None:
    async def body() -> None:
        listener = make(engine)
        await listener.start(unix(short_path / "nbd"))
        good = NbdClient.connect_unix(str(short_path / "nbd"))
        with good, NbdClient.connect_unix(str(short_path / "nbd")) as bad:
            await in_thread(bad.receive_greeting)
            bad.send(b"GET / HTTP/1.1\r\n\r\n")
            assert await in_thread(bad.at_end)
            assert await in_thread(good.negotiate, "swap0") == 1 << 20
        await listener.stop()

    run(body())


def test_more_handshakes_than_allowed_wait_for_their_turn(
    engine, run, short_path, monkeypatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKES_MAX", 2)

    async def body() -> None:
        listener = make(engine)
        await listener.start(unix(short_path / "nbd"))
        clients = [NbdClient.connect_unix(str(short_path / "nbd")) for _ in range(3)]
        for nbd in clients[:2]:
            await in_thread(nbd.receive_greeting)
        waiting = asyncio.create_task(in_thread(clients[2].negotiate))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        clients[0].close()
        assert await waiting == 1 << 20
        for nbd in clients[1:]:
            nbd.close()
        await listener.stop()

    run(body())


def test_clients_beyond_the_limit_are_hung_up_on(engine, run, short_path) -> None:
    async def body() -> None:
        listener = make(engine, connections_max=1)
        await listener.start(unix(short_path / "nbd"))
        first, second = (NbdClient.connect_unix(str(short_path / "nbd")) for _ in range(2))
        with first, second:
            await in_thread(first.negotiate)
            await in_thread(second.negotiate)
            assert await in_thread(second.at_end)
            assert len(engine.served) == 1
        await listener.stop()

    run(body())


def test_engine_that_refuses_is_survived(engine, run, short_path) -> None:
    async def body() -> None:
        listener = make(engine)
        await listener.start(unix(short_path / "nbd"))
        engine.error = RuntimeError("no memory for the connection")
        with NbdClient.connect_unix(str(short_path / "nbd")) as nbd:
            await in_thread(nbd.negotiate)
            assert await in_thread(nbd.at_end)
        engine.error = None
        with NbdClient.connect_unix(str(short_path / "nbd")) as nbd:
            await in_thread(nbd.negotiate)
        await listener.stop()

    run(body())


def test_stop_drops_clients_in_their_handshake(engine, run, short_path) -> None:
    async def body() -> None:
        listener = make(engine)
        await listener.start(unix(short_path / "nbd"))
        with NbdClient.connect_unix(str(short_path / "nbd")) as nbd:
            await in_thread(nbd.receive_greeting)
            await listener.stop()
            assert await in_thread(nbd.at_end)

    run(body())


def test_abort_and_departures_leave_no_trace(engine, run, short_path) -> None:
    async def body() -> None:
        listener = make(engine)
        await listener.start(unix(short_path / "nbd"))
        for parting in (b"", client_flags(), client_flags() + option(Option.ABORT)):
            with NbdClient.connect_unix(str(short_path / "nbd")) as nbd:
                nbd.send(parting)
        with NbdClient.connect_unix(str(short_path / "nbd")) as nbd:
            await in_thread(nbd.negotiate)
        await listener.stop()
        assert len(engine.served) == 1

    run(body())
