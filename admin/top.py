"""`farswapctl top`: activity of a host's tier, by interval, total and by cgroup."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click
from farswap.admin import activity, cgroup, commands, latency, output, pages
from rich.console import Group
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from farswap.admin.activity import Activity, Look
    from farswap.admin.session import Session
    from rich.console import Console, RenderableType

_COLUMNS = (
    "cgroup",
    ">pool",
    ">same",
    ">remote",
    ">out/s",
    ">in/s",
    ">hit",
    ">fetch/s",
    ">back/s",
    ">local p50",
    ">local p99",
    ">remote p50",
    ">remote p99",
)
# Columns that a narrow terminal omits, the first one first.
_SPARE = (
    "same",
    "local p50",
    "back/s",
    "local p99",
    "remote p50",
    "remote",
    "pool",
    "fetch/s",
    "remote p99",
    "hit",
)
# Lines of the table besides cgroups: headings, the total, and the omitted columns.
_OTHER_LINES = 3


@commands.verb()
@click.option(
    "--interval",
    type=commands.Seconds(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Interval between tables in seconds.",
)
@click.option("--once", is_flag=True, help="Exit after one table.")
def command(session: Session, *, interval: float, once: bool, output_format: str) -> None:
    """Show rates, hit ratio and load times of a host, live, the busiest cgroups first.

    \b
    Columns:
      pool, same, remote      pages in the pool, same-filled, only on memory servers
      out/s, in/s             pages swapped out and in (without reads of empty slots)
      hit                     share of `in` without a memory server
      fetch/s, back/s         pages fetched from memory servers, and written back to them
      local, remote p50, p99  load time of a page from the pool (sampled), or a memory server

    A narrow terminal shows fewer columns. Ctrl-C ends it. With -o json, prints one document per
    line and interval, with the rates of all counters.

    \b
    Examples:
      farswapctl top
      farswapctl top --once --interval 10
      farswapctl top -o json | jq '.tier.hit_ratio'
    """
    try:
        with session.host() as host:
            looks = _looks(lambda: activity.Look.at(host), interval)
            if output_format == "json":
                _stream(looks, once=once)
            else:
                _show(looks, output.console(), once=once)
    except KeyboardInterrupt:
        return


def _looks(look: Callable[[], Look], interval_s: float) -> Iterator[tuple[Look, Look]]:
    """Each snapshot with the one before it."""
    earlier = look()
    while True:
        time.sleep(interval_s)
        now = look()
        yield earlier, now
        earlier = now


def _stream(looks: Iterator[tuple[Look, Look]], *, once: bool) -> None:
    for earlier, now in looks:
        document = {
            "unix_s": round(time.time(), 3),
            "interval_s": round(now.at_s - earlier.at_s, 3),
            "tier": {
                "pool_used_bytes": now.tier.pool_used_bytes,
                "pool_limit_bytes": now.tier.pool_limit_bytes,
                **activity.of_tier(earlier, now).plain(),
            },
            "cgroups": [
                {"id": of.id, "path": of.path, "pool_bytes": of.pool_bytes, **done.plain()}
                for of, done in activity.of_cgroups(earlier, now)
            ],
        }
        print(json.dumps(document), flush=True)
        if once:
            return


def _show(looks: Iterator[tuple[Look, Look]], out: Console, *, once: bool) -> None:
    if once or not out.is_terminal:
        for earlier, now in looks:
            output.print_lines(out, screen(earlier, now, out, None))
            if once:
                return
    with Live(Text("the first interval ..."), console=out, screen=True, auto_refresh=False) as live:
        for earlier, now in looks:
            live.update(screen(earlier, now, out, out.height), refresh=True)


def screen(earlier: Look, now: Look, out: Console, lines_max: int | None) -> RenderableType:
    """The activity in at most `lines_max` lines of `out`; None: with all cgroups."""
    done = activity.of_tier(earlier, now)
    tier = now.tier
    by_state = ", ".join(f"{count} {state}" for state, count in pages.by_state(tier).items())
    used, limit = output.size(tier.pool_used_bytes), output.size(tier.pool_limit_bytes)
    rates = {
        "overwritten": done.rate("overwrites"),
        "freed": done.rate("trims", "early_frees"),
        "refused": sum(done.rate(name) for name in done.per_second if name.startswith("reject_")),
        "waited for room": done.rate("pool_limit_hit"),
    }
    heading = Text(
        f"{time.strftime('%H:%M:%S')}  pool {used} of {limit}\npages: {by_state}\n"
        + "  ".join(f"{what} {rate:.0f}/s" for what, rate in rates.items())
    )
    cgroups = activity.of_cgroups(earlier, now)
    if lines_max is not None:
        lines = len(out.render_lines(heading)) + _OTHER_LINES
        cgroups = cgroups[: max(1, lines_max - lines)]
    rows = [_row("all", done), *(_row(cgroup.name(of), by) for of, by in cgroups)]
    return Group(heading, output.table(_COLUMNS, rows, out.width, _SPARE))


def _row(name: str, done: Activity) -> tuple[str, ...]:
    ratio = done.hit_ratio
    times = [done.quantile_us(tier, at) for tier in ("local", "remote") for at in (0.5, 0.99)]
    return (
        name,
        str(pages.in_pool(done.now)),
        str(done.now.same_filled_pages),
        str(done.now.remote_pages),
        f"{done.rate('stores'):.0f}",
        f"{done.loads_per_second:.0f}",
        "-" if ratio is None else f"{100 * ratio:.1f} %",
        f"{done.rate('loads_remote'):.0f}",
        f"{done.rate('written_back_pages'):.0f}",
        *(latency.text(us) for us in times),
    )
