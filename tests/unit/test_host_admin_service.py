"""The HostAdmin service over a real gRPC socket, on an engine of Python objects."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from fake_engine import FakeEngine
from farswap.client_nbd import admin_service
from farswap.client_nbd import config as host_config
from farswap.client_nbd.attach import KernelDevice
from farswap.client_nbd.findings import Finding, of_start
from farswap.client_nbd.kernel_files import KernelFiles
from farswap.common import config as common_config
from farswap.common import errors
from farswap.common.address import Address
from farswap.common.rpc_client import RpcClient
from farswap.common.rpc_server import RpcServer
from farswap.common.version import Identity
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import host_admin_pb2_grpc, types_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CONFIG = common_config.parse(
    host_config.HostConfig,
    """
    [device]
    name = "swap0"
    size = "4MiB"
    host_id = "h1"
    [nbd]
    listen = ["unix:/run/farswap/swap0.sock"]
    [tier]
    pool_limit = "64MiB"
    """,
    "host.toml",
)


class Running:
    def __init__(self, root: Path, server: RpcServer) -> None:
        self.root = root
        self.engine = FakeEngine(slots=CONFIG.slots)
        files = KernelFiles(root)
        self.device = KernelDevice(self.engine, CONFIG.device.size, files, self._no_driver)
        service = admin_service.HostAdminService(
            config=CONFIG,
            engine=self.engine,
            device=self.device,
            files=files,
            identity=Identity("farswap-host"),
            listen=CONFIG.nbd.listen,
            start_findings=[Finding("warning", "memlock", "refused")],
        )
        server.add(
            admin_service.SERVICE_NAME,
            lambda it: host_admin_pb2_grpc.add_HostAdminServicer_to_server(service, it),
        )
        self.client = RpcClient(server.address, "farswap-host", 10)
        self.stub = host_admin_pb2_grpc.HostAdminStub(self.client.channel)

    def _no_driver(self) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    async def status(self) -> pb.HostStatus:
        return await asyncio.to_thread(self.client.status, self.stub.Status, pb.HostStatusRequest())


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    server = RpcServer(Address.parse("127.0.0.1:0"))
    made = Running(tmp_path, server)
    await server.start()
    yield made
    made.client.close()
    await server.stop(0)
    made.engine.stop()


async def test_status_tells_gauges_counters_and_their_sum(running: Running) -> None:
    status = await running.status()
    assert status.tier.pages_stored == 10 + 1000 + 5 + 2000
    assert status.tier.pool_used_bytes == 3 << 20
    counters = {counter.name: counter.value for counter in status.tier.counters}
    assert counters == {
        "stores": 4000,
        "loads_remote": 12,
        "remote_wait_us": 34,
        "fail_checksum": 0,
    }
    assert status.device.incarnation == bytes(range(16)).hex()
    assert status.device.host_id == "h1"
    assert list(status.device.listen) == ["unix:/run/farswap/swap0.sock"]


async def test_status_tells_servers_that_are_away(running: Running) -> None:
    running.engine.server_list = [
        SimpleNamespace(
            address="127.0.0.1:7070",
            connected=False,
            capacity_bytes=0,
            used_bytes=0,
            epoch=4,
            reconnects=2,
            last_error="connection refused",
            disconnected_ms=1500,
            shards=3,
        )
    ]
    (server,) = (await running.status()).servers
    assert not server.connected
    assert server.last_error == "connection refused"
    assert server.disconnected_ms == 1500


async def test_findings_of_the_start_stay_and_those_of_the_machine_are_looked_up(
    running: Running,
) -> None:
    assert [finding.subject for finding in (await running.status()).findings] == ["memlock"]
    parameters = running.root / "sys/module/zswap/parameters"
    parameters.mkdir(parents=True)
    (parameters / "enabled").write_text("Y\n")
    subjects = [finding.subject for finding in (await running.status()).findings]
    assert subjects == ["memlock", "zswap"]


async def test_writeback_reports_until_finished(running: Running) -> None:
    running.engine.writeback_step_bytes = 8192
    request = pb.WritebackRequest(bytes=16384)

    def follow() -> list[tuple[int, bool]]:
        reports = running.client.stream(running.stub.Writeback, request)
        return [(report.written_bytes, report.finished) for report in reports]

    assert await asyncio.to_thread(follow) == [(8192, False), (16384, True)]


async def test_a_second_writeback_is_refused_and_does_not_disturb_the_first(
    running: Running,
) -> None:
    running.engine.writeback_step_bytes = 0
    request = pb.WritebackRequest(bytes=4096)

    def two() -> None:
        first = running.client.stream(running.stub.Writeback, request)
        next(first)
        with pytest.raises(errors.BusyError, match="under way already"):
            next(running.client.stream(running.stub.Writeback, request))
        assert not running.engine.writeback_cancelled.is_set()
        assert not next(first).finished
        first.close()

    await asyncio.to_thread(two)
    # The call's end is the job's.
    assert await asyncio.to_thread(running.engine.writeback_cancelled.wait, 5)


async def test_writeback_of_nothing_is_refused(running: Running) -> None:
    def follow() -> None:
        next(running.client.stream(running.stub.Writeback, pb.WritebackRequest()))

    with pytest.raises(errors.InvalidArgumentError):
        await asyncio.to_thread(follow)


async def test_a_slot_is_explained_with_its_age(running: Running) -> None:
    found = await asyncio.to_thread(
        running.client.call, running.stub.ExplainSlot, pb.ExplainSlotRequest(slot=1023)
    )
    assert found.slot == 1023
    assert found.codec == types_pb2.CODEC_LZ4
    assert found.age_known
    assert 60_000 <= found.age_ms < 70_000


async def test_a_slot_beyond_the_device_is_an_invalid_argument(running: Running) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"slot 1024 .* has slots 0\.\.1023"):
        await asyncio.to_thread(
            running.client.call, running.stub.ExplainSlot, pb.ExplainSlotRequest(slot=1024)
        )


async def test_attach_tells_why_not(running: Running) -> None:
    with pytest.raises(errors.NotPossibleError, match="modprobe nbd"):
        await asyncio.to_thread(
            running.client.call, running.stub.Attach, pb.AttachRequest(device="/dev/nbd0")
        )
    with pytest.raises(errors.InvalidArgumentError, match="is not an nbd device"):
        await asyncio.to_thread(
            running.client.call, running.stub.Attach, pb.AttachRequest(device="sda")
        )


def test_refused_protections_and_open_addresses_are_findings() -> None:
    protections = [
        SimpleNamespace(subject="memlock", granted=False, message="RLIMIT_MEMLOCK is 8 MiB"),
        SimpleNamespace(subject="io_flusher", granted=True, message=""),
    ]
    subjects = [finding.subject for finding in of_start(CONFIG, protections)]
    assert subjects == ["memlock", "cluster.servers"]
    assert of_start(CONFIG, None)[0].subject == "reclaim"
