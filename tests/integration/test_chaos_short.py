"""`make chaos` in short: every kind of fault once, under its load."""

from __future__ import annotations

import os

import pytest
from bench.programs import MissingProgramError, native_program
from chaos.cluster import ChaosCluster
from chaos.faults import KINDS, plan
from chaos.run import run_faults

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, mounts"),
]
SECONDS_MAX = 2.0


def test_no_page_is_lost_whichever_server_fails_next() -> None:
    try:
        native_program("farswap-loadgen")
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    kinds = [kind for kind in KINDS if kind not in {"fill", "stall"}]
    records = []
    with ChaosCluster(servers=3, replicas=2) as cluster:
        verdict = run_faults(
            cluster,
            9,
            plan(9, kinds, SECONDS_MAX),
            lambda done: done < len(kinds),
            records.append,
        )
        assert verdict.problems == [], cluster.logs()
    assert {record["kind"] for record in records if record["event"] == "fault"} == set(kinds)
    assert verdict.document()["wrong_pages"] == 0
    assert verdict.counters["loads_remote"] > 0
    assert verdict.counters["written_back_pages"] > 0
