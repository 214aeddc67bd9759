"""The host daemon's worker is killed: the next one has all its pages, also those on servers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import unit_restarts
from daemons import run_program, toml
from fleet import PAGE_BYTES, connected, page, pages, write_back
from hang_guard import until
from nbd_client import TRIM, NbdClient

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon

STEP = 16  # pages a request


def write(host: HostDaemon, first: int, count: int, generation: int = 0) -> None:
    with NbdClient.of(host) as nbd:
        for slot in range(first, first + count, STEP):
            nbd.write(slot * PAGE_BYTES, pages(slot, STEP, generation))


def verify(host: HostDaemon, first: int, count: int, generation: int = 0) -> None:
    with NbdClient.of(host) as nbd:
        for slot in range(first, first + count, STEP):
            assert nbd.read(slot * PAGE_BYTES, STEP * PAGE_BYTES) == pages(slot, STEP, generation)


def test_pages_of_every_state_outlive_the_worker(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    host = host_daemon(memory_server())
    until(lambda: connected(host))
    write(host, 0, 256)
    write_back(host, 256)
    write(host, 256, 256)
    with NbdClient.of(host) as nbd:
        nbd.write(512 * PAGE_BYTES, bytes(STEP * PAGE_BYTES))
        nbd.command(TRIM, 0, STEP * PAGE_BYTES)
    before = host.ask("status")
    incarnation = before["device"]["incarnation"]
    for deaths in (1, 2):
        host.kill_worker()
        after = host.ask("status")
        assert after["device"]["incarnation"] == incarnation
        assert after["info"]["pid"] == host.pid
        survival = after["survival"]
        assert survival["takeovers"] == deaths
        assert survival["last_takeover"]["predecessor"] == "killed by SIGKILL"
        assert survival["last_takeover"]["pages"] == 512
        assert after["tier"]["remote_pages"] == before["tier"]["remote_pages"]
        verify(host, STEP, 512 - STEP)
        with NbdClient.of(host) as nbd:
            zeros = bytes(STEP * PAGE_BYTES)
            assert nbd.read(512 * PAGE_BYTES, len(zeros)) == nbd.read(0, len(zeros)) == zeros
    checks = {check["subject"]: check["level"] for check in host.ask("doctor")["checks"]}
    assert checks["accounting"] == "ok"
    assert host.stop() == 0


def test_a_worker_killed_under_load_loses_nothing(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    servers = [memory_server(), memory_server()]
    host = host_daemon(*servers, cluster={"replicas": 2}, tier={"pool_limit": "4MiB"})
    chosen = random.Random(5)
    written: dict[int, set[int]] = {}  # generations that a slot may have
    for generation in range(1, 9):
        victim = host.worker_pid
        with NbdClient.of(host) as nbd:
            for number in range(200):
                slot = chosen.randrange(2048)
                if number == 100 + generation:
                    os.kill(victim, signal.SIGKILL)
                try:
                    written.setdefault(slot, {0}).add(generation)
                    nbd.write(slot * PAGE_BYTES, page(slot, generation))
                    written[slot] = {generation}
                except OSError:
                    break
        host.wait_until_ready()
    with NbdClient.of(host) as nbd:
        for slot, generations in written.items():
            found = nbd.read(slot * PAGE_BYTES, PAGE_BYTES)
            allowed = [page(slot, it) if it else bytes(PAGE_BYTES) for it in generations]
            assert found in allowed, f"slot {slot}"


def test_a_client_does_not_notice_the_death_of_the_worker(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    host = host_daemon(memory_server())
    until(lambda: connected(host))
    with NbdClient.of(host) as nbd, NbdClient.connect_tcp(host.nbd_tcp) as remote:
        remote.negotiate(host.export)
        for death in range(1, 4):
            for client, first in ((nbd, 0), (remote, 512)):
                for slot in range(first, first + 256, STEP):
                    client.write(slot * PAGE_BYTES, pages(slot, STEP, death))
            host.ctl("tier", "writeback", "--bytes", "512KiB")
            victim = host.worker_pid
            os.kill(victim, signal.SIGKILL)
            for client, first in ((nbd, 512), (remote, 0)):
                for slot in range(first, first + 256, STEP):
                    found = client.read(slot * PAGE_BYTES, STEP * PAGE_BYTES)
                    assert found == pages(slot, STEP, death)
            host.wait_until_ready()
            status = host.ask("status")
            peers = {connection["peer"] for connection in status["device"]["connections"]}
            assert {peer.partition(":")[0].partition("=")[0] for peer in peers} == {
                "unix pid",
                "tcp",
            }
            assert status["survival"]["takeovers"] == death
            until(lambda: host.ask("status")["survival"]["standby"])
    until(lambda: not host.ask("status")["device"]["connections"])


def test_pages_outlive_the_whole_unit_if_systemd_keeps_the_memory(
    memory_server: MakeServer, host_daemon: MakeHost, short_path: Path
) -> None:
    manager = [sys.executable, unit_restarts.__file__, str(short_path / "notify")]
    host = host_daemon(memory_server(), by=manager)
    host.by = ()  # for farswapctl
    until(lambda: connected(host))
    write(host, 0, 256)
    write_back(host, 256)
    write(host, 256, 256)
    for supervisor_alone in (True, False):
        pids = [int(host.ready["pid"])] + ([] if supervisor_alone else [host.worker_pid])
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        host.wait_until_ready()
        assert host.ask("status")["survival"]["last_takeover"]["predecessor"] == "unknown"
        verify(host, 0, 512)
    assert host.stop() == 0


# Without it no file system can be mounted, as on Linux before 6.4 no tmpfs with `noswap`.
WITHOUT_MOUNTS = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: drops a capability")
def test_a_system_v_segment_outlives_the_supervisor_until_it_is_discarded(
    host_daemon: MakeHost,
) -> None:
    segments_before = subprocess.run(["ipcs", "-m"], stdout=subprocess.PIPE, check=True).stdout
    host = host_daemon(by=WITHOUT_MOUNTS)
    assert host.ask("status")["survival"]["memory"] == "sysv"
    write(host, 0, 256)
    state = partial(run_program, "farswap.client_nbd.main", "state")
    assert (
        "a daemon has the memory"
        in state("discard", "--yes", "--config", str(host.config_path)).stderr
    )
    host.kill()
    shown = json.loads(state("show", "-o", "json", "--config", str(host.config_path)).stdout)
    assert (shown["memory"], shown["size_bytes"], shown["fits"]) == ("sysv", 64 << 20, True)
    host.start()
    verify(host, 0, 256)
    assert host.ask("status")["survival"]["takeovers"] == 1
    host.kill()

    host.sections["tier"]["pool_limit"] = "16MiB"
    host.config_path.write_text(toml(host.sections))
    refused = run_program("farswap.client_nbd.main", "--config", str(host.config_path))
    assert refused.returncode == 1
    assert "is of a device of 8388608 bytes of pool, not of 16777216" in refused.stderr
    assert json.loads(
        state("show", "-o", "json", "--config", str(host.config_path)).stdout
    ) == shown | {"fits": False, "takeovers": 1}
    assert state("discard", "--yes", "--config", str(host.config_path)).returncode == 0
    assert state("show", "--config", str(host.config_path)).returncode == 1
    host.start()
    assert host.ask("status")["tier"]["stored_pages"] == 0
    assert host.stop() == 0
    segments = subprocess.run(["ipcs", "-m"], stdout=subprocess.PIPE, check=True).stdout
    assert segments == segments_before
    assert state("show", "--config", str(host.config_path)).returncode == 1


def test_what_operators_have_set_outlives_the_worker(host_daemon: MakeHost) -> None:
    host = host_daemon()
    host.ask("tier", "set", "--compressor", "zstd:3", "--pool-limit", "6MiB")
    host.ask("tier", "set", "--pool-limit", "5MiB", "--pack", "on")
    host.ask("device", "set", "--replicas", "2")
    before = host.ask("status")["tier"]
    host.kill_worker()
    status = host.ask("status")
    for name in ("compressor", "pool_limit_bytes", "pack"):
        assert status["tier"][name] == before[name], name
    assert status["placement"]["replicas_wanted"] == 2
