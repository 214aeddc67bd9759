"""Proactive writeback: samples pressure and groups, and applies pressure.ProactivePolicy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from farswap.client_nbd.cgroups.pressure import GroupSample, HostSample, ProactivePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from farswap.client_nbd.cgroups.groups import CgroupGroups
    from farswap.client_nbd.cgroups.tree import CgroupTree
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.native import CgroupRecord, HostEngine


class ProactiveWriteback:
    """Call step() about once a second, from one thread at a time; it blocks."""

    def __init__(
        self,
        engine: HostEngine,
        groups: CgroupGroups,
        tree: CgroupTree,
        files: KernelFiles,
        policy: ProactivePolicy,
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
        """Samples, decides and starts writeback in the engine, which does not wait for it."""
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
            self._engine.write_back_proactively(shrink.id, shrink.pages, shrink.older_than_s)

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
        """Fullness of the fullest limit among its own and its ancestors'."""
        family = [record, *(by_id[id_] for id_ in self._tree.lineage(record.id) if id_ in by_id)]
        used_and_limit = ((each.tree_pool_bytes, each.pool_limit_bytes) for each in family)
        return max(_fullness(used, limit, accept) for used, limit in used_and_limit)


def _fullness(used_bytes: int, limit_bytes: int | None, accept: float) -> float:
    """1 at the threshold. No limit: 0; a limit of 0: 1."""
    if limit_bytes is None:
        return 0.0
    return used_bytes / (limit_bytes * accept) if limit_bytes else 1.0
