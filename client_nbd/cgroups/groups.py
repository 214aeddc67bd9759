"""Maps cgroups of the machine to groups of the engine: paths and ids here, ids alone there.

The engine makes a group below the root group at the first page of a new id, and knows nothing else
of cgroups. A pass of update(), twice a second and after changes of cgroups or their limits,

1. reads the engine's groups, and only then
2. refreshes the tree, so that it knows, or has known, every cgroup among them;
3. removes cgroups that no longer exist from the engine: their pages are reparented;
4. places the engine's new groups: ancestors first, each with its own settings;
5. reads the limit files of all groups every few seconds, in case an event was missed.

A cgroup without pages is placed only if settings apply to its first page: it, or an ancestor, has
some. At most `_EARLY_MAX` cgroups are placed so, to leave the engine room; settings of others apply
from the first pass after their first page.

The kernel still swaps out pages of a removed cgroup. Its id and its parent's are remembered until
`_DEAD_MAX` other cgroups are removed, so that such pages reach the right group; pages of an id that
was never seen alive go to the root group. If the kernel reuses an id, the new cgroup is placed at
once: until then the engine takes its pages for the removed one's.

Overrides by an operator are kept by path, across removal of the cgroup.
Threads: any; passes and changes exclude each other and block, so call them from worker threads.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from farswap.client_nbd.cgroups.settings import (
    NO_LIMIT,
    NOTHING_SET,
    GroupChange,
    Overrides,
    Settings,
    own_settings,
    settings_of,
)
from farswap.common import text
from farswap.common.errors import InvalidArgumentError, NotFoundError, NotPossibleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableSet, Sequence

    from farswap.client_nbd.cgroups.index import LimitFiles
    from farswap.client_nbd.cgroups.settings import OwnSettings
    from farswap.client_nbd.cgroups.tree import CgroupTree
    from farswap.native import CgroupRecord, HostEngine

__all__ = ["NO_LIMIT", "CgroupGroups", "GroupChange", "GroupView"]

_LIMITS_EVERY_S = 5.0
_RESCAN_EVERY_S = 5.0
_DEAD_MAX = 16_384
# The engine's groups are few; those with pages take precedence.
_EARLY_MAX = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView(Settings):
    """A group with its path and the settings in force."""

    id: int
    path: str  # "/x/y", "/" of the root; "": unknown
    parent_path: str
    record: CgroupRecord


class CgroupGroups:
    """The groups of one engine. Call update() periodically."""

    def __init__(
        self, engine: HostEngine, tree: CgroupTree, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._tree = tree
        self._clock = clock
        self._lock = threading.Lock()
        self._records: Sequence[CgroupRecord] = []
        # Settings in the engine, of each placed cgroup.
        self._applied: dict[int, OwnSettings] = {}
        self._dead: OrderedDict[int, int] = OrderedDict()  # id: its parent's
        self._overrides: dict[str, Overrides] = {}
        self._next_rescan_s = self._next_limits_s = 0.0
        self._is_full = False  # as of the last pass

    # --- Looking up

    def records(self) -> Sequence[CgroupRecord]:
        """As of the last pass."""
        return self._records

    def id_of(self, path: str) -> int:
        """Of "/x/y". Raises NotFoundError. Blocks for a pass where the path is not known yet."""
        id_ = self._tree.id_of(path)
        if id_ == 0:
            self._rescan()
            id_ = self._tree.id_of(path)
        if id_ == 0:
            raise NotFoundError(f"{path} is not a cgroup of this machine")
        return id_

    def _rescan(self) -> None:
        """Finds cgroups that are newer than the last pass."""
        self._next_rescan_s = 0.0
        self.update()

    def path_of(self, id_: int) -> str:
        """As "/x/y"; "/" of the root group; "" when the id is unknown.

        Bytes that are not UTF-8 are shown as "\\xff"; id_of() does not find such paths.
        """
        path = "/" if id_ == 0 else self._tree.path_of(id_)
        return text.utf8(path)

    def settings_of(self, id_: int) -> Settings:
        """In force now."""
        ids = [self._tree.root_id, *self._tree.lineage(id_)]
        return settings_of([self._own(id_) for id_ in ids])

    def views(self) -> list[GroupView]:
        """Every group of the engine, root first; takes the engine's locks."""
        return [self._view(record) for record in self._engine.cgroups()]

    def problems(self) -> dict[str, str]:
        """Why groups differ from cgroups, by subject."""
        found = {}
        if self._tree.problem:
            found["cgroups"] = self._tree.problem
        if self._is_full:
            found["groups"] = (
                "no room for more groups in the engine: pages of other cgroups go to the root group"
            )
        return found

    def _view(self, record: CgroupRecord) -> GroupView:
        path = self.path_of(record.id)
        settings = self.settings_of(record.id)
        fields = {name: getattr(settings, name) for name in Settings.__slots__}
        parent_path = path.rpartition("/")[0] or "/" if len(path) > 1 else ""
        return GroupView(**fields, id=record.id, path=path, parent_path=parent_path, record=record)

    def _own(self, id_: int) -> tuple[LimitFiles, Overrides]:
        path = self._tree.path_of(id_) if self._overrides else ""
        return self._tree.limits(id_), self._overrides.get(path, Overrides())

    # --- Operators

    def set(self, path: str, change: GroupChange) -> None:
        """Lasts until the daemon stops.

        Raises NotFoundError, except for removal of overrides; InvalidArgumentError for values that
        no group can have; NotPossibleError if the engine has no room. Then nothing has changed.
        """
        path = "/" + "/".join(filter(None, path.split("/")))
        if self._tree.id_of(path) == 0:
            self._rescan()
        with self._lock:
            id_ = self._tree.id_of(path)
            if id_ == 0 and path not in self._overrides:
                raise NotFoundError(f"{path} is not a cgroup of this machine")
            before = dict(self._overrides)
            overrides = replace(self._overrides.pop(path, Overrides()), **change)
            if overrides != Overrides():
                self._overrides[path] = overrides
            try:
                is_placed = id_ == 0 or self._place(id_)
            except ValueError as error:
                self._overrides = before
                raise InvalidArgumentError(f"{path}: {error}") from error
            if not is_placed:
                self._overrides = before
                raise NotPossibleError(f"no room for another group of pages: {path}")
            self._place_early(self._tree.descendants(id_))

    # --- The pass

    def update(self) -> None:
        """One pass; see the top. Blocks."""
        with self._lock:
            records = self._engine.cgroups()
            now = self._clock()
            unplaced = {record.id for record in records if record.id and not record.placed}
            changes = self._tree.refresh(rescan=self._is_rescan_due(now, unplaced))
            self._is_full = False
            self._place_root()
            self._reparent_removed(changes.removed, unplaced)
            for id_ in unplaced:
                if self._tree.lineage(id_):
                    self._place(id_)
                else:
                    self._reparent(id_, self._dead.get(id_, 0))
            for id_ in changes.added:
                if id_ in self._dead:
                    self._place(id_)
            self._place_early(changes.added)
            self._reapply(changes.limits)
            if now >= self._next_limits_s:
                self._next_limits_s = now + _LIMITS_EVERY_S
                self._reapply(self._tree.reread_limits(list(self._applied)))
            self._records = records

    def _is_rescan_due(self, now: float, unplaced: Iterable[int]) -> bool:
        if self._tree.watching:
            return False
        due = now >= self._next_rescan_s
        if due:
            self._next_rescan_s = now + _RESCAN_EVERY_S
        return due or any(id_ not in self._tree and id_ not in self._dead for id_ in unplaced)

    def _place_root(self) -> None:
        """Pages charged to the root cgroup itself belong to the root group."""
        root = self._tree.root_id
        if root and root not in self._applied:
            self._engine.place_cgroup(root, root)
            self._apply(root)

    # --- Cgroups that are gone

    def _reparent_removed(
        self, removed: Sequence[tuple[int, int]], unplaced: MutableSet[int]
    ) -> None:
        for id_, parent in removed:
            self._dead[id_] = parent
            self._dead.move_to_end(id_)
        while len(self._dead) > _DEAD_MAX:
            self._dead.popitem(last=False)
        for id_, parent in removed:
            if self._applied.pop(id_, None) is not None:
                self._engine.remove_cgroup(id_)
            elif id_ in unplaced:
                # At once: another cgroup may already have the id.
                unplaced.remove(id_)
                self._reparent(id_, parent)

    def _reparent(self, id_: int, parent: int) -> None:
        """Moves the pages of a group that was never placed to its nearest living ancestor."""
        ancestor = self._living(parent)
        if ancestor and self._place(ancestor):
            self._engine.place_cgroup(id_, ancestor)
        self._engine.remove_cgroup(id_)
        # The engine now forwards the id, even if the tree never saw the cgroup.
        self._dead.setdefault(id_, parent)

    def _living(self, id_: int) -> int:
        """The cgroup itself, or its nearest ancestor that is alive; 0: the root."""
        seen: set[int] = set()
        while id_ and not self._tree.lineage(id_):
            # Reused ids can make a cycle among removed cgroups.
            seen.add(id_)
            id_ = self._dead.get(id_, 0)
            if id_ in seen:
                return 0
        return id_

    # --- Cgroups that are alive

    def _reapply(self, ids: Iterable[int]) -> None:
        """For cgroups whose limit files, or paths, have changed."""
        for id_ in ids:
            if id_ in self._applied:
                self._apply(id_)
            self._place_early([id_, *self._tree.descendants(id_)])

    def _place_early(self, ids: Iterable[int]) -> None:
        for id_ in ids:
            if len(self._applied) >= _EARLY_MAX:
                return
            if id_ in self._applied or id_ not in self._tree:
                continue
            # Settings of the root group apply to all groups, placed or not.
            if any(own_settings(*self._own(of)) != NOTHING_SET for of in self._tree.lineage(id_)):
                self._place(id_)

    def _place(self, id_: int) -> bool:
        """Places a cgroup with its ancestors and their settings. False: the engine has no room."""
        parent = 0
        for each in self._tree.lineage(id_):
            if not self._engine.place_cgroup(each, parent):
                # No room, or it is placed elsewhere: another cgroup had this id.
                self._engine.remove_cgroup(each)
                self._applied.pop(each, None)
                if not self._engine.place_cgroup(each, parent):
                    self._is_full = True
                    return False
            self._dead.pop(each, None)
            self._apply(each)
            parent = each
        if id_ == self._tree.root_id:
            self._apply(id_)
        return True

    def _apply(self, id_: int) -> None:
        own = own_settings(*self._own(id_))
        if own != self._applied.get(id_, NOTHING_SET):
            self._engine.configure_cgroup(id_, **asdict(own))
        self._applied[id_] = own
