"""The farswap-host process: start, stop, death and restart, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from daemons import HostDaemon, run_program, toml
from farswap.v1 import page_store_pb2, page_store_pb2_grpc
from hang_guard import HANG_GUARD_S
from requirements import require_native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import MakeHost, MakeServer


def run_host(config: Path, *args: str, by: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return run_program("farswap.client_nbd.main", "--config", str(config), *args, by=by)


def qemu_io(host: HostDaemon, *commands: str) -> None:
    if shutil.which("qemu-io") is None:
        pytest.skip("needs qemu-io: package qemu-utils")
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "raw", *words, host.nbd_uri],
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout, done.stdout


def test_ready_line_has_every_address(host_daemon: MakeHost) -> None:
    host = host_daemon()
    assert list(host.ready) == ["nbd", "admin", "pid", "worker"]
    assert re.fullmatch(r"unix:/\S+\.nbd,tcp:127\.0\.0\.1:[1-9][0-9]*", host.ready["nbd"])
    assert int(host.ready["pid"]) == host.pid
    for path in (host.nbd_path, host.admin.removeprefix("unix:")):
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


def test_sigterm_stops_in_order(host_daemon: MakeHost) -> None:
    host = host_daemon()
    assert host.stop() == 0
    assert not Path(host.nbd_path).exists()
    assert not Path(host.admin.removeprefix("unix:")).exists()
    assert "signal=SIGTERM" in host.log()
    assert "Traceback" not in host.log()


def test_a_killed_daemon_comes_back_at_the_same_addresses(host_daemon: MakeHost) -> None:
    host = host_daemon()
    first = dict(host.ready)
    first_volume = host.ask("status")["device"]
    host.kill()
    assert Path(host.nbd_path).exists()
    host.start()
    assert {**host.ready, "pid": "", "worker": ""} == {**first, "pid": "", "worker": ""}
    volume = host.ask("status")["device"]
    assert volume["host_id"] == first_volume["host_id"]
    assert volume["incarnation"] != first_volume["incarnation"]


def test_a_second_daemon_is_refused_and_the_first_goes_on(host_daemon: MakeHost) -> None:
    host = host_daemon()
    second = run_host(host.config_path)
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.splitlines()[-1].startswith("farswap-host: unix:")
    assert "another process serves it" in second.stderr
    assert host.ask("status")["info"]["pid"] == host.pid
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(host.nbd_path)


def test_a_second_daemon_of_the_same_volume_takes_no_pages_from_the_first(
    host_daemon: MakeHost, memory_server: MakeServer, short_path: Path
) -> None:
    host = host_daemon(memory_server())
    wait_for_server(host, connected=True)
    qemu_io(host, *(f"write -P {1 + page} {page * 4}k 4095" for page in range(64)))
    assert host.ctl("tier", "writeback", "--bytes", "256KiB").returncode == 0
    elsewhere = [
        f"--set=nbd.listen=['unix:{short_path}/copy.nbd']",
        f"--set=admin.listen=unix:{short_path}/copy.admin",
    ]
    for second in (run_host(host.config_path), run_host(host.config_path, *elsewhere)):
        assert second.returncode == 1
        assert "another farswap-host of this machine has the volume" in second.stderr
        assert "Traceback" not in second.stderr
    qemu_io(host, *(f"read -P {1 + page} {page * 4}k 4095" for page in range(64)))
    assert host.ask("status")["tier"]["counters"]["loads_remote"] > 0


def test_a_daemon_whose_volume_another_one_has_opened_reports_it_and_does_not_reopen_it(
    host_daemon: MakeHost, memory_server: MakeServer
) -> None:
    server = memory_server()
    host = host_daemon(server)
    wait_for_server(host, connected=True)
    qemu_io(host, "write -P 1 0 4095")
    assert host.ctl("tier", "writeback", "--bytes", "4KiB").returncode == 0
    device = host.ask("status")["device"]
    with grpc.insecure_channel(server.pages) as channel:
        page_store_pb2_grpc.PageStoreStub(channel).OpenVolume(
            page_store_pb2.OpenVolumeRequest(
                host_id=device["host_id"],
                device=device["name"],
                incarnation=bytes(16),
                slots=device["size_bytes"] // 4096,
                session_nonce=bytes(16),
                protocol_min=2,
                protocol_max=2,
                take_over=True,
            )
        )
    assert not host.ask("slot", "explain", "0")["verified"]
    assert wait_for_server(host, connected=False)["last_error"].startswith("fenced")
    found = [
        of
        for of in json.loads(host.ctl("doctor", "-o", "json").stdout)["checks"]
        if of["subject"] == "server"
    ]
    assert "took over the volume on" in found[0]["message"]
    assert "pages that are only there are lost" in found[0]["message"]
    assert server.ask("server", "show")["counters"]["opens"] == 2


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
def test_a_second_daemon_in_another_network_namespace_is_refused_too(
    host_daemon: MakeHost, memory_server: MakeServer, short_path: Path
) -> None:
    host = host_daemon(memory_server())
    elsewhere = [
        f"--set=nbd.listen=['unix:{short_path}/copy.nbd']",
        f"--set=admin.listen=unix:{short_path}/copy.admin",
    ]
    second = run_host(host.config_path, *elsewhere, by=["unshare", "--net"])
    assert second.returncode == 1
    assert "another farswap-host of this machine has the volume" in second.stderr


def test_a_wrong_configuration_starts_nothing_and_reports_every_problem(tmp_path: Path) -> None:
    require_native()
    config = tmp_path / "host.toml"
    config.write_text(
        toml(
            {
                "device": {"name": "swap0", "size": "1000B"},
                "nbd": {"listen": [f"unix:{tmp_path}/nbd"], "lisen": []},
                "tier": {"pool_limit": "12XB"},
            }
        )
    )
    refused = run_host(config)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.splitlines() == [
        "farswap-host: host.toml: device.size: 1000B is not a positive multiple of 4096 bytes",
        "farswap-host: host.toml: nbd.lisen: unknown key; did you mean listen?",
        'farswap-host: host.toml: tier.pool_limit: "12XB" is not a size such as 64MiB',
    ]
    assert not (tmp_path / "nbd").exists()
    mended = ["--set", "tier.pool_limit=4MiB", "--set", "device.size=4MiB"]
    assert run_host(config, "--check-config", *mended).returncode == 2


def test_check_config_starts_nothing(host_daemon: MakeHost) -> None:
    host = host_daemon()
    host.stop()
    checked = run_host(host.config_path, "--check-config")
    assert checked.returncode == 0
    assert "ready" not in checked.stdout
    assert not Path(host.nbd_path).exists()


def test_a_protected_process_has_its_protections_or_reports_which_it_lacks(
    host_daemon: MakeHost,
) -> None:
    host = host_daemon(reclaim={"protect": True})
    process = Path(f"/proc/{host.worker_pid}")
    refused = {finding["subject"] for finding in host.ask("status")["findings"]}
    locked_kib = int(re.search(r"VmLck:\s+(\d+) kB", (process / "status").read_text())[1])
    assert ("memlock" in refused) == (locked_kib < 8 << 10)
    adjusted = (process / "oom_score_adj").read_text().strip() == "-1000"
    assert ("oom_score_adj" in refused) == (not adjusted)


def test_an_unprotected_process_is_a_finding(host_daemon: MakeHost) -> None:
    findings = host_daemon().ask("status")["findings"]
    assert "reclaim" in {finding["subject"] for finding in findings}


def test_pages_written_over_nbd_are_in_the_tier(host_daemon: MakeHost) -> None:
    host = host_daemon()
    qemu_io(host, "write -P 0x5a 0 64k", "write -P 0 64k 4k", "read -P 0x5a 0 64k")
    tier = host.ask("status")["tier"]
    assert tier["same_filled_pages"] >= 16
    explained = json.loads(host.ctl("slot", "explain", "3", "-o", "json").stdout)
    assert explained["state"] == "same_filled"
    assert explained["fill"] == 0x5A5A5A5A5A5A5A5A
    assert explained["verified"]
    empty = json.loads(host.ctl("slot", "explain", "999", "-o", "json").stdout)
    assert empty["state"] == "empty"


def test_a_server_that_dies_and_returns_is_seen_in_status(
    host_daemon: MakeHost, memory_server: MakeServer
) -> None:
    server = memory_server()
    host = host_daemon(server)
    wait_for_server(host, connected=True)
    server.kill()
    away = wait_for_server(host, connected=False)
    assert away["address"] == server.pages
    server.start()
    back = wait_for_server(host, connected=True)
    assert back["disconnected_ms"] == 0


def wait_for_server(host: HostDaemon, *, connected: bool) -> dict:
    """Asks until the host has noticed; each question is a process, which is wait enough."""
    for _ in range(100):
        # The exit code is 1 where another host has the volume.
        (server,) = json.loads(host.ctl("status", "-o", "json").stdout)["servers"]
        if server["connected"] is connected:
            return server
    pytest.fail(f"connected is not {connected}: {server}")


def test_writeback_moves_cold_pages_to_the_server_and_they_read_back(
    host_daemon: MakeHost, memory_server: MakeServer, tmp_path: Path
) -> None:
    if shutil.which("nbdcopy") is None:
        pytest.skip("needs nbdcopy: package libnbd-bin")
    server = memory_server()
    host = host_daemon(server, device={"name": "swap0", "size": "8MiB", "host_id": "h1"})
    wait_for_server(host, connected=True)
    pages = b"".join(b"slot %010d " % number * 256 for number in range(2048))
    image = tmp_path / "image"
    image.write_bytes(pages)
    assert len(pages) == 8 << 20
    subprocess.run(["nbdcopy", str(image), host.nbd_uri], check=True, timeout=HANG_GUARD_S)
    moved = host.ctl("tier", "writeback", "--bytes", "4MiB")
    assert moved.returncode == 0, moved.stderr
    assert moved.stdout.startswith("wrote back 4.0 MiB")
    tier = host.ask("status")["tier"]
    assert tier["remote_pages"] >= 1024
    assert tier["held_pages"] == 2048
    assert tier["stored_pages"] == 2048 - tier["remote_pages"]
    states = set()
    for slot in range(0, 2048, 256):
        explained = host.ask("slot", "explain", str(slot))
        assert explained["verified"], explained
        states.add(explained["state"])
    assert "remote" in states
    assert server.ask("server", "show")["pages"] == tier["remote_pages"]
    back = tmp_path / "back"
    subprocess.run(["nbdcopy", host.nbd_uri, str(back)], check=True, timeout=HANG_GUARD_S)
    assert back.read_bytes() == pages
