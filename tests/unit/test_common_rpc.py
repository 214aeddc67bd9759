"""gRPC servers and clients of the admin services, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from farswap.common import errors, rpc_client, rpc_server
from farswap.common.address import Address
from farswap.common.rpc_client import RpcClient
from farswap.common.rpc_server import RpcServer
from farswap.common.version import API_VERSION, Identity
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import host_admin_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hang_guard import HANG_GUARD_S
from structlog.testing import capture_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Reports = AsyncIterator[pb.WritebackProgress]
    from pathlib import Path

SERVICE = "farswap.v1.HostAdmin"
# Frames of HTTP/2 as a server begins: no bytes, type SETTINGS, no flags, stream 0; its ACK.
HTTP2_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0])


class Servicer(host_admin_pb2_grpc.HostAdminServicer):
    """Status answers; ExplainSlot raises `error`; Writeback streams until cancelled."""

    def __init__(self) -> None:
        self.program = "farswap-host"
        self.api_version = API_VERSION
        self.error: Exception = errors.InvalidArgumentError("no such slot")
        self.cancelled = asyncio.Event()

    async def Status(self, request, context) -> pb.HostStatus:  # noqa: N802
        info = Identity(self.program).server_info()
        info.api_version = self.api_version
        return pb.HostStatus(info=info)

    async def ExplainSlot(self, request, context) -> pb.SlotExplanation:  # noqa: N802
        raise self.error

    async def Writeback(self, request, context) -> Reports:  # noqa: N802
        try:
            yield pb.WritebackProgress(written_bytes=1)
            if request.bytes == 1:
                raise self.error
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def Detach(self, request, context) -> pb.DetachResponse:  # noqa: N802
        return pb.DetachResponse()

    async def Attach(self, request, context) -> pb.AttachResponse:  # noqa: N802
        await asyncio.Event().wait()
        raise AssertionError


class Running:
    def __init__(self, server: RpcServer, servicer: Servicer) -> None:
        self.server = server
        self.servicer = servicer
        self.client = RpcClient(server.address, "farswap-host", HANG_GUARD_S)
        self.stub = host_admin_pb2_grpc.HostAdminStub(self.client.channel)


async def start(listen: Address, reads: tuple[str, ...] = ()) -> Running:
    servicer = Servicer()
    server = RpcServer(listen)
    server.add(SERVICE, host_admin_pb2_grpc.add_HostAdminServicer_to_server, servicer, reads)
    await server.start()
    return Running(server, servicer)


@pytest.fixture(params=["unix", "tcp"])
async def running(request: pytest.FixtureRequest, short_path: Path) -> AsyncIterator[Running]:
    text = f"unix:{short_path}/admin" if request.param == "unix" else "127.0.0.1:0"
    made = await start(Address.parse(text))
    yield made
    made.client.close()
    await made.server.stop(0)


async def test_a_call_goes_through(running: Running) -> None:
    status = await asyncio.to_thread(
        running.client.status, running.stub.Status, pb.HostStatusRequest()
    )
    assert status.info.program == "farswap-host"


async def test_unix_sockets_are_for_the_owner_and_vanish_at_stop(short_path: Path) -> None:
    path = short_path / "admin"
    made = await start(Address.parse(f"unix:{path}"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await made.server.stop(0)
    assert not path.exists()


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgumentError("a"),
        errors.NotPossibleError("b"),
        errors.BusyError("c"),
        errors.UnreachableError("d"),
        errors.VersionMismatchError("e"),
        errors.RemoteError("f"),
    ],
)
async def test_errors_arrive_as_what_they_were(running: Running, error: Exception) -> None:
    running.servicer.error = error
    with pytest.raises(type(error), match=str(error)):
        await asyncio.to_thread(
            running.client.call, running.stub.ExplainSlot, pb.ExplainSlotRequest()
        )


async def test_a_bug_is_internal_without_details(running: Running) -> None:
    running.servicer.error = KeyError("secret")
    with pytest.raises(errors.RemoteError, match=r"^internal error; see the daemon's log$"):
        await asyncio.to_thread(
            running.client.call, running.stub.ExplainSlot, pb.ExplainSlotRequest()
        )


async def test_an_error_in_the_middle_of_a_stream_arrives(running: Running) -> None:
    def read_all() -> list[int]:
        reports = running.client.stream(running.stub.Writeback, pb.WritebackRequest(bytes=1))
        return [report.written_bytes for report in reports]

    with pytest.raises(errors.InvalidArgumentError, match="no such slot"):
        await asyncio.to_thread(read_all)


async def test_closing_a_stream_cancels_the_servers_work(running: Running) -> None:
    def read_one() -> None:
        reports = running.client.stream(running.stub.Writeback, pb.WritebackRequest(bytes=2))
        next(reports)
        reports.close()

    await asyncio.to_thread(read_one)
    await asyncio.wait_for(running.servicer.cancelled.wait(), HANG_GUARD_S)


async def test_an_answer_that_does_not_come_is_timed_out(running: Running) -> None:
    running.client.timeout_s = 0.05
    with pytest.raises(errors.TimedOutError, match="no answer within"):
        await asyncio.to_thread(running.client.call, running.stub.Attach, pb.AttachRequest())


async def test_another_version_or_program_is_refused(running: Running) -> None:
    def status() -> pb.HostStatus:
        return running.client.status(running.stub.Status, pb.HostStatusRequest())

    running.servicer.api_version = API_VERSION + 1
    with pytest.raises(errors.VersionMismatchError, match=f"has API version {API_VERSION + 1}"):
        await asyncio.to_thread(status)
    running.servicer.program = "farswap-server"
    with pytest.raises(errors.VersionMismatchError, match="not a farswap-host but farswap-server"):
        await asyncio.to_thread(status)


async def test_health_and_reflection_answer(running: Running) -> None:
    def ask() -> tuple[int, list[str]]:
        health = health_pb2_grpc.HealthStub(running.client.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=HANG_GUARD_S)
        reflection = reflection_pb2_grpc.ServerReflectionStub(running.client.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        (listing,) = reflection.ServerReflectionInfo(iter([question]), timeout=HANG_GUARD_S)
        return answer.status, [one.name for one in listing.list_services_response.service]

    status, names = await asyncio.to_thread(ask)
    assert status == health_pb2.HealthCheckResponse.SERVING
    assert SERVICE in names


async def test_a_taken_port_is_reported_with_the_reason(running: Running) -> None:
    if running.server.address.is_unix:
        expected = "another process serves it"
    else:
        expected = "Address already in use"
    with pytest.raises(errors.BindError, match=expected):
        RpcServer(running.server.address)


def test_a_daemon_that_falls_silent_ends_a_call_without_a_deadline(monkeypatch) -> None:
    monkeypatch.setattr(rpc_client, "_PING_AFTER_MS", 100)
    monkeypatch.setattr(rpc_client, "_PING_TIMEOUT_MS", 100)

    def greet_and_fall_silent() -> None:
        with listening.accept()[0] as accepted:
            accepted.sendall(HTTP2_SETTINGS)
            ended.wait(HANG_GUARD_S)

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=greet_and_fall_silent).start()
        address = Address(host="127.0.0.1", port=listening.getsockname()[1])
        client = RpcClient(address, "farswap-host", HANG_GUARD_S)
        stub = host_admin_pb2_grpc.HostAdminStub(client.channel)
        with pytest.raises(errors.UnreachableError, match="no answer"):
            next(client.stream(stub.Writeback, pb.WritebackRequest(bytes=2)))
        client.close()
        ended.set()


async def test_clients_may_ping_for_as_long_as_a_call_lasts(monkeypatch) -> None:
    """By default gRPC hangs up at the third ping in 5 minutes; it sends one a second at most."""
    monkeypatch.setattr(rpc_client, "_PING_AFTER_MS", 200)
    monkeypatch.setattr(rpc_server, "_CLIENT_PING_INTERVAL_MS", 100)
    made = await start(Address.parse("127.0.0.1:0"))
    reports = made.client.stream(made.stub.Writeback, pb.WritebackRequest(bytes=2))
    assert (await asyncio.to_thread(next, reports)).written_bytes == 1
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.servicer.cancelled.wait(), 5)
    finally:
        reports.close()
        made.client.close()
        await made.server.stop(0)


def test_an_absent_peer_is_reported_with_the_reason(short_path: Path) -> None:
    client = RpcClient(Address.parse(f"unix:{short_path}/nobody"), "farswap-host", HANG_GUARD_S)
    stub = host_admin_pb2_grpc.HostAdminStub(client.channel)
    with pytest.raises(errors.UnreachableError, match="no such socket"):
        client.status(stub.Status, pb.HostStatusRequest())
    client.close()


def test_every_error_has_a_status_and_an_exit_code() -> None:
    def tree(kind: type[errors.FarswapError]) -> list[type[errors.FarswapError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]

    for kind in tree(errors.FarswapError):
        assert grpc.StatusCode[kind.status]
        assert kind.exit_code in (1, 2)


async def test_calls_that_change_something_are_logged_with_who_what_and_result() -> None:
    made = await start(Address.parse("127.0.0.1:0"), reads=("Status",))
    stub, call = made.stub, made.client.call

    def call_all() -> None:
        call(stub.Status, pb.HostStatusRequest())
        call(stub.Detach, pb.DetachRequest(device="/dev/nbd0"))
        with pytest.raises(errors.InvalidArgumentError):
            call(stub.ExplainSlot, pb.ExplainSlotRequest())
        made.servicer.error = KeyError("secret")
        with pytest.raises(errors.RemoteError):
            call(stub.ExplainSlot, pb.ExplainSlotRequest())
        made.servicer.error = None
        with pytest.raises(grpc.RpcError):
            stub.Attach(pb.AttachRequest(), timeout=0.1)
        reports = made.client.stream(stub.Writeback, pb.WritebackRequest(bytes=2))
        assert next(reports).written_bytes == 1
        reports.close()

    with capture_logs() as lines:
        await asyncio.to_thread(call_all)
        await made.server.stop(0)
    made.client.close()
    audit = [line for line in lines if line["event"] == "administration"]
    assert [(line["call"], line["result"]) for line in audit] == [
        ("Detach", "done"),
        ("ExplainSlot", "failed: no such slot"),
        ("ExplainSlot", "internal error"),
        ("Attach", "cancelled; it may have taken effect"),
        ("Writeback", "cancelled; it may have taken effect"),
    ]
    assert audit[0]["request"] == 'device: "/dev/nbd0"'
    assert audit[0]["by"].startswith("ipv4:127.0.0.1:")
