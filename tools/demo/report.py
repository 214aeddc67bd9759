"""The table at the end of the demonstration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.page_corpus import PAGE_BYTES
from rich.table import Table

if TYPE_CHECKING:
    from bench.load_generator import Latency
    from bench.page_corpus import RealPages
    from demo.pages_run import PagesResult
    from demo.swap_run import SwapResult

MIB = 1 << 20


def table(pages: RealPages, result: PagesResult, swap: SwapResult | str) -> Table:
    """`swap` is the reason when the kernel could not swap here."""
    shown = Table(title="farswap, with real pages of ordinary programs", show_header=False)
    sources = ", ".join(
        f"{n * PAGE_BYTES // MIB} MiB {p}" for p, n in pages.pages_by_program.items()
    )
    shown.add_row("pages of", f"{sources}; the rest zero pages")
    for name, value in (*_tier_rows(result), *_speed_rows(result)):
        shown.add_row(name, value)
    shown.add_section()
    for name, value in _swap_rows(swap):
        shown.add_row(name, value)
    return shown


def _tier_rows(result: PagesResult) -> list[tuple[str, str]]:
    tier, server = result.tier, result.server
    local = tier.local_pages + tier.writing_pages
    remote_bytes = server.used_bytes / max(server.pages, 1)
    kept_bytes = tier.pool_payload_bytes + remote_bytes * tier.remote_pages
    not_same_filled = local + tier.remote_pages
    table_bytes = tier.metadata_bytes / result.device_pages
    return [
        (
            "pages by tier",
            (
                f"{tier.same_filled_pages:,} same-filled, {local:,} in the pool, "
                f"{tier.remote_pages:,} on the memory server"
            ),
        ),
        (
            "compression ratio",
            (
                f"{not_same_filled * PAGE_BYTES / kept_bytes:.2f} "
                f"({result.pages * PAGE_BYTES / kept_bytes:.2f} with same-filled pages)"
            ),
        ),
        (
            "memory per stored page",
            (
                f"pool {tier.pool_used_bytes / max(local, 1):,.0f} B, "
                f"slot table {table_bytes:.0f} B, memory server {remote_bytes:,.0f} B"
            ),
        ),
    ]


def _speed_rows(result: PagesResult) -> list[tuple[str, str]]:
    return [
        ("write", f"{result.written.mib_per_s:,.0f} MiB/s, most of it on to the memory server"),
        (
            "read back",
            (
                f"{result.read.mib_per_s:,.0f} MiB/s in random order, "
                f"{result.read.verified_pages:,} pages compared, none differed"
            ),
        ),
        ("local hit, one at a time", _latency(result.local)),
        ("remote hit, one at a time", _latency(result.remote)),
    ]


def _latency(latency: Latency) -> str:
    return f"p50 {latency.p50_us:,.0f} µs, p99 {latency.p99_us:,.0f} µs"


def _swap_rows(swap: SwapResult | str) -> list[tuple[str, str]]:
    if isinstance(swap, str):
        return [("real swap", f"[yellow]skipped: {swap}[/]")]
    seen = swap.verifier
    return [
        (
            "real swap",
            (
                f"by {swap.way}: {swap.program_mib} MiB in a cgroup of {swap.cgroup_mib} MiB, "
                f"verified {seen.passes} times, {seen.wrong_pages} wrong pages"
            ),
        ),
        (
            "over the device",
            (
                f"{seen.swapped_out:,} pages out, {seen.swapped_in:,} in; {swap.written_back:,} to "
                f"the memory server, {swap.remote_loads:,} back; "
                f"swapoff {swap.swapoff_seconds:.1f} s"
            ),
        ),
    ]
