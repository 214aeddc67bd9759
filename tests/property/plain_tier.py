"""What the tier must look like from outside, as plain arrays and dictionaries.

It has no pools, lists, threads or servers. A page is its stamp (see
native/tests/tier_model_module.cc): kind + 8 * number, EMPTY for a slot that holds nothing. The
rules of attribution and of early freeing are those of native/tier/slot_words.h and tier.h.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

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
    """A cgroup that was placed or configured, or that a page was stored for."""

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

    def __post_init__(self) -> None:
        self.stamps = array("I", bytes(4 * self.slots))
        self.owners = array("I", bytes(4 * self.slots))
        self.may_leave = bytearray(self.slots)
        self.words = array("Q", bytes(8 * self.slots))
        self.kept = bytearray(self.slots)
        self.stored_at = array("I", bytes(4 * self.slots))

    # --- Pages

    def put(self, slot: int, stamp: int) -> None:
        """A page was stored."""
        owner = self.hint(slot)
        if self.words_used:
            self.kept[slot] = self._sequence(slot)
        self._replace(slot, stamp, owner)
        self.stored_at[slot] = self.now
        self.may_leave[slot] = self.may_write_back(owner)

    def forget(self, slot: int) -> None:
        """The slot holds nothing any more: trimmed, freed, or its store refused."""
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

    def _count(self, slot: int, by: int) -> None:
        stamp, owner = self.stamps[slot], self.owners[slot]
        if stamp != EMPTY:
            self.pages[owner] += by
            self.same_filled[owner] += by * is_same_filled(stamp)

    # --- Slot words

    def attribute(self, slot: int) -> int:
        """The cgroup that a page stored now is charged to."""
        if not self.words_used or self._sequence(slot) == self.kept[slot]:
            return self.label
        return self.words[slot] >> 32 or self.label

    def hint(self, slot: int) -> int:
        """The tier has looked at whom a page stored now would belong to."""
        return self.meet(self.attribute(slot))

    def _sequence(self, slot: int) -> int:
        return (self.words[slot] & 0xFFFFFFFF) >> 1 & KEPT_SEQUENCE_MASK

    def use_words(self, *, use: bool) -> None:
        """From now on, or no longer; what slots hold came before what these words tell."""
        self.words_used = use
        if use:
            for slot in range(self.slots):
                self._note_earlier_sequence(slot)

    def _note_earlier_sequence(self, slot: int) -> None:
        """The next write that is seen differs from the slot's earlier state."""
        seen = self._sequence(slot) - (0 if self.words[slot] & 1 else 1)
        self.kept[slot] = seen & KEPT_SEQUENCE_MASK

    def write_words(self, first: int, count: int, cgroup: int) -> None:
        """What BPF does before a write reaches the tier."""
        for slot in range(first, first + count):
            self.words[slot] = cgroup << 32 | self._next_sequence(slot)

    def free_word(self, slot: int) -> None:
        """What BPF does when the kernel frees the slot."""
        cgroup = self.words[slot] >> 32
        self.words[slot] = cgroup << 32 | self._next_sequence(slot) | 1

    def _next_sequence(self, slot: int) -> int:
        return (self.words[slot] & 0xFFFFFFFE) + 2 & 0xFFFFFFFE

    def notified(self, slot: int) -> bool:
        """The kernel is said to have freed the slot: whether its page is dropped."""
        if not self.words_used:
            return False
        if self.stamps[slot] == EMPTY:
            self._note_earlier_sequence(slot)
            return False
        drops = bool(self.words[slot] & 1) and self.kept[slot] != self._sequence(slot)
        if drops:
            self.kept[slot] = self._sequence(slot)
            self.forget(slot)
        return drops

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
        """Whether it is on for the group and all above it."""
        return all(self.groups[each].writeback for each in self.above(cgroup))

    def let_leave(self) -> None:
        """Writeback may have been switched on for some: their pages may leave from now on."""
        may = {cgroup for cgroup in self.groups if self.may_write_back(cgroup)}
        for slot, owner in enumerate(self.owners):
            if owner in may:
                self.may_leave[slot] = True

    def limited(self, cgroup: int) -> bool:
        """Whether the group or one above it has a limit of its own."""
        return any(self.groups[each].pool_limit_bytes is not None for each in self.above(cgroup))

    def may_have_left(self) -> dict[int, int]:
        """Pages that may be elsewhere than in the pool, by group."""
        counts = dict.fromkeys(self.groups, 0)
        for stamp, owner, may in zip(self.stamps, self.owners, self.may_leave, strict=True):
            counts[owner] += bool(may) and stamp != EMPTY and not is_same_filled(stamp)
        return counts

    def pages_with_entries(self) -> int:
        """Those that are not same-filled, and as many as were offered last."""
        return sum(self.pages.values()) - sum(self.same_filled.values()) + self.offered

    def held(self, slots: Iterable[int]) -> list[int]:
        """Those that hold a page."""
        return [slot for slot in slots if self.stamps[slot] != EMPTY]
