"""Rules of the state machine that change cgroups, settings and the remote store; see
tier_machine.py."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hang_guard import HANG_GUARD_S
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from property.page_rules import (
    ALL,
    NOTHING,
    POOL_BYTES,
    POOL_BYTES_MIN,
    PUTS,
    PageRules,
    cgroups,
    native,
)
from property.plain_tier import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

SETTLE_MS = int(HANG_GUARD_S * 1000)

levels = st.sampled_from([("lz4", 1), ("lz4", 64), ("zstd", 1), ("zstd", 9)])
PUT_FAILURES = [each for each in native.PutResult if each != native.PutResult.ACKED]
GET_FAILURES = [each for each in native.GetResult if each != native.GetResult.FOUND]
LOST_ANSWER = "the page is kept, its acknowledgement is lost"
put_failures = st.sampled_from([*PUT_FAILURES, LOST_ANSWER])


class GroupRules(PageRules):
    """Everything but writeback."""

    def __init__(self) -> None:
        super().__init__()
        self.remote_bounds: dict[int, int] = {}
        self.was_limited: set[int] = set()  # or took in pages of a group that was

    @staticmethod
    def eventually(condition: Callable[[], bool]) -> bool:
        """Waits for what threads of the tier do by themselves, with a bound."""
        deadline = time.monotonic() + SETTLE_MS / 1000
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    # --- Cgroups

    @initialize(count=st.sampled_from([0, 3, 6, 6]))
    def place_some(self, count: int) -> None:
        below = {101: ROOT, 102: 101, 103: 101, 104: 102, 105: ROOT, 106: 105}
        for cgroup, parent in list(below.items())[:count]:
            assert self.tier.place(cgroup, parent) == self.plain.place(cgroup, parent)

    @rule(cgroup=cgroups, parent=st.one_of(st.just(ROOT), cgroups))
    def place(self, cgroup: int, parent: int) -> None:
        if cgroup != parent:
            assert self.tier.place(cgroup, parent) == self.plain.place(cgroup, parent)
            self.tree_changed()

    @rule(cgroup=cgroups)
    def remove(self, cgroup: int) -> None:
        if cgroup in self.was_limited and cgroup in self.plain.groups:
            self.was_limited.add(self.plain.groups[cgroup].parent)
        self.tier.remove(cgroup)
        self.plain.remove(cgroup)
        self.was_limited.discard(cgroup)
        self.tree_changed()

    @rule(
        cgroup=cgroups,
        pool_limit=st.sampled_from([None, None, 0, 300 << 10, 1 << 20]),
        writeback=st.sampled_from([True, True, False]),
        quota=st.sampled_from([None, None, 0, 20, 300]),
        compressor=st.one_of(st.none(), levels),
    )
    def configure(
        self,
        cgroup: int,
        pool_limit: int | None,
        writeback: bool,
        quota: int | None,
        compressor: tuple[str, int] | None,
    ) -> None:
        group = self.plain.configure(cgroup)
        group.pool_limit_bytes = pool_limit
        group.writeback = writeback
        group.remote_pages_max = quota
        self.plain.let_leave()
        assert self.tier.configure(
            cgroup,
            pool_limit_bytes=pool_limit,
            writeback=writeback,
            remote_pages_max=quota,
            compressor=compressor,
        )
        self.tree_changed()

    def tree_changed(self) -> None:
        """Limits, quotas or who is below whom: what a group holds now may be above them."""
        self.remote_bounds = {}
        self.was_limited |= {each for each in self.plain.groups if self.plain.limited(each)}

    # --- Settings

    @rule(level=levels)
    def set_compressor(self, level: tuple[str, int]) -> None:
        self.tier.set_compressor(level)

    @rule(level=st.sampled_from([None, ("zstd", 1), ("zstd", 9)]))
    def set_recompression(self, level: tuple[str, int] | None) -> None:
        self.tier.set_recompression(level)

    @rule(on=st.booleans())
    def set_packing(self, on: bool) -> None:
        assert self.tier.set_packing(on)

    @rule(pool=st.integers(POOL_BYTES_MIN, POOL_BYTES), percent=st.sampled_from([1, 50, 90, 100]))
    def set_limits(self, pool: int, percent: int) -> None:
        assert self.tier.set_limits(pool, percent)
        self.pool_limit = pool

    @rule(seconds=st.integers(1, 100))
    def let_time_pass(self, seconds: int) -> None:
        self.tier.advance_clock(seconds)
        self.plain.now += seconds

    # --- The remote store

    @rule(what=st.sampled_from([NOTHING, NOTHING, NOTHING, PUTS, ALL]))
    def hold(self, what: str) -> None:
        self.held = what
        if what == NOTHING:
            self.tier.release()
        elif what == PUTS:
            self.tier.hold_puts()
        else:
            self.tier.hold()

    @rule(failure=st.one_of(st.none(), put_failures))
    def fail_puts(self, failure: object, after: int = 0) -> None:
        if failure == LOST_ANSWER:
            self.tier.lose_put_answers()
        else:
            self.tier.fail_puts(native.PutResult.ACKED if failure is None else failure, after)

    @rule(failure=st.sampled_from([*[None] * 3, *GET_FAILURES]))
    def fail_gets(self, failure: object) -> None:
        self.gets_fail = failure is not None
        self.tier.fail_gets(native.GetResult.FOUND if failure is None else failure)
        for fetch in self.plain.fetches:
            fetch.may_fail |= self.gets_fail

    @rule(writable=st.sampled_from([True, True, True, False]))
    def set_writable(self, writable: bool) -> None:
        self.tier.set_writable(writable)

    @rule()
    def heal(self) -> None:
        """The remote store works as it should."""
        self.fail_puts(None)
        self.fail_gets(None)
        self.set_writable(True)
        self.hold(NOTHING)
