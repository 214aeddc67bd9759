"""How many pages of each group go to the memory servers proactively. Policy, without I/O.

Once a second it gets the time that tasks waited for memory (PSI) and the state of each group, and
returns a number of pages to write back for each group: none without pressure, unless an age is set.

*Pressure* is the share of the last time in which some task waited for memory: of the machine for
every group, and of a group's own cgroup for that group.

*Need* is pressure times the room above its low mark that the pool, or the group's limit, has lost
lately. The pool is locked memory, so a page that leaves it helps only a store that would find no
room. PSI alone does not show this: tasks of a cgroup that thrashes between its memory limit and the
pool always wait, for reads that would take longer from a server. But as much returns as leaves, the
pool does not fill, and there is no need.

As in zswap's shrinker (mm/zswap.c, zswap_shrinker_count), pages count for less the better they
compress, since moving them out frees fewer bytes; and pages that were read back from servers lately
protect as many from being sent (nr_disk_swapins there). A group that gets back more than it would
send is warm and sends nothing, so reads of pages sent too early end the pressure that they cause.
The number returned is, as there, that of pages to examine: the tier spares those that were read
from the pool. ARCHITECTURE.md compares this policy with zswap's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.common.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

# Less is noise.
_STALL_SHARE_MIN = 0.01
# Share of a group's pages, if they do not compress, the pool is at its threshold and some task
# always waits.
_SHARE_PER_SECOND = 0.5
# Fullness below which there is no need.
_LOW_MARK = 0.8
_ROOM = 1.0 - _LOW_MARK
# Half-life of a fetched page's protection, and of the weight of a gain of fullness.
_HALF_LIFE_S = 10.0


@dataclass(frozen=True, slots=True)
class HostSample:
    """Totals since the start, of the machine and of all groups together.

    Fullness, here and below, is 1 at the threshold down to which the tier shrinks the pool, and may
    be more.
    """

    stall_us: int | None  # None: the kernel keeps no PSI
    pool_fullness: float


@dataclass(frozen=True, slots=True)
class GroupSample:
    """Of one group; totals since the start."""

    id: int
    stall_us: int | None  # of its cgroup; None: unknown
    loads_remote: int
    local_pages: int
    pool_bytes: int  # of these
    limit_fullness: float  # of the fullest limit that applies to it; 0: none
    writeback: bool


@dataclass(frozen=True, slots=True)
class Shrink:
    """Examine `pages` of the group's coldest; those not older than `older_than_s` stay."""

    id: int
    pages: int
    older_than_s: int = 0


@dataclass(slots=True)
class _Stalls:
    """Pressure from totals; 0 at the first sample."""

    stall_us: int | None = None

    def pressure(self, elapsed_s: float, stall_us: int | None) -> float:
        """Share of the time since the previous sample, 0 to 1."""
        known_before, self.stall_us = self.stall_us, stall_us
        if known_before is None or stall_us is None:
            return 0.0
        share = (stall_us - known_before) / (elapsed_s * 1e6)
        return min(share, 1.0) if share >= _STALL_SHARE_MIN else 0.0


@dataclass(slots=True)
class _Filling:
    """How much fuller the pool, or a limit, has become lately; 0 at the first sample."""

    fullness: float
    gained: float = 0.0

    def room_lost(self, elapsed_s: float, fullness: float) -> float:
        """The share of the room above the low mark, 0 to 1."""
        grown, self.fullness = fullness - self.fullness, fullness
        self.gained = min(max(0.0, self.gained * _faded(elapsed_s) + grown), _ROOM)
        return max(0.0, min(fullness - _LOW_MARK, self.gained)) / _ROOM


@dataclass(slots=True)
class _Group:
    stalls: _Stalls
    limit: _Filling
    loads_remote: int
    protected: float = 0.0  # pages fetched lately

    def protect(self, elapsed_s: float, sample: GroupSample) -> None:
        returned = max(0, sample.loads_remote - self.loads_remote)
        self.loads_remote = sample.loads_remote
        # At most all its pages: totals of removed cgroups are added to their parent's.
        self.protected = min(
            self.protected * _faded(elapsed_s) + returned, float(sample.local_pages)
        )


class ProactivePolicy:
    """Keeps the previous samples. `older_than_s` 0: no writeback by age."""

    def __init__(self, *, by_pressure: bool, older_than_s: int) -> None:
        self._by_pressure = by_pressure
        self._older_than_s = older_than_s
        self._host = _Stalls()
        self._pool: _Filling | None = None
        self._groups: dict[int, _Group] = {}

    def decide(
        self, elapsed_s: float, host: HostSample, groups: Sequence[GroupSample]
    ) -> list[Shrink]:
        """At most one result per group. `elapsed_s` > 0 is the time since the last call.

        Forgets groups that are not in `groups`.
        """
        self._pool = self._pool or _Filling(host.pool_fullness)
        pool_lost = self._pool.room_lost(elapsed_s, host.pool_fullness)
        host_need = pool_lost * self._host.pressure(elapsed_s, host.stall_us)
        known = {sample.id: self._groups.get(sample.id) or _seen_first(sample) for sample in groups}
        self._groups = known
        shrinks: list[Shrink] = []
        for sample in groups:
            group = known[sample.id]
            group.protect(elapsed_s, sample)
            pressure = group.stalls.pressure(elapsed_s, sample.stall_us)
            limit_lost = group.limit.room_lost(elapsed_s, sample.limit_fullness)
            need = max(host_need, pressure * max(pool_lost, limit_lost))
            if sample.writeback:
                shrink = self._shrink(sample, need * elapsed_s, group.protected)
                if shrink.pages > 0:
                    shrinks.append(shrink)
        return shrinks

    def _shrink(self, sample: GroupSample, need_s: float, protected: float) -> Shrink:
        share = min(1.0, need_s * _SHARE_PER_SECOND) if self._by_pressure else 0.0
        pages = int(_freeable(sample) * share - protected)
        if pages > 0 or self._older_than_s == 0:
            return Shrink(sample.id, pages)
        return Shrink(sample.id, int(sample.local_pages - protected), self._older_than_s)


def _seen_first(sample: GroupSample) -> _Group:
    return _Group(_Stalls(), _Filling(sample.limit_fullness), sample.loads_remote)


def _faded(elapsed_s: float) -> float:
    """What remains of 1."""
    return float(0.5 ** (elapsed_s / _HALF_LIFE_S))


def _freeable(sample: GroupSample) -> float:
    """The group's pages, scaled by how poorly they compress."""
    return min(float(sample.local_pages), sample.pool_bytes / PAGE_BYTES)
