"""`farswapctl cluster`: all memory servers and volumes on one screen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from farswap.admin import commands, lags, latency, members, output
from farswap.admin.drain import Left, Progress, Report
from farswap.common.errors import FarswapError, RemoteError
from farswap.common.text import count
from farswap.v1 import server_admin_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.admin.members import Member
    from farswap.admin.session import Session
    from farswap.common.address import Address
    from farswap.v1 import page_store_pb2 as pb
    from rich.console import Console
    from rich.text import Text

# Between the two looks that give a drain's rate.
_RATE_OVER_S = 2.0
# What a volume's placement says of the server that answers, and not of the volume.
_OF_ONE_SERVER = ("replicas_here", "fetch_p99_us")


@click.group()
def command() -> None:
    """All memory servers and volumes together.

    \b
    Example:
      farswapctl --server 10.0.0.7:7071 cluster status
    """


@dataclass(frozen=True, slots=True)
class VolumeView:
    """A host's device on all servers. `placement` is None if no server has it from its host."""

    host_id: str
    device: str
    owner_name: str
    live: bool
    silent_ms: int
    bytes: int  # of all replicas
    replicas: int  # of all shards, on servers that answer
    placement: pb.VolumePlacement | None

    @property
    def debt(self) -> int:
        """Shards with fewer current replicas than wanted."""
        return self.placement.replication_debt_shards if self.placement else 0

    @property
    def lost(self) -> int:
        """Shards without a replica."""
        return self.placement.lost_shards if self.placement else 0

    @property
    def away(self) -> tuple[pb.AwayServer, ...]:
        """Servers with shards that its host, which is live, cannot reach."""
        away = self.placement.away if self.placement and self.live else ()
        return tuple(server for server in away if server.shards)

    @property
    def unreadable(self) -> int:
        """Shards whose last current replica is there."""
        return sum(server.last_shards for server in self.away)

    def problems(self) -> list[tuple[str, str]]:
        """Level and text."""
        found = []
        if self.lost:
            found.append(("error", f"{_shards(self.lost)} lost"))
        if self.unreadable:
            where = ", ".join(server.address for server in self.away if server.last_shards)
            found.append(("error", f"{_shards(self.unreadable)} unreadable without {where}"))
        if self.debt:
            away = ", ".join(server.address for server in self.away)
            why = f"; its host cannot reach {away}" if away else ""
            found.append(("warning", f"{_shards(self.debt)} short of replicas{why}"))
        if not self.live:
            found.append(("warning", f"its host is silent for {output.span(self.silent_ms)}"))
        return [(level, f"{self.host_id}/{self.device}: {text}") for level, text in found]


@dataclass(frozen=True, slots=True)
class View:
    """Answers of all servers, and the drains among them by address."""

    members: tuple[Member, ...]
    volumes: tuple[VolumeView, ...]  # by host and device
    drains: dict[str, Report]

    @property
    def debt(self) -> int:
        """Of all volumes."""
        return sum(volume.debt for volume in self.volumes)

    @property
    def unreadable(self) -> int:
        """Of all volumes."""
        return sum(volume.unreadable for volume in self.volumes)

    def problems(self) -> list[tuple[str, str]]:
        """Level and text, errors first."""
        found = [("warning", f"{at}: {why}") for at, why in lags.lags(self.members)]
        for volume in self.volumes:
            found += volume.problems()
        for address, report in self.drains.items():
            if report.stalled_s:
                found.append(("warning", f"{address}: {report.lines()[0]}"))
        return sorted(found, key=lambda problem: problem[0] != "error")

    @property
    def health(self) -> str:
        """`ok`, `warning` or `error`."""
        levels = [level for level, _ in self.problems()]
        return "error" if "error" in levels else "warning" if levels else "ok"

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "health": self.health,
            "replication_debt_shards": self.debt,
            "lost_shards": sum(volume.lost for volume in self.volumes),
            "unreadable_shards": self.unreadable,
            "capacity_bytes": sum(one.answer.capacity_bytes for one in self.members),
            "used_bytes": sum(one.answer.used_bytes for one in self.members),
            "servers": [server_document(one) for one in self.members],
            "volumes": [
                {
                    "host_id": volume.host_id,
                    "device": volume.device,
                    "owner_name": volume.owner_name,
                    "owner_live": volume.live,
                    "silent_ms": volume.silent_ms,
                    "bytes": volume.bytes,
                    "replicas": volume.replicas,
                    "placement": _placement_document(volume.placement),
                }
                for volume in self.volumes
            ],
            "drains": {
                address: report.document() for address, report in sorted(self.drains.items())
            },
            "problems": [{"level": level, "message": text} for level, text in self.problems()],
        }


@commands.verb(command)
@members.option
def status(session: Session, named: list[Address], output_format: str) -> None:
    """Show health, capacity, replicas, drains and what lags.

    Asks each memory server: those of --servers or --etcd, or else those of the host daemon at
    --host, or the memory server at --server and its peers. Servers know from hosts how many shards
    are short of replicas.

    While a server is draining, the command looks twice, 2 s apart, for the rate and the remaining
    time. Exit code 1: a shard is lost or unreadable, or no server answers.

    \b
    Examples:
      farswapctl cluster status
      farswapctl cluster status --servers 10.0.0.7:7070,10.0.0.8:7070
      farswapctl cluster status -o json | jq .replication_debt_shards
    """
    view = look(session, named)
    if output_format == "json":
        output.print_json(view.document())
    else:
        _print(output.console(), view)
    if view.health == "error":
        raise RemoteError("shards are lost or unreadable")


def look(session: Session, named: list[Address]) -> View:
    """Asks all servers. Raises FarswapError if none answers."""
    addresses = members.find(session, named)
    first = members.describe_all(addresses, session.timeout_s)
    if all(one.problem for one in first):
        raise FarswapError(f"no memory server answers: {first[0].address}: {first[0].problem}")
    progress = {one.address: Progress(time.monotonic()) for one in first if one.draining}
    if not progress:
        return View(tuple(first), volume_views(first), {})
    drains = _note(progress, first, {})
    time.sleep(_RATE_OVER_S)
    last = members.describe_all(addresses, session.timeout_s)
    return View(tuple(last), volume_views(last), _note(progress, last, drains))


def _note(
    progress: dict[str, Progress], looked: Sequence[Member], drains: dict[str, Report]
) -> dict[str, Report]:
    now_s = time.monotonic()
    for one in looked:
        if one.address in progress and one.draining:
            drains[one.address] = progress[one.address].note(left_at(one), now_s, now_s)
    return drains


def left_at(member: Member) -> Left:
    """What a drain of the server has left."""
    volumes = [
        server_admin_pb2.VolumeStatus(
            volume_id=volume.volume_id,
            host_id=volume.host_id,
            device=volume.device,
            owner_name=volume.owner_name,
            owner_live=volume.live,
            silent_ms=volume.silent_ms,
            bytes=volume.bytes,
            shards=len(volume.shards),
            placement=volume.placement if volume.HasField("placement") else None,
        )
        for volume in member.answer.volumes
    ]
    status_ = server_admin_pb2.ServerStatus(draining=member.draining, volumes=volumes)
    return Left.of(status_)


def server_document(member: Member) -> dict[str, object]:
    """For JSON."""
    return {
        "address": member.address,
        "uuid": member.uuid or None,
        "state": member.state,
        "problem": member.problem,
        "capacity_bytes": member.answer.capacity_bytes,
        "used_bytes": member.answer.used_bytes,
        "volumes": len(member.answer.volumes),
        "shards": member.shards,
        "fetch_p99_us": lags.fetch_p99_us(member),
    }


def print_servers(out: Console, looked: Sequence[Member]) -> None:
    """A table."""
    rows: list[tuple[str | Text, ...]] = [
        (
            one.address,
            output.good(one.state) if one.state == "active" else output.bad(one.state),
            *_figures(one),
            one.uuid,
        )
        for one in looked
    ]
    columns = (
        "address",
        "state",
        ">used",
        ">capacity",
        ">share",
        ">volumes",
        ">shards",
        ">fetch p99",
        "uuid",
    )
    spare = ("uuid", "volumes", "share", "fetch p99", "shards")
    output.print_table(out, "servers", columns, rows, spare)


def _figures(member: Member) -> tuple[str, ...]:
    answer = member.answer
    if member.problem:
        return ("-",) * 6
    return (
        output.size(answer.used_bytes),
        output.size(answer.capacity_bytes),
        output.share(answer.used_bytes, answer.capacity_bytes),
        str(len(answer.volumes)),
        str(member.shards),
        latency.text(lags.fetch_p99_us(member)),
    )


def _print(out: Console, view: View) -> None:
    used = sum(one.answer.used_bytes for one in view.members)
    capacity = sum(one.answer.capacity_bytes for one in view.members)
    answering = sum(not one.problem for one in view.members)
    rows: list[output.Row] = [
        ("health", output.good("ok") if view.health == "ok" else output.bad(view.health)),
        ("servers", f"{len(view.members)}, {answering} answer"),
        ("used", f"{output.size(used)} of {output.size(capacity)}"),
        (
            "short of replicas",
            output.bad(_shards(view.debt)) if view.debt else output.good("none"),
        ),
        (
            "unreadable",
            output.bad(_shards(view.unreadable)) if view.unreadable else output.good("none"),
        ),
    ]
    output.print_rows(out, "cluster", rows)
    print_servers(out, view.members)
    if view.volumes:
        columns = (
            "host/device",
            "state",
            ">replicas",
            ">size",
            ">shards short",
            ">being copied",
            ">lost",
        )
        output.print_table(out, "volumes", columns, [_volume_row(each) for each in view.volumes])
    if view.drains:
        lines = [
            (address, report.lines()[0].removeprefix("drain: "))
            for address, report in sorted(view.drains.items())
        ]
        output.print_rows(out, "drains", lines)
    problems = [(level, output.level_text(level, text)) for level, text in view.problems()] or [
        ("ok", output.good("no problems"))
    ]
    output.print_rows(out, "problems", problems)


def _volume_row(volume: VolumeView) -> tuple[str, ...]:
    placement = volume.placement
    return (
        f"{volume.host_id}/{volume.device}",
        "live" if volume.live else f"silent for {output.span(volume.silent_ms)}",
        str(placement.replicas_wanted) if placement else "?",
        output.size(volume.bytes),
        str(volume.debt) if placement else "?",
        str(placement.replica_copies) if placement else "?",
        str(volume.lost) if placement else "?",
    )


def volume_views(looked: Sequence[Member]) -> tuple[VolumeView, ...]:
    """By host and device."""
    found: dict[tuple[str, str], list[pb.DescribeResponse.Volume]] = {}
    for member in looked:
        for volume in member.answer.volumes:
            found.setdefault((volume.host_id, volume.device), []).append(volume)
    return tuple(_volume_view(parts) for _, parts in sorted(found.items()))


def _volume_view(parts: Sequence[pb.DescribeResponse.Volume]) -> VolumeView:
    newest = min(parts, key=lambda part: (not part.HasField("placement"), part.silent_ms))
    return VolumeView(
        newest.host_id,
        newest.device,
        newest.owner_name,
        any(part.live for part in parts),
        newest.silent_ms,
        sum(part.bytes for part in parts),
        sum(part.placement.replicas_here for part in parts),
        newest.placement if newest.HasField("placement") else None,
    )


def _placement_document(placement: pb.VolumePlacement | None) -> dict[str, object] | None:
    if placement is None:
        return None
    document = output.plain(placement)
    for name in _OF_ONE_SERVER:
        del document[name]
    return document


def _shards(number: int) -> str:
    return count(number, "shard")
