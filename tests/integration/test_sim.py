"""A small simulated fleet: the planner repairs, drains, fills newcomers, alike for a seed."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from bench.programs import native_program

SMALL = "--servers 20 --newcomers 2 --racks 5 --hosts 40 --shards 64 --days 20"


def simulate(*options: str) -> dict[str, Any]:
    command = [str(native_program("farswap-sim", "sim")), *SMALL.split(), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    run: dict[str, Any] = json.loads(done.stdout)
    del run["took_s"]
    return run


@pytest.mark.parametrize("replicas", ["2", "3"])
def test_a_fleet_with_replicas_loses_no_shard_and_ends_without_debt(replicas: str) -> None:
    run = simulate("--replicas", replicas)
    assert run["losses"] > 0
    assert run["pages_lost"] == 0
    assert run["shards_lost"] == 0
    assert run["debt_end"] == 0
    assert run["copies_at_once_max"] <= 4
    assert run["newcomer_fullness"] > 0.2


def test_a_fleet_without_replicas_loses_the_shards_of_lost_stores() -> None:
    run = simulate("--replicas", "1")
    assert run["shards_lost"] > 0
    assert run["pages_lost"] == 4096 * run["shards_lost"]


def test_without_faults_only_rebalancing_moves_shards() -> None:
    run = simulate("--no-faults", "--newcomers", "0")
    assert run["copies_failed"] == 0
    assert run["copied_gib"] < run["placed_gib"] / 10


def test_narrow_copysets_lose_data_in_fewer_power_failures_than_wide_ones() -> None:
    narrow = simulate("--replicas", "3", "--width", "1", "--no-faults")
    wide = simulate("--replicas", "3", "--width", "64", "--no-faults")
    assert narrow["power_failures_losing"] < wide["power_failures_losing"]


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulate("--seed", "7") == simulate("--seed", "7")
    assert simulate("--seed", "7") != simulate("--seed", "8")


def test_small_fleets_come_to_rest_after_random_faults() -> None:
    command = [str(native_program("farswap-sim", "sim")), "--check", "40"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "40 fleets, 0 failed\n"
    assert done.returncode == 0


def test_options_out_of_range_are_refused_with_the_usage() -> None:
    command = [str(native_program("farswap-sim", "sim")), "--replicas", "4"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--replicas" in done.stderr
