"""Volumes of a real farswap-server as operators see, delete and limit them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from farswap.v1 import page_store_pb2 as pb
from fleet import PAGE_BYTES, pages
from hang_guard import until
from nbd_client import NbdClient, NbdError
from page_client import PageClient, make_object

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import MemoryServer

VOLUME = "tester/swap0"
MIB = 1 << 20


def noise(host: PageClient, slots: range) -> list[int]:
    """Puts pages that do not compress; the statuses."""
    results: list[int] = []
    for first in range(slots.start, slots.stop, 128):
        some = range(first, min(first + 128, slots.stop))
        results += host.put([make_object(slot, 1) for slot in some]).results
    return results


def only(server: MemoryServer) -> dict[str, Any]:
    (volume,) = server.ask("volume", "list")["volumes"]
    shown = server.ask("volume", "show", VOLUME)
    assert shown["volume_id"] == volume["volume_id"]
    return shown


def audited(server: MemoryServer) -> list[str]:
    return [line for line in server.log().splitlines() if "administration" in line]


def test_a_volume_of_a_live_host_is_deleted_only_by_force(memory_server: MakeServer) -> None:
    server = memory_server(server={"owner_lease": "10m"})
    with PageClient(server.pages) as host:
        host.open()
        noise(host, range(100))
        kept = only(server)
        assert (kept["pages"], kept["owner_live"], kept["shards"]) == (100, True, 1)

        unconfirmed = server.ctl("volume", "delete", VOLUME, "--force")
        assert unconfirmed.returncode == 2
        assert "--yes" in unconfirmed.stderr

        refused = server.ctl("volume", "delete", VOLUME, "--yes")
        assert refused.returncode == 1
        assert "live owner, tester.example (127.0.0.1)" in refused.stderr
        assert host.beat().status == pb.CALL_STATUS_OK

        done = server.ctl("volume", "delete", VOLUME, "--yes", "--force")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"deleted {VOLUME}: 100 pages, ")
        assert host.beat().status != pb.CALL_STATUS_OK
        assert host.get([1]).status != pb.CALL_STATUS_OK
        assert host.open().status == pb.OPEN_STATUS_FENCED
    until(lambda: server.ask("volume", "list")["volumes"] == [])
    missing = server.ctl("volume", "delete", VOLUME, "--yes")
    assert missing.returncode == 1
    assert f"no volume {VOLUME}" in missing.stderr
    first, second = audited(server)
    assert "failed" in first
    assert "DeleteVolume" in second
    assert "result=done" in second
    assert "swap0" in second


def test_a_silent_host_finds_its_deleted_volume_fenced_after_a_restart(
    memory_server: MakeServer,
) -> None:
    server = memory_server()
    with PageClient(server.pages) as silent:
        silent.open()
        noise(silent, range(10))
    until(lambda: not only(server)["owner_live"])
    assert server.ask("volume", "delete", VOLUME, "--yes")["pages"] == 10
    server.restart()
    with PageClient(server.pages, incarnation=b"j" * 16) as successor:
        assert successor.open().status == pb.OPEN_STATUS_OK
        assert successor.get_contents([1]) == [None]
        with PageClient(server.pages) as back:
            assert back.open().status == pb.OPEN_STATUS_FENCED
            assert back.get([1]).status != pb.CALL_STATUS_OK


def test_a_host_that_was_silent_while_its_volume_was_deleted_reads_errors(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    server = memory_server()
    host = host_daemon(server)
    until(lambda: host.ask("status")["servers"][0]["state"] == "active")
    with NbdClient.of(host) as nbd:
        nbd.write(0, pages(0, 64))
        host.ask("tier", "writeback", "--bytes", "256KiB")
        nbd.write(64 * PAGE_BYTES, pages(64, 8))
        name = "/".join(host.sections["device"][key] for key in ("host_id", "name"))
        os.kill(host.worker_pid, signal.SIGSTOP)
        try:
            until(lambda: not server.ask("volume", "show", name)["owner_live"])
            assert server.ask("volume", "delete", name, "--yes")["pages"] > 0
        finally:
            os.kill(host.worker_pid, signal.SIGCONT)
        until(lambda: "or an operator deleted it; pages only on" in host.ctl("status").stdout)
        for slot in range(64):
            with pytest.raises(NbdError):
                nbd.read(slot * PAGE_BYTES, PAGE_BYTES)
        assert nbd.read(64 * PAGE_BYTES, 8 * PAGE_BYTES) == pages(64, 8), "from the pool"
    assert "or an operator deleted it" in host.ctl("doctor").stdout


def test_a_quota_limits_one_volume_and_outlasts_a_restart(memory_server: MakeServer) -> None:
    server = memory_server()
    with PageClient(server.pages) as host, PageClient(server.pages, "other") as other:
        host.open()
        other.open()
        shown = server.ask("volume", "set-quota", VOLUME, "1MiB")
        assert (shown["quota_bytes"], shown["at_quota"]) == (MIB, False)
        results = noise(host, range(1000))
        assert pb.OBJECT_STATUS_FULL in results
        assert host.beat().state == pb.SERVER_STATE_QUOTA_REACHED
        assert set(noise(other, range(1000))) == {pb.OBJECT_STATUS_OK}
        assert other.beat().state == pb.SERVER_STATE_ACTIVE
        full = server.ask("volume", "show", VOLUME)
        assert full["at_quota"]
        assert MIB - 4200 < full["bytes"] <= MIB
        assert (
            f"{VOLUME}: quota 1.0 MiB" in server.ctl("volume", "set-quota", VOLUME, "1MiB").stdout
        )
    server.restart()
    with PageClient(server.pages) as host:
        assert host.open().state == pb.SERVER_STATE_QUOTA_REACHED
        assert server.ask("volume", "set-quota", VOLUME, "off").get("quota_bytes") is None
        assert host.beat().state == pb.SERVER_STATE_ACTIVE
    calls = ["call=SetQuota" in line for line in audited(server)]
    assert calls == [True, True, True]


def test_the_default_quota_is_for_volumes_without_one(memory_server: MakeServer) -> None:
    server = memory_server(volumes={"quota_default": "2MiB"})
    with PageClient(server.pages) as host:
        host.open()
        assert only(server)["quota_bytes"] == 2 * MIB
        assert server.ask("volume", "set-quota", VOLUME, "off").get("quota_bytes") is None
        assert server.ask("volume", "set-quota", VOLUME, "default")["quota_bytes"] == 2 * MIB
    small = server.ctl("volume", "set-quota", VOLUME, "1MB")
    assert small.returncode == 2
    small = server.ctl("volume", "set-quota", VOLUME, "1KiB")
    assert small.returncode == 2
    assert "at least 1048576 bytes" in small.stderr
    unknown = server.ctl("volume", "set-quota", "tester/swap9", "1MiB")
    assert unknown.returncode == 1
    assert "tester/swap9 was never open here" in unknown.stderr
