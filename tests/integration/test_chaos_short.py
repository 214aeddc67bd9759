"""`make chaos` in short: every kind of fault, a rolling restart, a killed drain, a failing etcd."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bench.programs import MissingProgramError, native_program
from chaos.cluster import ChaosCluster
from chaos.faults import KINDS, plan
from chaos.run import Run
from chaos.scenarios import Scenario, faults, named

if TYPE_CHECKING:
    from chaos.verdict import Verdict

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, mounts"),
]
SECONDS_MAX = 2.0
SEED = 9
# Of the host: no time of a loaded machine refuses a write. `make chaos` has the default.
STORE_WAIT = "1m"


def play(scenario: Scenario) -> tuple[Verdict, list[dict[str, Any]]]:
    """Also the records of its faults."""
    try:
        native_program("farswap-loadgen")
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    records: list[dict[str, Any]] = []
    with ChaosCluster(replace(scenario, store_wait=STORE_WAIT)) as cluster:
        verdict = Run(cluster, SEED, records.append, scenario.shape).play(scenario.play)
        print("\n".join(verdict.lines()))
        assert verdict.problems == [], cluster.logs()
    assert verdict.document()["wrong_pages"] == 0
    assert verdict.counters["loads_remote"] > 0
    assert verdict.counters["written_back_pages"] > 0
    return verdict, [record for record in records if record["event"] == "fault"]


def test_no_page_is_lost_whichever_server_fails_next() -> None:
    planned = plan(SEED, seconds_max=SECONDS_MAX)
    _, records = play(Scenario(faults(planned, lambda done: done < len(KINDS), calm_s=0)))
    assert {record["kind"] for record in records} == set(KINDS)


def test_a_rolling_restart_copies_what_was_written_meanwhile() -> None:
    verdict, records = play(named("rolling", small=True))
    assert len(records) == 3
    assert "copied by the rolling restart" in verdict.figures


def test_a_drain_outlasts_kills_of_both_servers_and_of_the_command() -> None:
    verdict, _ = play(named("drain", small=True))
    assert "drained" in verdict.figures


def test_an_etcd_that_stops_and_comes_back_empty_moves_no_shard() -> None:
    _, records = play(named("etcd", small=True))
    assert [record["kind"] for record in records] == ["stop", "compact", "empty", "kill"]
