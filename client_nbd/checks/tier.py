"""Accounting of the tier's pages, and failures that its counters show.

Accounting: each page that was stored and not dropped since is held, in exactly one state. Readings
are taken while pages move, and may be off by the number that moved meanwhile. A difference is an
error only if it is larger than that in every reading.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.client_nbd.checks.findings import Finding
from farswap.common.text import count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from farswap.client_nbd.checks.findings import Level
    from farswap.native import CgroupRecord

# States of the pages that the tier holds; each is in exactly one.
STATES = ("same_filled_pages", "local_pages", "writing_pages", "clean_pages", "remote_pages")

_READINGS = 6
_READING_INTERVAL_S = 0.05

# Counters of failures, with level, meaning and remedy.
_FAILURES: tuple[tuple[str, Level, str, str], ...] = (
    (
        "fail_checksum",
        "error",
        "pages from the pool or a server were damaged; reads of them failed with EIO",
        "look for failing memory in this machine and in the servers",
    ),
    (
        "decompress_fail",
        "error",
        "pages failed to decompress; reads of them failed with EIO",
        "look for failing memory in this machine and in the servers",
    ),
    (
        "fetch_missing",
        "error",
        "acknowledged pages were missing on their server; reads of them failed with EIO",
        "check whether a server lost its store, or another host has the same host id and device",
    ),
    (
        "fetch_unavailable",
        "warning",
        "pages were not fetched within cluster.fetch_wait; reads of them failed with EIO",
        "see `farswapctl status` for unreachable servers",
    ),
    (
        "writeback_failed_rejected",
        "warning",
        "a memory server failed to store pages; they stay in the pool",
        "see puts_io_error in `farswapctl server show` of each: its disk is failing",
    ),
    (
        "writeback_failed_full",
        "warning",
        "full memory servers refused pages; they stay in the pool",
        "see `used` and `disk` in `farswapctl server show` of each, and raise store.capacity",
    ),
    (
        "reject_reclaim_fail",
        "warning",
        "stores were refused: the pool was full, and writeback made no progress",
        "raise store.capacity of the servers, or tier.pool_limit",
    ),
    (
        "reject_cgroup_limit",
        "warning",
        "stores were refused: a cgroup was at its limit, and its writeback made no progress",
        "see `farswapctl cgroup list`: raise the cgroup's limit, or enable its writeback",
    ),
)


@dataclass(frozen=True, slots=True)
class Account:
    """Pages of one group, by its counters and by their states; `moved` grows with each change."""

    name: str
    counted: int
    held: int
    moved: int


Accounts = dict[int, Account]

# Keys of accounts that are not a cgroup's.
_TOTAL, _TOGETHER = -1, -2


def accounts(
    stats: Mapping[str, int], records: Sequence[CgroupRecord], path_of: Callable[[int], str] = str
) -> Accounts:
    """Accounts of the tier, of each group, and of the sum of all groups against the tier."""
    total = _account("the tier", stats, held(stats))
    groups = {
        record.id: _account(
            f"cgroup {path_of(record.id) or record.id}", record.counters, held(states(record))
        )
        for record in records
    }
    sum_of_groups = sum(group.held for group in groups.values())
    together = Account("all cgroups together", total.held, sum_of_groups, total.moved)
    return {_TOTAL: total, _TOGETHER: together, **groups}


def held(stats: Mapping[str, int]) -> int:
    """Number of pages in any state."""
    return sum(stats[state] for state in STATES)


def stored(stats: Mapping[str, int]) -> int:
    """Pages in memory, including same-filled ones, as zswap's stored_pages."""
    return held(stats) - stats["remote_pages"]


def states(record: CgroupRecord) -> dict[str, int]:
    """A group's pages by state."""
    return {state: getattr(record, state) for state in STATES}


def _account(name: str, counters: Mapping[str, int], pages: int) -> Account:
    gone = sum(
        value
        for counter, value in counters.items()
        if counter in ("overwrites", "trims", "early_frees") or counter.startswith("lost_")
    )
    written = sum(
        value
        for counter, value in counters.items()
        if counter.startswith("writeback_") and not counter.endswith("_bytes")
    )
    put = counters["stores"] + counters.get("recovered", 0)
    return Account(name, put - gone, pages, put + gone + written)


def accounting(read: Callable[[], Accounts]) -> list[Finding]:
    """Compares accounts, up to a few times, until each difference is explained."""
    suspects: Accounts = {}
    for reading in range(_READINGS):
        if reading:
            time.sleep(_READING_INTERVAL_S)
        before, now, after = read(), read(), read()
        wrong = {
            key: account
            for key, account in now.items()
            if key in before
            and key in after
            and abs(account.counted - account.held) > after[key].moved - before[key].moved
        }
        suspects = {key: wrong[key] for key in (suspects if reading else wrong) if key in wrong}
        if not suspects:
            break
    if not suspects:
        groups = sum(key >= 0 for key in now)
        added = f"pages add up, in total and in {count(groups, 'cgroup')}"
        return [Finding("ok", "accounting", added)]
    return [
        Finding(
            "error",
            "accounting",
            f"{account.name}: {count(account.counted, 'page')} by counters, "
            f"{account.held} by states",
            "a bug in farswap: report it with the output of `farswapctl tier show --by-cgroup`",
        )
        for account in suspects.values()
    ]


def failures(stats: Mapping[str, int]) -> list[Finding]:
    """Failures since the daemon's start."""
    found = [
        Finding(level, name, f"{stats[name]} since the start: {meaning}", remedy)
        for name, level, meaning, remedy in _FAILURES
        if stats.get(name, 0)
    ]
    return found or [Finding("ok", "failures", "no page was damaged, lost or refused")]
