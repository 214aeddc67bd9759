"""Drives farswap-loadgen: phases in, figures out.

A session keeps one load generator with its connections and its write history alive; its phases are
run one by one, so that two sessions against two servers can take turns. Every byte that any phase
read was compared: a session with a mismatch, a stall or a lost connection raises LoadError.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from bench.programs import native_program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

END_DEADLINE_S = 60


class LoadError(Exception):
    """Wrong bytes, a stall, or a connection that was lost."""


@dataclass(frozen=True)
class Latency:
    """Of one kind of request, in microseconds."""

    count: int
    mean_us: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float


@dataclass(frozen=True)
class Progress:
    """What a phase has done so far. `slowest_us`: by kind of request, since the last progress."""

    name: str
    page_ops: int
    errors: int
    mismatched_pages: int
    slowest_us: dict[str, float]


_PROGRESS_KEYS = tuple(Progress.__dataclass_fields__)


@dataclass(frozen=True)
class PhaseReport:
    """What one phase did; see loadgen/report.cc for the wire form."""

    name: str
    seconds: float
    requests: int
    page_ops: int
    requests_per_s: float
    page_ops_per_s: float
    bytes_read: int
    bytes_written: int
    latency: dict[str, Latency]
    marked_latency: dict[str, Latency]
    errors: dict[str, int]
    verified_pages: int
    mismatched_pages: int
    zeros_after_failure: int
    unknown_pages: int
    mismatches: list[str]
    troubles: list[str]

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Self:
        """Takes a "phase" event."""
        rest = {key: fields[key] for key in cls.__dataclass_fields__}
        for key in ("latency", "marked_latency"):
            rest[key] = {op: Latency(**values) for op, values in fields[key].items()}
        return cls(**rest)

    @property
    def mib_per_s(self) -> float:
        """Payload in both directions."""
        return (self.bytes_read + self.bytes_written) / (1 << 20) / max(self.seconds, 1e-9)


def phase(name: str, **keys: str | int) -> str:
    """The command-line form of a phase: phase("fill", mix="write", order="once")."""
    return name + ":" + ",".join(f"{key}={value}" for key, value in keys.items())


class LoadSession:
    """A load generator at an NBD server, one phase at a time, in the order given."""

    def __init__(
        self,
        connect: str,
        phases: Sequence[str],
        *,
        export: str = "",
        connections: int = 1,
        corpus: Path | None = None,
        options: Sequence[str] = (),
        on_progress: Callable[[Progress], None] = lambda _progress: None,
    ) -> None:
        self.connect = connect
        self._on_progress = on_progress
        self._command = [
            str(native_program("farswap-loadgen")),
            *("--connect", connect, "--export", export, "--connections", str(connections)),
            *("--progress-ms", "100", *options),
        ]
        if corpus is not None:
            self._command += ["--corpus", str(corpus)]
        for each in phases:
            self._command += ["--phase", each + ",wait=1"]

    def __enter__(self) -> Self:
        # A session of its own: an interrupt at the terminal is ours to act on.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """Of the load generator."""
        return self._process.pid

    def run(self, name: str) -> PhaseReport:
        """Runs the next phase, which must have this name, to its end."""
        waiting = self._next_event()
        if (waiting["event"], waiting.get("name")) != ("waiting", name):
            raise AssertionError(f"phase {name} is not the next one: {waiting}")
        self.command("")
        while True:
            event = self._next_event()
            if event["event"] == "phase":
                break
            self._on_progress(Progress(**{key: event[key] for key in _PROGRESS_KEYS}))
        report = PhaseReport.parse(event)
        problems = report.troubles + report.mismatches
        if report.mismatched_pages or problems:
            listed = "\n  ".join(problems)
            raise LoadError(f"{name}: {report.mismatched_pages} wrong pages\n  {listed}")
        return report

    def command(self, text: str) -> None:
        """`end` ends the phase; `mark` and `unmark` begin and end the time of `marked_latency`."""
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Ends the load generator after its last phase, in order."""
        while self._next_event()["event"] != "done":
            pass
        status = self._process.wait(END_DEADLINE_S)
        if status != 0:
            raise LoadError(f"the load generator ended with status {status}")

    def _next_event(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            errors = self._process.communicate()[1].strip()
            raise LoadError(f"the load generator ended early: {errors}")
        event: dict[str, Any] = json.loads(line)
        return event
