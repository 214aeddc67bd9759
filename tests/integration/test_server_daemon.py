"""The farswap-server process: start, health, stop, and what it says when it cannot start."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import grpc
import pytest
from daemons import MemoryServer, run_program, toml
from farswap.v1 import server_admin_pb2, server_admin_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hang_guard import HANG_GUARD_S
from page_client import PageClient, make_object
from requirements import require_native

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakeServer


def run_server(config: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return run_program("farswap.server.main", "--config", str(config), *args)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    require_native()
    path = tmp_path / "server.toml"
    path.write_text(
        toml(
            {
                "server": {"listen": "127.0.0.1:0"},
                "store": {
                    "path": str(tmp_path / "store"),
                    "capacity": "64MiB",
                    "block_cache": "8MiB",
                },
                "admin": {"listen": "127.0.0.1:0"},
            }
        )
    )
    return path


@pytest.fixture
def admin(memory_server: MakeServer) -> Iterator[tuple[MemoryServer, grpc.Channel]]:
    server = memory_server()
    with grpc.insecure_channel(server.admin) as channel:
        yield server, channel


def test_ready_line_has_the_real_addresses(memory_server: MakeServer) -> None:
    server = memory_server()
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", server.pages)
    assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", server.admin)
    assert int(server.ready["pid"]) == server.pid


def test_health_is_serving(admin: tuple[MemoryServer, grpc.Channel]) -> None:
    _, channel = admin
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "farswap.v1.ServerAdmin"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=HANG_GUARD_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(admin: tuple[MemoryServer, grpc.Channel]) -> None:
    _, channel = admin
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([request]), timeout=HANG_GUARD_S))
    names = {service.name for service in answer.list_services_response.service}
    assert {"farswap.v1.ServerAdmin", "grpc.health.v1.Health"} <= names


def test_status_describes_store_volumes_and_counters(
    admin: tuple[MemoryServer, grpc.Channel],
) -> None:
    server, channel = admin
    with PageClient(server.pages) as client:
        client.open()
        used_bytes = client.put(make_object(slot, 1) for slot in range(10)).used_bytes
        client.get([0, 1, 99])
        stub = server_admin_pb2_grpc.ServerAdminStub(channel)
        status = stub.Status(server_admin_pb2.ServerStatusRequest(), timeout=HANG_GUARD_S)
    assert status.info.program == "farswap-server"
    assert status.info.pid == server.pid
    assert (status.listen, status.advertise) == (server.pages, server.pages)
    assert status.path == server.store_path
    assert (status.capacity_bytes, status.used_bytes) == (256 << 20, used_bytes)
    assert status.disk_bytes > 0
    assert status.pages == 10
    (volume,) = status.volumes
    assert (volume.host_id, volume.device, volume.pages) == ("tester", "swap0", 10)
    assert volume.incarnation == (b"i" * 16).hex()
    assert not volume.garbage
    assert (status.garbage_bytes, status.writes_stopped) == (0, False)
    counters = {counter.name: counter.value for counter in status.counters}
    assert counters.keys().isdisjoint({"garbage_bytes", "writes_stopped"}), "these may fall"
    assert (counters["puts"], counters["gets"], counters["gets_not_found"]) == (10, 2, 1)


def test_sigterm_with_a_connected_host_is_orderly_and_quick(memory_server: MakeServer) -> None:
    server = memory_server()
    with PageClient(server.pages) as client:
        client.open()
        client.put([make_object(1, 1)])
        client.get([1])
        assert server.stop(timeout_s=10) == 0


def test_a_second_server_on_the_same_store_is_refused(memory_server: MakeServer) -> None:
    server = memory_server()
    second = run_server(server.config_path, "--set", "server.listen=127.0.0.1:0")
    assert second.returncode == 1
    assert f"{server.store_path}: another farswap-server uses it" in second.stderr
    assert server.running


def test_taken_ports_are_reported(memory_server: MakeServer, config: Path) -> None:
    server = memory_server()
    for key, address in (("server.listen", server.pages), ("admin.listen", server.admin)):
        refused = run_server(config, "--set", f"{key}={address}")
        assert refused.returncode == 1
        assert address in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_store_path_without_parent_is_refused(config: Path, tmp_path: Path) -> None:
    refused = run_server(config, "--set", f"store.path={tmp_path}/no/such")
    assert refused.returncode == 1
    assert f"no directory {tmp_path}/no; create it" in refused.stderr
    refused = run_server(config, "--set", f"store.path={config}")
    assert refused.returncode == 1
    assert f"store.path {config}: not a directory" in refused.stderr


def test_a_store_that_is_not_one_is_refused_untouched(config: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "CURRENT").write_text("this is not RocksDB's\n")
    refused = run_server(config)
    assert refused.returncode == 1
    assert str(store) in refused.stderr
    assert (store / "CURRENT").read_text() == "this is not RocksDB's\n"
    shutil.rmtree(store)


def test_check_config_starts_nothing(config: Path, tmp_path: Path) -> None:
    good = run_server(config, "--check-config")
    assert (good.returncode, good.stderr) == (0, "")
    assert not (tmp_path / "store").exists()
    bad = run_server(config, "--check-config", "--set", "store.capacity=12XB", "--set", "a.b=1")
    assert bad.returncode == 2
    assert "store.capacity" in bad.stderr
    assert "unknown section" in bad.stderr
