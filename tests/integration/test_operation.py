"""How operators see real daemons at work, by farswapctl."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from fleet import METRICS, PAGE_BYTES, PAGES, page, pages, samples, scrape
from hang_guard import HANG_GUARD_S
from nbd_client import TRIM, NbdClient

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeHost, MakeServer
    from fleet import Fleet


def test_the_doctor_finds_the_accounting_right_and_a_server_that_died(fleet: Fleet) -> None:
    host, server = fleet
    checks = {check["subject"]: check for check in host.ask("doctor")["checks"]}
    assert checks["accounting"]["level"] == "ok"
    assert checks["server_place"]["level"] == "warning"
    assert checks["failures"]["level"] == "ok"
    server.kill()
    for _ in range(100):
        done = host.ctl("doctor")
        if done.returncode:
            break
    assert done.returncode == 1
    assert f"no answer from {server.pages}" in done.stdout
    assert done.stderr == "farswapctl: errors found: server\n"


def test_two_devices_of_one_host_keep_their_pages_apart(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    server = memory_server()
    hosts = [
        host_daemon(server, device={"name": name, "size": "64MiB", "host_id": "one"})
        for name in ("swap0", "swap1")
    ]
    for generation, host in enumerate(hosts):
        with NbdClient.of(host) as client:
            client.write(0, pages(0, 64, generation))
        moved = host.ctl("tier", "writeback", "--bytes", "256KiB")
        assert moved.returncode == 0, moved.stderr
    for generation, host in enumerate(hosts):
        with NbdClient.of(host) as client:
            assert client.read(0, 64 * PAGE_BYTES) == pages(0, 64, generation)
    volumes = server.ask("server", "show")["volumes"]
    assert [volume["device"] for volume in volumes] == ["swap0", "swap1"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_a_memory_server_whose_disk_is_full_is_reported_and_costs_no_page(
    memory_server: MakeServer, host_daemon: MakeHost, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "disk", str(disk)], check=True)
    try:
        server = memory_server(store={"path": f"{disk}/store", "capacity": "256MiB"})
        host = host_daemon(server, tier={"pool_limit": "32MiB"})
        noise = random.Random(1).randbytes(16 << 20)
        with NbdClient.of(host) as client:
            for first in range(0, len(noise), 64 * PAGE_BYTES):
                client.write(first, noise[first : first + 64 * PAGE_BYTES])
            done = host.ctl("tier", "writeback", "--bytes", "16MiB")
            assert done.returncode == 1
            assert "short of its target: the memory servers are full" in done.stderr
            checks = {check["subject"]: check for check in host.ask("doctor")["checks"]}
            assert checks["writeback_failed_full"]["level"] == "warning"
            assert checks["accounting"]["level"] == "ok"
            while "the disk is full or failing" not in server.log():
                time.sleep(0.1)
            subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
            while "accepting pages again: the disk works" not in server.log():
                host.ctl("tier", "writeback", "--bytes", "64KiB")
            for first in range(0, len(noise), 64 * PAGE_BYTES):
                read = client.read(first, 64 * PAGE_BYTES)
                assert read == noise[first : first + 64 * PAGE_BYTES]
        server.kill()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_the_doctor_is_not_misled_by_pages_that_move(fleet: Fleet) -> None:
    host, _ = fleet
    done = threading.Event()

    def churn() -> None:
        with NbdClient.of(host) as client:
            for first in itertools.cycle(range(0, PAGES, 64)):
                if done.is_set():
                    return
                client.write(first * PAGE_BYTES, pages(first, 64))
                client.command(TRIM, first * PAGE_BYTES, 32 * PAGE_BYTES)

    with ThreadPoolExecutor(2) as threads:
        churning = [threads.submit(churn) for _ in range(2)]
        try:
            for _ in range(3):
                checks = {check["subject"]: check for check in host.ask("doctor")["checks"]}
                assert checks["accounting"]["level"] == "ok", checks["accounting"]
        finally:
            done.set()
        for thread in churning:
            thread.result(HANG_GUARD_S)


def test_a_writeback_that_is_switched_off_is_reported(fleet: Fleet) -> None:
    host, _ = fleet
    host.ask("cgroup", "set", "/", "--writeback", "off")
    done = host.ctl("tier", "writeback", "--bytes", "4MiB")
    assert done.returncode == 1
    assert "no more entries to write back: writeback is off for /" in done.stderr
    host.ask("cgroup", "set", "/", "--writeback", "default")
    assert host.ctl("tier", "writeback", "--bytes", "4KiB").returncode == 0


def test_the_tier_is_set_while_pages_come_and_go(fleet: Fleet) -> None:
    host, _ = fleet
    with NbdClient.of(host) as client:
        for generation, compressor in enumerate(("zstd:3", "lz4:8", "lz4"), 2):
            shown = host.ask("tier", "set", "--compressor", compressor)
            assert shown["compressor"] == compressor
            assert client.read(150 * PAGE_BYTES, PAGE_BYTES) == page(150)
            client.write(generation * PAGE_BYTES, page(generation, generation))
            explained = host.ask("slot", "explain", str(generation))
            assert explained["codec"] == compressor.partition(":")[0]
            assert client.read(generation * PAGE_BYTES, PAGE_BYTES) == page(generation, generation)
    assert host.ask("tier", "set", "--recompress", "zstd:1")["recompress"] == "zstd:1"
    host.ctl("tier", "writeback", "--bytes", "1MiB")
    assert host.ask("tier", "show")["counters"]["recompressed"] > 0
    limit_bytes = host.ask("tier", "set", "--pool-limit", "4MiB")["pool_limit_bytes"]
    assert (4 << 20) - (64 << 10) < limit_bytes <= 4 << 20  # whole slabs
    refused = host.ctl("tier", "set", "--pool-limit", "9MiB")
    assert refused.returncode == 2
    assert "9MiB is not in 4MiB..8MiB" in refused.stderr


def test_neighbours_are_packed_on_their_way_to_the_server_and_come_back_together(
    fleet: Fleet,
) -> None:
    host, _ = fleet
    assert host.ask("tier", "set", "--pack", "on")["pack"]
    with NbdClient.of(host) as client:
        for number in range(512, 576):
            client.write(number * PAGE_BYTES, page(number, 9))
        host.ctl("tier", "writeback", "--bytes", "8MiB")
        assert host.ask("tier", "show")["counters"]["packed"] >= 64
        for number in range(512, 576):
            assert client.read(number * PAGE_BYTES, PAGE_BYTES) == page(number, 9), number
        counters = host.ask("tier", "show")["counters"]
        assert counters["neighbours_adopted"] >= counters["neighbour_hits"] > 16
        client.write(520 * PAGE_BYTES, page(520, 10))
        assert client.read(520 * PAGE_BYTES, PAGE_BYTES) == page(520, 10)
        assert client.read(521 * PAGE_BYTES, PAGE_BYTES) == page(521, 9)
    checks = {check["subject"]: check for check in host.ask("doctor")["checks"]}
    assert checks["accounting"]["level"] == "ok", checks["accounting"]


def stores_told(shown: list[dict]) -> float:
    """By `top`, over all its intervals."""
    return sum(one["tier"]["per_second"]["stores"] * one["interval_s"] for one in shown)


def test_top_shows_activity_and_ends_by_ctrl_c(fleet: Fleet) -> None:
    host, _ = fleet
    with (
        NbdClient.of(host) as client,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "farswap.admin.main", "--host", host.admin),
                *("top", "--interval", "0.5", "-o", "json"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as top,
    ):
        assert top.stdout is not None
        json.loads(top.stdout.readline())
        for number in range(100, 200):
            client.read(number * PAGE_BYTES, PAGE_BYTES)
            client.write(number * PAGE_BYTES, page(number))
        shown = []
        while stores_told(shown) < 99:  # which is rounded
            shown.append(json.loads(top.stdout.readline()))
        top.send_signal(signal.SIGINT)
        _, err = top.communicate(timeout=HANG_GUARD_S)
    assert (top.returncode, err) == (0, "")
    assert stores_told(shown) == pytest.approx(100, abs=1)
    assert shown[0]["cgroups"][0]["path"] == "/"


def test_settings_of_a_cgroup_come_from_its_files_until_an_operator_overrides_them(
    host_daemon: MakeHost, tmp_path: Path
) -> None:
    build = tmp_path / "cgroups/build"
    (build / "job").mkdir(parents=True)
    (build / "memory.zswap.max").write_text("1048576\n")
    host = host_daemon(cgroups={"root": str(tmp_path / "cgroups")}, metrics=METRICS)

    def limit() -> tuple[int | None, str]:
        settings = host.ask("cgroup", "show", "/build")["settings"]
        return settings["pool_limit_bytes"], settings["pool_limit_source"]

    assert limit() == (1 << 20, "file")
    host.ask("cgroup", "set", "/build", "--pool-limit", "2MiB", "--writeback", "off")
    assert limit() == (2 << 20, "operator")
    below = host.ask("cgroup", "show", "/build/job")["settings"]
    assert (below["writeback"], below["writeback_source"]) == (False, "operator")
    listed = {cgroup["path"]: cgroup for cgroup in host.ask("cgroup", "list")["cgroups"]}
    assert list(listed) == ["/", "/build", "/build/job"]
    assert listed["/build/job"]["parent_path"] == "/build"
    assert samples(scrape(host))["farswap_cgroups"] == 3
    host.ask("cgroup", "set", "/build", "--pool-limit", "none")
    assert limit() == (None, "operator")
    host.ask("cgroup", "set", "/build", "--pool-limit", "default")
    assert limit() == (1 << 20, "file")
    missing = host.ctl("cgroup", "set", "/none", "--writeback", "off")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "farswapctl: /none is not a cgroup of this machine\n"
    refused = host.ctl("cgroup", "set", "/", "--pool-limit", "4MiB")
    assert refused.returncode == 2
