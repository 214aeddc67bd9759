"""Rules of the state machine that store, free and read pages; see tier_machine.py."""

from __future__ import annotations

import random
import time
from array import array
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from hang_guard import HANG_GUARD_S
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from property.native_tier import RecordedTier, load_native_tier
from property.plain_tier import EMPTY, ROOT, PageKind, PlainFetch, PlainTier, is_same_filled

if TYPE_CHECKING:
    from collections.abc import Callable

native = load_native_tier()

SLOTS = 4096
PAGE_BYTES = 4096
POOL_BYTES = 6 << 20
POOL_BYTES_MIN = 4 << 20
ENTRY_BYTES_MAX = PAGE_BYTES + 16
LABELLED = SLOTS  # one more slot, which nothing is ever stored in, and whose word never changes
STORE_WAIT_MS = 25  # stores that wait see a few steps
SETTLE_MS = int(HANG_GUARD_S * 1000)
FETCH_PAGES_MAX = 64
NO_VERSION = 2**32 - 1

CGROUPS = range(101, 109)
NOTHING, PUTS, ALL = "nothing", "puts", "all"  # of the remote store's requests, that are held

slots = st.one_of(st.integers(0, 15), st.integers(0, SLOTS - 1))
kinds = st.sampled_from(PageKind)
cgroups = st.sampled_from(CGROUPS)
charged = st.sampled_from([0, *CGROUPS])
counts = st.sampled_from([2, 3, 4, 8, 16, 64])
seeds = st.integers(0, 2**16)


class PageRules(RuleBasedStateMachine):
    """The native tier and the plain one, in step."""

    ends: ClassVar[Counter[str]] = Counter()  # of stores that waited, in all runs

    def __init__(self) -> None:
        super().__init__()
        self.tier = RecordedTier(
            native.ModelTier(slots=SLOTS + 1, pool_bytes=POOL_BYTES, store_wait_ms=STORE_WAIT_MS)
        )
        self.plain = PlainTier(SLOTS)
        self.numbers = 0
        self.held = NOTHING
        self.gets_fail = False
        self.pool_limit = POOL_BYTES
        self.random = random.Random(0)

    # --- What rules are made of

    def stamp(self, kind: PageKind) -> int:
        self.numbers += 1
        return kind + 8 * self.numbers

    def clip(self, first: int, count: int) -> tuple[int, int]:
        return first, min(count, SLOTS - first)

    def store(self, first: int, stamps: list[int]) -> None:
        before = self.tree_bytes()
        statuses = self.tier.store(first, array("I", stamps).tobytes())
        self.plain.offered = len(stamps)
        for slot, stamp, status in zip(range(first, SLOTS), stamps, statuses, strict=False):
            self.stored(slot, stamp, status)
        self.expect_limits_hold(before)

    def stored(self, slot: int, stamp: int, status: int) -> None:
        """A whole page was stored in the slot, or refused."""
        if status == native.IoStatus.NO_SPACE:
            self.expect_refusal_is_due(slot)
            self.plain.refuse(slot)
        else:
            assert status == native.IoStatus.OK
            self.plain.put(slot, stamp, self.owner_of(slot, self.plain.hint(slot)))

    def owner_of(self, slot: int, owners: set[int]) -> int:
        """Which of these groups has the page that has come to the slot."""
        if len(owners) == 1:
            return next(iter(owners))
        owner = self.tier.owner(slot)
        # A store that waits may have come since.
        assert owner in owners or self.plain.stores.waiting(slot), f"slot {slot} is of {owner}"
        return owner if owner in owners else min(owners)

    def expect_refusal_is_due(self, slot: int) -> None:
        """There is no other reason to refuse a store than a pool or a group that is full, or was
        when others began to wait there."""
        if any(map(self.plain.limited, self.plain.hint(slot))) or len(self.plain.stores) > 0:
            return
        assert self.plain.pages_with_entries() * PAGE_BYTES > self.pool_limit // 2, f"slot {slot}"

    def tree_bytes(self) -> dict[int, int]:
        return {group.id: group.tree_pool_bytes for group in self.tier.groups()}

    def expect_limits_hold(self, before: dict[int, int]) -> None:
        """No store puts a group above its limit; it may have been there, if that was lowered. One
        that waits and comes at the same time may, by an entry, and by one more if its owner is
        another now."""
        spare = 2 * ENTRY_BYTES_MAX if len(self.plain.stores) > 0 else 0
        for group, after in self.tree_bytes().items():
            limit = self.plain.groups[group].limit_in_force if group != ROOT else None
            if limit is not None:
                bound = max(limit, before.get(group, 0)) + spare
                assert after <= bound, f"group {group}: {after} bytes"

    # --- Stores and what undoes them

    @rule(slot=slots, kind=kinds, cgroup=charged)
    def store_page(self, slot: int, kind: PageKind, cgroup: int) -> None:
        self.plain.write_words(slot, 1, cgroup)
        self.publish_words(slot, 1)
        self.store(slot, [self.stamp(kind)])

    @rule(first=slots, count=counts, seed=seeds, cgroup=charged)
    def store_pages(self, first: int, count: int, seed: int, cgroup: int) -> None:
        first, count = self.clip(first, count)
        mix = random.Random(seed).choices(list(PageKind), [1, 1, 3, 2, 3], k=count)
        self.plain.write_words(first, count, cgroup)
        self.publish_words(first, count)
        self.store(first, [self.stamp(kind) for kind in mix])

    @rule(first=slots, cgroup=charged, count=st.sampled_from([300, 1200]))
    def flood(self, first: int, cgroup: int, count: int) -> None:
        """A fair part of the pool at once, and more than a cgroup with a limit may have."""
        first, count = self.clip(first, count)
        self.plain.write_words(first, count, cgroup)
        self.publish_words(first, count)
        self.store(first, [self.stamp(PageKind.RANDOM) for _ in range(count)])

    @rule(slot=slots, kind=kinds)
    def store_unseen(self, slot: int, kind: PageKind) -> None:
        """The word was not raised: the programs are gone, or were not there."""
        self.store(slot, [self.stamp(kind)])

    @rule(slot=slots, kind=kinds, cgroup=charged, change=st.sampled_from(["", "store", "trim"]))
    def store_if_unchanged(self, slot: int, kind: PageKind, cgroup: int, change: str) -> None:
        if self.held == ALL or self.plain.stores.waiting(slot):
            return
        before = self.plain.stamps[slot]
        status, version, right = self.tier.load_wait(slot, before)
        if status == native.IoStatus.IO_ERROR:
            assert self.gets_fail
            return
        assert right
        if change == "store":
            self.store_page(slot, kind, cgroup)
        elif change == "trim":
            self.trim(slot, 1)
        changed = change == "store" or (change == "trim" and before != EMPTY)
        stamp = self.stamp(kind)
        self.plain.write_words(slot, 1, cgroup)
        self.publish_words(slot, 1)
        status = self.tier.store_if(slot, stamp, version)
        if status == native.IoStatus.OK:
            assert not changed
            self.plain.put(slot, stamp, self.owner_of(slot, self.plain.hint(slot)), whole=False)
        elif status == native.IoStatus.NO_SPACE:
            self.expect_refusal_is_due(slot)
        else:
            assert status == native.IoStatus.CHANGED
            assert changed
            if not is_same_filled(stamp):
                self.plain.hint(slot)

    @rule(first=slots, count=st.one_of(counts, st.just(1), st.just(1000)))
    def trim(self, first: int, count: int) -> None:
        first, count = self.clip(first, count)
        self.tier.trim(first, count)
        for slot in self.plain.stores.waiting_slots():
            if first <= slot < first + count:
                self.plain.forget(slot)
        for slot in self.plain.held(range(first, first + count)):
            self.plain.forget(slot)

    # --- Stores that wait

    def hear_of_stores(self) -> None:
        """Takes in what became of those that ended, in that order."""
        for store_id, status in self.tier.ended_stores():
            store = self.plain.stores.take(store_id)
            assert store is not None, f"store {store_id} ends twice, or although it was cancelled"
            slot = store.slot
            if status == native.IoStatus.CHANGED:
                assert not store.whole
                # If an answer was lost the version is another one, too.
                assert store.over or self.plain.may_leave[slot], f"slot {slot} has not changed"
            elif status == native.IoStatus.NO_SPACE:
                assert not store.over or store.may_have_ended or not store.whole
                if store.whole and not store.over:
                    self.plain.refuse_store(store)
            else:
                assert status == native.IoStatus.OK
                if store.over:
                    assert store.whole or store.may_have_ended, f"slot {slot} has changed"
                else:
                    freed = store.may_have_been_freed and self.is_another_page(slot, store.stamp)
                    owner = ROOT if freed else self.owner_of(slot, store.owners)
                    self.plain.end_store(store, owner, freed=freed)
            PageRules.ends[f"{'superseded' if store.over else 'ended'}: {status.name}"] += 1

    def is_another_page(self, slot: int, stamp: int) -> bool:
        return self.tier.load(slot, array("I", [stamp]).tobytes())[0] == 1

    def let_stores_end(self) -> None:
        def all_ended() -> bool:
            self.hear_of_stores()
            return len(self.plain.stores) == 0

        assert self.eventually(all_ended)

    @staticmethod
    def eventually(condition: Callable[[], bool]) -> bool:
        """Waits for what threads of the tier do by themselves, with a bound."""
        deadline = time.monotonic() + SETTLE_MS / 1000
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    def look_at_words(self, slot: int) -> None:
        """Has the tier see now whom a page of the slot would belong to."""
        self.tier.try_store(slot, PageKind.RANDOM, NO_VERSION, may_wait=False)

    # --- Slot words

    def publish_words(self, first: int, count: int) -> None:
        self.tier.set_words(first, self.plain.words[first : first + count].tobytes())
        self.plain.words_seen(first, count)
        for slot in self.plain.stores.waiting_slots():
            if first <= slot < first + count:
                self.look_at_words(slot)

    @rule(first=slots, count=st.one_of(counts, st.just(1)), notices=st.sampled_from([0, 1, 1, 2]))
    def free_slots(self, first: int, count: int, notices: int) -> None:
        """The kernel frees slots; its notices come once, twice or never."""
        first, count = self.clip(first, count)
        for slot in range(first, first + count):
            self.plain.free_word(slot)
        self.publish_words(first, count)
        for slot in [*range(first, first + count)] * notices:
            self.notify(slot)

    @rule(slot=slots, kind=kinds, cgroup=charged, late=st.booleans())
    def free_and_store_again(self, slot: int, kind: PageKind, cgroup: int, late: bool) -> None:
        """The notice comes between the new word and its page, or behind both."""
        self.plain.free_word(slot)
        self.plain.write_words(slot, 1, cgroup)
        self.publish_words(slot, 1)
        if not late:
            self.notify(slot)
        self.store(slot, [self.stamp(kind)])
        if late:
            self.notify(slot)

    @rule(slot=slots, kind=kinds, cgroup=charged)
    def store_after_its_free(self, slot: int, kind: PageKind, cgroup: int) -> None:
        """The page reaches the tier when its slot is free again already: it is kept, a leak."""
        self.plain.write_words(slot, 1, cgroup)
        self.plain.free_word(slot)
        self.publish_words(slot, 1)
        self.store(slot, [self.stamp(kind)])
        self.notify(slot)

    @rule(slot=slots)
    def notify_falsely(self, slot: int) -> None:
        self.notify(slot)

    def notify(self, slot: int) -> None:
        if self.plain.stores.waiting(slot):
            return  # which of them go depends on what has been stored by now
        drops = self.plain.drops(slot)
        dropped = self.tier.on_slot_free(slot)
        assert dropped in drops, f"slot {slot}"
        if dropped:
            self.plain.dropped(slot)
        elif self.plain.words_used and self.plain.stamps[slot] == EMPTY:
            self.plain.note_earlier_sequence(slot)

    @initialize(use=st.sampled_from([True, True, True, False]))
    def use_words_from_the_start(self, use: bool) -> None:
        self.use_words(use=use)

    @rule(use=st.sampled_from([True, True, True, False]))
    def use_words(self, use: bool) -> None:
        """A new array each time: the programs were loaded anew."""
        if use == self.plain.words_used or len(self.plain.stores) > 0:
            return
        self.tier.use_words(use=False)
        self.plain.words = array("Q", bytes(8 * SLOTS))
        self.publish_words(0, SLOTS)
        self.tier.use_words(use=use)
        self.plain.use_words(use=use)

    @rule(cgroup=charged)
    def set_label(self, cgroup: int) -> None:
        self.tier.set_label(cgroup)
        self.plain.label = cgroup
        self.look_at_words(LABELLED)
        self.plain.meet(cgroup)
        for slot in self.plain.stores.waiting_slots():
            self.plain.look_at_stores(slot)

    # --- Reads

    @rule(first=slots, count=st.one_of(st.just(1), counts))
    def load(self, first: int, count: int) -> None:
        first, count = self.clip(first, count)
        stamps = self.plain.stamps[first : first + count].tobytes()
        waiting = self.plain.stores.waiting_slots()
        for slot, found in enumerate(self.tier.load(first, stamps), first):
            if slot in waiting:
                continue
            assert found != 1, f"slot {slot} does not hold {self.plain.stamps[slot]}"
            assert found != 3, f"slot {slot} cannot be read"
            assert found != 2 or self.plain.may_leave[slot], f"slot {slot} is remote"

    @precondition(lambda self: self.held != ALL)
    @rule(slot=slots)
    def load_wait(self, slot: int) -> None:
        if self.plain.stores.waiting(slot):
            return
        status, _, right = self.tier.load_wait(slot, self.plain.stamps[slot])
        if status == native.IoStatus.IO_ERROR:
            assert self.gets_fail
            assert self.plain.may_leave[slot]
        else:
            assert right, f"slot {slot} does not hold {self.plain.stamps[slot]}"

    @precondition(lambda self: len(self.plain.fetches) < 4)
    @rule(first=slots, count=st.integers(1, FETCH_PAGES_MAX))
    def start_fetch(self, first: int, count: int) -> None:
        first, count = self.clip(first, count)
        seen = [self.plain.contents(slot) for slot in range(first, first + count)]
        fetch = PlainFetch(self.tier.start_fetch(first, count), first, seen, self.gets_fail)
        self.plain.fetches.append(fetch)

    @precondition(lambda self: self.plain.fetches and self.held != ALL)
    @rule()
    def end_fetch(self) -> None:
        fetch = self.plain.fetches.pop(0)
        status, wrong = self.tier.end_fetch(fetch.id, fetch.seen)
        if status == native.IoStatus.IO_ERROR:
            assert fetch.may_fail
        else:
            assert wrong == -1, f"fetched {fetch.first + wrong}: none of {fetch.seen[wrong]}"

    @precondition(lambda self: self.held != ALL)
    @rule(slot=slots)
    def explain(self, slot: int) -> None:
        if self.plain.stores.waiting(slot):
            return
        explained = self.tier.explain(slot)
        stamp = self.plain.stamps[slot]
        assert explained.verified or self.gets_fail
        assert (explained.state == "empty") == (stamp == EMPTY)
        if stamp != EMPTY:
            assert explained.cgroup == self.plain.owners[slot]
        if explained.state not in ("empty", "same_filled", "local"):
            assert self.plain.may_leave[slot], f"slot {slot} is {explained.state}"
