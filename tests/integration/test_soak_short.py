"""The soak run in short: every kind of load, and a memory server that is killed while it works."""

from collections.abc import Iterator

import pytest
from bench.local_cluster import LocalCluster
from bench.programs import MissingProgramError, native_program
from requirements import require_native
from soak.legs import Leg, run_leg, soak_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    require_native()
    try:
        native_program("farswap-loadgen")
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    with soak_cluster() as running:
        yield running


@pytest.mark.parametrize(
    "leg",
    [Leg("own", 700_000, 1), Leg("shared", 350_000, 1, options=("--shared",), seed=2)],
    ids=lambda leg: leg.name,
)
def test_every_byte_is_right_while_the_memory_server_dies_and_returns(
    cluster: LocalCluster, leg: Leg
) -> None:
    result = run_leg(cluster, leg)
    assert result.check.mismatched_pages == 0
    assert result.load.page_ops >= leg.page_ops
