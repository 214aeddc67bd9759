"""What the tier must look like from outside, as plain arrays and dictionaries.

Nothing here knows of pools, lists, threads or servers. A page is its stamp (see
native/tests/tier_model_module.cc): kind + 8 * number, EMPTY for a slot that holds nothing. The
rules of attribution and of early freeing are those of native/tier/slot_words.h and tier.h.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from property.plain_stores import PlainStore, PlainStores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

EMPTY = 0
ROOT = 0
GROUP_LIMIT_MIN = 256 << 10
# The tier keeps this many bits of a slot word's sequence.
KEPT_SEQUENCE_MASK = 0xFF


class PageKind(IntEnum):
    """The kinds of native/tests/stamped_page.h."""

    ZERO = 0
    SAME_FILLED = 1
    COMPRESSIBLE = 2
    RANDOM = 3
    ALIKE = 4


def is_same_filled(stamp: int) -> bool:
    """Whether a page of one repeated word, zero included."""
    return stamp != EMPTY and stamp % 8 <= PageKind.SAME_FILLED


@dataclass
class PlainGroup:
    """A cgroup as far as somebody placed or configured it, or stored a page for it."""

    parent: int = ROOT
    placed: bool = False
    pool_limit_bytes: int | None = None
    writeback: bool = True
    remote_pages_max: int | None = None

    @property
    def limit_in_force(self) -> int | None:
        """Of its tree's pool bytes."""
        if self.pool_limit_bytes is None:
            return None
        return max(self.pool_limit_bytes, GROUP_LIMIT_MIN)


@dataclass
class PlainFetch:
    """A read that is under way: every page that each slot held since it began."""

    id: int
    first: int
    seen: list[list[int]]
    may_fail: bool


@dataclass
class PlainTier:
    """Pages, the cgroups they belong to, and which of them may have left the pool."""

    slots: int
    stamps: array[int] = field(init=False)
    owners: array[int] = field(init=False)  # of the slots that are not empty
    may_leave: bytearray = field(init=False)  # written back, perhaps, since the page was stored
    words: array[int] = field(init=False)
    kept: bytearray = field(init=False)  # sequence at the last store
    stored_at: array[int] = field(init=False)
    now: int = 0
    offered: int = 0  # pages to be stored at once, last time
    words_used: bool = False
    label: int = ROOT
    groups: dict[int, PlainGroup] = field(default_factory=lambda: {ROOT: PlainGroup(placed=True)})
    gone: dict[int, int] = field(default_factory=dict)  # removed cgroup: where its pages go
    pages: dict[int, int] = field(default_factory=lambda: {ROOT: 0})  # not empty, by group
    same_filled: dict[int, int] = field(default_factory=lambda: {ROOT: 0})
    fetches: list[PlainFetch] = field(default_factory=list)
    stores: PlainStores = field(default_factory=PlainStores)  # that wait
    unsure: dict[int, set[int]] = field(default_factory=dict)  # instead of `kept`: one of these

    def __post_init__(self) -> None:
        self.stamps = array("I", bytes(4 * self.slots))
        self.owners = array("I", bytes(4 * self.slots))
        self.may_leave = bytearray(self.slots)
        self.words = array("Q", bytes(8 * self.slots))
        self.kept = bytearray(self.slots)
        self.stored_at = array("I", bytes(4 * self.slots))

    # --- Pages

    def put(self, slot: int, stamp: int, owner: int, *, whole: bool = True) -> None:
        """A page was stored, of one of the groups of hint()."""
        if self.words_used:
            self._keep(slot, {self._sequence(slot)})
        self.stores.outdate(slot, whole=whole)
        self._replace(slot, stamp, owner)
        self.stored_at[slot] = self.now
        self.may_leave[slot] = self.may_write_back(owner)

    def forget(self, slot: int) -> None:
        """The slot holds nothing any more: trimmed, or its store refused."""
        self._keep(slot, self.kept_now(slot))
        self.stores.outdate(slot)
        self._replace(slot, EMPTY, ROOT)

    def refuse(self, slot: int) -> None:
        """A store of a whole page found no room."""
        self.hint(slot)
        self.forget(slot)

    def _replace(self, slot: int, stamp: int, owner: int) -> None:
        self._count(slot, -1)
        self.stamps[slot] = stamp
        self.owners[slot] = owner
        self._count(slot, +1)
        for fetch in self.fetches:
            if 0 <= slot - fetch.first < len(fetch.seen):
                fetch.seen[slot - fetch.first].append(stamp)
        self.look_at_stores(slot)

    def _count(self, slot: int, by: int) -> None:
        stamp, owner = self.stamps[slot], self.owners[slot]
        if stamp != EMPTY:
            self.pages[owner] += by
            self.same_filled[owner] += by * is_same_filled(stamp)

    # --- Stores that wait

    def begin_store(self, store_id: int, slot: int, stamp: int, *, whole: bool) -> None:
        """A store has found no room."""
        store = PlainStore(store_id, slot, stamp, whole, self.now, set(), set(), may_leave=False)
        self.stores.add(store)
        for fetch in self.fetches:
            if 0 <= slot - fetch.first < len(fetch.seen):
                fetch.seen[slot - fetch.first] += [stamp, EMPTY]
        self.words_seen(slot, 1)

    def end_store(self, store: PlainStore, owner: int, *, freed: bool) -> None:
        """The page of one that waited was stored, and has perhaps been freed since."""
        self.stores.outdate(store.slot, store, whole=store.whole)
        if freed:
            return
        if store.sequences:
            self._keep(store.slot, store.sequences)
        self._replace(store.slot, store.stamp, owner)
        self.stored_at[store.slot] = store.began
        self.may_leave[store.slot] = store.may_leave

    def refuse_store(self, store: PlainStore) -> None:
        """A whole page that waited has found no room for too long."""
        self.stores.outdate(store.slot, store)
        self._replace(store.slot, EMPTY, ROOT)

    def contents(self, slot: int) -> list[int]:
        """What the slot may hold."""
        waiting = self.stores.waiting(slot)
        refusable = [EMPTY] if any(each.whole for each in waiting) else []
        return [self.stamps[slot], *(each.stamp for each in waiting), *refusable]

    def words_seen(self, first: int, count: int) -> None:
        """The tier sees the slots' words as they are now."""
        for slot in self.stores.waiting_slots():
            if first <= slot < first + count:
                for each in self.stores.waiting(slot):
                    each.sequences |= {self._sequence(slot)} if self.words_used else set()
                self.look_at_stores(slot)

    def look_at_stores(self, slot: int) -> None:
        """The tier may do so whenever something has changed that decides about owners."""
        for each in self.stores.waiting(slot):
            each.owners |= self.hint(slot, each.id)
            each.may_leave |= any(map(self.may_write_back, each.owners))

    # --- Slot words

    def attribute(self, slot: int, before: int | None = None) -> set[int]:
        """The cgroup that a page stored now is charged to, or several that it may be; with an id,
        if none has come in the meantime of those that began to wait after that store."""
        if not self.words_used:
            return {self.label}
        charged = self.words[slot] >> 32 or self.label
        kept = self.kept_now(slot, before)
        return {self.label if self._sequence(slot) == each else charged for each in kept}

    def hint(self, slot: int, before: int | None = None) -> set[int]:
        """The tier has looked at whom a page stored now would belong to."""
        return {self.meet(each) for each in self.attribute(slot, before)}

    def kept_now(self, slot: int, before: int | None = None) -> set[int]:
        """What the tier may know as the sequence of the last store."""
        kept = self.unsure.get(slot, {self.kept[slot]})
        if len(self.stores) == 0:
            return kept
        ids = (each for each in self.stores.waiting(slot) if before is None or each.id < before)
        return kept.union(*(each.sequences for each in ids))

    def _keep(self, slot: int, sequences: set[int]) -> None:
        self.unsure.pop(slot, None)
        if len(sequences) == 1:
            (self.kept[slot],) = sequences
        else:
            self.unsure[slot] = sequences

    def _sequence(self, slot: int) -> int:
        return (self.words[slot] & 0xFFFFFFFF) >> 1 & KEPT_SEQUENCE_MASK

    def use_words(self, *, use: bool) -> None:
        """From now on, or no longer; what slots hold came before what these words tell."""
        self.words_used = use
        if use:
            for slot in range(self.slots):
                self.note_earlier_sequence(slot)

    def note_earlier_sequence(self, slot: int) -> None:
        """The next write that is seen is told from what the slot had, or had not."""
        seen = self._sequence(slot) - (0 if self.words[slot] & 1 else 1)
        self._keep(slot, {seen & KEPT_SEQUENCE_MASK})

    def write_words(self, first: int, count: int, cgroup: int) -> None:
        """What BPF does before a write reaches the tier."""
        for slot in range(first, first + count):
            self.words[slot] = cgroup << 32 | self._next_sequence(slot)

    def free_word(self, slot: int) -> None:
        """What BPF does when the kernel frees the slot."""
        cgroup = self.words[slot] >> 32
        self.words[slot] = cgroup << 32 | self._next_sequence(slot) | 1
        for each in self.stores.waiting(slot):
            each.may_have_been_freed = True

    def _next_sequence(self, slot: int) -> int:
        return (self.words[slot] & 0xFFFFFFFE) + 2 & 0xFFFFFFFE

    def drops(self, slot: int) -> set[bool]:
        """The kernel is said to have freed the slot, for which no store waits: whether its page is
        dropped, if that is known."""
        if not self.words_used or not self.words[slot] & 1 or self.stamps[slot] == EMPTY:
            return {False}
        return {each != self._sequence(slot) for each in self.kept_now(slot)}

    def dropped(self, slot: int) -> None:
        """Its page was."""
        self._keep(slot, {self._sequence(slot)})
        self._replace(slot, EMPTY, ROOT)

    # --- Groups

    def meet(self, cgroup: int) -> int:
        """The group of a page charged to the cgroup; one never heard of comes below the root."""
        if cgroup in self.groups:
            return cgroup
        if cgroup in self.gone:
            return self.gone[cgroup]
        self._add(cgroup)
        return cgroup

    def _add(self, cgroup: int) -> None:
        self.gone.pop(cgroup, None)
        self.groups[cgroup] = PlainGroup()
        self.pages[cgroup] = self.same_filled[cgroup] = 0
        for slot in self.stores.waiting_slots():
            self.look_at_stores(slot)

    def place(self, cgroup: int, parent: int) -> bool:
        """False: the parent was not placed, or the cgroup is elsewhere already."""
        above = self.groups.get(parent)
        if above is None or not above.placed or self.is_within(parent, cgroup):
            return False
        if cgroup not in self.groups:
            self._add(cgroup)
        group = self.groups[cgroup]
        if group.placed:
            return group.parent == parent
        group.parent, group.placed = parent, True
        return True

    def configure(self, cgroup: int) -> PlainGroup:
        """The group to be changed, made if need be. Call let_leave() afterwards."""
        if cgroup not in self.groups:
            self._add(cgroup)
        return self.groups[cgroup]

    def remove(self, cgroup: int) -> None:
        """Its pages, also those to come, and its children are its parent's."""
        if cgroup not in self.groups:
            return
        parent = self.groups.pop(cgroup).parent
        for each in self.groups.values():
            if each.parent == cgroup:
                each.parent = parent
        self.gone = {old: parent if to == cgroup else to for old, to in self.gone.items()}
        self.gone[cgroup] = parent
        for slot in range(self.slots):
            if self.owners[slot] == cgroup:
                self.owners[slot] = parent
        for store in self.stores:
            store.owners = {parent if each == cgroup else each for each in store.owners}
        self.pages[parent] += self.pages.pop(cgroup)
        self.same_filled[parent] += self.same_filled.pop(cgroup)
        self.let_leave()

    def above(self, cgroup: int) -> Iterator[int]:
        """The group and all above it."""
        while cgroup != ROOT:
            yield cgroup
            cgroup = self.groups[cgroup].parent
        yield ROOT

    def is_within(self, cgroup: int, ancestor: int) -> bool:
        """Whether the group is the ancestor or below it; ROOT counts as below itself alone."""
        return ancestor != ROOT and ancestor in self.above(cgroup)

    def may_write_back(self, cgroup: int) -> bool:
        """Whether nobody at or above the group has switched it off."""
        return all(self.groups[each].writeback for each in self.above(cgroup))

    def let_leave(self) -> None:
        """Writeback may have been switched on for some: their pages may leave from now on."""
        may = {cgroup for cgroup in self.groups if self.may_write_back(cgroup)}
        for slot, owner in enumerate(self.owners):
            if owner in may:
                self.may_leave[slot] = True
        for store in self.stores:
            store.may_leave |= not may.isdisjoint(store.owners)

    def limited(self, cgroup: int) -> bool:
        """Whether the group or one above it has a limit of its own."""
        return any(self.groups[each].pool_limit_bytes is not None for each in self.above(cgroup))

    def may_have_left(self) -> dict[int, int]:
        """Pages that may be elsewhere than in the pool, by group."""
        counts = dict.fromkeys(self.groups, 0)
        for stamp, owner, may in zip(self.stamps, self.owners, self.may_leave, strict=True):
            counts[owner] += bool(may) and stamp != EMPTY and not is_same_filled(stamp)
        for store in self.stores:
            for owner in store.owners:
                counts[owner] += store.may_leave and not store.over
        return counts

    def pages_at_least_and_most(self, cgroup: int, *, same_filled: bool) -> tuple[int, int]:
        """How many pages, or same-filled ones, the group has; not known are those of slots for
        which stores wait, of which none is same-filled."""
        least = most = (self.same_filled if same_filled else self.pages)[cgroup]
        for slot in self.stores.waiting_slots():
            stamp = self.stamps[slot]
            has_one = stamp != EMPTY and self.owners[slot] == cgroup
            if has_one and (not same_filled or is_same_filled(stamp)):
                least -= 1
            elif not same_filled and not has_one:
                most += any(cgroup in each.owners for each in self.stores.waiting(slot))
        return least, most

    def pages_with_entries(self) -> int:
        """Those that are not same-filled, and as many as were offered last."""
        return sum(self.pages.values()) - sum(self.same_filled.values()) + self.offered

    def held(self, slots: Iterable[int]) -> list[int]:
        """Those that hold a page."""
        return [slot for slot in slots if self.stamps[slot] != EMPTY]
