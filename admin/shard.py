"""`farswapctl shard`: where a host's pages are kept, in shards of 4096 slots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from farswap.admin import commands, completion, output
from farswap.common.errors import RemoteError
from farswap.v1 import host_admin_pb2 as pb
from rich.text import Text

if TYPE_CHECKING:
    from farswap.admin.session import HostClient, Session
    from rich.console import Console

_LOOK_EVERY_S = 0.5
_SHARD = click.IntRange(0, (1 << 64) - 1)


@click.group()
def command() -> None:
    """Shards (4096 slots) of a host's device, and their replicas.

    A shard is what is placed on memory servers, copied and moved as a whole.

    \b
    Example:
      farswapctl --host 10.0.0.5:7072 shard list --not-current
    """


@commands.verb(command, "list")
@click.option(
    "--on",
    metavar="ADDR",
    shell_complete=completion.servers,
    help="Only shards with a replica on this memory server.",
)
@click.option("--not-current", is_flag=True, help="Only shards with a joining or stale replica.")
def list_(session: Session, *, on: str | None, not_current: bool, output_format: str) -> None:
    """List shards with their replicas.

    A shard is placed when a page of it first leaves the host. A joining replica is being copied, a
    stale one missed a write.

    \b
    Examples:
      farswapctl shard list
      farswapctl shard list --on 10.0.0.7:7070 -o json
    """
    with session.host() as host:
        request = pb.ListShardsRequest()
        found = [
            shard
            for shard in host.client.stream(host.stub.ListShards, request, host.client.timeout_s)
            if _wanted(shard, on, not_current=not_current)
        ]
    if output_format == "json":
        output.print_json({"shards": [output.plain(shard) for shard in found]})
        return
    rows = [(str(shard.shard), _slots(shard), _replicas(shard)) for shard in found]
    if rows:
        output.print_table(output.console(), "shards", (">shard", ">slots", "replicas"), rows)
    else:
        output.print_lines(output.console(), "no shard")


@commands.verb(command)
@click.argument("number", metavar="N", type=_SHARD)
def show(session: Session, number: int, output_format: str) -> None:
    """Show the replicas of shard N, slots N * 4096 and following.

    \b
    Example:
      farswapctl shard show 17
    """
    with session.host() as host:
        found = _look(host, number)
    output.print_answer(found, output_format, _print)


@commands.verb(command)
@click.argument("number", metavar="N", type=_SHARD)
@click.option(
    "--from",
    "source",
    metavar="ADDR",
    required=True,
    shell_complete=completion.servers,
    help="Server that it leaves.",
)
@click.option(
    "--to",
    "target",
    metavar="ADDR",
    required=True,
    shell_complete=completion.servers,
    help="Server that it goes to.",
)
@click.option("--wait", is_flag=True, help="Wait until it is there.")
def move(
    session: Session, *, number: int, source: str, target: str, wait: bool, output_format: str
) -> None:
    """Move a replica of shard N from one memory server to another.

    The servers are named by their page addresses, as `farswapctl status` shows them. Pages are
    copied from server to server, and the old replica is dropped once the new one is complete.
    Ctrl-C ends the wait, not the move.

    \b
    Example:
      farswapctl shard move 17 --from 10.0.0.7:7070 --to 10.0.0.8:7070 --wait
    """
    with session.host() as host:
        request = pb.MoveShardRequest(shard=number, source=source, target=target)
        found = host.client.call(host.stub.MoveShard, request)
        while wait and _states(found).get(target) == "joining":
            time.sleep(_LOOK_EVERY_S)
            found = _look(host, number)
    output.print_answer(found, output_format, _print)
    if wait and _states(found).get(target) != "current":
        raise RemoteError(f"the copy to {target} failed; see the log of the host daemon")


def _look(host: HostClient, number: int) -> pb.ShardStatus:
    request = pb.ListShardsRequest(shard=number)
    (found,) = host.client.stream(host.stub.ListShards, request, host.client.timeout_s)
    shard: pb.ShardStatus = found
    return shard


def _wanted(shard: pb.ShardStatus, on: str | None, *, not_current: bool) -> bool:
    states = _states(shard)
    if on is not None and on not in states:
        return False
    return not not_current or any(state != "current" for state in states.values())


def _states(shard: pb.ShardStatus) -> dict[str, str]:
    """By address."""
    return {replica.address: replica.state for replica in shard.replicas}


def _slots(shard: pb.ShardStatus) -> str:
    return f"{shard.first_slot}..{shard.first_slot + shard.slots - 1}"


def _replicas(shard: pb.ShardStatus) -> Text:
    text = ", ".join(f"{replica.address} ({replica.state})" for replica in shard.replicas)
    healthy = all(state == "current" for state in _states(shard).values())
    return Text(output.printable(text or "none"), style="" if healthy else "yellow")


def _print(out: Console, shard: pb.ShardStatus) -> None:
    rows: list[output.Row] = [("slots", _slots(shard)), ("replicas", _replicas(shard))]
    output.print_rows(out, f"shard {shard.shard}", rows)
