"""`farswapctl cgroup`: pages, limits and settings by cgroup."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from farswap.admin import commands, completion, latency, output, pages
from farswap.common.units import PAGE_BYTES
from farswap.v1 import host_admin_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from farswap.admin.session import Session
    from rich.console import Console


@click.group()
def command() -> None:
    """Pages, limits and settings of a host's cgroups.

    \b
    Example:
      farswapctl cgroup set /db --writeback off
    """


@commands.verb(command, "list")
def list_(session: Session, output_format: str) -> None:
    """Show pages and limits of each cgroup that has pages or settings.

    A limit applies to a cgroup and its descendants; `tree` includes them. Settings come from the
    cgroup's memory.zswap.max and memory.zswap.writeback, or from `cgroup set`.

    \b
    Examples:
      farswapctl cgroup list
      farswapctl cgroup list -o json | jq '.cgroups[] | select(.remote_pages > 0) | .path'
    """
    with session.host() as host:
        cgroups = host.cgroups()
    if output_format == "json":
        output.print_json({"cgroups": [output.plain(cgroup) for cgroup in cgroups]})
    else:
        print_cgroups(output.console(), cgroups)


@commands.verb(command)
@click.argument("path", type=commands.CGROUP, shell_complete=completion.cgroups)
def show(session: Session, path: str, output_format: str) -> None:
    """Show one cgroup: pages, settings and their sources, load times, counters.

    PATH is as in /proc/PID/cgroup.

    \b
    Example:
      farswapctl cgroup show /system.slice/postgresql.service
    """
    with session.host() as host:
        (cgroup,) = host.cgroups(path)
    output.print_answer(cgroup, output_format, _print)


@commands.verb(command, "set")
@click.argument("path", type=commands.CGROUP, shell_complete=completion.cgroups)
@click.option(
    "--pool-limit",
    "pool_limit_bytes",
    type=commands.SIZE_LIMIT,
    help="Maximum size in the pool, at least 256KiB. At the limit the cgroup's coldest pages are "
    "written back.",
)
@click.option(
    "--writeback",
    type=commands.SWITCH_OR_DEFAULT,
    help="Whether its pages may be written back to memory servers.",
)
@click.option(
    "--remote-max",
    "remote_pages_max",
    type=commands.PAGES_LIMIT,
    help="Maximum size of its pages on memory servers, uncompressed.",
)
@click.option(
    "--compressor", type=commands.COMPRESSOR_OR_DEFAULT, help="Compressor of its new pages."
)
def set_(session: Session, *, path: str, output_format: str, **settings: object) -> None:
    """Set limits and settings of one cgroup and its descendants.

    Settings made here last until the host daemon exits, and override the cgroup's files
    (memory.zswap.max, memory.zswap.writeback). `default` removes an override; `none` is no limit.
    To keep a limit, write it to the file: systemd has MemoryZSwapMax= and MemoryZSwapWriteback=.

    \b
    Examples:
      farswapctl cgroup set /build --pool-limit 64MiB --remote-max 2GiB
      farswapctl cgroup set /db --writeback off
      farswapctl cgroup set /build --compressor zstd:3
      farswapctl cgroup set /build --pool-limit default
    """
    request = pb.SetCgroupRequest(path=path)
    for field, value in commands.given(settings).items():
        if value is commands.DEFAULT:
            request.defaults.append(field)
        else:
            setattr(request, field, value)
    with session.host() as host:
        cgroup = host.client.call(host.stub.SetCgroup, request)
    output.print_answer(cgroup, output_format, _print)


def print_cgroups(out: Console, cgroups: Iterable[pb.CgroupStatus]) -> None:
    """One line per cgroup; also used by `tier show`."""
    columns = (
        "cgroup",
        ">pool",
        ">tree",
        ">limit",
        ">in pool",
        ">same-filled",
        ">on servers",
        ">remote max",
        "writeback",
        "compressor",
    )
    rows = [
        (
            name(cgroup),
            output.size(cgroup.pool_bytes),
            output.size(cgroup.tree_pool_bytes),
            _limit(cgroup.settings, "pool_limit_bytes", 1),
            str(pages.in_pool(cgroup)),
            str(cgroup.same_filled_pages),
            str(cgroup.remote_pages),
            _limit(cgroup.settings, "remote_pages_max", PAGE_BYTES),
            "on" if cgroup.settings.writeback else "off",
            cgroup.settings.compressor or "-",
        )
        for cgroup in cgroups
    ]
    spare = ("compressor", "same-filled", "remote max", "tree", "writeback", "limit")
    output.print_table(out, "cgroups", columns, rows, spare)


def name(cgroup: pb.CgroupStatus) -> str:
    """Its path, else its id."""
    return cgroup.path or f"#{cgroup.id}"


def _limit(settings: pb.CgroupSettings, field: str, unit_bytes: int, none: str = "-") -> str:
    return output.size(getattr(settings, field) * unit_bytes) if settings.HasField(field) else none


def _print(out: Console, cgroup: pb.CgroupStatus) -> None:
    output.print_rows(out, f"cgroup {name(cgroup)}", _rows(cgroup))
    output.print_rows(out, "settings", _settings_rows(cgroup.settings))
    times: list[output.Row] = [
        (tier, " ".join(f"p{name} {_quantile(counts, name)}" for name in (50, 90, 99)))
        for tier, counts in latency.buckets(cgroup.latency).items()
    ]
    if times:
        output.print_rows(out, "time to load from", times)
    output.print_counters(out, cgroup.counters)


def _quantile(counts: list[int], percent: int) -> str:
    return latency.text(latency.quantile_us(counts, percent / 100))


def _rows(cgroup: pb.CgroupStatus) -> list[output.Row]:
    return [
        ("id", str(cgroup.id)),
        ("parent", cgroup.parent_path or "-"),
        ("pool", output.size(cgroup.pool_bytes)),
        ("  with all below", output.size(cgroup.tree_pool_bytes)),
        *pages.rows(cgroup),
        ("on servers with all below", str(cgroup.tree_remote_pages)),
    ]


def _settings_rows(settings: pb.CgroupSettings) -> list[output.Row]:
    pool = _limit(settings, "pool_limit_bytes", 1, "none")
    remote = _limit(settings, "remote_pages_max", PAGE_BYTES, "none")
    compressor = settings.compressor or "the tier's"
    return [
        ("pool limit", f"{pool} ({settings.pool_limit_source})"),
        ("writeback", f"{'on' if settings.writeback else 'off'} ({settings.writeback_source})"),
        ("remote max", f"{remote} ({settings.remote_pages_max_source})"),
        ("compressor", f"{compressor} ({settings.compressor_source})"),
    ]
