"""`make bench`: every figure beside a peer's of the same run, one table, and a JSON file beside it.

Exit code 0 when everything was measured and every byte was right; with --strict, also only when
every target was met: on a machine busy with other things a figure says little.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench.cases import Case, Skipped, table, write_json
from bench.load_generator import LoadError
from bench.measurements import MEASUREMENTS, Effort
from bench.page_corpus import CorpusError, RealPages
from bench.programs import TOP, MissingProgramError
from rich.console import Console

FULL = Effort(rounds=5, phase_ms=1000)
QUICK = Effort(rounds=1, phase_ms=200)
FULL_MIB = 256
QUICK_MIB = 64


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: 64 MiB, one round")
    parser.add_argument("--strict", action="store_true", help="a missed target is a failure")
    parser.add_argument("--json", type=Path, default=TOP / "build" / "bench.json")
    arguments = parser.parse_args()
    # Into a pipe or a log the table is as wide as it needs to be.
    console = Console(width=None if sys.stdout.isatty() else 150)
    try:
        results = _measure(console, quick=arguments.quick)
    except (LoadError, CorpusError, MissingProgramError) as error:
        console.print(f"[red]bench: {error}[/]")
        return 1
    cases = [each for each in results if isinstance(each, Case)]
    skipped = [each for each in results if isinstance(each, Skipped)]
    console.print(table(cases, skipped))
    write_json(arguments.json, cases, skipped)
    missed = any(case.met is False for case in cases)
    return 1 if missed and arguments.strict else 0


def _measure(console: Console, *, quick: bool) -> list[Case | Skipped]:
    effort = QUICK if quick else FULL
    bytes_wanted = (QUICK_MIB if quick else FULL_MIB) << 20
    with (
        tempfile.TemporaryDirectory(prefix="farswap-bench-") as directory,
        console.status("starting ordinary programs") as status,
        RealPages(Path(directory), bytes_wanted, status.update) as pages,
    ):
        results: list[Case | Skipped] = []
        for measure in MEASUREMENTS:
            status.update(measure.__name__.replace("_", " "))
            results += measure(pages.path, effort)
    return results


if __name__ == "__main__":
    sys.exit(main())
