"""Programs that thrash on the running kernel keep their pages in a pool that has room."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from bench.local_cluster import LocalCluster
from farswap.client_nbd.kernel.files import KernelFiles
from requirements import REAL_SWAP, require_native
from swap.real_swap import MemoryCgroup, PageVerifier, SwapOnLoop

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
VERIFIER_DEADLINE_S = 240
STALLED_MIN = 0.01  # less is noise to the policy
pytestmark = REAL_SWAP


def stalled_us() -> int:
    stalled = KernelFiles().memory_stall_us()
    if stalled is None:
        pytest.skip("needs PSI: /proc/pressure/memory")
    return stalled


def test_programs_that_thrash_in_a_pool_with_room_keep_their_pages(tmp_path: Path) -> None:
    require_native()
    verifier = PageVerifier.build(tmp_path)
    with (
        LocalCluster(device_bytes=512 * MIB, pool_bytes=160 * MIB) as cluster,
        SwapOnLoop(cluster.host.nbd_uri),
        MemoryCgroup(32 * MIB) as first,
        MemoryCgroup(32 * MIB) as second,
    ):
        began_us, began_s = stalled_us(), time.monotonic()
        running = [
            verifier.start(mib=64, cgroup=cgroup.path, passes=4, seed=seed)
            for seed, cgroup in enumerate((first, second), 1)
        ]
        results = [verifier.result(process, VERIFIER_DEADLINE_S) for process in running]
        stalled = (stalled_us() - began_us) / (time.monotonic() - began_s) / 1e6
        counted = cluster.counters()
    print(f"stalled {stalled:.0%} of the time, {counted['loads_local']} pages from the pool")
    if stalled < STALLED_MIN:
        pytest.skip("needs a machine on which this is pressure")
    assert [result.wrong_pages for result in results] == [0, 0]
    assert counted["loads_local"] > 50_000
    assert counted["writeback_started_shrinker"] == 0
    assert counted["loads_remote"] == 0
