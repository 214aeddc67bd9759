"""`make demo`: farswap's main job on real input, in a temporary directory of its own.

A memory server and a host daemon; 256 MiB of pages of ordinary programs written through NBD on two
connections into a pool of 48 MiB, so that most go on to the memory server; all read back in random
order and compared; then, where the machine allows, real swap. Ends with `demo: OK`, or with the
reason and another exit code. In any case, also on Ctrl-C: swapoff, loop device and mount undone,
cgroup removed, daemons stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from bench.load_generator import LoadError
from bench.local_cluster import LocalCluster
from bench.page_corpus import PAGE_BYTES, CorpusError, RealPages
from bench.programs import MissingProgramError
from demo import pages_run, report, swap_run
from demo.interrupts import Interrupts
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
SAMPLE_MIB = pages_run.SAMPLE_PAGES * PAGE_BYTES // MIB
FAILURES = (LoadError, CorpusError, MissingProgramError, pages_run.DemoError, RuntimeError, OSError)
EXIT_INTERRUPTED = 130


class Stages:
    """Shows where the demonstration is: a line a stage, and a bar where the end is known."""

    def __init__(self, console: Console, progress: Progress, interrupts: Interrupts) -> None:
        self._console = console
        self._progress = progress
        self._interrupts = interrupts
        self._bar = progress.add_task("", total=None)
        self._name = ""

    def begin(self, name: str) -> None:
        """The next stage, of unknown length."""
        self.show(name, 0, None)

    def show(self, name: str, done: int, total: int | None) -> None:
        """`done` of `total` pages of the stage."""
        self._interrupts.check()
        if name != self._name:
            self._name = name
            self._console.print(f"stage: {name}")
            self._progress.reset(self._bar, total=total, description=name)
        self._progress.update(self._bar, completed=done)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="real pages to write")
    parser.add_argument("--pool-mib", type=int, default=48, help="pool_limit of the host")
    parser.add_argument("--swap-mib", type=int, default=192, help="memory of the swapped program")
    parser.add_argument("--no-swap", action="store_true", help="leave the running kernel alone")
    arguments = parser.parse_args()
    # Into a pipe or a log the table is as wide as it needs to be.
    console = Console(width=None if sys.stdout.isatty() else 130)
    with Interrupts() as interrupts:
        try:
            _demonstrate(console, interrupts, arguments)
        except KeyboardInterrupt:
            console.print("demo: interrupted; everything was put back")
            return EXIT_INTERRUPTED
        except FAILURES as error:
            console.print(f"demo: FAILED: {error}", markup=False)
            return 1
    console.print("[bold green]demo: OK[/]")
    return 0


def _demonstrate(console: Console, interrupts: Interrupts, arguments: argparse.Namespace) -> None:
    swap_missing = "asked for" if arguments.no_swap else swap_run.missing_requirement()
    device_mib = max(arguments.mib + SAMPLE_MIB, 2 * arguments.swap_mib)
    with contextlib.ExitStack() as stack:
        stages = stack.enter_context(_stages(console, interrupts))
        stages.begin("start a memory server and a host daemon")
        cluster = stack.enter_context(
            interrupts.shield(
                LocalCluster(
                    device_bytes=device_mib * MIB,
                    pool_bytes=arguments.pool_mib * MIB,
                    # Programs that write as fast as they can are to wait for the memory server also
                    # where it shares one slow processor with everything else.
                    tier={"store_wait": "60s"},
                )
            )
        )
        try:
            pages = RealPages(
                cluster.directory, arguments.mib * MIB, stages.begin, interrupts.shield
            )
            with pages:
                result = pages_run.run(cluster, interrupts, pages, stages.show)
            swap = swap_missing or swap_run.run(
                cluster, interrupts, arguments.swap_mib, stages.begin
            )
            stages.begin("stop the daemons")
        except FAILURES:
            console.print(cluster.logs(), markup=False)
            raise
    interrupts.check()
    console.print(report.table(pages, result, swap))


@contextlib.contextmanager
def _stages(console: Console, interrupts: Interrupts) -> Iterator[Stages]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        yield Stages(console, progress, interrupts)


if __name__ == "__main__":
    sys.exit(main())
