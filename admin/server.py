"""`farswapctl server`: a memory server, its volumes and counters, and drains."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from farswap.admin import commands, output
from farswap.admin import drain as drains
from farswap.common import cli
from farswap.common.errors import FarswapError
from farswap.v1 import server_admin_pb2 as pb
from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farswap.admin.session import Session

_NOT_KNOWN = (
    "not known: the room on other servers. Each host moves its own shards; without room elsewhere "
    "they stay here."
)
_GOES_ON = (
    "interrupted; the drain goes on. Watch it by `farswapctl server drain --wait`, end it by "
    "`farswapctl server undrain`"
)


@click.group()
def command() -> None:
    """A memory server."""


@commands.verb(command)
def show(session: Session, output_format: str) -> None:
    """Show capacity, volumes and counters.

    \b
    Examples:
      farswapctl server show
      farswapctl --server 10.0.0.7:7071 server show -o json | jq .used_bytes
    """
    with session.server() as server:
        status = server.status(count_shards=True)
    output.print_answer(status, output_format, _print)


@commands.verb(command)
@click.option("--wait", is_flag=True, help="Show progress until no shard is left.")
@click.option("--dry-run", is_flag=True, help="Only show what would move.")
def drain(session: Session, *, wait: bool, dry_run: bool, output_format: str) -> None:
    """Have hosts move their shards from this server to others, so that it can be stopped.

    The server keeps the drain, also over restarts, until `undrain`. It serves its pages meanwhile,
    and gets no new shards. Repeat the command to watch a drain.

    With --wait, shows what is left, what the drain waits for, rate and remaining time, until the
    server confirms that it has no shard, and each live host has heard of the drain. There is no
    time limit; a drain that moves nothing for 30 s is shown as stalled. Ctrl-C ends the wait, not
    the drain. With -o json, --wait prints one document per line and look.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 server drain --dry-run
      farswapctl --server 10.0.0.7:7071 server drain --wait
      farswapctl server drain -o json | jq .waits_for
    """
    if wait and dry_run:
        raise click.UsageError("--wait and --dry-run exclude each other")
    if not dry_run:
        with session.server() as server:
            server.status()
            server.client.call(server.stub.Drain, pb.DrainRequest())
    try:
        if wait:
            _wait(drains.follow(lambda: _left(session)), output_format)
        else:
            _print_left(_left(session), output_format, dry_run=dry_run)
    except KeyboardInterrupt:
        if dry_run:
            raise
        raise FarswapError(_GOES_ON) from None


@commands.verb(command)
def undrain(session: Session, output_format: str) -> None:
    """End a drain: the server gets shards again.

    Shards that hosts have moved away stay where they are.

    \b
    Example:
      farswapctl --server 10.0.0.7:7071 server undrain
    """
    with session.server() as server:
        server.status()
        server.client.call(server.stub.Undrain, pb.UndrainRequest())
        status = server.status(count_shards=True)
    if output_format == "json":
        output.print_json(drains.Left.of(status).document())
    else:
        state = output.enum_name(status, "state").replace("_", " ")
        output.print_lines(output.console(), f"not draining; state: {state}")


def _left(session: Session) -> drains.Left:
    # A connection for each look: a kept one waits up to two minutes before it connects again.
    with session.server() as server:
        return drains.Left.of(server.status(count_shards=True))


def _print_left(left: drains.Left, output_format: str, *, dry_run: bool) -> None:
    if output_format == "json":
        output.print_json(left.document() | {"dry_run": dry_run, "room_elsewhere_bytes": None})
        return
    lines = ["would move" if dry_run else "draining:"]
    if left.volumes:
        lines[0] += f" {drains.amount(left)}"
        lines += [*(f"  {line}" for line in left.waits()), _NOT_KNOWN]
    else:
        lines[0] += " nothing: no shard is here"
    output.print_lines(output.console(), Text("\n".join(lines)))


def _wait(reports: Iterator[drains.Report], output_format: str) -> None:
    """Raises FarswapError if the drain is ended before it is finished."""
    console = Console(stderr=True)
    if output_format == "json":
        last = _print_documents(reports)
    elif console.is_terminal:
        last = _show_live(reports, console)
    else:
        last = _print_changes(reports)
    if not last.finished:
        raise FarswapError(f"the drain was ended by undrain with {drains.amount(last.left)} left")
    if output_format == "table":
        moved = output.size(last.moved_bytes)
        output.print_lines(output.console(), f"drained: no shard is left, {moved} moved")


def _print_documents(reports: Iterator[drains.Report]) -> drains.Report:
    for last in reports:
        print(json.dumps(last.document()), flush=True)
    return last


def _show_live(reports: Iterator[drains.Report], console: Console) -> drains.Report:
    with Live(console=console, transient=True, auto_refresh=False) as live:
        for last in reports:
            live.update(Text("\n".join(last.lines())), refresh=True)
    return last


def _print_changes(reports: Iterator[drains.Report]) -> drains.Report:
    printed: object = None
    for last in reports:
        if last.key() != printed and not last.finished and not last.ended:
            printed = last.key()
            for line in last.lines():
                cli.say(line)
    return last


def _print(out: Console, status: pb.ServerStatus) -> None:
    output.print_program(out, status.info)
    output.print_rows(out, "store", _rows(status))
    volumes = [
        (
            f"{volume.host_id}/{volume.device}",
            str(volume.epoch),
            str(volume.pages),
            str(volume.shards) if volume.HasField("shards") else "",
            output.size(volume.bytes),
            _state(volume),
            f"{volume.owner_name} {volume.owner_address}".strip(),
            _expiry(volume),
            volume.incarnation,
        )
        for volume in status.volumes
    ]
    if volumes:
        columns = (
            "host/device",
            ">epoch",
            ">pages",
            ">shards",
            ">size",
            "state",
            "owner",
            "deleted in",
            "incarnation",
        )
        spare = ("incarnation", "epoch", "owner", "pages")
        output.print_table(out, "volumes", columns, volumes, spare=spare)
    output.print_counters(out, status.counters)


def _state(volume: pb.VolumeStatus) -> str:
    if volume.garbage:
        return "garbage, being deleted"
    state = "live" if volume.owner_live else f"silent for {output.span(volume.silent_ms)}"
    return state if volume.intact else f"{state}, pages may be missing"


def _expiry(volume: pb.VolumeStatus) -> str:
    if volume.garbage or volume.owner_live:
        return ""
    return output.span(volume.expires_in_ms) if volume.HasField("expires_in_ms") else "never"


def _server_state(status: pb.ServerStatus) -> str:
    state = output.enum_name(status, "state").replace("_", " ")
    return f"{state}, {drains.amount(drains.Left.of(status))} left" if status.draining else state


def _rows(status: pb.ServerStatus) -> list[output.Row]:
    used = (
        f"{output.size(status.used_bytes)} of {output.size(status.capacity_bytes)} "
        f"({output.share(status.used_bytes, status.capacity_bytes)})"
    )
    stopped = status.writes_stopped
    problem = status.disk_problem
    return [
        ("listens", status.listen),
        ("advertises", status.advertise),
        ("store", f"{status.path}, {status.uuid}"),
        ("run", status.run_id),
        ("state", _server_state(status)),
        ("used", used),
        ("on disk", output.size(status.disk_bytes)),
        (
            "disk",
            output.bad(f"refuses pages: {problem}")
            if problem
            else output.good(f"{output.size(status.disk_free_bytes)} free"),
        ),
        ("pages", str(status.pages)),
        ("garbage", output.size(status.garbage_bytes)),
        (
            "writes",
            output.bad("stopped: compaction is behind") if stopped else output.good("accepted"),
        ),
    ]
