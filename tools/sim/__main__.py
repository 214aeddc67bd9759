"""`make sim`: the placement planner under 30 days of faults in a fleet of virtual servers.

One run of farswap-sim for each number of replicas and copyset width, in turns or side by side; one
table, and build/sim.json. The same seed gives the same figures. Exit code 1 when a run breaks a
rule: shards that lack a replica at the end, or more copies at one server than it grants.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.programs import TOP, native_program
from rich.console import Console
from rich.table import Table
from sim.plots import write_plots

# Replicas and copyset width. The last one is about as good as random placement.
RUNS = [(1, 1), (2, 1), (2, 4), (3, 1), (3, 4), (3, 64)]
COPY_SLOTS = 4

Run = dict[str, Any]

COLUMNS = {
    "replicas": "replicas",
    "width": "width",
    "balance_filled": "balance, filled",
    "balance_worst": "with newcomers",
    "balance_end": "at the end",
    "newcomer_hours": "newcomers filled h",
    "copied_gib": "copied GiB",
    "losses": "stores lost",
    "repair_minutes_p50": "repair p50 min",
    "repair_minutes_max": "repair max min",
    "drain_minutes_p50": "drain p50 min",
    "pages_lost": "pages lost",
    "power_failures_losing": "power failures that lose",
    "power_failure_pages": "pages, mean",
    "messages_per_s": "messages/s",
    "heartbeats_per_s": "heartbeats/s",
    "took_s": "took s",
}


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="sim", description=__doc__)
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=TOP / "build" / "sim.json")
    parser.add_argument("--plots", type=Path, help="folder for plots of the runs, as SVG")
    arguments = parser.parse_args()
    sizes = [
        text
        for name in ("servers", "hosts", "days", "seed")
        for text in (f"--{name}", str(getattr(arguments, name)))
    ]
    console = Console(width=None if sys.stdout.isatty() else 180)
    with console.status("simulating"), ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(lambda run: _simulate(run[0], run[1], sizes), RUNS))
    console.print(_table(runs))
    arguments.json.write_text(json.dumps(runs, indent=1) + "\n")
    if arguments.plots:
        write_plots(runs, arguments.plots)
    broken = [complaint for run in runs for complaint in _complaints(run)]
    for complaint in broken:
        console.print(f"[red]sim: {complaint}[/]")
    return 1 if broken else 0


def _simulate(replicas: int, width: int, sizes: list[str]) -> Run:
    program = native_program("farswap-sim", "sim")
    command = [program, "--replicas", str(replicas), "--width", str(width), *sizes]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    run: Run = json.loads(done.stdout)
    return run


def _table(runs: list[Run]) -> Table:
    first = runs[0]
    table = Table(
        title=f"{first['servers']} servers, {first['hosts']} hosts, {first['days']} days, "
        f"seed {first['seed']}"
    )
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for run in runs:
        table.add_row(*(f"{run[key]:,}" for key in COLUMNS))
    return table


def _complaints(run: Run) -> list[str]:
    name = f"{run['replicas']} replicas, width {run['width']}"
    complaints = []
    if run["debt_end"] > 0:
        complaints.append(f"{name}: {run['debt_end']} shards lack a replica at the end")
    if run["copies_at_once_max"] > COPY_SLOTS:
        complaints.append(f"{name}: {run['copies_at_once_max']} copies at one server at a time")
    return complaints


if __name__ == "__main__":
    sys.exit(main())
