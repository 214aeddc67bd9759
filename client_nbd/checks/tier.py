"""Whether the tier's books balance, and what its counters say.

The books: every page that was put and has not left since is held, in exactly one state. They are
read while pages move, so that a reading may be off by what moved during it; a difference is wrong
only if it is larger than that in every reading.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.client_nbd.checks.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from farswap.client_nbd.checks.findings import Level
    from farswap.native import CgroupRecord

# Where a page is that the tier holds: each is in exactly one of them.
STATES = (
    "same_filled_pages",
    "local_pages",
    "writing_pages",
    "clean_pages",
    "remote_pages",
)

_READINGS = 6
_READING_INTERVAL_S = 0.05

# Counters that are 0 where all is well, with how bad they are, what they mean and what to do.
_FAILURES: tuple[tuple[str, Level, str, str], ...] = (
    (
        "fail_checksum",
        "error",
        "pages came damaged from the pool or a server; who wanted them got EIO",
        "look for failing memory in this machine and in the servers",
    ),
    (
        "decompress_fail",
        "error",
        "pages did not decompress; who wanted them got EIO",
        "look for failing memory in this machine and in the servers",
    ),
    (
        "fetch_missing",
        "error",
        "pages were not on the server that had acknowledged them; who wanted them got EIO",
        "see whether a server lost its store, or another host uses the same host id and device",
    ),
    (
        "fetch_unavailable",
        "warning",
        "pages could not be fetched in time; who wanted them got EIO",
        "see `farswapctl status` for servers that are away; cluster.fetch_wait is the time",
    ),
    (
        "writeback_failed_rejected",
        "warning",
        "pages were sent to a memory server that could not keep them; they stayed in the pool",
        "look at puts_io_error in `farswapctl server show` of each: its disk is failing",
    ),
    (
        "writeback_failed_full",
        "warning",
        "pages were refused by memory servers that are full; they stayed in the pool",
        "look at `used` and `disk` in `farswapctl server show` of each",
    ),
    (
        "reject_reclaim_fail",
        "warning",
        "stores were refused: the pool was full and nothing could be written back in time",
        "give the servers more capacity, or the pool more memory",
    ),
    (
        "reject_cgroup_limit",
        "warning",
        "stores were refused: a cgroup was at its limit and its pages could not be written back",
        "see `farswapctl cgroup list`: raise its limit, or let its pages go to the servers",
    ),
)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Pages of one group by its counters and by its states; `moved` grows whenever either does."""

    name: str
    counted: int
    held: int
    moved: int


Books = dict[int, Ledger]

# Keys of the ledgers that are no cgroup's.
_TOTAL, _TOGETHER = -1, -2


def books(
    stats: Mapping[str, int],
    records: Sequence[CgroupRecord],
    path_of: Callable[[int], str] = str,
) -> Books:
    """Of the tier, of each group, and of all groups together against the tier."""
    total = _ledger("the tier", stats, held(stats))
    groups = {
        record.id: _ledger(
            f"cgroup {path_of(record.id) or record.id}",
            record.counters,
            held(states(record)),
        )
        for record in records
    }
    sum_of_groups = sum(group.held for group in groups.values())
    together = Ledger("all cgroups together", total.held, sum_of_groups, total.moved)
    return {_TOTAL: total, _TOGETHER: together, **groups}


def held(stats: Mapping[str, int]) -> int:
    """Pages in any state."""
    return sum(stats[state] for state in STATES)


def stored(stats: Mapping[str, int]) -> int:
    """Pages in memory, what zswap calls its stored_pages: same-filled ones are among them."""
    return held(stats) - stats["remote_pages"]


def states(record: CgroupRecord) -> dict[str, int]:
    """A group's pages by state."""
    return {state: getattr(record, state) for state in STATES}


def _ledger(name: str, counters: Mapping[str, int], pages: int) -> Ledger:
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
    put = counters["stores"]
    return Ledger(name, put - gone, pages, put + gone + written)


def balance(read: Callable[[], Books]) -> list[Finding]:
    """Reads the books until they explain themselves, a few times at most."""
    suspects: Books = {}
    for reading in range(_READINGS):
        if reading:
            time.sleep(_READING_INTERVAL_S)
        before, now, after = read(), read(), read()
        wrong = {
            key: ledger
            for key, ledger in now.items()
            if key in before
            and key in after
            and abs(ledger.counted - ledger.held) > after[key].moved - before[key].moved
        }
        suspects = {key: wrong[key] for key in (suspects if reading else wrong) if key in wrong}
        if not suspects:
            break
    if not suspects:
        groups = sum(key >= 0 for key in now)
        return [Finding("ok", "books", f"pages add up, in total and in each of {groups} cgroups")]
    return [
        Finding(
            "error",
            "books",
            f"{ledger.name}: {ledger.counted} pages by its counters, {ledger.held} by their states",
            "a bug of farswap: report it with the output of `farswapctl tier show --by-cgroup`",
        )
        for ledger in suspects.values()
    ]


def failures(stats: Mapping[str, int]) -> list[Finding]:
    """What must not happen and did, since the daemon's start."""
    found = [
        Finding(level, name, f"{stats[name]} since the start: {meaning}", remedy)
        for name, level, meaning, remedy in _FAILURES
        if stats.get(name, 0)
    ]
    return found or [Finding("ok", "failures", "no page was damaged, lost or refused")]
