"""Second half of the demonstration: the running kernel swaps on the device.

A program twice as large as its memory cgroup fills its memory and verifies it; half of it lives on
the device at any time.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo import swap_on_nbd
from demo.pages_run import DemoError
from demo.swap_on_nbd import SwapOnNbd
from swap import real_swap
from swap.real_swap import MemoryCgroup, PageVerifier, SwapOnLoop

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench.local_cluster import LocalCluster
    from demo.interrupts import Interrupts
    from swap.real_swap import VerifierResult

MIB = 1 << 20
VERIFY_DEADLINE_S = 100


@dataclass(frozen=True)
class SwapResult:
    """What the program found, and what went over the device while it ran."""

    way: str
    program_mib: int
    cgroup_mib: int
    verifier: VerifierResult
    remote_loads: int
    written_back: int
    swapoff_seconds: float


@contextlib.contextmanager
def _running(verifier: PageVerifier, mib: int, cgroup: Path) -> Iterator[subprocess.Popen[str]]:
    program = verifier.start(mib=mib, cgroup=cgroup)
    try:
        yield program
    finally:
        # Gone before its cgroup is removed and its pages are swapped in.
        program.kill()
        program.communicate()


def missing_requirement() -> str | None:
    """Returns why the running kernel cannot swap on farswap; None when it can, in either way."""
    by_nbd = swap_on_nbd.missing_requirement()
    by_loop = real_swap.missing_requirement()
    if by_nbd is None or by_loop is None:
        return None
    return f"by nbd driver: {by_nbd}; by loop over FUSE: {by_loop}"


def run(
    cluster: LocalCluster, interrupts: Interrupts, program_mib: int, on_stage: Callable[[str], None]
) -> SwapResult:
    """Swaps on, runs the program, swaps off."""
    cgroup_mib = program_mib // 2
    on_stage("compile the memory verifier")
    verifier = PageVerifier.build(cluster.directory)
    before = cluster.counters()
    by_nbd = swap_on_nbd.missing_requirement() is None
    area: AbstractContextManager[SwapOnNbd | SwapOnLoop] = (
        SwapOnNbd(cluster) if by_nbd else SwapOnLoop(cluster.host.nbd_uri)
    )
    on_stage("swapon")
    with (
        interrupts.shield(area) as swap,
        interrupts.shield(MemoryCgroup(cgroup_mib * MIB)) as cgroup,
        interrupts.shield(_running(verifier, program_mib, cgroup.path)) as program,
    ):
        on_stage(f"verify {program_mib} MiB of memory in a cgroup of {cgroup_mib} MiB")
        result = verifier.result(program, VERIFY_DEADLINE_S)
        on_stage("swapoff")
    after = cluster.counters()
    if result.wrong_pages:
        raise DemoError(f"{result.wrong_pages} wrong pages came back from swap")
    if result.swapped_out == 0:
        raise DemoError("the kernel swapped nothing out")
    return SwapResult(
        "nbd driver" if by_nbd else "loop over FUSE",
        program_mib,
        cgroup_mib,
        result,
        after["loads_remote"] - before["loads_remote"],
        after["written_back_pages"] - before["written_back_pages"],
        swap.swapoff_seconds,
    )
