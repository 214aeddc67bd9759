"""A real kernel swaps on /dev/nbd0 over TCP, and every page comes back as it left.

The host daemon and the memory server run on this machine, the kernel in a guest; so what counts the
pages is not what swaps them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vm.guest import TEST_TIMEOUT_S

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon
    from vm.guest import Guest, GuestRun

pytestmark = [pytest.mark.vm, pytest.mark.timeout(TEST_TIMEOUT_S)]


def verified(run: GuestRun) -> list[dict[str, int]]:
    """Returns the verifiers' results once sure that nothing at all went wrong in the guest."""
    assert run.status == 0, run.transcript
    results = list(run.reports().values())
    assert results, run.transcript
    assert [result["wrong_pages"] for result in results] == [0] * len(results)
    assert "I/O error" not in run.transcript
    return results


def swap_in_guest(guest: Guest, host: HostDaemon, **parameters: object) -> list[dict[str, int]]:
    _, port = host.nbd_tcp
    run = guest.run_bare("swap", port=port, export=host.export, **parameters)
    return verified(run)


def assert_nothing_was_lost(counted: dict[str, int]) -> None:
    alarms = ("reject_reclaim_fail", "fetch_unavailable", "fetch_missing", "fail_checksum")
    assert {name: counted[name] for name in alarms} == dict.fromkeys(alarms, 0)


def test_most_pages_travel_to_the_memory_server_and_back(
    guest: Guest, memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    host = host_daemon(memory_server(), device={"size": "512MiB"}, tier={"pool_limit": "8MiB"})
    (result,) = swap_in_guest(guest, host, mib=192, limit_mib=64, passes=2, groups=1)
    counted = host.ask("tier", "show")["counters"]
    assert counted["written_back_pages"] >= result["pages"] // 2
    assert counted["loads_remote"] >= result["pages"] // 2
    assert_nothing_was_lost(counted)


def test_two_programs_in_two_cgroups_swap_at_once(
    guest: Guest, memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    host = host_daemon(memory_server(), device={"size": "256MiB"}, tier={"pool_limit": "8MiB"})
    results = swap_in_guest(guest, host, mib=48, limit_mib=24, passes=1, groups=2)
    assert len(results) == 2
    counted = host.ask("tier", "show")["counters"]
    assert counted["loads_remote"] > 0
    assert_nothing_was_lost(counted)
