"""Verdicts of the benchmark."""

import json
from pathlib import Path

import pytest
from bench.cases import Bound, Samples, Skipped, write_json


@pytest.mark.parametrize(
    ("ours", "bound", "target", "met"),
    [
        (15.0, "at least", 1.5, True),
        (14.9, "at least", 1.5, False),
        (10.0, "at most", 1.0, True),
        (10.1, "at most", 1.0, False),
        (99.0, "none", 0.0, None),
    ],
)
def test_verdict_compares_the_ratio_with_the_target(
    ours: float, bound: Bound, target: float, met: bool | None
) -> None:
    assert Samples([ours], [10.0]).case("reads", "k/s", "peer", bound, target).met is met


def test_disturbed_round_does_not_move_the_median() -> None:
    case = Samples([10.0, 11.0, 500.0], [1.0, 2.0, 3.0]).case("p50", "µs", "peer")
    assert (case.farswap, case.peer, case.ratio) == (11.0, 2.0, 5.5)


def test_json_has_figures_verdicts_and_what_was_skipped(tmp_path: Path) -> None:
    path = tmp_path / "made" / "bench.json"
    case = Samples([3.0], [1.0]).case("reads", "k/s", "peer", "at least", 1.5)
    write_json(path, [case], [Skipped("memory", "needs root: zram")])
    document = json.loads(path.read_text())
    assert document["cases"][0]["ratio"] == 3.0
    assert document["cases"][0]["met"] is True
    assert document["skipped"] == [{"name": "memory", "reason": "needs root: zram"}]
