"""Rules of the state machine that store, free and read pages; see tier_machine.py."""

from __future__ import annotations

import random
from array import array

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from property.native_tier import RecordedTier, load_native_tier
from property.plain_tier import EMPTY, ROOT, PageKind, PlainFetch, PlainTier

native = load_native_tier()

SLOTS = 4096
PAGE_BYTES = 4096
POOL_BYTES = 6 << 20
POOL_BYTES_MIN = 4 << 20
STORE_WAIT_MS = 3
FETCH_PAGES_MAX = 64

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

    def __init__(self) -> None:
        super().__init__()
        self.tier = RecordedTier(
            native.ModelTier(slots=SLOTS, pool_bytes=POOL_BYTES, store_wait_ms=STORE_WAIT_MS)
        )
        self.plain = PlainTier(SLOTS)
        self.numbers = 0
        self.held = NOTHING
        self.gets_fail = False
        self.pool_limit = POOL_BYTES

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
            if status == native.IoStatus.NO_SPACE:
                self.expect_refusal_is_due(slot)
                self.plain.refuse(slot)
            else:
                assert status == native.IoStatus.OK
                self.plain.put(slot, stamp)
        self.expect_limits_hold(before)

    def expect_refusal_is_due(self, slot: int) -> None:
        """There is no other reason to refuse a store than a pool or a group that is full."""
        if self.plain.limited(self.plain.hint(slot)):
            return
        assert self.plain.pages_with_entries() * PAGE_BYTES > self.pool_limit // 2, f"slot {slot}"

    def tree_bytes(self) -> dict[int, int]:
        return {group.id: group.tree_pool_bytes for group in self.tier.groups()}

    def expect_limits_hold(self, before: dict[int, int]) -> None:
        """No store puts a group above its limit; it may have been there, if that was lowered."""
        for group, after in self.tree_bytes().items():
            limit = self.plain.groups[group].limit_in_force if group != ROOT else None
            if limit is not None:
                assert after <= max(limit, before.get(group, 0)), f"group {group}: {after} bytes"

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

    @rule(first=slots, count=st.one_of(counts, st.just(1), st.just(1000)))
    def trim(self, first: int, count: int) -> None:
        first, count = self.clip(first, count)
        self.tier.trim(first, count)
        for slot in self.plain.held(range(first, first + count)):
            self.plain.forget(slot)

    # --- Slot words

    def publish_words(self, first: int, count: int) -> None:
        self.tier.set_words(first, self.plain.words[first : first + count].tobytes())

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
        assert self.tier.on_slot_free(slot) == self.plain.notified(slot), f"slot {slot}"

    @initialize(use=st.sampled_from([True, True, True, False]))
    def use_words_from_the_start(self, use: bool) -> None:
        self.use_words(use=use)

    @rule(use=st.sampled_from([True, True, True, False]))
    def use_words(self, use: bool) -> None:
        """A new array each time: the programs were loaded again."""
        if use == self.plain.words_used:
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

    # --- Reads

    @rule(first=slots, count=st.one_of(st.just(1), counts))
    def load(self, first: int, count: int) -> None:
        first, count = self.clip(first, count)
        stamps = self.plain.stamps[first : first + count].tobytes()
        for slot, found in enumerate(self.tier.load(first, stamps), first):
            assert found != 1, f"slot {slot} does not hold {self.plain.stamps[slot]}"
            assert found != 3, f"slot {slot} cannot be read"
            assert found != 2 or self.plain.may_leave[slot], f"slot {slot} is remote"

    @precondition(lambda self: self.held != ALL)
    @rule(slot=slots)
    def load_wait(self, slot: int) -> None:
        status, right = self.tier.load_wait(slot, self.plain.stamps[slot])
        if status == native.IoStatus.IO_ERROR:
            assert self.gets_fail
            assert self.plain.may_leave[slot]
        else:
            assert right, f"slot {slot} does not hold {self.plain.stamps[slot]}"

    @precondition(lambda self: len(self.plain.fetches) < 4)
    @rule(first=slots, count=st.integers(1, FETCH_PAGES_MAX))
    def start_fetch(self, first: int, count: int) -> None:
        first, count = self.clip(first, count)
        seen = [[stamp] for stamp in self.plain.stamps[first : first + count]]
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
        explained = self.tier.explain(slot)
        stamp = self.plain.stamps[slot]
        assert explained.verified or self.gets_fail
        assert (explained.state == "empty") == (stamp == EMPTY)
        if stamp != EMPTY:
            assert explained.cgroup == self.plain.owners[slot]
        if explained.state not in ("empty", "same_filled", "local"):
            assert self.plain.may_leave[slot], f"slot {slot} is {explained.state}"
