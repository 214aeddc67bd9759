"""farswapctl against real gRPC servers with services of Python objects."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from fake_fleet import LONG_PATH, fleet, run, shared_fleet
from farswap.admin.main import command
from farswap.common.errors import InvalidArgumentError
from farswap.common.version import API_VERSION
from farswap.v1 import host_admin_pb2, server_admin_pb2
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fake_fleet import Fleet

__all__ = ["fleet", "shared_fleet"]


@pytest.mark.usefixtures("fleet")
class TestTables:
    def test_status_is_one_plain_screen(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capfd, "status")
        assert (code, err) == (0, "")
        for text in (
            "swap0",
            "/dev/nbd0",
            "on /dev/nbd0, 5.0 MiB used",
            "64.0 MiB of 256.0 MiB (25 %)",
        ):
            assert text in out
        for text in ("memlock: no", "unreachable for 0 s"):
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

    def test_a_slot_that_could_not_be_verified_is_shown_with_the_reason(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        _, out, _ = run(capfd, "slot", "explain", "5")
        assert "not verified: no server" in out
        assert "zstd" in out
        assert re.search(r"^  replicas +none$", out, re.MULTILINE)

    def test_all_replicas_of_a_slot_are_named_with_their_states(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fleet.host.replicas += [
            host_admin_pb2.Replica(address="a:1", state="current"),
            host_admin_pb2.Replica(address="b:1", state="stale"),
        ]
        _, out, _ = run(capfd, "slot", "explain", "5")
        assert re.search(r"^  replicas +a:1 \(current\), b:1 \(stale\)$", out, re.MULTILINE)

    def test_status_counts_the_shards_short_of_replicas(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        _, out, _ = run(capfd, "status")
        for key, value in (
            ("replicas wanted", "2"),
            ("short of replicas", "77 shards"),
            ("copies under way", "1"),
            ("lost", "none"),
            ("objects repaired", "0, 0 failed"),
        ):
            assert re.search(f"^  {key} +{value}$", out, re.MULTILINE)


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
            (["cgroup", "show", "/build"], host_admin_pb2.CgroupStatus),
            (["cgroup", "set", "/build", "--writeback", "off"], host_admin_pb2.CgroupStatus),
            (["tier", "set", "--compressor", "lz4:8"], host_admin_pb2.TierStatus),
            (["doctor"], host_admin_pb2.DoctorReport),
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
        assert status["tier"]["counters"]["stores"] == 1 << 60
        assert status["findings"][0]["level"] == "warning"
        assert status["device"]["connections"][0]["peer"] == "kernel /dev/nbd0"
        assert status["servers"][0]["connected"] is False
        assert status["placement"]["replication_debt_shards"] == 77


class TestWriteback:
    def test_a_pipe_gets_lines_and_a_summary(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = run(capfd, "tier", "writeback", "--bytes", "10MiB")
        assert code == 0
        assert out == "wrote back 10.0 MiB of pages, 2.5 MiB compressed\n"
        assert err.splitlines()[0] == "writeback: 1.0 MiB of 10.0 MiB"
        assert len(err.splitlines()) == 10

    def test_short_of_the_target_is_a_failure_with_its_reason(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fleet.host.stopped_because = "servers are full"
        code, out, err = run(capfd, "tier", "writeback", "--bytes", "10MiB")
        assert code == 1
        assert out.startswith("wrote back 5.0 MiB")
        assert (
            err.splitlines()[-1]
            == "farswapctl: writeback ended short of its target: servers are full"
        )

    def test_ctrl_c_ends_the_job_and_reports_what_has_moved(self, fleet: Fleet) -> None:
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
            out, err = process.communicate(timeout=HANG_GUARD_S)
        assert process.returncode == 1
        assert out.startswith("wrote back 5.0 MiB")
        assert err == "farswapctl: writeback ended short of its target: interrupted\n"
        assert fleet.host.cancelled.wait(20)

    def test_plain_numbers_are_bytes(self, fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capfd, "tier", "writeback", "--bytes", "40960", "-o", "json")
        assert json.loads(out)["target_bytes"] == 40960

    def test_cgroup_and_age_are_in_the_request(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        args = ["--older-than", "10m", "--cgroup", "/sys/fs/cgroup/x/", "--bytes", "1GiB"]
        assert run(capfd, "tier", "writeback", *args)[0] == 0
        (asked,) = fleet.host.asked
        assert (asked.cgroup, asked.older_than_s, asked.bytes) == ("/x", 600, 1 << 30)
        run(capfd, "tier", "writeback", "--older-than", "1001ms", "--bytes", "1GiB")
        assert fleet.host.asked[1].older_than_s == 2


class TestErrors:
    def one_line(self, result: tuple[int, str, str], code: int, *texts: str) -> None:
        assert result[0] == code
        assert result[1] == ""
        (line,) = result[2].splitlines()
        assert line.startswith("farswapctl: ")
        for text in texts:
            assert text in line

    def test_an_absent_daemon(self, capfd: pytest.CaptureFixture[str]) -> None:
        result = run(capfd, "--host", "unix:/nonexistent/host.sock", "status")
        self.one_line(result, 1, "unix:/nonexistent/host.sock", "no such socket")

    def test_another_api_version(self, fleet: Fleet, capfd: pytest.CaptureFixture[str]) -> None:
        fleet.host.api_version = API_VERSION + 7
        result = run(capfd, "slot", "explain", "1")
        self.one_line(result, 1, f"API version {API_VERSION + 7}", f"has {API_VERSION}")

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
            ["tier", "writeback", "--bytes", "1GiB", "--older-than", "10"],
            ["tier", "writeback", "--bytes", "1GiB", "--cgroup", "x"],
            ["tier", "set"],
            ["tier", "set", "--compressor", "gzip"],
            ["tier", "set", "--compressor"],
            ["tier", "set", "compressor", "lz4"],
            ["tier", "set", "--recompress", "lz4"],
            ["tier", "set", "--pack", "maybe"],
            ["tier", "set", "--accept-threshold", "0"],
            ["cgroup", "set", "/x"],
            ["cgroup", "set", "--writeback", "on"],
            ["cgroup", "set", "x", "--writeback", "on"],
            ["cgroup", "set", "/x", "--writeback", "maybe"],
            ["cgroup", "set", "/x", "--pool-limit", "lots"],
            ["cgroup", "show"],
            ["top", "--interval", "0"],
            ["top", "--interval", "nan"],
            ["top", "--interval", "x"],
            ["--timeout", "nan", "status"],
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
        self.one_line(run(capfd, *args), InvalidArgumentError.exit_code)


@pytest.mark.usefixtures("fleet")
def test_no_room_for_the_output_is_one_line_of_error() -> None:
    program = [sys.executable, "-m", "farswap.admin.main"]
    for args in (["status"], ["tier", "show", "-o", "json"], ["--version"], ["--help"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*program, *args], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 1
        assert done.stderr == "farswapctl: [Errno 28] No space left on device\n"


def help_pages(of: click.Command, *names: str) -> Iterator[list[str]]:
    """Arguments of a command and of all below it."""
    yield [*names, "--help"]
    if isinstance(of, click.Group):
        for name, below in of.commands.items():
            yield from help_pages(below, *names, name)


def test_every_help_page_teaches_by_example() -> None:
    for args in help_pages(command):
        page = CliRunner().invoke(command, args)
        assert page.exit_code == 0
        assert "Example" in page.output, args
