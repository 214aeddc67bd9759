"""The state machine: each rule does one thing to the native tier and to the plain one.

The native tier works on by itself: its shrinker writes pages back when it sees fit, to a remote
store that rules hold, make fail and release. So the place of a page is unknown, but the rest is
known: its contents, its owner, whether it may have left the pool, and the counts, at any moment or
when all is at rest.
"""

from __future__ import annotations

import random
import sys
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from property.group_rules import GET_FAILURES, SETTLE_MS, GroupRules, put_failures
from property.native_tier import TOP
from property.page_rules import ALL, NOTHING, PUTS, SLOTS, cgroups, charged, native
from property.plain_tier import EMPTY, ROOT, PageKind, is_same_filled

FULL_CHECK_EVERY = 40
CHECKED_SLOTS = 16
AWAIT_WRITING_MS = 5
AGES_S = [0, 1, 60]
CLOCK_TICK_S = 4  # an entry's time is kept in these
CALLS_OF_A_FAILED_RUN = TOP / "build" / "model-calls.txt"


changes = st.sampled_from(["overwrite", "store zeros", "trim", "free", "leave"])
REMOTE = 2  # what load() says of a slot whose page is elsewhere
RACED_PAGES = 24
FULL_CHECK_EVERY = 40
CHECKED_SLOTS = 16
AWAIT_WRITING_MS = 5
AGES_S = [0, 1, 60]
CLOCK_TICK_S = 4  # an entry's time is kept in these
CALLS_OF_A_FAILED_RUN = TOP / "build" / "model-calls.txt"


class TierMachine(GroupRules):
    """All rules, and what must hold after each."""

    steps: ClassVar[int] = 0  # of all runs in this process
    failed: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)

    # --- Writeback

    @rule(
        pages=st.sampled_from([1, 10, 100, 1000, SLOTS]),
        cgroup=st.one_of(st.just(ROOT), cgroups),
        age=st.sampled_from(AGES_S),
    )
    def start_writeback(self, pages: int, cgroup: int, age: int) -> None:
        self.tier.start_writeback(pages, cgroup, age)
        if self.held != NOTHING:
            self.tier.await_writing(AWAIT_WRITING_MS)

    @rule(cgroup=cgroups, pages=st.sampled_from([1, 50, SLOTS]), age=st.sampled_from(AGES_S))
    def write_back_proactively(self, cgroup: int, pages: int, age: int) -> None:
        self.tier.write_back_proactively(cgroup, pages, age)

    @rule()
    def cancel_writeback(self) -> None:
        self.tier.cancel_writeback()

    @rule()
    def come_to_rest(self) -> None:
        """The pool is no larger than it may be, unless its pages are not allowed to leave."""

        self.heal()

        def at_rest() -> bool:
            assert self.tier.settle(SETTLE_MS)
            return self.tier.stats().pool_entry_bytes <= self.pool_limit or not self.movable()

        assert self.eventually(at_rest)

    def movable(self) -> int:
        """Pages of the pool that nothing keeps there."""
        groups = {group.id: group for group in self.tier.groups()}

        def at_quota(cgroup: int) -> bool:
            quota = self.plain.groups[cgroup].remote_pages_max
            return quota is not None and groups[cgroup].tree_remote_pages >= quota

        return sum(
            group.pages.local + group.pages.clean
            for group in groups.values()
            if self.plain.may_write_back(group.id)
            and not any(at_quota(each) for each in self.plain.above(group.id))
        )

    @rule(cgroup=st.one_of(st.just(ROOT), cgroups), age=st.sampled_from(AGES_S))
    def write_back_all(self, cgroup: int, age: int) -> None:
        """Nothing that may leave stays, and nothing leaves but what was asked for."""
        self.heal()
        # An earlier job is waited for: what was cancelled may send one batch more.
        causes = self.tier.stats().counters
        assert self.tier.settle(SETTLE_MS)
        here = self.local_slots()
        if not self.eventually(lambda: self.tier.start_writeback(SLOTS, cgroup, age)):
            raise AssertionError("an earlier job does not end")
        assert self.tier.settle(SETTLE_MS)
        left = here - self.local_slots()
        others = ("limit", "cgroup_limit", "shrinker", "age")
        names = [f"writeback_started_{each}" for each in others]
        if any(self.tier.stats().counters[name] != causes[name] for name in names):
            return
        for slot in left:
            owner = self.plain.owners[slot]
            assert cgroup == ROOT or self.plain.is_within(owner, cgroup), f"slot {slot} of {owner}"
            age_at_most = self.plain.now - self.plain.stored_at[slot] + CLOCK_TICK_S
            assert age_at_most > age, f"slot {slot} is young"
        if cgroup == ROOT and age == 0:
            assert self.movable() == 0

    def local_slots(self) -> set[int]:
        found = self.tier.load(0, self.plain.stamps.tobytes())
        return {
            slot
            for slot in range(SLOTS)
            if found[slot] == 0
            and self.plain.stamps[slot] != EMPTY
            and not is_same_filled(self.plain.stamps[slot])
        }

    # --- Races and failures, step by step

    def store_fresh(self, cgroup: int) -> list[int]:
        """Some pages that are in the pool now and may leave, as far as the cgroup lets them."""
        first = self.random.randrange(SLOTS - RACED_PAGES)
        kind = self.random.choice([PageKind.COMPRESSIBLE, PageKind.ALIKE])
        self.plain.write_words(first, RACED_PAGES, cgroup)
        self.publish_words(first, RACED_PAGES)
        self.store(first, [self.stamp(kind) for _ in range(RACED_PAGES)])
        return list(range(first, first + RACED_PAGES))

    def change(self, slot: int, how: str) -> None:
        if how == "overwrite":
            self.store_page(slot, PageKind.RANDOM, self.random.choice([0, 101, 102]))
        elif how == "store zeros":
            self.store_page(slot, PageKind.ZERO, 0)
        elif how == "trim":
            self.trim(slot, 1)
        elif how == "free":
            self.free_slots(slot, 1, 1)

    @rule(
        cgroup=charged,
        how=changes,
        failure=st.one_of(st.none(), put_failures),
        only_later=st.booleans(),
    )
    def race_with_writeback(self, cgroup: int, how: str, failure: object, only_later: bool) -> None:
        """Pages change, or not, while they are on their way, and go on their way once more; then
        come the answers, the first one perhaps as it should be."""
        self.heal()
        slots = self.store_fresh(cgroup)
        self.tier.cancel_writeback()
        assert self.tier.settle(SETTLE_MS)
        self.hold(PUTS)
        assert self.eventually(lambda: self.tier.start_writeback(SLOTS))
        self.tier.await_writing(AWAIT_WRITING_MS)
        for slot in self.random.sample(slots, RACED_PAGES // 2):
            self.change(slot, how)
        self.tier.await_requests(2, AWAIT_WRITING_MS)
        self.fail_puts(failure, after=1 if only_later else 0)
        self.hold(NOTHING)
        self.tier.await_answers(AWAIT_WRITING_MS)
        self.check_slots(slots[0], RACED_PAGES)
        self.heal()

    @rule(cgroup=charged, how=changes)
    def race_with_fetch(self, cgroup: int, how: str) -> None:
        """Pages change while they are fetched: either page is right, a mixture is not."""
        slots = self.remote_slots(cgroup)
        self.hold(ALL)
        for slot in slots[:4]:
            self.start_fetch(slot, 8)
        for slot in slots[:4]:
            self.change(slot, how)
        self.heal()
        while self.plain.fetches:
            self.end_fetch()

    @rule(cgroup=charged, failure=st.sampled_from(GET_FAILURES))
    def fail_to_fetch(self, cgroup: int, failure: object) -> None:
        """A page without its server is an error, and is there again when the server is."""
        slots = self.remote_slots(cgroup)
        self.fail_gets(failure)
        for slot in slots[:4]:
            status, _ = self.tier.load_wait(slot, self.plain.stamps[slot])
            assert status == native.IoStatus.IO_ERROR
        self.fail_gets(None)
        for slot in slots[:4]:
            self.load_wait(slot)

    def remote_slots(self, cgroup: int) -> list[int]:
        """Slots whose pages have just been written back."""
        self.heal()
        slots = self.store_fresh(cgroup)
        self.tier.cancel_writeback()
        assert self.tier.settle(SETTLE_MS)
        assert self.eventually(lambda: self.tier.start_writeback(SLOTS))
        assert self.tier.settle(SETTLE_MS)
        stamps = self.plain.stamps[slots[0] : slots[-1] + 1].tobytes()
        found = self.tier.load(slots[0], stamps)
        return [slot for slot in slots if found[slot - slots[0]] == REMOTE]

    # --- What holds at any moment

    @invariant()
    def slots_are_right(self) -> None:
        TierMachine.steps += 1
        self.let_time_pass(1)
        if TierMachine.steps % FULL_CHECK_EVERY == 0:
            self.check_slots(0, SLOTS)
        else:
            first = self.random.choice([0, self.random.randrange(SLOTS - CHECKED_SLOTS)])
            self.check_slots(first, CHECKED_SLOTS)

    def check_slots(self, first: int, count: int) -> None:
        wrong = self.tier.check(
            first,
            self.plain.stamps[first : first + count].tobytes(),
            self.plain.owners[first : first + count].tobytes(),
            bytes(self.plain.may_leave[first : first + count]),
            self.held != ALL and not self.gets_fail,
        )
        assert not wrong, wrong

    @invariant()
    def groups_are_right(self) -> None:
        wrong = self.tier.check_invariants()
        assert not wrong, wrong
        # A page that goes from one state to the next is in neither for a moment.
        if self.wrong_group():
            assert self.eventually(lambda: not self.wrong_group()), self.wrong_group()

    def wrong_group(self) -> str:
        groups = {group.id: group for group in self.tier.groups()}
        if groups.keys() != self.plain.groups.keys():
            return f"groups are {sorted(groups)}, not {sorted(self.plain.groups)}"
        for cgroup, group in groups.items():
            plain = self.plain.groups[cgroup]
            started = group.counters["writeback_started_cgroup_limit"]
            right = {
                "placed": group.placed == plain.placed,
                "parent": group.parent == plain.parent,
                "pages": group.pages.held == self.plain.pages[cgroup],
                "same-filled pages": group.pages.same_filled == self.plain.same_filled[cgroup],
                "pages sent at a limit": started == 0 or cgroup in self.was_limited,
            }
            for what, is_right in right.items():
                if not is_right:
                    return f"{what} of group {cgroup}"
        return ""

    @invariant()
    def pages_that_may_not_leave_are_here(self) -> None:
        if TierMachine.steps % FULL_CHECK_EVERY == 0:
            may = self.plain.may_have_left()
            for group in self.tier.groups():
                left = group.pages.writing + group.pages.clean + group.pages.remote
                assert left <= may[group.id]

    @invariant()
    def quotas_hold(self) -> None:
        for group in self.tier.groups():
            quota = self.plain.groups[group.id].remote_pages_max
            if quota is None:
                continue
            remote = group.tree_remote_pages
            bound = self.remote_bounds.setdefault(group.id, max(quota, remote))
            assert remote <= bound, f"group {group.id}: {remote} pages of {bound} on servers"
            self.remote_bounds[group.id] = max(quota, remote)

    def teardown(self) -> None:
        """At the end nothing is held, and all must agree."""
        error = sys.exc_info()[1]
        try:
            if error is None:
                self.finish()
        except AssertionError as late:
            error = late
            raise
        finally:
            # Only of the first: what follows are attempts to make it happen again.
            if isinstance(error, AssertionError) and not TierMachine.failed:
                TierMachine.failed = True
                self.tier.keep_calls(CALLS_OF_A_FAILED_RUN)
            self.tier.close()

    def finish(self) -> None:
        self.heal()
        while self.plain.fetches:
            self.end_fetch()
        self.come_to_rest()
        self.check_slots(0, SLOTS)
        self.groups_are_right()
        self.leave_nothing_behind()

    def leave_nothing_behind(self) -> None:
        """When all pages are forgotten, the remote store keeps no object."""
        self.tier.cancel_writeback()
        self.trim(0, SLOTS)
        assert self.eventually(lambda: self.tier.remote_objects() == 0)
        assert self.tier.stats().pool_entry_bytes == 0
