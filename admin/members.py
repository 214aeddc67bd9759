"""The memory servers of a cluster, and what each answers about itself on its page address.

Servers come from --servers or --etcd, from $FARSWAP_SERVERS and $FARSWAP_ETCD, or else from one
daemon: a host daemon names those that it uses, a memory server its peers.
"""

from __future__ import annotations

import contextlib
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
from farswap.admin import output
from farswap.common import cli, members
from farswap.common.address import Address
from farswap.common.errors import FarswapError, NotPossibleError, RemoteError, UnreachableError
from farswap.common.rpc_client import RpcClient
from farswap.v1 import page_store_pb2 as pb
from farswap.v1 import page_store_pb2_grpc
from farswap.v1 import server_admin_pb2 as server_pb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from farswap.admin.session import ServerClient, Session

_SERVERS = "FARSWAP_SERVERS"
_ETCD = "FARSWAP_ETCD"
_ETCD_TIMEOUT_S = 5.0
_PREFIX = "farswap/"
_AT_A_TIME = 32


@dataclass(frozen=True, slots=True)
class Member:
    """A memory server. Without an answer, `problem` is the reason, and the rest is empty."""

    address: str
    problem: str = ""
    answer: pb.DescribeResponse = field(default_factory=pb.DescribeResponse)

    @property
    def state(self) -> str:
        """As `active`, `draining`; `unreachable`."""
        return "unreachable" if self.problem else output.enum_name(self.answer, "state")

    @property
    def uuid(self) -> str:
        """Of its store, hexadecimal."""
        return self.answer.server_uuid.hex()

    @property
    def draining(self) -> bool:
        """Hosts move its shards to other servers."""
        return self.answer.state == pb.SERVER_STATE_DRAINING

    @property
    def free_bytes(self) -> int:
        """Until its capacity is reached."""
        return max(0, self.answer.capacity_bytes - self.answer.used_bytes)

    @property
    def shards(self) -> int:
        """Of which it keeps an object."""
        return sum(len(volume.shards) for volume in self.answer.volumes)


def option(command: Callable[..., None]) -> Callable[..., None]:
    """--servers, --etcd and --etcd-prefix; the command gets `named`: page addresses, or none."""

    @functools.wraps(command)
    def with_names(
        *args: object, servers: str | None, etcd: str | None, etcd_prefix: str, **options: object
    ) -> None:
        command(*args, named=_named(servers, etcd, etcd_prefix), **options)

    for declare in (
        click.option(
            "--etcd-prefix",
            metavar="PREFIX",
            default=_PREFIX,
            show_default=True,
            help="cluster.prefix of the daemons.",
        ),
        click.option(
            "--etcd",
            metavar="ADDR,...",
            help=f"etcd that lists the cluster's memory servers. Default: ${_ETCD}.",
        ),
        click.option(
            "--servers",
            metavar="ADDR,...",
            help=f"Page addresses of the cluster's memory servers. Default: ${_SERVERS}.",
        ),
    ):
        with_names = declare(with_names)
    return with_names


def _named(servers: str | None, etcd: str | None, prefix: str) -> list[Address]:
    """Of the options, or of the environment. Raises UsageError, and FarswapError of etcd."""
    if servers is None and etcd is None:
        servers, etcd = os.environ.get(_SERVERS), os.environ.get(_ETCD)
    found = _addresses(servers)
    if endpoints := _addresses(etcd):
        listed = members.list_members(endpoints, prefix, _ETCD_TIMEOUT_S)
        found += [Address.parse(member.address) for member in listed]
    return list(dict.fromkeys(found))


def _addresses(text: str | None) -> list[Address]:
    try:
        return [Address.parse(part.strip()) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def find(session: Session, named: list[Address]) -> list[Address]:
    """Page addresses: those that were named, or what the session's daemon knows.

    Without any, that is this machine's host daemon, or else its memory server.
    """
    if named:
        return named
    if session.by_server:
        return known_to(session)
    try:
        with session.host() as host:
            used = [Address.parse(server.address) for server in host.status.servers]
    except UnreachableError:
        if session.by_host:
            raise
        return known_to(session)
    if not used:
        raise NotPossibleError("the host has no memory servers; name them by --servers or --etcd")
    return used


def known_to(session: Session, address: str | None = None) -> list[Address]:
    """Page addresses of the server at an admin address, and of its peers.

    A peer that does not answer stays in the list by its admin address.
    """
    with session.server(address) as server:
        pages = server.status().advertise
        peers = server.client.call(server.stub.Peers, server_pb.PeersRequest())
    if peers.etcd_problem:
        cli.say(f"the list of servers may be incomplete: {peers.etcd_problem}")
    with ThreadPoolExecutor(max_workers=_AT_A_TIME) as threads:
        configured = threads.map(lambda peer: _pages_of(session, peer), peers.admin_addresses)
        listed = [pages, *configured, *peers.page_addresses]
    return [Address.parse(each) for each in dict.fromkeys(listed)]


def _pages_of(session: Session, admin_address: str) -> str:
    try:
        with session.server(admin_address) as server:
            return server.status().advertise
    except FarswapError:
        return admin_address


def describe_all(addresses: Sequence[Address], timeout_s: float) -> list[Member]:
    """Asks all at once; in their order."""
    with ThreadPoolExecutor(max_workers=_AT_A_TIME) as threads:
        return list(threads.map(lambda address: _describe(address, timeout_s), addresses))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of an administrative call of one server. `problem` is empty if it was done."""

    member: Member
    problem: str
    answer: Any = None


def call_each(
    session: Session, called: Sequence[Member], call: Callable[[ServerClient], object]
) -> list[Outcome]:
    """Calls the admin services of all at once; in their order."""

    def outcome(member: Member) -> Outcome:
        try:
            return Outcome(member, "", _call(session, member, call))
        except FarswapError as error:
            return Outcome(member, str(error).removeprefix(f"{member.address}: "))

    with ThreadPoolExecutor(max_workers=_AT_A_TIME) as threads:
        return list(threads.map(outcome, called))


def _call(session: Session, member: Member, call: Callable[[ServerClient], object]) -> object:
    if member.problem:
        raise RemoteError(member.problem)
    address = member.answer.admin_address
    if not address:
        raise NotPossibleError("its admin.listen is for its own machine only")
    with session.server(address) as server:
        if server.status().uuid != member.uuid:
            raise RemoteError(f"{address} is the admin address of another server")
        return call(server)


def _describe(address: Address, timeout_s: float) -> Member:
    whole = pb.DescribeResponse()
    try:
        with contextlib.closing(RpcClient(address, "farswap-server", timeout_s)) as client:
            stub = page_store_pb2_grpc.PageStoreStub(client.channel)
            request = pb.DescribeRequest()
            while True:
                answer = client.call(stub.Describe, request)
                if answer.status != pb.CALL_STATUS_OK:
                    raise RemoteError(f"{address}: {output.enum_name(answer, 'status')}")
                whole.MergeFrom(answer)
                request.cursor = answer.next_cursor
                if not request.cursor:
                    return Member(str(address), answer=whole)
    except FarswapError as error:
        return Member(str(address), problem=str(error).removeprefix(f"{address}: "))
