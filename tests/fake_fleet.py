"""Both daemons' admin services of Python objects behind real gRPC servers, and farswapctl on them.

Tests of farswapctl import the fixtures `shared_fleet` and `fleet` from here.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest
from farswap.admin.main import command
from farswap.common import cli
from farswap.common.address import Address
from farswap.common.errors import InvalidArgumentError, NotFoundError
from farswap.common.rpc_server import RpcServer
from farswap.common.version import API_VERSION, Identity
from farswap.v1 import (
    host_admin_pb2,
    host_admin_pb2_grpc,
    page_store_pb2,
    server_admin_pb2,
    server_admin_pb2_grpc,
    types_pb2,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from google.protobuf.message import Message

    Cgroups = AsyncIterator[host_admin_pb2.CgroupStatus]
    Reports = AsyncIterator[host_admin_pb2.WritebackProgress]

LONG_PATH = "/srv/" + "a-rather-long-directory-name/" * 6 + "farswap"


def latency(tier: str, power: int, count: int) -> host_admin_pb2.Latency:
    """`count` loads of 2^(power-1) to 2^power microseconds."""
    return host_admin_pb2.Latency(tier=tier, buckets=[0] * power + [count] + [0] * (23 - power))


def finding(level: str, subject: str, message: str, remedy: str = "") -> host_admin_pb2.Finding:
    return host_admin_pb2.Finding(level=level, subject=subject, message=message, remedy=remedy)


class Host(host_admin_pb2_grpc.HostAdminServicer):
    def __init__(self) -> None:
        self.api_version = API_VERSION
        self.stopped_because = ""
        self.endless = False
        self.cancelled = threading.Event()
        self.checks = [
            finding("LEVEL_OK", "zswap", "off"),
            finding("LEVEL_WARNING", "swap_priority", "is low", "raise it"),
        ]
        self.asked: list[Message] = []
        self.replicas: list[host_admin_pb2.Replica] = []
        self.looks = 0

    async def Status(self, request, context) -> host_admin_pb2.HostStatus:  # noqa: N802
        self.looks += 1
        info = Identity("farswap-host").server_info()
        info.api_version = self.api_version
        return host_admin_pb2.HostStatus(
            info=info,
            device=host_admin_pb2.DeviceStatus(
                name="swap0",
                size_bytes=1 << 30,
                listen=["unix:/run/farswap/swap0.sock"],
                connections=[host_admin_pb2.NbdConnection(id=1, peer="kernel /dev/nbd0")],
                attached="/dev/nbd0",
                swap_active=True,
                swap_used_bytes=5 << 20,
                swap_areas=["/dev/nbd0"],
            ),
            tier=host_admin_pb2.TierStatus(
                pool_limit_bytes=256 << 20,
                pool_used_bytes=64 << 20,
                accept_threshold_percent=90,
                compressor="lz4",
                held_pages=50000,
                local_pages=40000,
                remote_pages=9999,
                same_filled_pages=1,
                recompress="off",
                counters=[
                    types_pb2.Counter(name="fail_checksum", value=2),
                    types_pb2.Counter(name="loads_local", value=300 * self.looks),
                    types_pb2.Counter(name="loads_remote", value=100 * self.looks),
                    types_pb2.Counter(name="stores", value=1 << 60),
                ],
                latency=[latency("local", 4, 300 * self.looks), latency("remote", 8, 100)],
            ),
            servers=[
                host_admin_pb2.MemoryServerStatus(
                    address="10.0.0.7:7070", state="away", last_error="refused"
                )
            ],
            findings=[finding("LEVEL_WARNING", "memlock", "no")],
            placement=host_admin_pb2.PlacementStatus(
                replicas_wanted=2, replication_debt_shards=77, replica_copies=1, lost_shards=0
            ),
        )

    async def Doctor(self, request, context) -> host_admin_pb2.DoctorReport:  # noqa: N802
        return host_admin_pb2.DoctorReport(checks=self.checks)

    async def ListCgroups(self, request, context) -> Cgroups:  # noqa: N802
        if request.path == "/gone":
            raise NotFoundError("/gone is not a cgroup of this machine")
        for id_, path in enumerate([request.path] if request.path else ["/", "/build", ""]):
            yield self.cgroup(id_, path)

    async def SetCgroup(self, request, context) -> host_admin_pb2.CgroupStatus:  # noqa: N802
        self.asked.append(request)
        return self.cgroup(1, request.path)

    async def SetTier(self, request, context) -> host_admin_pb2.TierStatus:  # noqa: N802
        self.asked.append(request)
        return host_admin_pb2.TierStatus(compressor=request.compressor)

    def cgroup(self, id_: int, path: str) -> host_admin_pb2.CgroupStatus:
        busy = self.looks * id_
        return host_admin_pb2.CgroupStatus(
            id=id_,
            path=path,
            settings=host_admin_pb2.CgroupSettings(
                pool_limit_bytes=16 << 20, pool_limit_source="file", writeback=True
            ),
            local_pages=1234,
            writing_pages=10,
            clean_pages=100,
            counters=[types_pb2.Counter(name="loads_local", value=busy)],
            latency=[latency("local", 4, busy)],
        )

    async def ExplainSlot(self, request, context) -> host_admin_pb2.SlotExplanation:  # noqa: N802
        if request.slot == 99:
            raise InvalidArgumentError("slot 99 is out of range")
        return host_admin_pb2.SlotExplanation(
            slot=request.slot,
            state="remote",
            codec=types_pb2.CODEC_ZSTD,
            problem="no server",
            replicas=self.replicas,
        )

    async def Writeback(self, request, context) -> Reports:  # noqa: N802
        if self.endless:
            try:
                yield host_admin_pb2.WritebackProgress(
                    target_bytes=request.bytes, written_bytes=request.bytes // 2
                )
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        self.asked.append(request)
        share = 2 if self.stopped_because else 1
        for step in range(1, 11):
            yield host_admin_pb2.WritebackProgress(
                target_bytes=request.bytes,
                written_bytes=request.bytes * step // 10 // share,
                sent_bytes=request.bytes * step // 40,
                finished=step == 10,
                stopped_because=self.stopped_because if step == 10 else "",
            )


class Server(server_admin_pb2_grpc.ServerAdminServicer):
    def __init__(self) -> None:
        self.draining = False
        self.calls: list[str] = []
        # Volumes with shards at each look that counts them; the last one stays.
        self.left: list[list[server_admin_pb2.VolumeStatus]] = []

    async def Drain(self, request, context) -> server_admin_pb2.DrainResponse:  # noqa: N802
        self.draining = True
        self.calls.append("Drain")
        return server_admin_pb2.DrainResponse()

    async def Undrain(self, request, context) -> server_admin_pb2.UndrainResponse:  # noqa: N802
        self.draining = False
        self.calls.append("Undrain")
        return server_admin_pb2.UndrainResponse()

    async def Peers(self, request, context) -> server_admin_pb2.PeersResponse:  # noqa: N802
        return server_admin_pb2.PeersResponse()

    async def Status(self, request, context) -> server_admin_pb2.ServerStatus:  # noqa: N802
        left = self.left[:1] if request.count_shards else []
        if request.count_shards and len(self.left) > 1:
            self.left.pop(0)
        state = page_store_pb2.SERVER_STATE_DRAINING if self.draining else 1
        return server_admin_pb2.ServerStatus(
            info=Identity("farswap-server").server_info(),
            listen="127.0.0.1:7070",
            advertise="127.0.0.1:7070",
            path=LONG_PATH,
            capacity_bytes=8 << 30,
            used_bytes=2 << 30,
            state=state,
            draining=self.draining,
            volumes=[
                server_admin_pb2.VolumeStatus(host_id="h" * 90, device="swap0", garbage=True),
                *(volume for look in left for volume in look),
            ],
        )


class Fleet:
    """Both services on a loop of their own thread, as the commands under test block."""

    def __init__(self) -> None:
        self.host = Host()
        self.server = Server()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._addresses: Future[tuple[str, str]] = Future()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self._thread.start()
        self.host_address, self.server_address = self._addresses.result(20)

    async def _serve(self) -> None:
        admin, server = (RpcServer(Address.parse("127.0.0.1:0")) for _ in range(2))
        admin.add(
            "farswap.v1.HostAdmin",
            host_admin_pb2_grpc.add_HostAdminServicer_to_server,
            self.host,
            reads=host_admin_pb2.DESCRIPTOR.services_by_name["HostAdmin"].methods_by_name,
        )
        server.add(
            "farswap.v1.ServerAdmin",
            server_admin_pb2_grpc.add_ServerAdminServicer_to_server,
            self.server,
            reads=server_admin_pb2.DESCRIPTOR.services_by_name["ServerAdmin"].methods_by_name,
        )
        await admin.start()
        await server.start()
        self._addresses.set_result((str(admin.address), str(server.address)))
        await self._stop.wait()
        await admin.stop(0)
        await server.stop(0)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._loop.close()


@pytest.fixture(scope="module")
def shared_fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(shared_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("FARSWAP_HOST", shared_fleet.host_address)
    monkeypatch.setenv("FARSWAP_SERVER", shared_fleet.server_address)
    shared_fleet.host.api_version = API_VERSION
    shared_fleet.host.stopped_because = ""
    shared_fleet.host.endless = False
    shared_fleet.host.asked.clear()
    shared_fleet.server.draining = False
    shared_fleet.server.calls.clear()
    shared_fleet.server.left.clear()
    shared_fleet.host.replicas.clear()
    return shared_fleet


def run(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr: as the console script would end."""
    with pytest.raises(SystemExit) as ended:
        cli.run("farswapctl", command, list(args))
    captured = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err
