"""A host, memory servers and an etcd, each a machine of its own: a network namespace and a disk."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from daemons import HostDaemon, MemoryServer
from etcd_server import EtcdServer
from farswap.admin.session import Session
from hang_guard import until
from network import Network
from soak.full_disk import small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chaos.scenarios import Scenario
    from farswap.v1 import host_admin_pb2, server_admin_pb2

MIB = 1 << 20
STATUS_DEADLINE_S = 30
LOOK_S = 0.1
HOST = 0  # its number in the network; servers follow


@dataclass(frozen=True)
class Sizes:
    """In bytes. `store` is the server's capacity, and `disk` the file system that it is on."""

    device: int = 64 * MIB
    pool: int = 16 * MIB
    store: int = 96 * MIB
    disk: int = 512 * MIB


class Server(MemoryServer):
    """On a disk of its own, at a number of the network."""

    def __init__(
        self,
        number: int,
        directory: Path,
        disk: Path,
        network: Network,
        store: int,
        members: Mapping[str, object],
    ) -> None:
        self.number = number
        self.disk = disk
        address = f"{network.address(number)}:0"
        super().__init__(
            f"server{number}",
            directory,
            {
                "server": {"listen": address, "advertise": address},
                "store": {
                    "path": str(disk / "store"),
                    "capacity": f"{store}B",
                    "block_cache": "64MiB",
                },
                "admin": {"listen": f"unix:{directory}/{number}"},
                "cluster": members,
            },
        )
        self.by = network.machines[number].by

    def wipe(self) -> None:
        """Its store is gone. It must not run."""
        shutil.rmtree(self.store_path)

    def status(self) -> server_admin_pb2.ServerStatus:
        """Of the running server."""
        with Session(None, self.admin, STATUS_DEADLINE_S).server() as server:
            return server.status()


class ChaosCluster:
    """Gone when the block ends, with processes, namespaces and disks. Needs root."""

    def __init__(self, scenario: Scenario) -> None:
        self._count = scenario.servers
        self._replicas = scenario.replicas
        self.sizes = scenario.sizes
        self._store_wait = scenario.store_wait
        self._by_etcd = scenario.by_etcd
        self._copied: dict[str, int] = {}  # bytes, by run of a server

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="farswap-"))
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.network = Network(1 + self._count + self._by_etcd)
            stack.callback(self.network.close)
            self._members = self._start_etcd(stack) if self._by_etcd else {}
            self.servers = [self._server(stack, 1 + n) for n in range(self._count)]
            self.host = HostDaemon("host", self.directory, self._host_sections())
            self.host.by = self.network.machines[HOST].by
            stack.callback(self.host.kill)
            self.host.start()
            self.await_no_debt()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @contextmanager
    def etcd(self) -> Iterator[EtcdServer]:
        """For calls from its machine, by this thread."""
        with self.network.machines[-1].entered():
            yield self._etcd

    @property
    def connect(self) -> str:
        """The NBD socket in the load generator's notation."""
        return f"unix:{self.host.nbd_path}"

    @property
    def others(self) -> Mapping[Server, list[Server]]:
        """Of each server."""
        return {one: [other for other in self.servers if other is not one] for one in self.servers}

    def status(self) -> host_admin_pb2.HostStatus:
        """Of the host."""
        with Session(self.host.admin, None, STATUS_DEADLINE_S).host() as host:
            return host.status

    def counters(self) -> dict[str, int]:
        """Of the host's tier."""
        return {counter.name: counter.value for counter in self.status().tier.counters}

    def seen(self, server: Server) -> host_admin_pb2.MemoryServerStatus:
        """The server as the host sees it."""
        return next(seen for seen in self.status().servers if seen.address == server.pages)

    def note_copies(self) -> int:
        """Bytes that servers copied from each other. Call it before one of them ends."""
        for server in self.servers:
            if server.running:
                status = server.status()
                (copied,) = (c.value for c in status.counters if c.name == "copied_bytes")
                self._copied[status.run_id] = copied
        return sum(self._copied.values())

    def held_bytes(self) -> int:
        """Live pages of all servers."""
        return sum(server.status().used_bytes for server in self.servers)

    def await_no_debt(self) -> None:
        """All servers are connected, and each shard has all its replicas."""

        def paid() -> bool:
            status = self.status()
            placement = status.placement
            connected = sum(server.connected for server in status.servers)
            return connected == len(self.servers) and not (
                placement.replication_debt_shards or placement.replica_copies
            )

        until(paid, LOOK_S)

    def logs(self) -> str:
        """What the daemons wrote."""
        return "".join(f"--- {each.name}\n{each.log()}" for each in (self.host, *self.servers))

    def _start_etcd(self, stack: ExitStack) -> Mapping[str, object]:
        """Returns what daemons need to know of it."""
        number = len(self.network.machines) - 1
        with self.network.machines[number].entered():
            self._etcd = EtcdServer(self.directory, self.network.address(number))
            stack.callback(self._etcd.stop)
            self._etcd.start()
        return {"etcd": [self._etcd.address]}

    def _server(self, stack: ExitStack, number: int) -> Server:
        directory = self.directory / f"machine{number}"
        directory.mkdir()
        disk = stack.enter_context(small_disk("ext4", directory, self.sizes.disk))
        sizes, members = self.sizes, self._members
        server = Server(number, self.directory, disk, self.network, sizes.store, members)
        stack.callback(server.kill)
        server.start()
        return server

    def _host_sections(self) -> dict[str, dict[str, object]]:
        return {
            "device": {
                "name": "swap0",
                "size": f"{self.sizes.device}B",
                "host_id": self.directory.name,
            },
            "nbd": {"listen": [f"unix:{self.directory}/nbd"]},
            "tier": {"pool_limit": f"{self.sizes.pool}B", "store_wait": self._store_wait},
            "cluster": {
                **(self._members or {"servers": [server.pages for server in self.servers]}),
                "replicas": self._replicas,
            },
            "admin": {"listen": f"unix:{self.directory}/admin"},
            "reclaim": {"protect": False},
        }
