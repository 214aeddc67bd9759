"""A real kernel swaps on /dev/nbd0 over TCP, and every page comes back as it left.

The host daemon and the memory servers run on this machine, the kernel in a guest; so what counts
the pages is not what swaps them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hang_guard import until
from vm.guest import TEST_TIMEOUT_S

if TYPE_CHECKING:
    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer
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


def written_back(host: HostDaemon) -> int:
    return int(host.ask("tier", "show")["counters"]["written_back_pages"])


def await_written_back(host: HostDaemon, pages: int) -> None:
    until(lambda: written_back(host) >= pages, every_s=0.5)


def kill_one_and_drain_another(
    host: HostDaemon, killed: MemoryServer, drained: MemoryServer
) -> None:
    """While the guest swaps."""
    await_written_back(host, 1000)
    killed.kill()
    await_written_back(host, written_back(host) + 1000)
    killed.start()
    until(lambda: not host.ask("status")["placement"]["replication_debt_shards"], every_s=0.5)
    done = drained.ctl("server", "drain", "--wait")
    assert done.returncode == 0, done.stderr


def test_most_pages_travel_to_memory_servers_and_back_though_one_dies_and_one_is_drained(
    guest: Guest, memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    killed, drained, third = (memory_server() for _ in range(3))
    host = host_daemon(
        *(killed, drained, third),
        device={"size": "512MiB"},
        tier={"pool_limit": "8MiB"},
        cluster={"replicas": 2},
    )
    until(lambda: all(server["connected"] for server in host.ask("status")["servers"]))
    with ThreadPoolExecutor() as beside:
        faults = beside.submit(kill_one_and_drain_another, host, killed, drained)
        (result,) = swap_in_guest(guest, host, mib=192, limit_mib=64, passes=2, groups=1)
        faults.result()
    assert host.ask("status")["placement"]["lost_shards"] == 0
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
