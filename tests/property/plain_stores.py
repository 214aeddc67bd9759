"""Stores that wait for room, as the plain tier knows them.

When one ends nobody can foretell, so until its end was told its slot may have what it had, the page
of any store that waits, or nothing. That is all: a page that came later is never replaced by one
that came before, what was cancelled or superseded never comes, and what a store is told fits what
has become of its slot. The rules are those of native/tier/store_queue.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class PlainStore:
    """One that waits, or whose end is still to be told."""

    id: int  # they are counted as they come
    slot: int
    stamp: int
    whole: bool  # else bound to the version that its slot had
    began: int
    owners: set[int]  # groups that its page may belong to
    sequences: set[int]  # of the slot's word since then: one is kept when the page is stored
    may_leave: bool
    over: bool = False  # superseded, or its version is not the slot's any more
    may_have_ended: bool = True  # before it was over: that is not known
    may_have_been_freed: bool = False  # while it waited, or after it was stored


class PlainStores:
    """All of them, by id."""

    def __init__(self) -> None:
        self._untold: dict[int, PlainStore] = {}

    def __len__(self) -> int:
        return len(self._untold)

    def __iter__(self) -> Iterator[PlainStore]:
        return iter(self._untold.values())

    def add(self, store: PlainStore) -> None:
        self._untold[store.id] = store

    def take(self, store_id: int) -> PlainStore | None:
        """Its end is known. None: it was already, or the store was cancelled."""
        return self._untold.pop(store_id, None)

    def waiting(self, slot: int) -> list[PlainStore]:
        """Those whose pages may still come to the slot, in the order in which they began."""
        return [each for each in self if each.slot == slot and not each.over]

    def waiting_slots(self) -> list[int]:
        return sorted({each.slot for each in self if not each.over})

    def outdate(self, slot: int, end: PlainStore | None = None, *, whole: bool = True) -> None:
        """The slot has another page, or none, by the end of a store that waited or by anything
        else: nothing that waits for its version comes any more, nor, if a whole page is what came
        or was to come, do those that began before."""
        for each in self.waiting(slot):
            if each.whole and (not whole or (end is not None and each.id > end.id)):
                continue
            each.over = True
            # Ends are told in order: one of before that of `end` would have been.
            each.may_have_ended = end is None
