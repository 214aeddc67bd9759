"""Measures pressure and groups for pressure.AheadPolicy, and has the engine do what it decides."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from farswap.client_nbd.cgroups.pressure import AheadPolicy, GroupSample, HostSample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from farswap.client_nbd.cgroups.groups import CgroupGroups
    from farswap.client_nbd.cgroups.tree import CgroupTree
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.native import CgroupRecord, HostEngine


class AheadShrinker:
    """step() is to be called about once a second; it blocks, and is of one thread at a time."""

    def __init__(
        self,
        engine: HostEngine,
        groups: CgroupGroups,
        tree: CgroupTree,
        files: KernelFiles,
        policy: AheadPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._groups = groups
        self._tree = tree
        self._files = files
        self._policy = policy
        self._clock = clock
        self._last_s = clock()

    def step(self) -> None:
        """Looks, decides, and asks the engine; the engine writes back on its own."""
        records = self._groups.records()
        now_s = self._clock()
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        if elapsed_s <= 0:
            return
        stats = self._engine.stats()
        accept = stats["accept_threshold_percent"] / 100
        host = HostSample(
            stall_us=self._files.memory_stall_us(),
            pool_fullness=_fullness(stats["pool_entry_bytes"], stats["pool_limit_bytes"], accept),
        )
        by_id = {record.id: record for record in records}
        samples = [self._sample(record, by_id, accept) for record in records if record.local_pages]
        for shrink in self._policy.decide(elapsed_s, host, samples):
            self._engine.shrink_ahead(shrink.id, shrink.pages, shrink.older_than_s)

    def _sample(
        self, record: CgroupRecord, by_id: Mapping[int, CgroupRecord], accept: float
    ) -> GroupSample:
        counters = record.counters
        return GroupSample(
            id=record.id,
            stall_us=self._tree.stall_us(record.id),
            loads_remote=counters["loads_remote"],
            local_pages=record.local_pages,
            pool_bytes=record.pool_bytes,
            limit_fullness=self._limit_fullness(record, by_id, accept),
            writeback=self._groups.settings_of(record.id).writeback,
        )

    def _limit_fullness(
        self, record: CgroupRecord, by_id: Mapping[int, CgroupRecord], accept: float
    ) -> float:
        """Of the fullest limit among its own and its ancestors'."""
        family = [record, *(by_id[id_] for id_ in self._tree.lineage(record.id) if id_ in by_id)]
        used_and_limit = ((each.tree_pool_bytes, each.pool_limit_bytes) for each in family)
        return max(_fullness(used, limit, accept) for used, limit in used_and_limit)


def _fullness(used_bytes: int, limit_bytes: int | None, accept: float) -> float:
    """1 at the threshold; no limit is never full, and one of nothing always."""
    if limit_bytes is None:
        return 0.0
    return used_bytes / (limit_bytes * accept) if limit_bytes else 1.0
