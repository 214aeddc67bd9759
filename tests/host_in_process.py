"""farswap-host in this process, on an engine, a driver and kernel files that are objects."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from typing import TYPE_CHECKING

from fake_engine import FakeEngine
from fake_machine import FakeMachine
from farswap.client_nbd import config as host_config
from farswap.client_nbd import daemon
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel.attach import KernelDevice
from farswap.client_nbd.survival.connections import Connections
from farswap.common import config as common_config
from farswap.common import lifecycle
from farswap.common.rpc_client import RpcClient
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import host_admin_pb2_grpc
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Driver:
    """Connects and disconnects, and notes the latter."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, body: bytes) -> None:
        pass

    def disconnect(self, index: int) -> None:
        self.events.append("disconnect")

    def is_connected(self, index: int) -> bool:
        return False


class Engine(FakeEngine):
    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.cgroups_error: Exception | None = None
        self.configured = threading.Event()

    def configure_cgroup(self, *_: object, **__: object) -> bool:
        self.configured.set()
        return True

    def cgroups(self):
        if self.cgroups_error is not None:
            raise self.cgroups_error
        assert not self.stopped, "asked after it was stopped"
        return super().cgroups()

    def stop(self) -> None:
        super().stop()
        self.events.append("engine")


class Host:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.events: list[str] = []
        self.engine = Engine(self.events)
        self.ready = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.swapoff_tried = asyncio.Event()
        self.machine = FakeMachine(root)
        self.machine.add_device("nbd0", (43, 0))
        self.machine.add_device("loop7", (7, 7))
        (root / "sys/block/nbd0/queue").mkdir()
        (root / "cgroup").mkdir()
        self.config = common_config.parse(
            host_config.HostConfig,
            f"""
            [device]
            name = "swap0"
            size = "4MiB"
            host_id = "h1"
            [nbd]
            listen = ["unix:{root}/nbd"]
            [tier]
            pool_limit = "4MiB"
            [cgroups]
            root = "{root}/cgroup"
            [admin]
            listen = "unix:{root}/admin"
            """,
            "host.toml",
        )
        monkeypatch.setattr(
            daemon,
            "KernelDevice",
            functools.partial(KernelDevice, open_driver=lambda: Driver(self.events)),
        )
        monkeypatch.setattr(lifecycle, "announce_ready", lambda **_: self.ready.set())
        monkeypatch.setattr(kernel_files, "swapoff", self.swapoff)
        self.swapoff_error: OSError | None = None

    def swap_on(self, *, active: bool, device: str = "/dev/nbd0") -> None:
        self.machine.swaps(*([f"{device} partition 4092 100 -2"] if active else []))

    def swapoff(self, device: str) -> None:
        self.events.append(f"swapoff {device}")
        self.loop.call_soon_threadsafe(self.swapoff_tried.set)
        if self.swapoff_error is not None:
            raise self.swapoff_error
        self.swap_on(active=False)

    async def start(self) -> asyncio.Task[None]:
        self.loop = asyncio.get_running_loop()
        host = daemon._Host(self.config, [], Connections(self.engine, None), self.machine)
        self.task = asyncio.create_task(host.serve())
        ready = asyncio.create_task(self.ready.wait())
        await asyncio.wait(
            [self.task, ready], timeout=HANG_GUARD_S, return_when=asyncio.FIRST_COMPLETED
        )
        ready.cancel()
        return self.task

    async def attach(self) -> None:
        await asyncio.to_thread(self.call, "Attach", pb.AttachRequest(device="/dev/nbd0"))

    async def status(self) -> pb.HostStatus:
        status = await asyncio.to_thread(self.call, "Status", pb.HostStatusRequest())
        assert isinstance(status, pb.HostStatus)
        return status

    async def stop(self) -> None:
        assert self.task is not None
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(self.task, HANG_GUARD_S)

    async def end(self) -> None:
        """After a test that failed: what gRPC has of a loop that is gone would end the process."""
        if self.task is not None and not self.task.done():
            self.swapoff_error = None
            self.swap_on(active=False)
            self.machine.memory_available(512)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait([self.task], timeout=HANG_GUARD_S)
        if not self.engine.stopped:
            self.engine.stop()

    def call(self, method: str, request: object) -> object:
        client = RpcClient(self.config.admin.listen, "farswap-host", HANG_GUARD_S)
        try:
            stub = host_admin_pb2_grpc.HostAdminStub(client.channel)
            return client.call(getattr(stub, method), request)
        finally:
            client.close()
