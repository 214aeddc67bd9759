"""`make chaos`: no byte is wrong and no request fails, whatever happens to one memory server.

Three servers and a host, each in a network namespace of its own; two replicas; four connections
that read, write and trim, and verify all they read. Faults come one after the other, each when the
last one's debt is paid. A line for each fault goes to standard output, and as JSON to a file, then
the verdict. Exit code 0 when nothing was wrong. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.programs import TOP
from chaos.cluster import ChaosCluster
from chaos.faults import KINDS, plan
from chaos.run import Run
from chaos.scenarios import NAMES, Scenario, faults, named

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

MINUTES = float(os.environ.get("CHAOS_MINUTES") or 10)

CALM_S = 2.0


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long faults go on")
    parser.add_argument("--faults", type=int, help="so many faults instead")
    parser.add_argument("--scenario", choices=NAMES, default=NAMES[0])
    parser.add_argument(
        "--small", action="store_true", help="less data, or less time; not for faults"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--log", type=Path, default=TOP / "build" / "chaos.jsonl")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("chaos: needs root: it makes network namespaces and file systems", file=sys.stderr)
        return 2
    # The cluster ends in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    scenario = _scenario(arguments)
    with arguments.log.open("w") as file, ChaosCluster(scenario) as cluster:
        run = Run(cluster, arguments.seed, _logger(file), scenario.shape)
        verdict = run.play(scenario.play)
        if verdict.problems:
            arguments.log.with_suffix(".log").write_text(cluster.logs())
    print("\n".join(verdict.lines()))
    print("chaos: FAILED" if verdict.problems else "chaos: OK")
    return bool(verdict.problems)


def _scenario(arguments: argparse.Namespace) -> Scenario:
    if arguments.scenario != NAMES[0]:
        return named(arguments.scenario, small=arguments.small)
    planned = plan(arguments.seed, arguments.kinds)
    return Scenario(faults(planned, _until(arguments.minutes, arguments.faults), CALM_S))


def _until(minutes: float, faults: int | None) -> Callable[[int], bool]:
    if faults is not None:
        return lambda done: done < faults
    end = time.monotonic() + 60 * minutes
    return lambda _done: time.monotonic() < end


def _logger(file: TextIO) -> Callable[[dict[str, Any]], None]:
    began = time.monotonic()

    def log(record: dict[str, Any]) -> None:
        at_s = round(time.monotonic() - began, 1)
        print(json.dumps({"at_s": at_s} | record), file=file, flush=True)
        if record["event"] == "fault":
            slowest = ", ".join(f"{kind} {ms:,.0f} ms" for kind, ms in record["slowest_ms"].items())
            print(
                f"{at_s:7.1f} s  {record['number']:3} {record['kind']} of {record['victim']}: "
                f"{record['lasted_s']} s, debt paid {record['debt_s']} s later; slowest {slowest}; "
                f"{record['errors']} errors so far",
                flush=True,
            )

    return log


if __name__ == "__main__":
    sys.exit(main())
