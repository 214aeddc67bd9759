"""Pages that the kernel gives up are forgotten at once, and no page that it wants ever is.

In a guest, programs take and free swap slots as fast as they can on /dev/nbd0 of slot_server, which
is the tier with the programs of native/bpf and, where a test says so, a broken rule in place of the
tier's. Every page says which cgroup wrote it, and is compared with what the slot's word says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from vm.guest import TEST_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from vm.guest import Guest, Reports

pytestmark = [pytest.mark.vm, pytest.mark.timeout(TEST_TIMEOUT_S)]

CHURN = {"mib": 64, "pool_mib": 16, "limit_mib": 12, "each_mib": 12}
# Notices come late, and the device is so small that slots are soon in use again.
SLOW = {**CHURN, "mib": 32, "slow_us": 600, "seconds": 12}
SIEVE = {"mib": 64, "pool_mib": 40, "limit_mib": 24, "sieve_mib": 32, "discard_s": 4}


def run(guest: Guest, script: str, **parameters: object) -> Reports:
    done = guest.run_bare(script, **parameters)
    assert done.status == 0, done.transcript
    return done.reports()


def assert_every_page_went_to_its_cgroup(server: dict[str, int], pages_min: int) -> None:
    assert server["stamped_right"] >= pages_min
    assert server["stamped_crossed"] == 0
    assert server["stamped_unknown"] == 0


def wrong_pages(reports: Reports) -> int:
    return sum(reports[group]["wrong_pages"] for group in ("group1", "group2"))


@pytest.mark.parametrize(
    ("series", "hook"), [("6.1", "swap_range_free"), ("6.12", "swap_entry_range_free")]
)
def test_programs_load_and_report_lost_events(
    slot_guest: Callable[[str], Guest], series: str, hook: str
) -> None:
    done = slot_guest(series).run_bare("bpf_test")
    assert done.status == 0, done.transcript
    assert f'free hook: "{hook}", problem: ""' in done.output
    assert "SKIPPED" not in done.output


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_churning_slots_are_freed_at_once_and_no_page_is_lost(
    slot_guest: Callable[[str], Guest], series: str
) -> None:
    reports = run(slot_guest(series), "churn", rule="safe", seconds=60, **CHURN)
    server = reports["ended"]
    dropped_in_time = server["early_frees"] - server["notified_late"]
    print(
        f"kernel {series}: {server['pages_written']} pages written by {server['bios']} bios, "
        f"{server['stamped_right']} attributed right, {server['freed']} slots freed, "
        f"{dropped_in_time} of their pages dropped within 100 ms, {server['events']} events"
    )
    assert wrong_pages(reports) == 0
    assert_every_page_went_to_its_cgroup(server, pages_min=20_000)
    assert server["written_back_pages"] > 0
    # From 6.12 on folios of several pages are swapped out as they are.
    assert series == "6.1" or server["pages_written"] > server["bios"]
    assert dropped_in_time >= server["freed"] * 95 // 100


def test_slow_notices_lose_no_page(slot_guest: Callable[[str], Guest]) -> None:
    reports = run(slot_guest("6.12"), "churn", rule="safe", **SLOW)
    assert wrong_pages(reports) == 0
    print(f"with the rule: {reports['ended']['early_frees_kept']} notices came too late")
    assert reports["ended"]["early_frees_kept"] > 0


def test_pages_are_lost_where_the_rule_is_weaker(slot_guest: Callable[[str], Guest]) -> None:
    done = slot_guest("6.12").run_bare("churn", deadline_s=150, rule="naive", **SLOW)
    assert 'hook "swap_entry_range_free"' in done.output
    reports = done.reports()
    wrong = sum(reports.get(group, {}).get("wrong_pages", 0) for group in ("group1", "group2"))
    print(f"without the rule: {wrong} wrong pages, status {done.status}")
    # The programs may also lose pages of their own, and die of it.
    assert wrong > 0 or done.status != 0


def test_scattered_frees_are_seen_where_trim_sees_none(slot_guest: Callable[[str], Guest]) -> None:
    notified = run(slot_guest("6.12"), "sieve", rule="safe", discard="-dpages", **SIEVE)
    trimmed = run(slot_guest("6.12"), "sieve", rule="none", discard="-dpages", **SIEVE)
    for name, reports in (("notices and TRIM", notified), ("TRIM alone", trimmed)):
        print(f"pages held / swapped out, with {name}:")
        for look in ("scatter_before", "scatter", "scatter_later", "exit_before", "exit"):
            held, used = reports[look]["held_pages"], reports[look + "_swap"]["used_kib"] // 4
            print(f"  {look}: {held} / {used}")
        assert reports["sieve"]["wrong_pages"] == 0
    given_up = notified["sieve"]["given_up"]
    assert dropped(notified, "scatter_before", "scatter") >= given_up * 95 // 100
    assert dropped(trimmed, "scatter_before", "scatter_later") == 0


def dropped(reports: Reports, before: str, after: str) -> int:
    return reports[before]["held_pages"] - reports[after]["held_pages"]
