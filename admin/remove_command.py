"""`farswapctl server remove`: a memory server that never comes back.

The other servers take the word, keep it, and pass it on to hosts, which repair its shards at once.
What is lost by that is known from the heartbeats of hosts: each names the servers that it cannot
reach, with the shards that have no current replica elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from farswap.admin import cluster, commands, members, output
from farswap.common.errors import NotFoundError, NotPossibleError, RemoteError
from farswap.common.members import UUID
from farswap.common.text import count
from farswap.v1 import server_admin_pb2 as pb
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.admin.cluster import VolumeView
    from farswap.admin.members import Member
    from farswap.admin.session import Session
    from farswap.common.address import Address
    from farswap.v1 import page_store_pb2


@dataclass(frozen=True, slots=True)
class Removal:
    """What hosts have on a server that is to be removed."""

    uuid: str
    shards: int
    last_shards: int  # of these, without a current replica elsewhere
    unknown_volumes: tuple[str, ...]  # whose hosts have not said

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "uuid": self.uuid,
            "shards": self.shards,
            "last_shards": self.last_shards,
            "unknown_volumes": list(self.unknown_volumes),
        }

    def losses(self) -> str:
        """Empty: no page is lost."""
        found = []
        if self.last_shards:
            found.append(f"{count(self.last_shards, 'shard')} with the last current replica")
        if self.unknown_volumes:
            found.append(f"an unknown number of {', '.join(self.unknown_volumes)}")
        return ", ".join(found)


@commands.verb()
@click.argument("target", metavar="ADDR|UUID")
@click.option("--dry-run", is_flag=True, help="Only show what hosts have on it.")
@click.option("--lose-pages", is_flag=True, help="Also if it has the last replica of pages.")
@members.option
def remove(
    session: Session,
    *,
    target: str,
    dry_run: bool,
    lose_pages: bool,
    named: list[Address],
    output_format: str,
) -> None:
    """Say that a memory server never comes back.

    Hosts repair its shards at once, without cluster.repair_after, and use it no more. Its store is
    refused from then on; at its address a server with an empty store is welcome.

    A server that answers is refused, unless it is drained. One whose pages have no other replica
    is refused without --lose-pages: these are lost. Each other server keeps the removal and passes
    it on to hosts; repeat the command for servers that did not answer. A host that still reaches
    the server moves its shards away first.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 server remove 10.0.0.9:7070 --dry-run
      farswapctl server remove 10.0.0.9:7070 --servers 10.0.0.7:7070,10.0.0.8:7070
    """
    looked = members.describe_all(members.find(session, named), session.timeout_s)
    views = cluster.volume_views(looked)
    removal = _plan(looked, views, _uuid_of(target, looked, views))
    its = {server.address for server in _away(views) if server.uuid.hex() == removal.uuid}
    others = [
        one
        for one in looked
        if one.uuid != removal.uuid and not (one.problem and one.address in its | {target})
    ]
    losses = removal.losses()
    if dry_run:
        _print(removal, [], output_format)
        return
    if losses and not lose_pages:
        raise NotPossibleError(f"nothing changed: it has {losses}; --lose-pages gives them up")
    if all(one.problem for one in others):
        raise NotPossibleError("nothing changed: no other memory server answers")
    request = pb.RemoveServerRequest(uuid=removal.uuid)
    outcomes = members.call_each(
        session, others, lambda server: server.client.call(server.stub.RemoveServer, request)
    )
    _print(removal, outcomes, output_format)
    if failed := sum(bool(one.problem) and not one.member.problem for one in outcomes):
        raise RemoteError(
            f"{failed} of {count(len(outcomes), 'server')} did not take the removal: repeat it"
        )


def _uuid_of(target: str, looked: Sequence[Member], views: Sequence[VolumeView]) -> str:
    """Raises NotFoundError."""
    known = {
        one.uuid
        for one in looked
        if one.uuid and target in (one.uuid, one.address, one.answer.admin_address)
    } or {
        server.uuid.hex()
        for server in _away(views)
        if target in (server.uuid.hex(), server.address)
    }
    if len(known) == 1:
        return known.pop()
    if UUID.fullmatch(target):
        return target
    raise NotFoundError(
        f"{target} has been {count(len(known), 'store')}: give the uuid of one"
        if known
        else f"no memory server and no host knows {target}: give the uuid of its store"
    )


def _away(views: Sequence[VolumeView]) -> list[page_store_pb2.AwayServer]:
    return [server for view in views if view.placement for server in view.placement.away]


def _plan(looked: Sequence[Member], views: Sequence[VolumeView], uuid: str) -> Removal:
    """Raises NotPossibleError if the server answers and is not drained."""
    for one in looked:
        if one.uuid != uuid:
            continue
        live = [volume for volume in one.answer.volumes if volume.live]
        mapped = max(one.shards, sum(volume.placement.replicas_here for volume in live))
        if mapped or not one.draining:
            raise NotPossibleError(
                f"nothing changed: {one.address} answers, and has "
                f"{count(mapped, 'shard')}: drain it first, or stop it for good"
            )
        return Removal(uuid, 0, 0, ())
    there = [server for server in _away(views) if server.uuid.hex() == uuid]
    unknown = [
        f"{view.host_id}/{view.device}"
        for view in views
        if not (view.live and view.placement) and not any(s in there for s in _away([view]))
    ]
    return Removal(
        uuid,
        sum(server.shards for server in there),
        sum(server.last_shards for server in there),
        tuple(unknown),
    )


def _print(removal: Removal, outcomes: Sequence[members.Outcome], output_format: str) -> None:
    servers = [{"address": one.member.address, "problem": one.problem} for one in outcomes]
    if output_format == "json":
        output.print_json(removal.document() | {"dry_run": not outcomes, "servers": servers})
        return
    verb = "removed" if outcomes else "would remove"
    text = f"{verb} {removal.uuid}: hosts have {count(removal.shards, 'shard')} there"
    losses = removal.losses()
    lines = [text, f"lost: {losses}" if losses else "lost: none"]
    lines += [f"{one.member.address}: {one.problem or 'passes it on'}" for one in outcomes]
    output.print_lines(output.console(), Text("\n".join(lines)))
