"""A measured case: farswap's figure beside a peer's, the target for their ratio, the verdict."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Literal

from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path


Bound = Literal["at least", "at most", "none"]


@dataclass
class Samples:
    """The same figure of both sides, one a round."""

    farswap: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    def case(
        self, name: str, unit: str, peer_name: str, bound: Bound = "none", target: float = 0.0
    ) -> Case:
        """Their medians."""
        farswap, peer = median(self.farswap), median(self.peer)
        return Case(name, unit, farswap, peer, peer_name, bound, target)


@dataclass(frozen=True)
class Case:
    """`target` bounds farswap / peer from below or above; a case without one is for information."""

    name: str
    unit: str
    farswap: float
    peer: float
    peer_name: str
    bound: Bound = "none"
    target: float = 0.0

    @property
    def ratio(self) -> float:
        """Of farswap's figure to the peer's."""
        return self.farswap / self.peer if self.peer else float("inf")

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when there is none."""
        if self.bound == "none":
            return None
        return self.ratio >= self.target if self.bound == "at least" else self.ratio <= self.target


@dataclass(frozen=True)
class Skipped:
    """A case that this machine cannot measure, and why."""

    name: str
    reason: str


def table(cases: list[Case], skipped: list[Skipped]) -> Table:
    """All cases for the terminal."""
    shown = Table(title="farswap beside its peers, both measured in this run")
    for column in ("case", "farswap", "peer", "", "ratio", "target", ""):
        shown.add_column(column, justify="left" if column in ("case", "") else "right")
    signs = {"at least": "≥", "at most": "≤"}
    verdicts = {True: "[green]met[/]", False: "[red]MISSED[/]", None: ""}
    for case in cases:
        target = "" if case.met is None else f"{signs[case.bound]} {case.target:g}"
        shown.add_row(
            case.name,
            f"{case.farswap:,.1f} {case.unit}",
            f"{case.peer:,.1f} {case.unit}",
            case.peer_name,
            f"{case.ratio:.2f}",
            target,
            verdicts[case.met],
        )
    for each in skipped:
        shown.add_row(each.name, "", "", "", "", "", f"[yellow]skipped: {each.reason}[/]")
    return shown


def write_json(path: Path, cases: list[Case], skipped: list[Skipped]) -> None:
    """The same for programs, with the machine it was measured on."""
    document = {
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "load_1min": os.getloadavg()[0],
        },
        "cases": [asdict(case) | {"ratio": case.ratio, "met": case.met} for case in cases],
        "skipped": [asdict(each) for each in skipped],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
