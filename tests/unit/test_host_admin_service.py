"""The HostAdmin service over a real gRPC socket, on an engine of Python objects."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fake_cgroups import FakeGroups, latency, record
from fake_engine import FakeEngine, memory_server, placement
from farswap.client_nbd import config as host_config
from farswap.client_nbd.admin import service as admin_service
from farswap.client_nbd.attribution import Attribution
from farswap.client_nbd.checks.doctor import Doctor
from farswap.client_nbd.kernel.attach import KernelDevice
from farswap.client_nbd.kernel.device_use import ExportDevices
from farswap.client_nbd.kernel.files import KernelFiles
from farswap.client_nbd.membership import Membership
from farswap.client_nbd.running_host import RunningHost
from farswap.client_nbd.safe_stop import StopGate
from farswap.client_nbd.settings import TierSettings
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
        self.groups = FakeGroups(self.engine, {7: "/build", 8: "/build/job", 9: "/idle"})
        self.engine.group_records = [
            record(8, local_pages=3, counters={"stores": 3}, pool_limit_bytes=1 << 20),
            record(0, remote_pages=5, latency={"local": latency((3, 10)), "remote": latency()}),
            record(7, latency={"local": latency((3, 5), (4, 1)), "remote": latency((9, 2))}),
        ]
        files = KernelFiles(root)
        devices = ExportDevices(files)
        attribution = Attribution(self.engine, CONFIG.attribution, files, devices, lambda _: 0)
        stands = (CONFIG.device.size, files, devices, attribution, self._no_driver)
        device = KernelDevice(self.engine, self.engine.serve, *stands)
        self.gate = StopGate()
        host = RunningHost(
            config=CONFIG,
            engine=self.engine,
            membership=Membership(self.engine, CONFIG.cluster),
            groups=self.groups,
            settings=TierSettings(self.engine, CONFIG.tier),
            device=device,
            devices=devices,
            gate=self.gate,
            link=None,
            attribution=attribution,
            files=files,
            identity=Identity("farswap-host"),
            listen=CONFIG.nbd.listen,
            protections=[SimpleNamespace(subject="memlock", granted=False, message="refused")],
        )
        add = host_admin_pb2_grpc.add_HostAdminServicer_to_server
        service = admin_service.HostAdminService(host, Doctor(host))
        server.add(admin_service.SERVICE_NAME, add, service, reads=admin_service.READS)
        self.client = RpcClient(server.address, "farswap-host", 10)
        self.stub = host_admin_pb2_grpc.HostAdminStub(self.client.channel)

    def _no_driver(self) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    async def call(self, method: str, request: Any) -> Any:
        return await asyncio.to_thread(self.client.call, getattr(self.stub, method), request)

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


async def test_status_has_gauges_counters_and_their_sum(running: Running) -> None:
    status = await running.status()
    assert status.tier.held_pages == 10 + 1000 + 5 + 2000
    assert status.tier.stored_pages == 10 + 1000 + 5
    assert status.tier.pool_used_bytes == 3 << 20
    counters = {counter.name: counter.value for counter in status.tier.counters}
    assert counters["stores"] == 4000
    assert counters["fail_checksum"] == 0
    assert not counters.keys() & {"local_pages", "pool_used_bytes", "shrinking"}
    assert status.device.incarnation == bytes(range(16)).hex()
    assert status.device.host_id == "h1"
    assert list(status.device.listen) == ["unix:/run/farswap/swap0.sock"]


async def test_status_has_servers_that_are_away(running: Running) -> None:
    running.engine.server_list = [
        memory_server(
            state="away", connected=False, last_error="connection refused", disconnected_ms=1500
        )
    ]
    (server,) = (await running.status()).servers
    assert not server.connected
    assert server.last_error == "connection refused"
    assert server.disconnected_ms == 1500
    assert not (await running.status()).alarm
    running.engine.server_list = [memory_server(state="fenced", connected=False)]
    assert (await running.status()).alarm.startswith("FENCED: another host")


async def test_findings_of_the_start_stay_and_those_of_the_machine_are_looked_up(
    running: Running,
) -> None:
    at_start = ["memlock", "cluster.servers"]
    assert [finding.subject for finding in (await running.status()).findings] == at_start
    parameters = running.root / "sys/module/zswap/parameters"
    parameters.mkdir(parents=True)
    (parameters / "enabled").write_text("Y\n")
    subjects = [finding.subject for finding in (await running.status()).findings]
    assert subjects == [*at_start, "zswap"]


async def test_writeback_reports_until_finished(running: Running) -> None:
    running.engine.writeback_step_bytes = 8192
    request = pb.WritebackRequest(bytes=16384, cgroup="/build", older_than_s=600)

    def follow() -> list[tuple[int, bool]]:
        reports = running.client.stream(running.stub.Writeback, request)
        return [(report.written_bytes, report.finished) for report in reports]

    assert await asyncio.to_thread(follow) == [(8192, False), (16384, True)]
    assert running.engine.writeback_asked == (16384, 7, 600)


async def test_writeback_of_a_cgroup_that_is_not_there_is_not_found(running: Running) -> None:
    request = pb.WritebackRequest(bytes=16384, cgroup="/gone")
    with pytest.raises(errors.NotFoundError, match="/gone is not a cgroup"):
        await asyncio.to_thread(
            lambda: list(running.client.stream(running.stub.Writeback, request))
        )


async def test_a_second_writeback_is_refused_and_does_not_disturb_the_first(
    running: Running,
) -> None:
    running.engine.writeback_step_bytes = 0
    request = pb.WritebackRequest(bytes=4096)

    def two() -> None:
        first = running.client.stream(running.stub.Writeback, request)
        next(first)
        with pytest.raises(errors.BusyError, match="another writeback job is running"):
            next(running.client.stream(running.stub.Writeback, request))
        assert not running.engine.writeback_cancelled.is_set()
        assert not next(first).finished
        first.close()

    await asyncio.to_thread(two)
    # The call's end is the job's.
    assert await asyncio.to_thread(running.engine.writeback_cancelled.wait, 5)


async def test_a_writeback_that_moves_nothing_ends_with_a_reason(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_service, "WRITEBACK_STALL_S", 0.2)
    running.engine.writeback_step_bytes = 0
    request = pb.WritebackRequest(bytes=4096)
    *_, last = await asyncio.to_thread(
        lambda: list(running.client.stream(running.stub.Writeback, request))
    )
    assert last.finished
    assert last.stopped_because.startswith("memory servers took no page for")
    assert await asyncio.to_thread(running.engine.writeback_cancelled.wait, 5)


async def test_a_writeback_that_finds_no_more_reports_what_keeps_the_rest(running: Running) -> None:
    running.engine.writeback_ends = "no more entries to write back"
    await running.call("SetCgroup", pb.SetCgroupRequest(path="/build/job", writeback=False))
    request = pb.WritebackRequest(bytes=1, cgroup="/build", older_than_s=600)
    last = await asyncio.to_thread(next, running.client.stream(running.stub.Writeback, request))
    assert last.stopped_because == (
        "no more entries to write back that are older than 10m: writeback is off for /build/job"
    )


async def test_writeback_of_nothing_is_refused(running: Running) -> None:
    def follow() -> None:
        next(running.client.stream(running.stub.Writeback, pb.WritebackRequest()))

    with pytest.raises(errors.InvalidArgumentError):
        await asyncio.to_thread(follow)


async def test_status_and_its_findings_count_shards_short_of_replicas(running: Running) -> None:
    running.engine.server_list = [memory_server()]
    running.engine.placed = placement(replicas=2, debt_shards=5)
    status = await running.status()
    assert status.placement.replication_debt_shards == 5
    assert [found.subject for found in status.findings].count("replicas") == 2


async def test_a_slot_is_explained_with_its_age_and_replicas(running: Running) -> None:
    found = await running.call("ExplainSlot", pb.ExplainSlotRequest(slot=1023))
    assert (found.slot, found.codec, found.age_known) == (1023, types_pb2.CODEC_LZ4, True)
    assert 60_000 <= found.age_ms < 70_000
    assert [replica.state for replica in found.replicas] == ["current", "joining"]


async def test_a_slot_beyond_the_device_is_an_invalid_argument(running: Running) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"slot 1024 .* has slots 0\.\.1023"):
        await asyncio.to_thread(
            running.client.call, running.stub.ExplainSlot, pb.ExplainSlotRequest(slot=1024)
        )


async def test_attach_fails_with_the_reason(running: Running) -> None:
    with pytest.raises(errors.NotPossibleError, match="modprobe nbd"):
        await asyncio.to_thread(
            running.client.call, running.stub.Attach, pb.AttachRequest(device="/dev/nbd0")
        )
    with pytest.raises(errors.InvalidArgumentError, match="is not an nbd device"):
        await running.call("Attach", pb.AttachRequest(device="sda"))


async def test_a_daemon_that_is_about_to_stop_takes_no_device(running: Running) -> None:
    running.gate.close()
    for method in ("Attach", "Attribute"):
        request = getattr(pb, f"{method}Request")(device="/dev/nbd0")
        with pytest.raises(errors.BusyError):
            await running.call(method, request)


async def list_cgroups(running: Running, path: str = "") -> list[pb.CgroupStatus]:
    request = pb.ListCgroupsRequest(path=path)
    return await asyncio.to_thread(
        lambda: list(running.client.stream(running.stub.ListCgroups, request))
    )


async def test_cgroups_are_listed_root_first_then_by_path(running: Running) -> None:
    found = await list_cgroups(running)
    assert [cgroup.path for cgroup in found] == ["/", "/build", "/build/job"]
    assert [(of.held_pages, of.stored_pages) for of in found] == [(5, 0), (0, 0), (3, 3)]
    assert found[2].counters[0].value == 3


async def test_a_cgroup_without_pages_is_shown_with_its_settings(running: Running) -> None:
    (idle,) = await list_cgroups(running, "/idle")
    assert (idle.id, idle.held_pages, idle.settings.writeback) == (9, 0, True)
    with pytest.raises(errors.NotFoundError, match="/gone is not a cgroup"):
        await list_cgroups(running, "/gone")


async def test_settings_of_a_cgroup_are_set_and_given_back(running: Running) -> None:
    changed = await running.call(
        "SetCgroup",
        pb.SetCgroupRequest(
            path="/build", pool_limit_bytes=1 << 20, writeback=False, compressor="zstd"
        ),
    )
    assert changed.path == "/build"
    assert changed.settings.pool_limit_bytes == 1 << 20
    assert changed.settings.pool_limit_source == "operator"
    assert not changed.settings.writeback
    assert changed.settings.compressor == "zstd:3"
    assert not changed.settings.HasField("remote_pages_max")
    again = await running.call(
        "SetCgroup", pb.SetCgroupRequest(path="/build", defaults=["pool_limit_bytes"])
    )
    assert not again.settings.HasField("pool_limit_bytes")
    assert not again.settings.writeback
    assert running.groups.overrides["/build"].compressor == ("zstd", 3)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.SetCgroupRequest(path="/build"), "no setting was given"),
        (pb.SetCgroupRequest(path="/build", defaults=["x"]), "no setting x"),
        (pb.SetCgroupRequest(path="/", pool_limit_bytes=1 << 30), "only writeback"),
        (pb.SetCgroupRequest(path="/build", compressor="gzip"), "not a compressor"),
        (
            pb.SetCgroupRequest(path="/build", writeback=True, defaults=["writeback"]),
            "both set and reset",
        ),
    ],
)
async def test_a_cgroup_setting_that_makes_no_sense_changes_nothing(
    running: Running, request_: pb.SetCgroupRequest, message: str
) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=message):
        await running.call("SetCgroup", request_)
    assert running.groups.overrides == {}


async def test_the_tier_is_set_while_it_runs(running: Running) -> None:
    assert running.engine.settings == {
        "compressor": ("lz4", 1),
        "recompress": ("zstd", 1),
        "packing": False,
    }
    tier = await running.call(
        "SetTier",
        pb.SetTierRequest(
            compressor="lz4:8", recompress="zstd:5", pack=True, accept_threshold_percent=80
        ),
    )
    assert (tier.compressor, tier.recompress, tier.pack) == ("lz4:8", "zstd:5", True)
    assert tier.accept_threshold_percent == 80
    assert running.engine.settings == {
        "compressor": ("lz4", 8),
        "recompress": ("zstd", 5),
        "packing": True,
        "limits": (64 << 20, 80),
    }
    await running.call("SetTier", pb.SetTierRequest(recompress="off", pool_limit_bytes=8 << 20))
    assert running.engine.settings["recompress"] == ("", 0)
    assert running.engine.settings["limits"] == (8 << 20, 80)
    assert running.engine.settings["packing"]
    assert (await running.status()).tier.compressor == "lz4:8"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.SetTierRequest(pool_limit_bytes=65 << 20), "65MiB is not in 4MiB..64MiB"),
        (pb.SetTierRequest(pool_limit_bytes=1), "1B is not in"),
        (pb.SetTierRequest(accept_threshold_percent=101), "101 % is not in"),
        (pb.SetTierRequest(accept_threshold_percent=0), "0 % is not in"),
        (pb.SetTierRequest(compressor="zstd:20"), "not in 1..19"),
        (pb.SetTierRequest(recompress="lz4"), "neither off nor"),
        (pb.SetTierRequest(compressor="zstd:1", pool_limit_bytes=1), "1B is not in"),
    ],
)
async def test_a_tier_setting_that_makes_no_sense_changes_nothing(
    running: Running, request_: pb.SetTierRequest, message: str
) -> None:
    before = dict(running.engine.settings)
    with pytest.raises(errors.InvalidArgumentError, match=message):
        await running.call("SetTier", request_)
    assert running.engine.settings == before


async def test_load_times_of_the_tier_are_those_of_all_cgroups(running: Running) -> None:
    local, remote = (await running.status()).tier.latency
    assert (local.tier, remote.tier) == ("local", "remote")
    assert (local.buckets[3], local.buckets[4], remote.buckets[9]) == (15, 1, 2)


async def test_the_doctor_reports_all_checks(running: Running) -> None:
    running.engine.group_records = [
        record(0, same_filled_pages=10, local_pages=1000, writing_pages=5, remote_pages=2000)
    ]
    running.engine.group_records[0].counters = {"stores": 3015}
    report = await running.call("Doctor", pb.DoctorRequest())
    levels = {check.subject: pb.Finding.Level.Name(check.level) for check in report.checks}
    expected = {"memlock": "LEVEL_WARNING", "zswap": "LEVEL_OK", "accounting": "LEVEL_OK"}
    assert levels.items() >= expected.items()


async def test_attribution_moves_to_another_device_only_on_request(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"/dev/loop7": (7, 7), "/dev/loop8": (7, 8)}
    monkeypatch.setattr(KernelFiles, "device_number", lambda _, device: numbers[device])
    await running.call("Attribute", pb.AttributeRequest(device="/dev/loop7"))
    with pytest.raises(errors.NotPossibleError, match="/dev/loop7"):
        await running.call("Attribute", pb.AttributeRequest(device="/dev/loop8"))
    state = await running.call("Attribute", pb.AttributeRequest(device="/dev/loop8", replace=True))
    assert state.device == "/dev/loop8"
