"""Where our measuring programs are, and how any process is kept on given CPUs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


class MissingProgramError(Exception):
    """Something is not built or installed; the message names the remedy."""


def native_program(name: str, part: str = "bench") -> Path:
    """Returns a program of the newest build; of tools/bench also from $FARSWAP_BENCH_PROGRAMS.

    `part` is where the build keeps it: "bench", or "tests" for those of native/tests.
    """
    directory = os.environ.get("FARSWAP_BENCH_PROGRAMS")
    if directory and part == "bench":
        candidates = [Path(directory, name)]
    else:
        candidates = [TOP / "build" / build / part / name for build in ("release", "debug")]
    built = [path for path in candidates if path.exists()]
    if not built:
        raise MissingProgramError(f"{name} is not built: run `make programs`")
    return max(built, key=lambda path: path.stat().st_mtime)


def pin(pid: int, cpus: set[int]) -> None:
    """Keeps all threads of the process, and those they start later, on these CPUs."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # the thread has ended meanwhile
            os.sched_setaffinity(int(task.name), cpus)
