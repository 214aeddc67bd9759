"""`farswapctl tier`: the compressed pool of a host, and moving its coldest pages out."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click
from farswap.admin import output
from farswap.common import cli
from farswap.common.errors import RemoteError
from farswap.v1 import host_admin_pb2 as pb
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from farswap.admin.session import HostClient, Session
    from farswap.common.units import ByteSize

_PAGE_BYTES = 4096


@click.group()
def command() -> None:
    """The compressed pool of a host."""


@command.command()
@output.output_option
@click.pass_obj
def show(session: Session, output_format: str) -> None:
    """Where the pages are, what the pool holds, and every counter.

    \b
    Example:
      farswapctl tier show -o json | jq .counters.loads_remote
    """
    with session.host() as host:
        tier = host.status.tier
    if output_format == "json":
        output.print_json(tier)
        return
    out = output.console()
    output.print_rows(out, "tier", rows(tier))
    counters = [(counter.name, f"{counter.value:>12}") for counter in tier.counters]
    output.print_rows(out, "counters", counters)


@command.command()
@click.option(
    "--bytes",
    "target",
    required=True,
    type=cli.SizeParameter(),
    help="How much, of pages uncompressed: 268435456 or 256MiB.",
)
@output.output_option
@click.pass_obj
def writeback(session: Session, target: ByteSize, output_format: str) -> None:
    """Move the coldest pages to the memory servers now.

    Shows progress until done. Ctrl-C ends the job; what has moved stays moved. Exit code 1 when
    it ended short of the target.

    \b
    Example:
      farswapctl tier writeback --bytes 256MiB
    """
    if target == 0:
        raise click.BadParameter("0 is nothing to do", param_hint="'--bytes'")
    with session.host() as host:
        last = _follow(host, target, show_progress=output_format == "table")
    if output_format == "json":
        output.print_json(last)
    else:
        print(
            f"wrote back {output.size(last.written_bytes)} of pages, "
            f"{output.size(last.sent_bytes)} as compressed"
        )
    if last.written_bytes < last.target_bytes:
        raise RemoteError(f"short of the target: {last.stopped_because or 'the job was cut off'}")


def rows(tier: pb.TierStatus) -> list[output.Row]:
    """What `status` shows of it too."""
    in_pool = tier.pages_local + tier.pages_writing
    uncompressed = in_pool * _PAGE_BYTES
    ratio = f", {uncompressed / tier.pool_used_bytes:.2f} to 1" if tier.pool_used_bytes else ""
    pool = (
        f"{output.size(tier.pool_used_bytes)} of {output.size(tier.pool_limit_bytes)} "
        f"({output.share(tier.pool_used_bytes, tier.pool_limit_bytes)}), "
        f"shrinks to {tier.accept_threshold_percent} % when full"
    )
    return [
        ("pool", pool),
        ("compression", f"{tier.compressor}{ratio}"),
        ("pages", f"{tier.pages_stored} ({output.size(tier.pages_stored * _PAGE_BYTES)})"),
        ("  in pool", f"{in_pool}, of these {tier.pages_raw} do not compress"),
        ("  on servers", str(tier.pages_remote)),
        ("  same-filled", str(tier.pages_same_filled)),
        ("slot table", output.size(tier.metadata_bytes)),
    ]


def _follow(host: HostClient, target: ByteSize, *, show_progress: bool) -> pb.WritebackProgress:
    """Returns the last report. Leaving by Ctrl-C cancels the call, and by that the job."""
    reports = host.client.stream(host.stub.Writeback, pb.WritebackRequest(bytes=target))
    last = pb.WritebackProgress(target_bytes=target)
    with contextlib.closing(reports):
        try:
            for report in _shown(reports, target) if show_progress else reports:
                last = report
        except KeyboardInterrupt:
            return pb.WritebackProgress(
                target_bytes=target,
                written_bytes=last.written_bytes,
                sent_bytes=last.sent_bytes,
                stopped_because="interrupted",
            )
    return last


def _shown(
    reports: Iterable[pb.WritebackProgress], target: ByteSize
) -> Iterator[pb.WritebackProgress]:
    """The same reports, with a bar on a terminal and else a line at every tenth."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("writeback"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("writeback", total=target)
            for report in reports:
                progress.update(task, completed=report.written_bytes)
                yield report
        return
    said = 0
    for report in reports:
        tenth = 10 * report.written_bytes // target
        if tenth > said:
            said = tenth
            done = output.size(report.written_bytes)
            print(f"writeback: {done} of {output.size(target)}", file=sys.stderr)
        yield report
