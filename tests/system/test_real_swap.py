"""The running kernel swaps on farswap by loop over FUSE, and every page comes back as it left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.local_cluster import LocalCluster
from requirements import REAL_SWAP, require_native
from swap.real_swap import MemoryCgroup, PageVerifier, SwapOnLoop, swap_areas

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
# A tenth of this on a quiet machine.
VERIFIER_DEADLINE_S = 240
pytestmark = REAL_SWAP


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A device of which the pool holds a small part, so that most pages go to the server."""
    require_native()
    with LocalCluster(device_bytes=512 * MIB, pool_bytes=8 * MIB) as running:
        yield running


def test_pages_survive_swap_through_a_memory_server(cluster: LocalCluster, tmp_path: Path) -> None:
    verifier = PageVerifier.build(tmp_path)
    with SwapOnLoop(cluster.host.nbd_uri) as swap, MemoryCgroup(48 * MIB) as cgroup:
        result = verifier.run(mib=144, cgroup=cgroup.path, deadline_s=VERIFIER_DEADLINE_S)
    assert swap.device not in swap_areas()
    assert result.wrong_pages == 0
    counted = cluster.counters()
    assert counted["written_back_pages"] >= result.pages // 2
    assert counted["loads_remote"] >= result.pages // 2
    assert counted["reject_reclaim_fail"] == 0
    assert counted["fail_checksum"] == 0


def test_two_programs_in_two_cgroups_swap_at_once(cluster: LocalCluster, tmp_path: Path) -> None:
    verifier = PageVerifier.build(tmp_path)
    with (
        SwapOnLoop(cluster.host.nbd_uri),
        MemoryCgroup(32 * MIB) as first,
        MemoryCgroup(32 * MIB) as second,
    ):
        running = [
            verifier.start(mib=64, cgroup=cgroup.path, seed=seed)
            for seed, cgroup in enumerate((first, second), 1)
        ]
        results = [verifier.result(process, deadline_s=VERIFIER_DEADLINE_S) for process in running]
    assert [result.wrong_pages for result in results] == [0, 0]
    assert cluster.counters()["loads_remote"] > 0
