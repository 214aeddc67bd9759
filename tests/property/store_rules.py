"""Rules of the state machine that begin stores which wait for room; see tier_machine.py.

Whether any waits is for the tier to say, so no precondition may ask: what is drawn must not depend
on it.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from property.group_rules import GroupRules
from property.page_rules import (
    ALL,
    CGROUPS,
    FETCH_PAGES_MAX,
    NOTHING,
    PUTS,
    SETTLE_MS,
    SLOTS,
    PageRules,
    charged,
    native,
    slots,
)
from property.plain_tier import EMPTY, ROOT, PageKind

CROWDED = 3  # slots that stores wait for most of the time
STORES_MAX = 12
FILLING_PAGES = 2400  # more than the pool has room for

EVENTS = ["store", "store if unchanged", "store zeros", "trim", "free", "cancel", "go on", "label"]
CGROUP_EVENTS = ["raise limit", "stop writeback", "remove"]

crowded_slots = st.integers(0, CROWDED - 1)
objects = st.sampled_from([PageKind.COMPRESSIBLE, PageKind.RANDOM, PageKind.ALIKE])
happenings = st.sampled_from([*EVENTS, *CGROUP_EVENTS, *["make room"] * 3])
begun = st.lists(st.tuples(crowded_slots, objects), min_size=2, max_size=8)
events = st.lists(st.tuples(happenings, st.integers(1, 16)), min_size=4, max_size=16)


class StoreRules(GroupRules):
    """A store waits where nothing leaves, so these rules see to that first."""

    @rule(first=slots, cgroup=charged, at_limit=st.booleans())
    def fill(self, first: int, cgroup: int, at_limit: bool) -> None:
        """The pool, or a cgroup with a limit, has no room for another page."""
        if at_limit and cgroup != ROOT:
            self.configure(cgroup, 0, writeback=True, quota=None, compressor=None)
        self.hold(PUTS)
        first, count = self.clip(first, FILLING_PAGES)
        self.plain.write_words(first, count, cgroup)
        self.publish_words(first, count)
        self.plain.offered = 1
        for slot in range(first, first + count):
            stamp = self.stamp(PageKind.RANDOM if slot % 4 else PageKind.COMPRESSIBLE)
            status, _ = self.tier.try_store(slot, stamp, None, may_wait=False)
            if status == native.IoStatus.WAITS:
                self.plain.hint(slot)
                break
            self.stored(slot, stamp, status)

    @rule(slot=st.one_of(crowded_slots, slots), kind=objects, cgroup=charged, seen=st.booleans())
    def begin_store(self, slot: int, kind: PageKind, cgroup: int, seen: bool) -> None:
        if len(self.plain.stores) == STORES_MAX:
            return
        if seen:
            self.plain.write_words(slot, 1, cgroup)
            self.publish_words(slot, 1)
        stamp = self.stamp(kind)
        self.plain.offered = 1
        status, store = self.tier.try_store(slot, stamp, None, may_wait=True)
        if status == native.IoStatus.WAITS:
            self.expect_refusal_is_due(slot)
            self.plain.begin_store(store, slot, stamp, whole=True)
        else:
            self.stored(slot, stamp, status)

    @precondition(lambda self: self.held != ALL)
    @rule(slot=st.one_of(crowded_slots, slots), kind=objects)
    def begin_store_if_unchanged(self, slot: int, kind: PageKind) -> None:
        """Of the page that was there before all that wait for the slot."""
        if len(self.plain.stores) == STORES_MAX:
            return
        before = self.plain.stamps[slot]
        status, version, right = self.tier.load_wait(slot, before)
        if status != native.IoStatus.OK or before == EMPTY or not right:
            assert right or self.gets_fail or self.plain.stores.waiting(slot)
            return
        stamp = self.stamp(kind)
        self.plain.offered = 1
        status, store = self.tier.try_store(slot, stamp, version, may_wait=True)
        if status == native.IoStatus.WAITS:
            self.expect_refusal_is_due(slot)
            self.plain.begin_store(store, slot, stamp, whole=False)
        elif status == native.IoStatus.NO_SPACE:
            self.expect_refusal_is_due(slot)
        elif status == native.IoStatus.OK:
            owner = self.owner_of(slot, self.plain.hint(slot))
            self.plain.put(slot, stamp, owner, whole=False)
        else:
            assert self.plain.stores.waiting(slot) or self.plain.may_leave[slot]
            self.plain.hint(slot)

    @rule(which=st.integers(0, STORES_MAX - 1))
    def cancel_store(self, which: int) -> None:
        """What was cancelled never comes; what cannot be is told."""
        stores = list(self.plain.stores)
        if not stores:
            return
        store = stores[which % len(stores)]
        if self.tier.cancel_store(store.id):
            assert not (store.whole and store.over), f"store {store.id} waits, superseded"
            self.plain.stores.take(store.id)
            PageRules.ends["cancelled"] += 1
            return

        def told() -> bool:
            self.hear_of_stores()
            return store not in list(self.plain.stores)

        assert self.eventually(told), f"store {store.id} is neither in line nor told its end"

    @initialize(at_limit=st.booleans(), cgroup=charged, begun=begun)
    def start_full(self, at_limit: bool, cgroup: int, begun: list[tuple[int, PageKind]]) -> None:
        self.race_of_stores(at_limit, cgroup, begun, [])

    @rule(at_limit=st.booleans(), cgroup=charged, begun=begun, events=events)
    def race_of_stores(
        self,
        at_limit: bool,
        cgroup: int,
        begun: list[tuple[int, PageKind]],
        events: list[tuple[str, int]],
    ) -> None:
        """Several wait, some for one slot, while this and that happens."""
        self.let_writeback_go_on()
        filled = self.random.randrange(4, SLOTS, 4)
        self.fill(filled, cgroup, at_limit)
        for slot, kind in begun:
            self.begin_store(slot, kind, cgroup, seen=True)
        for event, which in events:
            if event in CGROUP_EVENTS:
                self.happen_to_cgroup(event, cgroup)
            else:
                self.happen(event, which, cgroup, filled)
            self.check_slots(0, CROWDED)

    def let_writeback_go_on(self) -> None:
        """A shortage that goes on would have stores refused at once."""
        self.heal()
        self.let_stores_end()
        self.tier.start_writeback(FETCH_PAGES_MAX)
        self.tier.settle(SETTLE_MS)

    def happen(self, event: str, which: int, cgroup: int, filled: int) -> None:
        slot = which % CROWDED
        if event == "store":
            self.begin_store(slot, PageKind.RANDOM, cgroup, seen=which % 2 == 0)
        elif event == "store if unchanged" and self.held != ALL:
            self.begin_store_if_unchanged(slot, PageKind.RANDOM)
        elif event == "store zeros":
            self.store_page(slot, PageKind.ZERO, cgroup)
        elif event == "trim":
            self.trim(slot, 1)
        elif event == "free":
            self.free_slots(slot, 1, 1)
        elif event == "cancel":
            self.cancel_store(which)
        elif event == "make room":
            # Of the one size or of the other.
            self.trim(min(filled + which // 2 * 4 + which % 2, SLOTS - 1), 1)
        elif event == "go on":
            self.hold(NOTHING)
        elif event == "label":
            self.set_label(CGROUPS[which % len(CGROUPS)])

    def happen_to_cgroup(self, event: str, cgroup: int) -> None:
        if cgroup == ROOT:
            return
        if event == "raise limit":
            self.configure(cgroup, 1 << 20, writeback=True, quota=None, compressor=None)
        elif event == "stop writeback":
            self.configure(cgroup, 0, writeback=False, quota=None, compressor=None)
        elif event == "remove":
            self.remove(cgroup)
