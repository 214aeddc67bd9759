"""`farswapctl server drain`: figures, stalls, what it waits for, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from fake_fleet import fleet, run, shared_fleet
from farswap.admin import drain
from farswap.admin.drain import Left
from farswap.common.errors import UnreachableError, VersionMismatchError
from farswap.v1 import server_admin_pb2 as pb
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fake_fleet import Fleet

__all__ = ["fleet", "shared_fleet"]

MIB = 1 << 20


def volume(host: str, shards: int, **fields: Any) -> pb.VolumeStatus:
    """With a MiB a shard; its owner is live."""
    known = {"volume_id": sum(host.encode()), "device": "swap0", "owner_live": True}
    return pb.VolumeStatus(
        **(known | {"host_id": host, "shards": shards, "bytes": shards * MIB} | fields)
    )


def silent(host: str, shards: int, **fields: Any) -> pb.VolumeStatus:
    known = {"owner_live": False, "silent_ms": 185_000, "owner_name": f"{host}.example"}
    return volume(host, shards, **(known | fields))


def left(*volumes: pb.VolumeStatus, draining: bool = True) -> Left:
    return Left.of(pb.ServerStatus(draining=draining, volumes=volumes))


def follow(looks: Iterable[Left | Exception], interval_s: float = 2.0) -> list[drain.Report]:
    """The reports of looks at a clock of its own."""
    now = 0.0
    coming = iter(looks)

    def look() -> Left:
        one = next(coming)
        if isinstance(one, Exception):
            raise one
        return one

    def sleep(_: float) -> None:
        nonlocal now
        now += interval_s

    return [report for (report,) in drain.follow([look], clock=lambda: now, sleep=sleep)]


class TestProgress:
    def test_rate_and_remaining_time_are_of_the_last_minute(self) -> None:
        reports = follow([*(left(volume("a", 40 - n)) for n in range(40)), left()])
        assert (reports[0].bytes_per_second, reports[0].eta_s) == (None, None)
        assert reports[10].bytes_per_second == MIB / 2
        assert reports[10].eta_s == 60 + 1  # and the pause before a look finds it empty
        assert reports[10].moved_bytes == 10 * MIB
        assert reports[-1].finished

    def test_the_remaining_time_is_the_mean_of_the_last_minute_and_the_last_ten_seconds(
        self,
    ) -> None:
        sizes = [*range(100, 80, -2), *range(80, 74, -1)]
        reports = follow([*(left(volume("a", size)) for size in sizes), left()])
        # 25 MiB in 30 s, of which 5 MiB in the last 10 s; 75 MiB are left.
        assert reports[15].eta_s == pytest.approx((75 * 30 / 25 + 75 * 10 / 5) / 2 + 1)

    def test_volumes_without_shards_and_garbage_are_not_waited_for(self) -> None:
        (report,) = follow([left(silent("a", 0), pb.VolumeStatus(bytes=5, garbage=True))])
        assert report.finished

    def test_a_server_is_drained_once_each_live_host_was_heard_after_the_drain_began(self) -> None:
        beats = [(500, 1900), (200, 3900), (200, 1700), (100, 100)]
        looks = [left(volume("a", 0, silent_ms=a), volume("b", 0, silent_ms=b)) for a, b in beats]
        reports = follow(looks)
        assert [report.finished for report in reports] == [False, False, True]
        assert reports[1].lines()[1] == (
            "  waits for heartbeats of hosts, whose answers carry the drain"
        )

    def test_a_stall_begins_after_30_s_without_less_and_ends_with_the_next_move(self) -> None:
        looks = [left(volume("a", 3)), *[left(volume("a", 2))] * 17, left(volume("a", 1)), left()]
        stalled = [report.stalled_s for report in follow(looks)]
        assert stalled == [0.0] * 16 + [30.0, 32.0, 0.0, 0.0]

    def test_new_pages_are_no_progress_and_a_moved_shard_is_one_in_spite_of_them(self) -> None:
        grown = [left(volume("a", 3, bytes=(3 + n) * MIB)) for n in range(20)]
        moved = left(volume("a", 2, bytes=30 * MIB))
        reports = follow([*grown, moved, left()])
        assert reports[19].stalled_s > 0
        assert reports[19].eta_s is None
        assert reports[20].stalled_s == 0

    def test_a_server_that_does_not_answer_ends_no_wait(self) -> None:
        away = UnreachableError("10.0.0.7:7071: no answer: connection refused")
        reports = follow([left(volume("a", 3)), *[away] * 100, left(volume("a", 2)), left()])
        assert len(reports) == 103
        assert not reports[50].finished
        assert reports[50].lines() == [
            "drain: waits for the server: 10.0.0.7:7071: no answer: connection refused"
        ]
        assert reports[-1].finished

    def test_another_release_at_the_address_ends_the_wait(self) -> None:
        with pytest.raises(VersionMismatchError):
            follow([left(volume("a", 3)), VersionMismatchError("API version 2")])

    def test_a_shard_without_pages_in_a_hosts_map_is_waited_for(self) -> None:
        first, last = follow([left(volume("a", 1, bytes=0)), left(volume("a", 0))])
        assert not first.finished
        assert first.lines()[1] == "  waits for a/swap0: 1 shard, 0 B"
        assert last.finished

    def test_drains_that_began_together_are_followed_until_the_last_one_is_done(self) -> None:
        now = 0.0
        one = iter([left(volume("a", 1)), left(draining=False)])
        other = iter([left(volume("a", 1)), left(volume("a", 1)), left()])

        def sleep(_: float) -> None:
            nonlocal now
            now += 2

        looks = [lambda: next(one), lambda: next(other)]
        *_, last = drain.follow(looks, clock=lambda: now, sleep=sleep)
        assert [(report.finished, report.ended) for report in last] == [
            (False, True),
            (True, False),
        ]

    def test_looks_take_a_fifth_of_the_time(self) -> None:
        pauses = []
        now = 0.0
        looks = iter([left(volume("a", 1)), left()])

        def slow_look() -> Left:
            nonlocal now
            now += 3
            return next(looks)

        list(drain.follow([slow_look], clock=lambda: now, sleep=pauses.append))
        assert pauses == [12]

    def test_looks_are_more_frequent_towards_the_end(self) -> None:
        pauses = []
        now = 0.0
        looks = iter([left(volume("a", 60)), left(volume("a", 20)), left()])

        def slow_look() -> Left:
            nonlocal now
            now += 5
            return next(looks)

        def sleep(pause: float) -> None:
            nonlocal now
            pauses.append(pause)
            now += pause

        list(drain.follow([slow_look], clock=lambda: now, sleep=sleep))
        # 40 MiB in 25 s: the rest takes 12.5 s, of which the look took 5 s.
        assert pauses == [20, 1.0]

    def test_the_remaining_time_counts_from_the_answer(self) -> None:
        progress = drain.Progress(0.0)
        progress.note(left(volume("a", 60)), 0.0, 0.0)
        report = progress.note(left(volume("a", 40)), 10.0, 13.0)
        assert report.eta_s == 17 + 1

    def test_silent_hosts_come_first_with_what_frees_their_shards(self) -> None:
        many = [volume(f"live{n}", 1) for n in range(20)]
        (first, *_, last) = left(*many, silent("dead", 2, expires_in_ms=86_400_000)).waits()
        assert first == (
            "waits for dead/swap0: 2 shards, 2.0 MiB; dead.example is silent for 3 min 5 s: "
            "start farswap-host there, or the volume is deleted in 1 d 0 h"
        )
        assert last == "waits for 13 more volumes"

    def test_names_of_hosts_command_no_terminal(self) -> None:
        (line,) = left(silent("\x1b[2J", 1)).waits()
        assert "\x1b" not in line


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(drain, "_PAUSE_FACTOR", 0)


class TestCommand:
    def test_dry_run_changes_nothing_and_names_what_it_does_not_know(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fleet.server.left = [[volume("a", 3), silent("b", 1)]]
        code, out, err = run(capfd, "server", "drain", "--dry-run")
        assert (code, err, fleet.server.calls) == (0, "", [])
        lines = out.splitlines()
        assert lines[0] == "would move 4 shards, 4.0 MiB of 2 volumes"
        assert lines[1].startswith("  waits for b/swap0: 1 shard, 1.0 MiB; b.example is silent")
        assert lines[2] == "  waits for a/swap0: 3 shards, 3.0 MiB"
        assert lines[3].startswith("not known: the room on other servers")
        document = json.loads(run(capfd, "server", "drain", "--dry-run", "-o", "json")[1])
        assert (document["dry_run"], document["plan"]) == (True, None)

    def test_drain_returns_at_once_and_undrain_ends_it(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fleet.server.left = [[silent("b", 1)]]
        document = json.loads(run(capfd, "server", "drain", "-o", "json")[1])
        assert (document["draining"], document["shards"], document["bytes"]) == (True, 1, MIB)
        (waited_for,) = document["waits_for"]
        assert (waited_for["host_id"], waited_for["silent"]) == ("b", True)
        assert waited_for["expires_in_ms"] is None
        assert "draining, 1 shard, 1.0 MiB of 1 volume left" in run(capfd, "server", "show")[1]
        code, out, _ = run(capfd, "server", "undrain")
        assert (code, out) == (0, "not draining; state: active\n")
        assert json.loads(run(capfd, "server", "undrain", "-o", "json")[1])["draining"] is False
        assert fleet.server.calls == ["Drain", "Undrain", "Undrain"]

    @pytest.mark.usefixtures("at_once")
    def test_wait_prints_a_line_a_tenth_and_ends_with_the_last_shard(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fleet.server.left = [[volume("a", n)] for n in range(100, 0, -1)] + [[]]
        code, out, err = run(capfd, "server", "drain", "--wait")
        assert (code, out) == (0, "drained: no shard is left, 100.0 MiB moved\n")
        figures = [line for line in err.splitlines() if line.startswith("drain: ")]
        assert figures[0] == "drain: 100 shards, 100.0 MiB of 1 volume left, 0 B moved"
        assert figures[5].startswith("drain: 50 shards, 50.0 MiB of 1 volume left, 50.0 MiB moved")
        assert " to go" in figures[5]
        assert len(figures) == 10
        assert "  waits for a/swap0: 50 shards, 50.0 MiB" in err

    @pytest.mark.usefixtures("at_once")
    def test_wait_prints_documents_of_each_look(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fleet.server.left = [[volume("a", 2)], [volume("a", 1)], []]
        code, out, err = run(capfd, "server", "drain", "--wait", "-o", "json")
        assert (code, err) == (0, "")
        documents = [json.loads(line) for line in out.splitlines()]
        assert [each["shards"] for each in documents] == [2, 1, 0]
        assert [each["finished"] for each in documents] == [False, False, True]
        assert documents[1]["moved_bytes"] == MIB

    @pytest.mark.usefixtures("fleet", "at_once")
    def test_an_empty_server_is_drained_at_once(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(capfd, "server", "drain", "--wait")[0] == 0
        assert run(capfd, "server", "drain")[1] == "draining: nothing: no shard is here\n"

    def test_wait_and_dry_run_exclude_each_other(
        self, fleet: Fleet, capfd: pytest.CaptureFixture[str]
    ) -> None:
        code, _, err = run(capfd, "server", "drain", "--wait", "--dry-run")
        assert (code, err) == (2, "farswapctl: --wait and --dry-run exclude each other\n")
        assert fleet.server.calls == []

    def waiting(self, fleet: Fleet) -> subprocess.Popen[str]:
        """A process that waits for a drain of one shard, and has reported it."""
        fleet.server.left = [[volume("a", 1)]]
        program = [sys.executable, "-m", "farswap.admin.main", "--server", fleet.server_address]
        process = subprocess.Popen(
            [*program, "server", "drain", "--wait"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        assert process.stderr.readline().startswith("drain: 1 shard, 1.0 MiB of 1 volume left")
        assert process.stderr.readline() == "  waits for a/swap0: 1 shard, 1.0 MiB\n"
        return process

    def test_ctrl_c_ends_the_wait_and_not_the_drain(self, fleet: Fleet) -> None:
        with self.waiting(fleet) as process:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=HANG_GUARD_S)
        assert (process.returncode, out) == (1, "")
        assert err == (
            "farswapctl: interrupted; the drain goes on. Watch it by `farswapctl server drain "
            "--wait`, end it by `farswapctl server undrain`\n"
        )
        assert fleet.server.draining

    def test_a_drain_that_another_operator_ends_is_a_failure(self, fleet: Fleet) -> None:
        with self.waiting(fleet) as process:
            fleet.server.draining = False
            out, err = process.communicate(timeout=HANG_GUARD_S)
        assert (process.returncode, out) == (1, "")
        assert err == (
            "farswapctl: the drain was ended by undrain with 1 shard, 1.0 MiB of 1 volume left\n"
        )
