"""The wall clock of both daemons is set forward and back by hours, and nothing comes of it.

libfaketime steps the daemons' wall clock alone; the clocks that only go forward stay as they are,
as they do when an administrator, or NTP after a boot without a clock, sets the real one.
"""

from __future__ import annotations

import errno
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from farswap.v1 import page_store_pb2 as pb
from fleet import PAGE_BYTES, pages
from hang_guard import until
from nbd_client import READ, SIMPLE_REPLY, NbdClient, request
from page_client import PageClient

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon

STEPS = ["-2h", "+3h", "+0"]
PAGES_A_STEP = 64
FETCH_WAIT_S = 1


class WallClock:
    """That of all processes started from now on."""

    def __init__(self, library: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = directory / "wall_clock"
        self.step("+0")
        for name, value in {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }.items():
            monkeypatch.setenv(name, value)

    def step(self, offset: str) -> None:
        """So far from the real time, at once."""
        self._file.write_text(offset)


@pytest.fixture
def wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("needs libfaketime")
    return WallClock(found[0], tmp_path, monkeypatch)


@pytest.fixture
def set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Once this file exists, gRPC's timers stand still, as after the clock has been set back."""
    library, file = tmp_path / "set_back_futex.so", tmp_path / "set_back"
    source = Path(__file__).with_name("set_back_futex.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("SET_BACK", str(file))
    return file


def time_of_logged(host: HostDaemon, event: str) -> datetime:
    lines = until(lambda: [line for line in host.log().splitlines() if event in line])
    return datetime.fromisoformat(lines[0].split()[0].removeprefix("time="))


def oldest_age_s(host: HostDaemon, slots: int) -> float:
    """Of the first page of each step."""
    ages = [
        host.ask("slot", "explain", str(slot))["age_ms"] for slot in range(0, slots, PAGES_A_STEP)
    ]
    return max(ages) / 1000


def written_back(host: HostDaemon, count: int) -> bool:
    return host.ctl("tier", "writeback", "--bytes", f"{count * PAGE_BYTES}B").returncode == 0


def test_steps_of_the_wall_clock_change_no_page_and_no_decision(
    wall_clock: WallClock, memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    began_s = time.monotonic()
    server = memory_server()
    host = host_daemon(
        server,
        shrinker={"older_than": "1h"},
        cluster={"servers": [server.pages], "fetch_wait": f"{FETCH_WAIT_S}s"},
    )
    for index, offset in enumerate(["+0", *STEPS]):
        wall_clock.step(offset)
        first = index * PAGES_A_STEP
        with NbdClient.of(host) as client:
            client.write(first * PAGE_BYTES, pages(first, PAGES_A_STEP))
            for slot in range(0, first + PAGES_A_STEP, PAGES_A_STEP):
                assert client.read(slot * PAGE_BYTES, PAGES_A_STEP * PAGE_BYTES) == pages(
                    slot, PAGES_A_STEP
                )
        # A tick of the clock that entries keep may be added.
        assert oldest_age_s(host, first + PAGES_A_STEP) <= time.monotonic() - began_s + 4
        # None is so old, and the job, which looks at each, ends by itself.
        if index == 0:
            assert written_back(host, PAGES_A_STEP)
            continue
        job = host.ctl("tier", "writeback", "--older-than", "30m", "--bytes", "1MiB")
        assert job.returncode == 1, job.stderr
        tier = host.ask("tier", "show")
        assert (tier["remote_pages"], tier["local_pages"]) == (PAGES_A_STEP, first)
    assert tier["counters"]["writeback_started_age"] == 0


def test_the_daemons_take_the_stepped_clock_for_the_time(
    wall_clock: WallClock, host_daemon: MakeHost
) -> None:
    """What the other tests rest on."""
    host = host_daemon()
    wall_clock.step("+3h")
    with NbdClient.of(host):
        logged = time_of_logged(host, "client connected")
    assert logged > datetime.now(UTC) + timedelta(hours=2)


@pytest.mark.parametrize("offset", ["-2h", "+3h"])
def test_a_step_neither_stretches_nor_ends_a_wait(
    wall_clock: WallClock, memory_server: MakeServer, host_daemon: MakeHost, offset: str
) -> None:
    server = memory_server()
    host = host_daemon(
        server, cluster={"servers": [server.pages], "fetch_wait": f"{FETCH_WAIT_S}s"}
    )
    with NbdClient.of(host) as client:
        client.write(0, pages(0, PAGES_A_STEP))
        assert written_back(host, PAGES_A_STEP)
        server.kill()
        began_s = time.monotonic()
        client.send(request(READ, 0, PAGE_BYTES))
        wall_clock.step(offset)
        _, error, _ = SIMPLE_REPLY.unpack(client.receive(SIMPLE_REPLY.size))
        assert error == errno.EIO
        assert time.monotonic() - began_s >= FETCH_WAIT_S


def test_a_lease_ends_in_time_though_grpcs_timers_stand_still(
    set_back: Path, memory_server: MakeServer
) -> None:
    server = memory_server(server={"owner_lease": "1s"})
    with (
        PageClient(server.pages) as gone,
        PageClient(server.pages, incarnation=b"j" * 16) as successor,
    ):
        gone.open()
        set_back.touch()
        until(lambda: successor.open().status != pb.OPEN_STATUS_ALREADY_OPEN)
