"""farswapctl against real gRPC servers with services of Python objects."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from farswap.admin.main import command
from farswap.common import cli
from farswap.common.address import Address
from farswap.common.errors import InvalidArgumentError, exit_code
from farswap.common.rpc_server import RpcServer
from farswap.common.version import API_VERSION, Identity
from farswap.v1 import (
    host_admin_pb2,
    host_admin_pb2_grpc,
    server_admin_pb2,
    server_admin_pb2_grpc,
    types_pb2,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    Reports = AsyncIterator[host_admin_pb2.WritebackProgress]

LONG_PATH = "/srv/" + "a-rather-long-directory-name/" * 6 + "farswap"


class Host(host_admin_pb2_grpc.HostAdminServicer):
    def __init__(self) -> None:
        self.api_version = API_VERSION
        self.stopped_because = ""
        self.endless = False
        self.cancelled = threading.Event()

    async def Status(self, request, context) -> host_admin_pb2.HostStatus:  # noqa: N802
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
            ),
            tier=host_admin_pb2.TierStatus(
                pool_limit_bytes=256 << 20,
                pool_used_bytes=64 << 20,
                accept_threshold_percent=90,
                compressor="lz4",
                pages_stored=50000,
                pages_local=40000,
                pages_remote=9999,
                pages_same_filled=1,
                counters=[
                    types_pb2.Counter(name="fail_checksum", value=2),
                    types_pb2.Counter(name="stores", value=1 << 60),
                ],
            ),
            servers=[
                host_admin_pb2.MemoryServerStatus(address="10.0.0.7:7070", last_error="refused")
            ],
            findings=[
                host_admin_pb2.Finding(
                    level=host_admin_pb2.Finding.LEVEL_WARNING, subject="memlock", message="no"
                )
            ],
        )

    async def ExplainSlot(self, request, context) -> host_admin_pb2.SlotExplanation:  # noqa: N802
        if request.slot == 99:
            raise InvalidArgumentError("slot 99 is out of range")
        return host_admin_pb2.SlotExplanation(
            slot=request.slot, state="remote", codec=types_pb2.CODEC_ZSTD, problem="no server"
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
    async def Status(self, request, context) -> server_admin_pb2.ServerStatus:  # noqa: N802
        return server_admin_pb2.ServerStatus(
            info=Identity("farswap-server").server_info(),
            listen="127.0.0.1:7070",
            path=LONG_PATH,
            capacity_bytes=8 << 30,
            used_bytes=2 << 30,
            volumes=[server_admin_pb2.VolumeStatus(host_id="h" * 90, device="swap0", garbage=True)],
        )


class Fleet:
    """Both services on a loop of their own thread, as the commands under test block."""

    def __init__(self) -> None:
        self.host = Host()
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
            lambda it: host_admin_pb2_grpc.add_HostAdminServicer_to_server(self.host, it),
        )
        server.add(
            "farswap.v1.ServerAdmin",
            lambda it: server_admin_pb2_grpc.add_ServerAdminServicer_to_server(Server(), it),
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
    return shared_fleet


def run(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr: as the console script would end."""
    with pytest.raises(SystemExit) as ended:
        cli.run("farswapctl", command, list(args))
    captured = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.mark.usefixtures("fleet")
class TestTables:
    def test_status_is_one_plain_screen(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capfd, "status")
        assert (code, err) == (0, "")
        for text in ("swap0", "/dev/nbd0", "on, 5.0 MiB used", "64.0 MiB of 256.0 MiB (25 %)"):
            assert text in out
        for text in ("memlock: no", "no answer from 10.0.0.7:7070", "fail_checksum: 2 since"):
            assert text in out
        assert "\x1b" not in out
        assert len(out.splitlines()) < 40
        assert all(line == line.rstrip() for line in out.splitlines())

    def test_pipes_get_long_values_whole(self, capfd: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capfd, "server", "show")
        assert LONG_PATH in out
        assert "h" * 90 + "/swap0" in out

    def test_counters_are_exact(self, capfd: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capfd, "tier", "show")
        assert str(1 << 60) in out

    def test_a_slot_that_could_not_be_verified_says_why(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        _, out, _ = run(capfd, "slot", "explain", "5")
        assert "not verified: no server" in out
        assert "zstd" in out


@pytest.mark.usefixtures("fleet")
class TestJson:
    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["status"], host_admin_pb2.HostStatus),
            (["device", "show"], host_admin_pb2.DeviceStatus),
            (["tier", "show"], host_admin_pb2.TierStatus),
            (["server", "show"], server_admin_pb2.ServerStatus),
            (["slot", "explain", "1"], host_admin_pb2.SlotExplanation),
            (["tier", "writeback", "--bytes", "1MiB"], host_admin_pb2.WritebackProgress),
        ],
    )
    def test_every_field_of_the_message_is_there(
        self, capfd: pytest.CaptureFixture[str], args: list[str], message: type
    ) -> None:
        code, out, err = run(capfd, *args, "-o", "json")
        assert (code, err) == (0, "")
        assert list(json.loads(out)) == [field.name for field in message.DESCRIPTOR.fields]

    def test_values_have_the_types_of_json(self, capfd: pytest.CaptureFixture[str]) -> None:
        status = json.loads(run(capfd, "status", "-o", "json")[1])
        assert status["tier"]["counters"] == {"fail_checksum": 2, "stores": 1 << 60}
        assert status["findings"][0]["level"] == "warning"
        assert status["device"]["connections"][0]["peer"] == "kernel /dev/nbd0"
        assert status["servers"][0]["connected"] is False


class TestWriteback:
    def test_a_pipe_gets_lines_and_a_summary(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = run(capfd, "tier", "writeback", "--bytes", "10MiB")
        assert code == 0
        assert out == "wrote back 10.0 MiB of pages, 2.5 MiB as compressed\n"
        assert err.splitlines()[0] == "writeback: 1.0 MiB of 10.0 MiB"
        assert len(err.splitlines()) == 10

    def test_short_of_the_target_is_a_failure_with_its_reason(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fleet.host.stopped_because = "servers are full"
        code, out, err = run(capfd, "tier", "writeback", "--bytes", "10MiB")
        assert code == 1
        assert out.startswith("wrote back 5.0 MiB")
        assert err.splitlines()[-1] == "farswapctl: short of the target: servers are full"

    def test_ctrl_c_ends_the_job_and_tells_what_has_moved(self, fleet: Fleet) -> None:
        fleet.host.endless = True
        program = [sys.executable, "-m", "farswap.admin.main", "--host", fleet.host_address]
        with subprocess.Popen(
            [*program, "tier", "writeback", "--bytes", "10MiB"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "writeback: 5.0 MiB of 10.0 MiB\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        assert process.returncode == 1
        assert out.startswith("wrote back 5.0 MiB")
        assert err == "farswapctl: short of the target: interrupted\n"
        assert fleet.host.cancelled.wait(20)

    def test_plain_numbers_are_bytes(self, fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capfd, "tier", "writeback", "--bytes", "40960", "-o", "json")
        assert json.loads(out)["target_bytes"] == 40960


class TestErrors:
    def one_line(self, result: tuple[int, str, str], code: int, *texts: str) -> None:
        assert result[0] == code
        assert result[1] == ""
        (line,) = result[2].splitlines()
        assert line.startswith("farswapctl: ")
        for text in texts:
            assert text in line

    def test_nobody_there(self, capfd: pytest.CaptureFixture[str]) -> None:
        result = run(capfd, "--host", "unix:/nonexistent/host.sock", "status")
        self.one_line(result, 1, "unix:/nonexistent/host.sock", "no such socket")

    def test_another_api_version(self, fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
        fleet.host.api_version = API_VERSION + 7
        result = run(capfd, "slot", "explain", "1")
        self.one_line(result, 1, f"API version {API_VERSION + 7}", f"speaks {API_VERSION}")

    def test_the_other_daemon(self, fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
        self.one_line(run(capfd, "--host", fleet.server_address, "status"), 1, "not a farswap-host")
        self.one_line(
            run(capfd, "--server", fleet.host_address, "server", "show"), 1, "not a farswap-server"
        )

    @pytest.mark.parametrize(
        "args",
        [
            ["status", "--what"],
            ["what"],
            ["slot", "explain", "x"],
            ["slot", "explain", "-1"],
            ["slot", "explain", "99"],
            ["tier", "writeback"],
            ["tier", "writeback", "--bytes", "0"],
            ["tier", "writeback", "--bytes", "12XB"],
            ["status", "-o", "yaml"],
            ["--host", "x", "status"],
            ["--host", "a:1", "--server", "b:2", "status"],
            ["--server", "b:2", "status"],
            ["--host", "a:1", "server", "show"],
            ["--timeout", "0", "status"],
        ],
    )
    def test_bad_arguments(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str], args: list[str]
    ) -> None:
        self.one_line(run(capfd, *args), exit_code(InvalidArgumentError("")))


def test_every_help_page_teaches_by_example() -> None:
    def help_of(*args: str) -> Result:
        return CliRunner().invoke(command, [*args, "--help"])

    verbs = [
        ["status"],
        ["device", "show"],
        ["tier", "show"],
        ["tier", "writeback"],
        ["server", "show"],
        ["slot", "explain"],
    ]
    for args in ([], *verbs):
        page = help_of(*args)
        assert page.exit_code == 0
        assert "Example" in page.output
