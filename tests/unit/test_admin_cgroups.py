"""farswapctl's cgroup, tier set, top and doctor, on services of Python objects."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fake_fleet import finding, fleet, run, shared_fleet
from farswap.admin import latency
from farswap.v1 import host_admin_pb2 as pb
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from fake_fleet import Fleet

__all__ = ["fleet", "shared_fleet"]

NO_LIMIT = (1 << 64) - 1


@pytest.mark.usefixtures("fleet")
class TestCgroups:
    def test_a_line_for_each(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capfd, "cgroup", "list")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert [line.split()[0] for line in lines] == ["cgroups", "cgroup", "/", "/build", "#2"]
        assert "16.0 MiB" in lines[2]

    @pytest.mark.parametrize(
        "environment",
        [
            {"PYTHONIOENCODING": "ascii"},
            {"LC_ALL": "C"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ],
    )
    @pytest.mark.parametrize("args", [["show", "/caf\xe9"], ["show", "/caf\xe9", "-o", "json"]])
    def test_any_name_is_shown_in_any_encoding(
        self, environment: dict[str, str], args: list[str]
    ) -> None:
        shown = subprocess.run(
            [sys.executable, "-m", "farswap.admin.main", "cgroup", *args],
            env=os.environ | environment,
            capture_output=True,
            check=False,
        )
        assert (shown.returncode, shown.stderr) == (0, b"")
        ways = (b"/caf\xc3\xa9", rb"/caf\xe9", rb"/caf\u00e9")
        assert any(way in shown.stdout for way in ways)

    def test_tier_show_has_them_too(self, capfd: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capfd, "tier", "show", "--by-cgroup")
        assert "/build" in out
        _, out, _ = run(capfd, "tier", "show", "--by-cgroup", "-o", "json")
        shown = json.loads(out)
        assert [cgroup["path"] for cgroup in shown["cgroups"]] == ["/", "/build", ""]
        assert shown["held_pages"] == 50000

    def test_what_has_no_limit_is_null(self, capfd: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capfd, "cgroup", "list", "-o", "json")
        settings = json.loads(out)["cgroups"][1]["settings"]
        assert settings["pool_limit_bytes"] == 16 << 20
        assert settings["remote_pages_max"] is None

    def test_one_is_shown_with_where_its_settings_come_from(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        _, out, _ = run(capfd, "cgroup", "show", "/build")
        assert "pool limit  16.0 MiB (file)" in out
        assert "remote max  none (" in out
        assert "compressor  the tier's (" in out
        assert "1344, of these 0 do not compress" in out
        assert "0, and 100 of those in the pool" in out

    def test_a_path_may_have_slashes_to_spare(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, _ = run(capfd, "cgroup", "show", "//build/")
        assert (code, out.splitlines()[0]) == (0, "cgroup /build")

    def test_a_name_that_is_not_utf_8_is_refused(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capfd, "cgroup", "show", os.fsdecode(b"/\xff"))
        assert (code, out) == (2, "")
        assert "not UTF-8" in err

    def test_none_of_that_name_is_a_failure(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capfd, "cgroup", "show", "/gone")
        assert (code, out) == (1, "")
        assert err == "farswapctl: /gone is not a cgroup of this machine\n"

    @pytest.mark.parametrize(
        ("args", "asked"),
        [
            (["--pool-limit", "64MiB"], {"pool_limit_bytes": 64 << 20}),
            (["--pool-limit", "none"], {"pool_limit_bytes": NO_LIMIT}),
            (["--remote-max", "1GiB"], {"remote_pages_max": 1 << 18}),
            (["--remote-max", "none"], {"remote_pages_max": NO_LIMIT}),
            (["--remote-max", "0"], {"remote_pages_max": 0}),
            (
                ["--writeback", "off", "--compressor", "zstd"],
                {"writeback": False, "compressor": "zstd:3"},
            ),
            (["--compressor", "lz4:1"], {"compressor": "lz4"}),
            (
                ["--pool-limit", "default", "--writeback", "default", "--remote-max", "default"],
                {"defaults": ["pool_limit_bytes", "writeback", "remote_pages_max"]},
            ),
            (
                ["--compressor", "default", "--writeback", "on"],
                {"defaults": ["compressor"], "writeback": True},
            ),
        ],
    )
    def test_only_what_is_given_is_set(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str], args: list[str], asked: dict
    ) -> None:
        assert run(capfd, "cgroup", "set", "/build", *args)[0] == 0
        assert fleet.host.asked == [pb.SetCgroupRequest(path="/build", **asked)]


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (["--compressor", "zstd:3"], {"compressor": "zstd:3"}),
        (["--compressor=lz4"], {"compressor": "lz4"}),
        (["--recompress", "off"], {"recompress": "off"}),
        (["--pack", "off"], {"pack": False}),
        (
            ["--pool-limit", "64MiB", "--accept-threshold", "80"],
            {"pool_limit_bytes": 64 << 20, "accept_threshold_percent": 80},
        ),
    ],
)
def test_the_tier_is_set_by_options(
    fleet: Fleet, capfd: pytest.CaptureFixture[str], args: list[str], asked: dict
) -> None:
    assert run(capfd, "tier", "set", *args)[0] == 0
    assert fleet.host.asked == [pb.SetTierRequest(**asked)]


class TestDoctor:
    def test_each_check_is_shown_with_its_remedy(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = run(capfd, "doctor")
        assert (code, err) == (0, "")
        for text in ("zswap", "ok: off", "warning: is low", "do: raise it"):
            assert text in out

    @pytest.mark.parametrize("form", ["table", "json"])
    def test_an_error_is_exit_code_1(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str], form: str
    ) -> None:
        kept = list(fleet.host.checks)
        fleet.host.checks.append(finding("LEVEL_ERROR", "accounting", "do not add up"))
        code, out, err = run(capfd, "doctor", "-o", form)
        fleet.host.checks[:] = kept
        assert code == 1
        assert "do not add up" in out
        assert err == "farswapctl: errors found: accounting\n"


class TestTop:
    @pytest.mark.usefixtures("fleet")
    def test_one_document_an_interval(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capfd, "top", "--once", "--interval", "0.1", "-o", "json")
        assert (code, err) == (0, "")
        (line,) = out.splitlines()
        shown = json.loads(line)
        assert shown["tier"]["hit_ratio"] == pytest.approx(0.75)
        assert shown["tier"]["per_second"]["stores"] == 0
        seconds = shown["interval_s"]
        assert shown["tier"]["per_second"]["loads_local"] == pytest.approx(300 / seconds, rel=0.05)
        assert shown["tier"]["load_us"]["local"]["pages"] == 300
        assert 8 <= shown["tier"]["load_us"]["local"]["p99"] <= 16
        assert shown["tier"]["load_us"]["remote"] == {"pages": 0, "p50": None, "p99": None}
        # The busiest first.
        assert [cgroup["id"] for cgroup in shown["cgroups"]] == [2, 1, 0]
        assert shown["cgroups"][0]["pages"] == {
            "same_filled": 0,
            "local": 1234,
            "writing": 10,
            "clean": 100,
            "remote": 0,
        }

    @pytest.mark.usefixtures("fleet")
    def test_a_table_has_all_and_each_cgroup(self, capfd: pytest.CaptureFixture[str]) -> None:
        code, out, _ = run(capfd, "top", "--once", "--interval", "0.1")
        assert code == 0
        rows = {line.split()[0]: line for line in out.splitlines()}
        assert "75.0 %" in rows["all"]
        assert {"/", "/build", "#2"} <= rows.keys()
        assert rows["/build"].split()[1] == "1344"
        assert "\x1b" not in out

    def test_an_interval_that_is_no_number_is_called_that(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        code, _, err = run(capfd, "top", "--interval", "x")
        assert (code, err) == (
            2,
            "farswapctl: Invalid value for '--interval': 'x' is not a valid number.\n",
        )

    def test_ctrl_c_ends_it_without_complaint(self, fleet: Fleet) -> None:
        program = [sys.executable, "-m", "farswap.admin.main", "--host", fleet.host_address]
        with subprocess.Popen(
            [*program, "top", "--interval", "0.2", "-o", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for _ in range(2):
                assert "tier" in json.loads(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=HANG_GUARD_S)
        assert (process.returncode, err) == (0, "")

    def test_on_a_terminal_the_screen_is_given_back(self, fleet: Fleet) -> None:
        program = [sys.executable, "-m", "farswap.admin.main", "--host", fleet.host_address]
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*program, "top", "--interval", "0.1"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"},
        ) as process:
            os.close(theirs)
            shown = b""
            while shown.count(b"/build") < 2:
                shown += os.read(ours, 65536)
            process.send_signal(signal.SIGINT)
            # A terminal whose last writer has gone gives an error instead of an end.
            with contextlib.suppress(OSError):
                while piece := os.read(ours, 65536):
                    shown += piece
            assert process.wait(20) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""
        os.close(ours)
        enter, leave = b"\x1b[?1049h", b"\x1b[?1049l"
        assert shown.index(enter) < shown.index(b"/build") < shown.rindex(leave)


def test_quantiles_are_those_of_prometheus() -> None:
    counts = [0] * 24
    assert latency.quantile_us(counts, 0.5) is None
    counts[3], counts[5] = 10, 10
    assert latency.quantile_us(counts, 0.25) == pytest.approx(6)
    assert latency.quantile_us(counts, 0.5) == pytest.approx(8)
    assert latency.quantile_us(counts, 0.99) == pytest.approx(16 + 16 * 0.98)
    assert latency.quantile_us([0] * 23 + [1], 0.5) == 2**22
    assert latency.quantile_us([4] + [0] * 23, 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (None, "-"),
        (11.6, "12 \N{MICRO SIGN}s"),
        (0.55, "0.6 \N{MICRO SIGN}s"),
        (1500, "1.5 ms"),
        (2_000_000, "2.0 s"),
    ],
)
def test_times_are_short(us: float | None, text: str) -> None:
    assert latency.text(us) == text
