"""`make soak`: ten million verified page operations, with the memory server killed ten times.

Two legs on one cluster: connections with slots of their own, and connections that all write the
same slots. Then, for root, ten minutes of a memory server on disks that are filled and freed at
random. Exit code 0 when all was right.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.load_generator import LoadError
from rich.console import Console
from rich.progress import Progress, TaskID
from soak.full_disk import run_full_disk
from soak.legs import Leg, LegResult, SoakError, run_leg, soak_cluster

if TYPE_CHECKING:
    from collections.abc import Callable

LEGS = (
    Leg("slots of their own", 7_000_000, 6),
    Leg("the same slots", 3_000_000, 4, options=("--shared",), seed=2),
)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="all legs so many times")
    parser.add_argument(
        "--full-disk-seconds", type=float, default=300, help="time on tmpfs, and on ext4"
    )
    arguments = parser.parse_args()
    console = Console()
    for number in range(arguments.rounds):
        legs = [
            Leg(leg.name, leg.page_ops, leg.server_kills, leg.options, leg.seed + number)
            for leg in LEGS
        ]
        if not _run(console, legs):
            return 1
    if not _run_full_disks(console, arguments.full_disk_seconds):
        return 1
    console.print("[bold green]soak: OK[/]")
    return 0


def _run(console: Console, legs: list[Leg]) -> bool:
    with soak_cluster() as cluster, Progress(console=console, transient=True) as progress:
        try:
            for leg in legs:
                bar = progress.add_task(leg.name, total=leg.page_ops)
                console.print(_line(run_leg(cluster, leg, _shown_on(progress, bar))))
        except (LoadError, SoakError) as error:
            console.print(cluster.logs(), markup=False)
            console.print(f"soak: FAILED: {leg.name}: {error}", markup=False)
            return False
    return True


def _run_full_disks(console: Console, seconds: float) -> bool:
    if os.geteuid() != 0:
        console.print("[yellow]full disks: skipped, mounting them needs root[/]")
        return True
    for kind in ("tmpfs", "ext4"):
        with tempfile.TemporaryDirectory() as directory:
            try:
                console.print(f"full {kind}: {run_full_disk(kind, seconds, Path(directory))}")
            except SoakError as error:
                console.print(f"soak: FAILED: full {kind}: {error}", markup=False)
                return False
    return True


def _shown_on(progress: Progress, bar: TaskID) -> Callable[[int], None]:
    return lambda page_ops: progress.update(bar, completed=page_ops)


def _line(result: LegResult) -> str:
    load = result.load
    errors = ", ".join(f"{count} {name}" for name, count in load.errors.items()) or "none"
    return (
        f"{result.leg.name}: {load.page_ops:,} page operations in {load.seconds:.0f} s, "
        f"{load.verified_pages + result.check.verified_pages:,} pages verified, "
        f"server killed {result.server_kills} times, errors: {errors}"
    )


if __name__ == "__main__":
    sys.exit(main())
