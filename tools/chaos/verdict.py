"""What a run has shown: figures, and what of them is wrong."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.load_generator import Latency, PhaseReport

# Counters of the host's tier that no fault justifies.
NEVER_COUNTED = ("fail_checksum", "decompress_fail", "fetch_missing", "fetch_unavailable")
KINDS = ("read", "write")


@dataclass
class Verdict:
    """Grows during the run. `problems` says what was wrong; empty: nothing."""

    seed: int
    faults: list[dict[str, Any]] = field(default_factory=list)
    reports: Mapping[str, PhaseReport] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    lost_shards: int = 0
    copied_bytes: int = 0
    figures: dict[str, str] = field(default_factory=dict)  # of a scenario
    problems: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Adds to the problems what the figures show."""
        for report in self.reports.values():
            self.problems += [f"{report.name}: {n} x {error}" for error, n in report.errors.items()]
        wrong = {name: self.counters[name] for name in NEVER_COUNTED if self.counters.get(name)}
        if wrong:
            self.problems.append(f"counters of failures are not zero: {wrong}")
        if self.lost_shards:
            self.problems.append(f"{self.lost_shards} shards are lost")

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "event": "verdict",
            "ok": not self.problems,
            "problems": self.problems,
            "seed": self.seed,
            "faults": len(self.faults),
            "by_kind": self._by_kind(),
            "page_ops": sum(report.page_ops for report in self.reports.values()),
            "verified_pages": sum(report.verified_pages for report in self.reports.values()),
            "wrong_pages": sum(report.mismatched_pages for report in self.reports.values()),
            "read_errors": self._errors("read"),
            "writes_refused": self._errors("write"),
            "lost_shards": self.lost_shards,
            "loads_remote": self.counters.get("loads_remote", 0),
            "written_back_pages": self.counters.get("written_back_pages", 0),
            "copied_bytes": self.copied_bytes,
            "figures": self.figures,
            "latency": self._latency("latency"),
            "latency_during_faults": self._latency("marked_latency"),
        }

    def lines(self) -> list[str]:
        """For people."""
        shown = self.document()
        tail = f"{self.copied_bytes / 2**20:,.0f} MiB copied between servers"
        lines = [
            "{faults} faults (seed {seed}), {page_ops:,} page operations, {verified_pages:,} pages "
            "verified, {wrong_pages} wrong".format_map(shown),
            "{read_errors} read errors, {writes_refused} writes refused, {lost_shards} shards "
            "lost".format_map(shown),
            "{loads_remote:,} pages read from servers, {written_back_pages:,} written back, "
            "".format_map(shown)
            + tail,
        ]
        for title, key in (("all", "latency"), ("during faults", "latency_during_faults")):
            for kind, figures in shown[key].items():
                texts = [f"{name} {ms:,.2f} ms" for name, ms in figures.items()]
                lines.append(f"{kind}s, {title}: " + ", ".join(texts))
        for kind, figures in shown["by_kind"].items():
            lines.append(
                f"{kind}: {figures['count']} times, {figures['debt_s']:.1f} s until no debt was "
                f"left (median), slowest read {figures['read_ms']:,.0f} ms, "
                f"write {figures['write_ms']:,.0f} ms"
            )
        lines += [f"{name}: {figure}" for name, figure in self.figures.items()]
        return lines + [f"WRONG: {problem}" for problem in self.problems]

    def _errors(self, kind: str) -> int:
        return sum(
            count
            for report in self.reports.values()
            for error, count in report.errors.items()
            if error.startswith(kind)
        )

    def _latency(self, attribute: str) -> dict[str, dict[str, float]]:
        load = self.reports.get("load")
        found: dict[str, Latency] = getattr(load, attribute) if load else {}
        return {
            kind: {
                name.removesuffix("_us"): round(us / 1000, 3)
                for name, us in asdict(found[kind]).items()
                if name != "count"
            }
            for kind in KINDS
            if kind in found
        }

    def _by_kind(self) -> dict[str, dict[str, float]]:
        kinds: dict[str, list[dict[str, Any]]] = {}
        for fault in self.faults:
            kinds.setdefault(fault["kind"], []).append(fault)
        return {
            kind: {
                "count": len(faults),
                "debt_s": statistics.median(fault["debt_s"] for fault in faults),
                **{
                    f"{op}_ms": max(fault["slowest_ms"].get(op, 0.0) for fault in faults)
                    for op in KINDS
                },
            }
            for kind, faults in sorted(kinds.items())
        }
