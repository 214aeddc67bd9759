"""A machine that swaps to farswap is suspended: its programs and the host daemon are frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vm.guest import TEST_TIMEOUT_S

if TYPE_CHECKING:
    from vm.host_guest import HostGuest

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(TEST_TIMEOUT_S)]


def test_a_suspend_happens_or_is_refused_and_costs_no_page(host_guest: HostGuest) -> None:
    sizes = {"size": "64MiB", "pool_limit": "4MiB", "mib": 32, "limit_mib": 16}
    tried = host_guest.swap("suspend", suspends=2, **sizes).reports()["suspends"]
    assert tried["frozen"] + tried["refused"] > 0
