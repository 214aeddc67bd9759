"""A host daemon and a memory server for each replica, in a temporary directory, and their status.

Used by the benchmark, the demonstration and the soak run:

    with LocalCluster(device_bytes=..., pool_bytes=...) as cluster:
        use(cluster.connect, cluster.export)

The directory, the sockets and the processes are gone when the block ends, however it ends. The
host is stopped before the server, in order, unless the block ends by an exception: then both are
killed, since their state is not needed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from daemons import Daemon, HostDaemon, MemoryServer, Sections
from farswap.admin.session import Session
from farswap.v1 import host_admin_pb2

if TYPE_CHECKING:
    from farswap.v1 import server_admin_pb2

DEVICE_NAME = "swap0"
STATUS_DEADLINE_S = 10
SETTLE_DEADLINE_S = 60
SETTLE_LOOK_S = 0.2
STORE_CAPACITY = "4GiB"


class LocalCluster:
    """A server and a host; `connect` and `export` are what an NBD client needs."""

    def __init__(
        self,
        *,
        device_bytes: int,
        pool_bytes: int,
        tier: dict[str, object] | None = None,
        directory: Path | None = None,
        replicas: int = 1,
    ) -> None:
        self._replicas = replicas
        self._parent = directory
        self.device_bytes = device_bytes
        self._tier: dict[str, object] = {"pool_limit": f"{pool_bytes}B"} | (tier or {})
        self.server_kills = 0

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="farswap-", dir=self._parent))
        self._daemons: list[Daemon] = []
        try:
            self.servers = [self._server(number) for number in range(self._replicas)]
            self.server = self.servers[0]
            self.host = HostDaemon("host", self.directory, self._host_sections("host"))
            self._start(self.host)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                for daemon in reversed(self._daemons):
                    daemon.stop()
        finally:
            self._kill()

    @property
    def connect(self) -> str:
        """The NBD socket in the load generator's notation."""
        return f"unix:{self.host.nbd_path}"

    @property
    def export(self) -> str:
        """The NBD export's name."""
        return self.host.export

    def add_host(self, name: str) -> HostDaemon:
        """Another host daemon, which runs until the block ends."""
        added = HostDaemon(name, self.directory, self._host_sections(name))
        self._start(added)
        return added

    def tier(self) -> host_admin_pb2.TierStatus:
        """What is in the host's tier now."""
        with Session(self.host.admin, None, STATUS_DEADLINE_S).host() as host:
            return host.status.tier

    def counters(self) -> dict[str, int]:
        """The tier's counters by name; see native/tier/counters.inc."""
        return {counter.name: counter.value for counter in self.tier().counters}

    def server_status(self) -> server_admin_pb2.ServerStatus:
        """What the memory server holds."""
        with Session(None, self.server.admin, STATUS_DEADLINE_S).server() as server:
            return server.status()

    def put_bytes(self) -> int:
        """Of all objects that the servers stored."""
        total = 0
        for server in self.servers:
            with Session(None, server.admin, STATUS_DEADLINE_S).server() as client:
                counters = client.status().counters
            total += sum(c.value for c in counters if c.name == "put_bytes")
        return total

    def write_back(self) -> None:
        """Sends all that is in the pool to the server, and waits for it."""
        request = host_admin_pb2.WritebackRequest(bytes=self.device_bytes)
        with Session(self.host.admin, None, STATUS_DEADLINE_S).host() as host:
            for _ in host.client.stream(host.stub.Writeback, request):
                pass

    def settle(self) -> None:
        """Waits until writeback rests: nothing under way, and nothing begun between two looks."""
        deadline = time.monotonic() + SETTLE_DEADLINE_S
        acked_before = -1
        while True:
            tier = self.tier()
            acked = next(c.value for c in tier.counters if c.name == "written_back_pages")
            if tier.writing_pages == 0 and acked == acked_before:
                return
            if time.monotonic() > deadline:
                raise TimeoutError("writeback did not come to rest")
            acked_before = acked
            time.sleep(SETTLE_LOOK_S)

    def kill_and_restart_server(self) -> None:
        """SIGKILL, and a new process on the same store at the same address."""
        self.server.restart()
        self.server_kills += 1

    def pids(self) -> list[int]:
        """Of the processes that serve."""
        return [daemon.worker_pid for daemon in self._daemons if daemon.running]

    def logs(self) -> str:
        """What the daemons wrote, for a failure's report."""
        return "".join(f"--- {daemon.name}\n{daemon.log()}" for daemon in self._daemons)

    def _start(self, daemon: Daemon) -> None:
        self._daemons.append(daemon)
        daemon.start()

    def _kill(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _server(self, number: int) -> MemoryServer:
        name = f"server{number}"
        store = {
            "path": str(self.directory / f"{name}.store"),
            "capacity": STORE_CAPACITY,
            "block_cache": "256MiB",
        }
        sections: Sections = {
            "server": {"listen": "127.0.0.1:0", "advertise": "127.0.0.1:0"},
            "store": store,
            "admin": {"listen": "127.0.0.1:0"},
        }
        server = MemoryServer(name, self.directory, sections)
        self._start(server)
        return server

    def _host_sections(self, name: str) -> Sections:
        return {
            "device": {
                "name": DEVICE_NAME,
                "size": f"{self.device_bytes}B",
                "host_id": f"{self.directory.name}-{name}",
            },
            "nbd": {"listen": [f"unix:{self.directory}/{name}.nbd"]},
            "tier": self._tier,
            "cluster": {
                "servers": [server.pages for server in self.servers],
                "replicas": self._replicas,
            },
            "admin": {"listen": f"unix:{self.directory}/{name}.admin"},
        }
