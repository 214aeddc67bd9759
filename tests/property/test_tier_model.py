"""The native tier does what a plain model of it does, for random operations in random order.

`make test` runs a few thousand steps, the same ones each time; `make model` runs a hundred thousand
new ones (FARSWAP_MODEL_STEPS).
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from property.native_tier import MissingModuleError

try:
    from property.tier_machine import TierMachine
except MissingModuleError as missing:
    pytest.skip(str(missing), allow_module_level=True)

STEPS_A_RUN = 100
QUICK_STEPS = 3_000


def run_machine(steps: int, *, derandomize: bool) -> None:
    run_state_machine_as_test(
        TierMachine,
        settings=settings(
            max_examples=max(steps // STEPS_A_RUN, 1),
            stateful_step_count=STEPS_A_RUN,
            derandomize=derandomize,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(3600)
def test_the_tier_does_what_a_plain_model_does(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = int(os.environ.get("FARSWAP_MODEL_STEPS", "0"))
    run_machine(wanted or QUICK_STEPS, derandomize=not wanted)
    # Some runs are shorter than they may be.
    while TierMachine.steps < wanted:
        run_machine(wanted - TierMachine.steps, derandomize=False)
    with capsys.disabled():
        print(f"\n{TierMachine.steps:,} steps without a difference")
