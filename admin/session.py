"""The daemons that a run of farswapctl connects to.

Each run has one `Session`, which every command gets as click's object. A client connects at first
use; its first call is Status, which checks program and version.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from farswap.common import cli
from farswap.common.address import HOST_ADMIN, SERVER_ADMIN, Address
from farswap.common.rpc_client import RpcClient
from farswap.v1 import host_admin_pb2, host_admin_pb2_grpc, server_admin_pb2, server_admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class HostClient:
    """A connected host daemon, and its status."""

    client: RpcClient
    stub: host_admin_pb2_grpc.HostAdminStub
    status: host_admin_pb2.HostStatus

    def cgroups(self, path: str = "") -> list[host_admin_pb2.CgroupStatus]:
        """The cgroup `path`, or all with pages or settings, the root first."""
        request = host_admin_pb2.ListCgroupsRequest(path=path)
        return list(self.client.stream(self.stub.ListCgroups, request, self.client.timeout_s))


@dataclass(frozen=True, slots=True)
class ServerClient:
    """A memory server. status() comes first: it checks the peer."""

    client: RpcClient
    stub: server_admin_pb2_grpc.ServerAdminStub

    def status(self, *, count_shards: bool = False) -> server_admin_pb2.ServerStatus:
        """With the number of each volume's shards, if wanted."""
        request = server_admin_pb2.ServerStatusRequest(count_shards=count_shards)
        status: server_admin_pb2.ServerStatus = self.client.status(self.stub.Status, request)
        return status


@dataclass(frozen=True, slots=True)
class Session:
    """The global options."""

    host_option: str | None
    server_option: str | None
    timeout_s: float

    @contextlib.contextmanager
    def host(self) -> Iterator[HostClient]:
        """--host, else $FARSWAP_HOST, else the default."""
        if self.server_option is not None:
            raise click.UsageError("this command is for a host daemon: use --host, not --server")
        with self._client(self.host_option, "FARSWAP_HOST", HOST_ADMIN, "farswap-host") as client:
            stub = host_admin_pb2_grpc.HostAdminStub(client.channel)
            status = client.status(stub.Status, host_admin_pb2.HostStatusRequest())
            yield HostClient(client, stub, status)

    @contextlib.contextmanager
    def server(self, address: str | None = None) -> Iterator[ServerClient]:
        """The admin address, else --server, else $FARSWAP_SERVER, else the default."""
        if self.host_option is not None and address is None:
            raise click.UsageError("this command is for a memory server: use --server, not --host")
        with self._client(
            address or self.server_option, "FARSWAP_SERVER", SERVER_ADMIN, "farswap-server"
        ) as client:
            stub = server_admin_pb2_grpc.ServerAdminStub(client.channel)
            yield ServerClient(client, stub)

    @property
    def by_host(self) -> bool:
        """A host daemon was selected."""
        return self.server_option is None and bool(
            self.host_option or os.environ.get("FARSWAP_HOST")
        )

    @property
    def by_server(self) -> bool:
        """A memory server was selected, and no host daemon."""
        return not self.by_host and bool(self.server_option or os.environ.get("FARSWAP_SERVER"))

    def _client(
        self, option: str | None, variable: str, default: Address, program: str
    ) -> contextlib.closing[RpcClient]:
        address = cli.address_option(option, variable, default)
        return contextlib.closing(RpcClient(address, program, self.timeout_s))
