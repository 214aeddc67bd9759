"""`farswapctl tier`: pool, settings and writeback of a host."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click
from farswap.admin import cgroup, commands, completion, output, pages
from farswap.common import cli
from farswap.common.errors import RemoteError
from farswap.common.units import PAGE_BYTES
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
    from collections.abc import Callable, Iterator

    from farswap.admin.session import HostClient, Session
    from farswap.common.units import ByteSize, Milliseconds


@click.group()
def command() -> None:
    """The compressed pool of a host.

    \b
    Example:
      farswapctl tier show --by-cgroup
    """


@commands.verb(command)
@click.option("--by-cgroup", is_flag=True, help="Show cgroups instead of counters.")
def show(session: Session, *, by_cgroup: bool, output_format: str) -> None:
    """Show pages by place, use of the pool, and counters.

    \b
    Examples:
      farswapctl tier show --by-cgroup
      farswapctl tier show -o json | jq .counters.loads_remote
    """
    with session.host() as host:
        tier = host.status.tier
        cgroups = host.cgroups() if by_cgroup else []
    if output_format == "json":
        document = output.plain(tier)
        if by_cgroup:
            document["cgroups"] = [output.plain(each) for each in cgroups]
        output.print_json(document)
        return
    out = output.console()
    _print(out, tier)
    if by_cgroup:
        cgroup.print_cgroups(out, cgroups)
    else:
        output.print_counters(out, tier.counters)


@commands.verb(command, "set")
@click.option(
    "--compressor",
    type=commands.COMPRESSOR,
    help="Compressor of new pages. lz4:8 is faster than lz4 and larger, zstd slower and smaller.",
)
@click.option(
    "--recompress",
    type=commands.RECOMPRESSOR,
    help="Compressor of pages on their way to memory servers.",
)
@click.option(
    "--pack",
    type=commands.SWITCH,
    help="Whether cold neighbours are sent to memory servers as one bundle.",
)
@click.option(
    "--pool-limit",
    "pool_limit_bytes",
    type=commands.SIZE,
    help="Limit of the pool, at most that of the daemon's configuration.",
)
@click.option(
    "--accept-threshold",
    "accept_threshold_percent",
    type=click.IntRange(1, 100),
    metavar="PERCENT",
    help="Share of its limit to which a full pool is shrunk.",
)
def set_(session: Session, *, output_format: str, **settings: object) -> None:
    """Change settings of the tier until the host daemon exits.

    Stored pages are not changed. To keep a setting, edit the daemon's configuration.

    \b
    Examples:
      farswapctl tier set --compressor zstd:3
      farswapctl tier set --recompress off
      farswapctl tier set --pool-limit 64MiB --accept-threshold 80
    """
    request = pb.SetTierRequest(**commands.given(settings))
    with session.host() as host:
        tier = host.client.call(host.stub.SetTier, request)
    output.print_answer(tier, output_format, _print)


@commands.verb(command)
@click.option(
    "--bytes",
    "target",
    required=True,
    type=commands.SIZE,
    help="Size of the pages to write back, uncompressed: 268435456 or 256MiB.",
)
@click.option(
    "--cgroup",
    "path",
    type=commands.CGROUP,
    shell_complete=completion.cgroups,
    help="Only pages of this cgroup and its descendants.",
)
@click.option(
    "--older-than",
    type=commands.DURATION,
    help="Only pages at least this long in the pool: 90s, 10m, 2h.",
)
def writeback(
    session: Session,
    *,
    target: ByteSize,
    path: str | None,
    older_than: Milliseconds | None,
    output_format: str,
) -> None:
    """Move the coldest pages to the memory servers now.

    Shows progress until done. Ctrl-C ends the job; pages already moved stay on the servers. Exit
    code 1 if the job ends short of the target: no more such pages, or no page accepted by a memory
    server for 10 s. Skips pages of cgroups with writeback off or at their remote max.

    \b
    Examples:
      farswapctl tier writeback --bytes 256MiB
      farswapctl tier writeback --older-than 10m --cgroup /build --bytes 1GiB
    """
    if target == 0:
        raise click.BadParameter("must be more than 0", param_hint="'--bytes'")
    request = pb.WritebackRequest(
        bytes=target, cgroup=path or "", older_than_s=-(-(older_than or 0) // 1000)
    )
    with session.host() as host:
        last = _follow(host, request, show_progress=output_format == "table")
    output.print_answer(last, output_format, _print_written)
    if last.written_bytes < last.target_bytes:
        raise RemoteError(
            f"writeback ended short of its target: {last.stopped_because or 'the call was cut off'}"
        )


def _print(out: Console, tier: pb.TierStatus) -> None:
    output.print_rows(out, "tier", rows(tier))


def _print_written(out: Console, last: pb.WritebackProgress) -> None:
    written, sent = output.size(last.written_bytes), output.size(last.sent_bytes)
    output.print_lines(out, f"wrote back {written} of pages, {sent} compressed")


def rows(tier: pb.TierStatus) -> list[output.Row]:
    """Also used by `status`."""
    uncompressed = pages.in_pool(tier) * PAGE_BYTES
    ratio = f", {uncompressed / tier.pool_used_bytes:.2f} to 1" if tier.pool_used_bytes else ""
    pool = (
        f"{output.size(tier.pool_used_bytes)} of {output.size(tier.pool_limit_bytes)} "
        f"({output.share(tier.pool_used_bytes, tier.pool_limit_bytes)}), "
        f"shrinks to {tier.accept_threshold_percent} % when full"
    )
    return [
        ("pool", pool),
        ("compression", f"{tier.compressor}{ratio}"),
        ("recompression", f"{tier.recompress} for pages sent to servers"),
        ("packing", f"{'on' if tier.pack else 'off'} for neighbours sent to servers"),
        *pages.rows(tier),
        ("slot table", output.size(tier.metadata_bytes)),
    ]


def _follow(
    host: HostClient, request: pb.WritebackRequest, *, show_progress: bool
) -> pb.WritebackProgress:
    """Returns the last report. Ctrl-C cancels the call and so the job."""
    last = pb.WritebackProgress(target_bytes=request.bytes)
    reports = host.client.stream(host.stub.Writeback, request)
    display = _progress(request.bytes) if show_progress else contextlib.nullcontext(_show_nothing)
    with contextlib.closing(reports), display as show:
        try:
            for last in reports:
                show(last)
        except KeyboardInterrupt:
            return pb.WritebackProgress(
                target_bytes=last.target_bytes,
                written_bytes=last.written_bytes,
                sent_bytes=last.sent_bytes,
                stopped_because="interrupted",
            )
    return last


def _show_nothing(_: pb.WritebackProgress) -> None:
    pass


@contextlib.contextmanager
def _progress(target: int) -> Iterator[Callable[[pb.WritebackProgress], None]]:
    """Shows reports as a bar on a terminal, else as a line per tenth."""
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
            yield lambda report: progress.update(task, completed=report.written_bytes)
        return
    printed = 0

    def print_tenth(report: pb.WritebackProgress) -> None:
        nonlocal printed
        tenth = 10 * report.written_bytes // target
        if tenth > printed:
            printed = tenth
            done = output.size(report.written_bytes)
            cli.say(f"writeback: {done} of {output.size(target)}")

    yield print_tenth
