"""The running kernel attributes stored pages, through a loop device; limits hold by cgroup."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.local_cluster import LocalCluster
from hang_guard import until
from requirements import REAL_SWAP, require_native
from swap.real_swap import MemoryCgroup, PageVerifier, SwapOnLoop, memory_cgroup_root
from system.slot_stamps import compare
from system.swapped_out import attribute

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
DEADLINE_S = 240
pytestmark = REAL_SWAP


def in_tree(cgroup: MemoryCgroup) -> str:
    root = memory_cgroup_root()
    assert root is not None
    return f"/{cgroup.path.relative_to(root)}"


def test_each_page_counts_for_its_own_cgroup(tmp_path: Path) -> None:
    require_native()
    verifier = PageVerifier.build(tmp_path)
    with LocalCluster(device_bytes=384 * MIB, pool_bytes=96 * MIB) as cluster:
        host = cluster.host
        with (
            SwapOnLoop(host.nbd_uri, before_swapon=partial(attribute, host)) as swap,
            MemoryCgroup(48 * MIB) as limited,
            MemoryCgroup(48 * MIB) as kept,
        ):
            host.ask("cgroup", "set", in_tree(limited), "--pool-limit", "16MiB")
            host.ask("cgroup", "set", in_tree(kept), "--writeback", "off")
            running = [
                verifier.start(mib=128, cgroup=cgroup.path, passes=1, seed=seed, pause=tmp_path)
                for seed, cgroup in enumerate((limited, kept), 1)
            ]
            until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists())
            seeds = {
                seed: cgroup.path.stat().st_ino & 0xFFFF_FFFF
                for seed, cgroup in enumerate((limited, kept), 1)
            }
            stamps = compare(swap.device, host.admin, seeds)
            of_limited = host.ask("cgroup", "show", in_tree(limited))
            of_kept = host.ask("cgroup", "show", in_tree(kept))
            attribution = host.ask("status")["attribution"]
            for seed in seeds:
                (tmp_path / f"{seed}.go").touch()
            results = [verifier.result(process, DEADLINE_S) for process in running]
    print(f"attribution: {attribution}\nstamped pages: {stamps}")
    for name, cgroup in (("limited", of_limited), ("kept", of_kept)):
        print(f"{name}: pool {cgroup['pool_bytes']} bytes, on servers {cgroup['remote_pages']}")
    assert [result.wrong_pages for result in results] == [0, 0]
    assert attribution["source"] == "bpf"
    assert stamps.right >= 15_000
    assert (stamps.crossed, stamps.unknown) == (0, 0)
    assert int(of_limited["remote_pages"]) > 1_000
    assert int(of_limited["pool_bytes"]) <= 16 * MIB
    assert int(of_kept["remote_pages"]) == 0
    assert int(of_kept["pool_bytes"]) > 16 * MIB
