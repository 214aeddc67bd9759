"""How operators see real daemons at work: farswapctl's numbers, /metrics, dashboard and alerts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from hang_guard import HANG_GUARD_S
from nbd_client import TRIM, NbdClient
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import MakeHost, MakeServer
    from daemons import Daemon, HostDaemon, MemoryServer

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGE_BYTES = 4096
PAGES = 2048
METRICS = {"listen": "127.0.0.1:0"}


def scrape(daemon: Daemon) -> str:
    with urllib.request.urlopen(daemon.metrics_url, timeout=HANG_GUARD_S) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[str, float]:
    """Sums over all labels, by name."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def pages(first: int, count: int, generation: int = 0) -> bytes:
    """Contents that LZ4 makes a quarter of, and zstd half of that."""
    return b"".join(
        random.Random(number << 32 | generation).randbytes(512).hex().encode() * 4
        for number in range(first, first + count)
    )


def page(number: int, generation: int = 0) -> bytes:
    return pages(number, 1, generation)


@pytest.fixture
def fleet(
    memory_server: MakeServer, host_daemon: MakeHost
) -> Iterator[tuple[HostDaemon, MemoryServer]]:
    """A host that has done everything that leaves traces in counters, and its server."""
    server = memory_server(metrics=METRICS)
    host = host_daemon(server, metrics=METRICS)
    with NbdClient.connect_unix(host.nbd_path) as client:
        client.negotiate()
        for first in range(0, PAGES, 64):
            client.write(first * PAGE_BYTES, pages(first, 64))
        client.write(0, pages(0, 100, 1))
        client.write(PAGES * PAGE_BYTES, bytes(PAGE_BYTES))
        client.command(TRIM, 0, 10 * PAGE_BYTES)
        moved = host.ctl("tier", "writeback", "--bytes", "4MiB")
        assert moved.returncode == 0, moved.stderr
        for first in range(128, PAGES, 64):
            assert client.read(first * PAGE_BYTES, 64 * PAGE_BYTES) == pages(first, 64)
        yield host, server


Fleet = tuple["HostDaemon", "MemoryServer"]


def test_metrics_and_farswapctl_tell_the_same(fleet: Fleet) -> None:
    host, server = fleet
    tier = host.ask("tier", "show")
    told = samples(scrape(host))
    assert told["farswap_tier_stores_total"] == tier["counters"]["stores"] == PAGES + 101
    assert told["farswap_tier_pages"] == tier["held_pages"] == PAGES + 1 - 10
    assert told["farswap_cgroup_pages"] == tier["held_pages"]
    assert told["farswap_cgroup_stores_total"] == told["farswap_tier_stores_total"]
    assert told["farswap_tier_written_back_pages_total"] >= 1024
    assert told["farswap_tier_load_duration_seconds_sum"] > 0
    assert told["farswap_memory_server_connected"] == 1
    of_server = samples(scrape(server))
    assert of_server["farswap_server_pages"] == tier["remote_pages"]
    assert of_server["farswap_server_volume_pages"] == tier["remote_pages"]


def names(text: str) -> set[str]:
    """Those of all samples that a scrape may have."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + suffix for suffix in suffixes}
    return found


def test_dashboard_and_alerts_use_metrics_that_exist(fleet: Fleet) -> None:
    exist = set().union(*(names(scrape(daemon)) for daemon in fleet))
    for path in ("grafana/farswap.json", "prometheus/farswap-alerts.yml"):
        used = set(re.findall(r"\bfarswap_\w+", (DEPLOY / path).read_text()))
        assert len(used) > 10
        assert used <= exist, f"{path}: {sorted(used - exist)}"


def test_labels_of_the_dashboard_exist(fleet: Fleet) -> None:
    exist = {"instance", "job", "le"}
    for daemon in fleet:
        for family in text_string_to_metric_families(scrape(daemon)):
            exist |= {label for sample in family.samples for label in sample.labels}
    for expression in dashboard_expressions():
        matched = re.findall(r"(\w+)=~?\"", expression)
        grouped = re.findall(r"\bby \(([\w, ]+)\)", expression)
        used = {*matched, *(label.strip() for group in grouped for label in group.split(","))}
        assert used <= exist, expression


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/farswap.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def promtool(*args: str, text: str = "") -> str:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: package prometheus")
    done = subprocess.run(
        ["promtool", *args],
        input=text,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_metrics_alerts_and_the_dashboard_s_expressions(
    fleet: Fleet, tmp_path: Path
) -> None:
    for daemon in fleet:
        promtool("check", "metrics", text=scrape(daemon))
    promtool("check", "rules", str(DEPLOY / "prometheus/farswap-alerts.yml"))
    promtool("check", "config", str(DEPLOY / "prometheus/scrape.yml"))
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(dashboard_expressions())
    ]
    # JSON is YAML.
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_a_scrape_does_not_hold_up_pages(fleet: Fleet) -> None:
    host, _ = fleet
    slow = [urllib.request.urlopen(host.metrics_url, timeout=HANG_GUARD_S) for _ in range(8)]
    with NbdClient.connect_unix(host.nbd_path) as client:
        client.negotiate()
        assert client.read(200 * PAGE_BYTES, PAGE_BYTES) == page(200)
    for answer in slow:
        assert b"farswap_build_info" in answer.read()
        answer.close()


def test_abuse_of_the_metrics_address_costs_nobody_else(fleet: Fleet) -> None:
    host, _ = fleet
    where = urlsplit(host.metrics_url)
    with contextlib.ExitStack() as open_ones, NbdClient.connect_unix(host.nbd_path) as client:
        client.negotiate()
        for number in range(200):
            abuser = open_ones.enter_context(
                socket.create_connection((where.hostname, where.port), HANG_GUARD_S)
            )
            # Those beyond the limit are hung up on, which a send may find out.
            with contextlib.suppress(ConnectionError):
                abuser.sendall(b"\xff" * (number * 100))
        assert client.read(200 * PAGE_BYTES, PAGE_BYTES) == page(200)
    deadline = time.monotonic() + HANG_GUARD_S
    while not (text := scraped_if_there_is_room(host)) and time.monotonic() < deadline:
        time.sleep(0.1)  # until the daemon has noticed that the abusers left
    assert "farswap_build_info" in text
    assert "Traceback" not in host.log()


def scraped_if_there_is_room(daemon: Daemon) -> str:
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        return scrape(daemon)
    return ""


def test_the_doctor_finds_the_books_in_order_and_a_server_that_died(fleet: Fleet) -> None:
    host, server = fleet
    checks = {check["subject"]: check for check in host.ask("doctor")["checks"]}
    assert checks["books"]["level"] == "ok"
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


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_a_memory_server_whose_disk_is_full_is_told_of_and_costs_no_page(
    memory_server: MakeServer, host_daemon: MakeHost, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "disk", str(disk)], check=True)
    try:
        server = memory_server(store={"path": f"{disk}/store", "capacity": "256MiB"})
        host = host_daemon(server, tier={"pool_limit": "32MiB"})
        noise = random.Random(1).randbytes(16 << 20)
        with NbdClient.connect_unix(host.nbd_path) as client:
            client.negotiate()
            for first in range(0, len(noise), 64 * PAGE_BYTES):
                client.write(first, noise[first : first + 64 * PAGE_BYTES])
            done = host.ctl("tier", "writeback", "--bytes", "16MiB")
            assert done.returncode == 1
            assert "short of the target: memory servers took no page for 10 s" in done.stderr
            checks = {check["subject"]: check for check in host.ask("doctor")["checks"]}
            assert checks["writeback_failed_rejected"]["level"] == "warning"
            assert checks["books"]["level"] == "ok"
            subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
            while "the disk takes pages again" not in server.log():
                host.ctl("tier", "writeback", "--bytes", "64KiB")
            assert server.log().count("the disk is full or failing") == 1
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
        with NbdClient.connect_unix(host.nbd_path) as client:
            client.negotiate()
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
                assert checks["books"]["level"] == "ok", checks["books"]
        finally:
            done.set()
        for thread in churning:
            thread.result(HANG_GUARD_S)


def test_a_writeback_that_is_switched_off_says_so(fleet: Fleet) -> None:
    host, _ = fleet
    host.ask("cgroup", "set", "/", "--writeback", "off")
    done = host.ctl("tier", "writeback", "--bytes", "4MiB")
    assert done.returncode == 1
    assert "no more entries to write back: writeback is off for /" in done.stderr
    host.ask("cgroup", "set", "/", "--writeback", "default")
    assert host.ctl("tier", "writeback", "--bytes", "4KiB").returncode == 0


def test_the_tier_is_set_while_pages_come_and_go(fleet: Fleet) -> None:
    host, _ = fleet
    with NbdClient.connect_unix(host.nbd_path) as client:
        client.negotiate()
        for generation, compressor in enumerate(("zstd:3", "lz4:8", "lz4"), 2):
            shown = host.ask("tier", "set", "compressor", compressor)
            assert shown["compressor"] == compressor
            assert client.read(150 * PAGE_BYTES, PAGE_BYTES) == page(150)
            client.write(generation * PAGE_BYTES, page(generation, generation))
            explained = host.ask("slot", "explain", str(generation))
            assert explained["codec"] == compressor.partition(":")[0]
            assert client.read(generation * PAGE_BYTES, PAGE_BYTES) == page(generation, generation)
    assert host.ask("tier", "set", "recompress", "zstd:1")["recompress"] == "zstd:1"
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
    assert host.ask("tier", "set", "pack", "on")["pack"]
    with NbdClient.connect_unix(host.nbd_path) as client:
        client.negotiate()
        for number in range(512, 576):
            client.write(number * PAGE_BYTES, page(number, 9))
        host.ctl("tier", "writeback", "--bytes", "8MiB")
        assert host.ask("tier", "show")["counters"]["packed"] >= 64
        for number in range(512, 576):
            assert client.read(number * PAGE_BYTES, PAGE_BYTES) == page(number, 9), number
        counters = host.ask("tier", "show")["counters"]
        assert counters["prefetched"] >= counters["prefetch_hits"] > 16
        client.write(520 * PAGE_BYTES, page(520, 10))
        assert client.read(520 * PAGE_BYTES, PAGE_BYTES) == page(520, 10)
        assert client.read(521 * PAGE_BYTES, PAGE_BYTES) == page(521, 9)
    checks = {check["subject"]: check for check in host.ask("doctor")["checks"]}
    assert checks["books"]["level"] == "ok", checks["books"]


def stores_told(shown: list[dict]) -> float:
    """By `top`, over all its intervals."""
    return sum(one["tier"]["per_second"]["stores"] * one["interval_s"] for one in shown)


def test_top_tells_what_happens_and_ends_by_ctrl_c(fleet: Fleet) -> None:
    host, _ = fleet
    with (
        NbdClient.connect_unix(host.nbd_path) as client,
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
        client.negotiate()
        assert top.stdout is not None
        json.loads(top.stdout.readline())
        for number in range(100, 200):
            client.read(number * PAGE_BYTES, PAGE_BYTES)
            client.write(number * PAGE_BYTES, page(number))
        shown = []
        while stores_told(shown) < 99:  # what is told is rounded
            shown.append(json.loads(top.stdout.readline()))
        top.send_signal(signal.SIGINT)
        _, err = top.communicate(timeout=HANG_GUARD_S)
    assert (top.returncode, err) == (0, "")
    assert stores_told(shown) == pytest.approx(100, abs=1)
    assert shown[0]["cgroups"][0]["path"] == "/"


def test_settings_of_a_cgroup_come_from_its_files_until_an_operator_says_otherwise(
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
    host.ask("cgroup", "set", "/build", "pool-limit", "default")
    assert limit() == (1 << 20, "file")
    missing = host.ctl("cgroup", "set", "/none", "--writeback", "off")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "farswapctl: /none is not a cgroup of this machine\n"
    refused = host.ctl("cgroup", "set", "/", "--pool-limit", "4MiB")
    assert refused.returncode == 2
