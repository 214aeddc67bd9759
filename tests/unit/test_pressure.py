"""How much is written back proactively: nothing without pressure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from farswap.client_nbd.cgroups.pressure import GroupSample, HostSample, ProactivePolicy, Shrink
from hypothesis import given
from hypothesis import strategies as st

SECOND_US = 1_000_000
PAGES = 10_000
COLD = GroupSample(
    id=7,
    stall_us=0,
    loads_remote=0,
    local_pages=PAGES,
    pool_bytes=PAGES * 4096 // 2,
    limit_fullness=0.0,
    writeback=True,
)
LOW_MARK = 0.8
HOST = HostSample(stall_us=0, pool_fullness=1.0)

samples = st.builds(
    GroupSample,
    id=st.just(7),
    stall_us=st.none() | st.integers(0, 3 * SECOND_US),
    loads_remote=st.integers(0, 2 * PAGES),
    local_pages=st.integers(0, PAGES),
    pool_bytes=st.integers(0, 2 * PAGES * 4096),
    limit_fullness=st.floats(0, 2),
    writeback=st.booleans(),
)
hosts = st.builds(
    HostSample, stall_us=st.none() | st.integers(0, 3 * SECOND_US), pool_fullness=st.floats(0, 2)
)


def policy(older_than_s: int = 0, *, by_pressure: bool = True) -> ProactivePolicy:
    """That has seen the host and the cold group at rest, and the pool at its low mark."""
    made = ProactivePolicy(by_pressure=by_pressure, older_than_s=older_than_s)
    made.decide(1.0, replace(HOST, pool_fullness=LOW_MARK), [COLD])
    return made


def pages(shrinks: list[Shrink]) -> int:
    assert len(shrinks) <= 1
    return sum(shrink.pages for shrink in shrinks)


def stalled(share: float) -> HostSample:
    return replace(HOST, stall_us=int(share * SECOND_US))


def filling(second: int) -> float:
    """Of a pool that never stops to fill as fast as can be."""
    return 1.0 + second


@given(group=samples, fullness=st.floats(0, 1))
def test_without_pressure_nothing_is_written_back(group: GroupSample, fullness: float) -> None:
    group = replace(group, stall_us=0)
    host = replace(HOST, pool_fullness=fullness)
    assert policy().decide(1.0, host, [group]) == []


@given(group=samples, host=hosts)
def test_switched_off_nothing_is_written_back(group: GroupSample, host: HostSample) -> None:
    assert policy(by_pressure=False).decide(1.0, host, [group]) == []


@given(
    group=samples, host=hosts, older_than_s=st.sampled_from([0, 60]), elapsed=st.floats(0.01, 60)
)
def test_never_more_than_the_group_has_in_the_pool(
    group: GroupSample, host: HostSample, older_than_s: int, elapsed: float
) -> None:
    asked = policy(older_than_s).decide(elapsed, host, [group])
    assert 0 <= pages(asked) <= group.local_pages
    assert all(shrink.pages > 0 and shrink.id == 7 for shrink in asked)
    assert group.writeback or not asked


@given(group=samples, host=hosts, more=st.integers(0, SECOND_US))
def test_more_pressure_never_writes_back_less(
    group: GroupSample, host: HostSample, more: int
) -> None:
    if host.stall_us is not None:
        pressed = replace(host, stall_us=host.stall_us + more)
        assert pages(policy().decide(1.0, pressed, [group])) >= pages(
            policy().decide(1.0, host, [group])
        )
    if group.stall_us is not None:
        stalling = replace(group, stall_us=group.stall_us + more)
        assert pages(policy().decide(1.0, host, [stalling])) >= pages(
            policy().decide(1.0, host, [group])
        )


def test_pressure_of_the_host_and_of_the_cgroup() -> None:
    assert policy().decide(1.0, stalled(0.2), [COLD]) == [Shrink(7, 500)]
    own = replace(COLD, stall_us=SECOND_US // 5)
    assert policy().decide(1.0, HOST, [own]) == [Shrink(7, 500)]
    other = replace(own, id=8)
    assert policy().decide(1.0, HOST, [COLD, other]) == [], "8 is seen for the first time"


def test_noise_is_not_pressure() -> None:
    assert policy().decide(1.0, stalled(0.009), [COLD]) == []


def test_the_more_room_is_left_the_less() -> None:
    half_way = replace(stalled(0.2), pool_fullness=0.901)
    assert 250 <= pages(policy().decide(1.0, half_way, [COLD])) < 260
    low = replace(stalled(0.2), pool_fullness=LOW_MARK)
    assert policy().decide(1.0, low, [COLD]) == []


def test_a_limit_that_fills_counts_where_the_pool_has_room() -> None:
    empty = replace(HOST, pool_fullness=0.0)
    made = ProactivePolicy(by_pressure=True, older_than_s=0)
    made.decide(1.0, empty, [replace(COLD, limit_fullness=LOW_MARK)])
    at_its_limit = replace(COLD, stall_us=SECOND_US // 5, limit_fullness=1.0)
    assert made.decide(1.0, empty, [at_its_limit]) == [Shrink(7, 500)]


def test_a_pool_that_fills_no_more_needs_no_room() -> None:
    made = policy()
    asked = [
        pages(made.decide(1.0, replace(HOST, stall_us=second * SECOND_US), [COLD]))
        for second in range(1, 121)
    ]
    assert asked[0] == 2500
    assert asked == sorted(asked, reverse=True)
    assert asked[10] == 1250
    assert asked[-1] == 0


def test_what_is_full_when_it_is_first_seen_did_not_fill_lately() -> None:
    made = ProactivePolicy(by_pressure=True, older_than_s=0)
    made.decide(1.0, HOST, [replace(COLD, limit_fullness=1.0)])
    stalling = replace(COLD, limit_fullness=1.0, stall_us=SECOND_US)
    assert made.decide(1.0, stalled(1.0), [stalling]) == []


def test_the_better_pages_compress_the_less() -> None:
    compressed = replace(COLD, pool_bytes=PAGES * 4096 // 5)
    assert policy().decide(1.0, stalled(0.2), [compressed]) == [Shrink(7, 200)]


def test_a_group_that_gets_back_more_than_it_would_send_is_left_alone() -> None:
    assert policy().decide(1.0, stalled(0.2), [replace(COLD, loads_remote=400)]) == [Shrink(7, 100)]
    assert policy().decide(1.0, stalled(0.2), [replace(COLD, loads_remote=501)]) == []


def test_the_protection_of_pages_brought_back_fades() -> None:
    warm = policy()
    returned = replace(COLD, loads_remote=450)
    total = 0
    asked = []
    for second in range(31):
        total += SECOND_US // 5
        host = replace(HOST, stall_us=total, pool_fullness=filling(second))
        asked.append(pages(warm.decide(1.0, host, [returned])))
    assert asked[0] == 50
    assert asked == sorted(asked)
    assert asked[10] == 275
    assert asked[30] > 440


def test_totals_inherited_from_a_removed_cgroup_do_not_protect_for_ever() -> None:
    successor = policy()
    total = 0
    inherited = replace(COLD, loads_remote=1_000_000_000)
    for second in range(60):
        total += SECOND_US // 5
        host = replace(HOST, stall_us=total, pool_fullness=filling(second))
        asked = pages(successor.decide(1.0, host, [inherited]))
    assert asked > 300


def test_age_alone_moves_what_is_old() -> None:
    assert policy(60).decide(1.0, HOST, [COLD]) == [Shrink(7, PAGES, 60)]
    assert policy(60, by_pressure=False).decide(1.0, HOST, [COLD]) == [Shrink(7, PAGES, 60)]
    warm = replace(COLD, loads_remote=PAGES)
    assert policy(60).decide(1.0, HOST, [warm]) == []


def test_pressure_comes_before_age() -> None:
    assert policy(60).decide(1.0, stalled(0.2), [COLD]) == [Shrink(7, 500)]


def test_without_psi_there_is_no_pressure() -> None:
    blind = ProactivePolicy(by_pressure=True, older_than_s=0)
    for _ in range(3):
        host = replace(HOST, stall_us=None)
        assert blind.decide(1.0, host, [replace(COLD, stall_us=None)]) == []


def test_a_counter_that_starts_again_does_no_harm() -> None:
    made = policy()
    made.decide(1.0, stalled(0.5), [replace(COLD, loads_remote=50)])
    assert made.decide(1.0, HOST, [COLD]) == []


@pytest.mark.parametrize("wanted_in_s", [3, 10, 100])
def test_the_answer_does_not_breed_the_pressure_that_it_answers(wanted_in_s: int) -> None:
    """A group whose pages are all wanted again soon, on a host that stalls for a second at first.

    Each second a part of its remote pages is read back, each for 1 ms, which is a stall.
    """
    made = policy()
    stall = loads = remote = sent_late = 0
    for second in range(300):
        back = remote // wanted_in_s
        remote -= back
        loads += back
        stall += min(SECOND_US, back * 1000) + (SECOND_US if second < 5 else 0)
        group = replace(
            COLD, local_pages=PAGES - remote, pool_bytes=(PAGES - remote) * 4096, loads_remote=loads
        )
        sent = pages(made.decide(1.0, HostSample(stall, filling(second)), [group]))
        remote += sent
        if second >= 100:
            sent_late += sent
    assert sent_late == 0


def test_a_warm_group_and_a_cold_one_under_lasting_pressure() -> None:
    """The cold one's pages go, the warm one, which wants every page back, keeps most of its."""
    made = policy()
    stall = 0
    remote = {7: 0, 8: 0}
    loads = {7: 0, 8: 0}
    for second in range(120):
        stall += SECOND_US // 5
        back = remote[8] // 5
        remote[8] -= back
        loads[8] += back
        groups = [
            replace(
                COLD,
                id=id_,
                stall_us=None,
                loads_remote=loads[id_],
                local_pages=PAGES - remote[id_],
                pool_bytes=(PAGES - remote[id_]) * 2048,
            )
            for id_ in (7, 8)
        ]
        for shrink in made.decide(1.0, HostSample(stall, filling(second)), groups):
            remote[shrink.id] += shrink.pages
    assert remote[7] > 0.9 * PAGES
    assert remote[8] < 0.05 * PAGES
