"""`farswapctl server drain` and `undrain`: the room that others have, and progress."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from farswap.admin import commands, members, output, room
from farswap.admin import drain as drains
from farswap.common import cli
from farswap.common.errors import FarswapError, NotPossibleError
from farswap.v1 import server_admin_pb2 as pb
from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from farswap.admin.session import Session
    from farswap.common.address import Address

_NOT_KNOWN = (
    "not known: the room on other servers; list them in cluster.peers of this one, or name them by "
    "--servers or --etcd. Each host moves its own shards; without room elsewhere they stay here."
)
_GOES_ON = (
    "interrupted; the drain goes on. Watch it by `farswapctl server drain --wait`, end it by "
    "`farswapctl server undrain`"
)


@commands.verb()
@click.argument("addresses", metavar="[ADDR]...", nargs=-1)
@click.option("--wait", is_flag=True, help="Show progress until no shard is left.")
@click.option("--dry-run", is_flag=True, help="Only show what would move, and whether it fits.")
@click.option("--force", is_flag=True, help="Begin although the rest has no room.")
@members.option
def drain(
    session: Session,
    *,
    addresses: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    force: bool,
    named: list[Address],
    output_format: str,
) -> None:
    """Have hosts move their shards off servers that are to be stopped.

    ADDR is the admin address of a server; default: --server. Several are planned together. A
    server keeps the drain, also over restarts, until `undrain`. It serves its pages meanwhile, and
    gets no new shards. Repeat the command to watch a drain.

    A drain that does not fit on the other servers is refused with the numbers, unless --force.
    These are the peers of the first server, or all that --servers or --etcd name.

    With --wait, shows what is left, what the drain waits for, rate and remaining time, until each
    server confirms that it has no shard, and each live host has heard of the drain. There is no
    time limit; a drain that moves nothing for 30 s is shown as stalled. Ctrl-C ends the wait, not
    the drain. With -o json, --wait prints one document per line, server and look.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 server drain --dry-run
      farswapctl --server 10.0.0.7:7071 server drain --wait
      farswapctl server drain 10.0.0.7:7071 10.0.0.8:7071 --servers 10.0.0.7:7070,10.0.0.8:7070,...
      farswapctl server drain -o json | jq .waits_for
    """
    if wait and dry_run:
        raise click.UsageError("--wait and --dry-run exclude each other")
    drained = [_Drained(session, address) for address in addresses or [None]]
    plan = _plan(session, drained, named)
    if not dry_run:
        if plan and not plan.fits and not force:
            raise NotPossibleError(
                f"nothing changed: {plan.summary()}; add servers, or use --force"
            )
        for one in drained:
            one.begin()
    try:
        if wait:
            _wait(drained, output_format)
        else:
            _print_left(drained, plan, output_format, dry_run=dry_run)
    except KeyboardInterrupt:
        if dry_run:
            raise
        raise FarswapError(_GOES_ON) from None


@commands.verb()
@click.argument("addresses", metavar="[ADDR]...", nargs=-1)
def undrain(session: Session, addresses: tuple[str, ...], output_format: str) -> None:
    """End drains: the servers get shards again.

    ADDR is the admin address of a server; default: --server. Shards that hosts have moved away
    stay where they are.

    \b
    Example:
      farswapctl --server 10.0.0.7:7071 server undrain
    """
    for address in addresses or [None]:
        with session.server(address) as server:
            server.status()
            server.client.call(server.stub.Undrain, pb.UndrainRequest())
            status = server.status(count_shards=True)
        if output_format == "json":
            output.print_json({"server": address} | drains.Left.of(status).document())
        else:
            state = output.enum_name(status, "state").replace("_", " ")
            prefix = f"{address}: " if address else ""
            output.print_lines(output.console(), f"{prefix}not draining; state: {state}")


class _Drained:
    """A server by its admin address; None: the session's."""

    def __init__(self, session: Session, address: str | None) -> None:
        self._session = session
        self.address = address
        self.prefix = f"{address}: " if address else ""

    def status(self) -> pb.ServerStatus:
        # A connection for each look: a kept one waits up to two minutes before it connects again.
        with self._session.server(self.address) as server:
            return server.status(count_shards=True)

    def begin(self) -> None:
        with self._session.server(self.address) as server:
            server.status()
            server.client.call(server.stub.Drain, pb.DrainRequest())

    def left(self) -> drains.Left:
        return drains.Left.of(self.status())


def _plan(
    session: Session, drained: Sequence[_Drained], named: Sequence[Address]
) -> room.Plan | None:
    """None: the other servers are not known."""
    everyone = named or members.known_to(session, drained[0].address)
    if len(everyone) == 1:
        return None
    leaving = {one.status().uuid for one in drained}
    return room.plan(members.describe_all(everyone, session.timeout_s), leaving)


def _print_left(
    drained: Sequence[_Drained], plan: room.Plan | None, output_format: str, *, dry_run: bool
) -> None:
    for one in drained:
        left = one.left()
        if output_format == "json":
            document = {"server": one.address} | left.document()
            output.print_json(document | {"dry_run": dry_run, "plan": plan and plan.document()})
            continue
        lines = [f"{one.prefix}{'would move' if dry_run else 'draining:'}"]
        if left.volumes:
            lines[0] += f" {drains.amount(left)}"
            lines += [f"  {line}" for line in left.waits()]
        else:
            lines[0] += " nothing: no shard is here"
        if left.volumes and one is drained[-1]:
            lines.append(plan.summary() if plan else _NOT_KNOWN)
        output.print_lines(output.console(), Text("\n".join(lines)))


def _wait(drained: Sequence[_Drained], output_format: str) -> None:
    """Raises FarswapError if a drain is ended before it is finished."""
    looks = drains.follow([one.left for one in drained])
    console = Console(stderr=True)
    if output_format == "json":
        last = _print_documents(drained, looks)
    elif console.is_terminal:
        last = _show_live(drained, looks, console)
    else:
        last = _print_changes(drained, looks)
    for one, report in zip(drained, last, strict=True):
        if not report.finished:
            raise FarswapError(
                f"{one.prefix}the drain was ended by undrain with {drains.amount(report.left)} left"
            )
        if output_format == "table":
            moved = output.size(report.moved_bytes)
            text = f"{one.prefix}drained: no shard is left, {moved} moved"
            output.print_lines(output.console(), text)


def _print_documents(
    drained: Sequence[_Drained], looks: Iterator[list[drains.Report]]
) -> list[drains.Report]:
    for last in looks:
        for one, report in zip(drained, last, strict=True):
            print(json.dumps({"server": one.address} | report.document()), flush=True)
    return last


def _show_live(
    drained: Sequence[_Drained], looks: Iterator[list[drains.Report]], console: Console
) -> list[drains.Report]:
    with Live(console=console, transient=True, auto_refresh=False) as live:
        for last in looks:
            lines = [
                f"{one.prefix}{line}"
                for one, report in zip(drained, last, strict=True)
                for line in report.lines()
            ]
            live.update(Text("\n".join(lines)), refresh=True)
    return last


def _print_changes(
    drained: Sequence[_Drained], looks: Iterator[list[drains.Report]]
) -> list[drains.Report]:
    printed: dict[int, object] = {}
    for last in looks:
        for at, (one, report) in enumerate(zip(drained, last, strict=True)):
            if report.key() != printed.get(at) and not report.done:
                printed[at] = report.key()
                for line in report.lines():
                    cli.say(f"{one.prefix}{line}")
    return last
