"""Two hosts with one host id, as clones of one machine have: the live one keeps its volume.

They name the server by two names, so that the claims of one machine (volume_claims) do not tell
them apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from fleet import PAGE_BYTES, pages, samples, scrape
from hang_guard import until
from nbd_client import NbdClient
from two_machines import NEAR, TwoMachines

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer

LEASE_S = 1.0  # of memory_server()
COUNT = 256


def status(host: HostDaemon) -> dict[str, Any]:
    """Also where another host has the volume, and the exit code is 1."""
    return json.loads(host.ctl("status", "-o", "json").stdout)


def wait_for_state(host: HostDaemon, state: str) -> dict[str, Any]:
    """The first memory server, once it is in that state."""

    def reached() -> dict[str, Any] | None:
        server = status(host)["servers"][0]
        return server if server["state"] == state else None

    return until(reached)


def move_pages_out(host: HostDaemon) -> None:
    wait_for_state(host, "active")
    with NbdClient.of(host) as nbd:
        nbd.write(0, pages(0, COUNT))
    moved = host.ctl("tier", "writeback", "--bytes", "1MiB")
    assert moved.returncode == 0, moved.stderr


def reads_its_pages(host: HostDaemon) -> bool:
    with NbdClient.of(host) as nbd:
        return nbd.read(0, COUNT * PAGE_BYTES) == pages(0, COUNT)


def clone_of(first: HostDaemon, server: MemoryServer, host_daemon: MakeHost) -> HostDaemon:
    alias = server.pages.replace("127.0.0.1", "localhost")
    return host_daemon(
        device={"host_id": first.sections["device"]["host_id"]},
        cluster={"servers": [alias]},
        metrics={"listen": "127.0.0.1:0"},
    )


def test_a_second_host_with_the_same_id_is_refused_and_the_first_loses_nothing(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    server = memory_server()
    first = host_daemon(server)
    move_pages_out(first)
    second = clone_of(first, server, host_daemon)
    refused = wait_for_state(second, "already_open")
    assert refused["owner_name"] == os.uname().nodename
    assert refused["owner_address"] == "127.0.0.1"
    shown = second.ctl("status")
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[0].startswith(
        f"ALREADY OPEN: host {os.uname().nodename} (127.0.0.1) has this volume"
    )
    assert "--take-over" in second.ctl("doctor").stdout
    assert "level=error" in second.log()
    assert samples(scrape(second))["farswap_findings"] >= 1
    with NbdClient.of(second) as nbd:
        nbd.write(0, pages(0, 16, 1))
        assert nbd.read(0, 16 * PAGE_BYTES) == pages(0, 16, 1), "from its pool alone"
    assert reads_its_pages(first)
    assert first.ask("status")["alarm"] == ""


def test_take_over_fences_the_first_host_which_reports_it(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    server = memory_server()
    first = host_daemon(server)
    move_pages_out(first)
    second = clone_of(first, server, host_daemon)
    second.stop()
    second.start("--take-over")
    wait_for_state(second, "active")
    fenced = wait_for_state(first, "fenced")
    assert fenced["last_error"].startswith("fenced")
    alarm = f"FENCED: host {os.uname().nodename}"
    until(lambda: status(first)["alarm"].startswith(alarm))
    assert first.ctl("status").stdout.startswith("FENCED: ")
    assert "took over the volume" in first.log()
    second.stop()
    second.start()
    wait_for_state(second, "active")


def test_an_orderly_restart_gets_the_volume_at_once(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    host = host_daemon(memory_server(server={"owner_lease": "10m"}))
    wait_for_state(host, "active")
    assert host.stop() == 0
    host.start()
    wait_for_state(host, "active")


def test_a_host_that_crashed_gets_its_volume_back_within_the_lease(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    lease_s = 4.0
    host = host_daemon(memory_server(server={"owner_lease": "4s"}))
    move_pages_out(host)
    host.kill()
    died = time.monotonic()
    host.start()
    wait_for_state(host, "active")
    assert time.monotonic() - died < lease_s + 1.0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")
def test_an_owner_that_was_cut_off_longer_than_its_lease_goes_on_without_a_successor(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    machines = TwoMachines()
    with contextlib.closing(machines):
        with machines.near.entered():
            server = memory_server(
                server={"listen": f"{NEAR}:0", "advertise": f"{NEAR}:0", "owner_lease": "1s"}
            )
        with machines.far.entered():
            host = host_daemon(server)
            move_pages_out(host)
        machines.cut()
        time.sleep(3 * LEASE_S)  # what is claimed is about real time
        machines.join()
        assert reads_its_pages(host)
        assert wait_for_state(host, "active")["epoch"] == 1


def test_a_server_under_two_names_is_one_server(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    server = memory_server()
    names = [server.pages, server.pages.replace("127.0.0.1", "localhost")]
    host = host_daemon(cluster={"servers": names})
    states = {"active", "duplicate"}
    until(lambda: states == {it["state"] for it in host.ask("status")["servers"]})
    (second,) = (it for it in host.ask("status")["servers"] if it["state"] == "duplicate")
    assert all(name in second["last_error"] for name in names)
    with NbdClient.of(host) as nbd:
        nbd.write(0, pages(0, COUNT))
        assert host.ctl("tier", "writeback", "--bytes", "1MiB").returncode == 0
        assert nbd.read(0, COUNT * PAGE_BYTES) == pages(0, COUNT)
    assert host.ctl("status").returncode == 0
