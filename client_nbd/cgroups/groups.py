"""Ties the cgroups of the machine to the groups of the engine: ids there, paths here.

The engine makes a group when it meets a page of a new id, below the root group, and knows nothing
else of cgroups. A pass of update(), twice a second and when cgroups or their limits have changed,

1. asks the engine which groups it has, and only then
2. has the tree take in what happened, so that it knows, or has known, every cgroup among them;
3. removes from the engine the cgroups that are gone, so that their pages are their parents';
4. places groups that the engine met: ancestors first, each with its own settings;
5. reads the limit files of all groups again every few seconds, in case a change was not seen.

Idle cgroups are not the engine's concern: one is placed ahead of its pages only where its first
page must already obey, since it, or one that it is under, has settings. Of so many that the engine
shall keep room for others, those beyond obey from the first pass after their first page.

The kernel goes on swapping out pages of a cgroup that is gone. Its id is remembered with its
parent's for as long as ids of `_DEAD_MAX` others, so that such pages still find the right group;
an id that was never seen alive goes to the root group. Should an id be given out again, the new
cgroup is placed at once: until then the engine would take its pages for the dead one's.

An operator's wishes are remembered by path, over the removal of the cgroup, until this process
ends. Threads: any; passes and changes exclude each other, so do not call from an event loop.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.client_nbd.cgroups.settings import (
    NO_LIMIT,
    NOTHING_SET,
    UNCHANGED,
    GroupChange,
    Settings,
    Wishes,
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

__all__ = ["NO_LIMIT", "UNCHANGED", "CgroupGroups", "GroupChange", "GroupView"]

_LIMITS_EVERY_S = 5.0
_RESCAN_EVERY_S = 5.0
_DEAD_MAX = 16_384
# Groups are the engine's scarce good, and those that have pages come first.
_AHEAD_MAX = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView(Settings):
    """A group with its path and the settings in force."""

    id: int
    path: str  # "/x/y", "/" of the root; "": unknown
    parent_path: str
    record: CgroupRecord


class CgroupGroups:
    """The groups of one engine. update() is to be called again and again."""

    def __init__(
        self, engine: HostEngine, tree: CgroupTree, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._tree = tree
        self._clock = clock
        self._lock = threading.Lock()
        self._records: Sequence[CgroupRecord] = []
        # What the engine was told of the cgroups that it was told of.
        self._told: dict[int, OwnSettings] = {}
        self._dead: OrderedDict[int, int] = OrderedDict()  # id: its parent's
        self._wishes: dict[str, Wishes] = {}
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
            self._look_again()
            id_ = self._tree.id_of(path)
        if id_ == 0:
            raise NotFoundError(f"{path} is not a cgroup of this machine")
        return id_

    def _look_again(self) -> None:
        """A cgroup that is asked for may be younger than the last pass."""
        self._next_rescan_s = 0.0
        self.update()

    def path_of(self, id_: int) -> str:
        """As "/x/y"; "/" of the root group; "" when the id is unknown.

        What of it is not UTF-8 shows as "\\xff", and cannot be asked for.
        """
        path = "/" if id_ == 0 else self._tree.path_of(id_)
        return text.utf8(path)

    def settings_of(self, id_: int) -> Settings:
        """In force now."""
        ids = [self._tree.root_id, *self._tree.lineage(id_)]
        return settings_of([self._own(id_) for id_ in ids])

    def views(self) -> list[GroupView]:
        """Every group of the engine, root first. Asks the engine."""
        return [self._view(record) for record in self._engine.cgroups()]

    def problems(self) -> dict[str, str]:
        """What keeps groups from being what they should be, by subject."""
        found = {}
        if self._tree.problem:
            found["cgroups"] = self._tree.problem
        if self._is_full:
            found["groups"] = (
                "the engine has no room for more groups: pages of others are the root group's"
            )
        return found

    def _view(self, record: CgroupRecord) -> GroupView:
        path = self.path_of(record.id)
        settings = self.settings_of(record.id)
        fields = {name: getattr(settings, name) for name in Settings.__slots__}
        parent_path = path.rpartition("/")[0] or "/" if len(path) > 1 else ""
        return GroupView(**fields, id=record.id, path=path, parent_path=parent_path, record=record)

    def _own(self, id_: int) -> tuple[LimitFiles, Wishes]:
        wishes = self._wishes.get(self._tree.path_of(id_), Wishes()) if self._wishes else Wishes()
        return self._tree.limits(id_), wishes

    # --- Operators

    def set(self, path: str, change: GroupChange) -> None:
        """Holds until this process ends.

        Raises NotFoundError, though not for wishes taken back; InvalidArgumentError for what no
        group can have; NotPossibleError when the engine has no room. Then nothing has changed.
        """
        path = "/" + "/".join(filter(None, path.split("/")))
        if self._tree.id_of(path) == 0:
            self._look_again()
        with self._lock:
            id_ = self._tree.id_of(path)
            if id_ == 0 and path not in self._wishes:
                raise NotFoundError(f"{path} is not a cgroup of this machine")
            before = dict(self._wishes)
            wishes = change.of(self._wishes.pop(path, Wishes()))
            if wishes != Wishes():
                self._wishes[path] = wishes
            try:
                is_placed = id_ == 0 or self._place(id_)
            except ValueError as error:
                self._wishes = before
                raise InvalidArgumentError(f"{path}: {error}") from error
            if not is_placed:
                self._wishes = before
                raise NotPossibleError(f"no room for another group of pages: {path}")
            self._place_ahead(self._tree.descendants(id_))

    # --- The pass

    def update(self) -> None:
        """One pass; see the top. Blocks for as long as it takes to look at what has changed."""
        with self._lock:
            records = self._engine.cgroups()
            now = self._clock()
            met = {record.id for record in records if record.id and not record.placed}
            changes = self._tree.refresh(rescan=self._is_rescan_due(now, met))
            self._is_full = False
            self._place_root()
            self._bury(changes.removed, met)
            for id_ in met:
                if self._tree.lineage(id_):
                    self._place(id_)
                else:
                    self._bequeath(id_, self._dead.get(id_, 0))
            for id_ in changes.added:
                if id_ in self._dead:
                    self._place(id_)
            self._place_ahead(changes.added)
            self._obey(changes.limits)
            if now >= self._next_limits_s:
                self._next_limits_s = now + _LIMITS_EVERY_S
                self._obey(self._tree.reread_limits(list(self._told)))
            self._records = records

    def _is_rescan_due(self, now: float, met: Iterable[int]) -> bool:
        if self._tree.watching:
            return False
        due = now >= self._next_rescan_s
        if due:
            self._next_rescan_s = now + _RESCAN_EVERY_S
        return due or any(id_ not in self._tree and id_ not in self._dead for id_ in met)

    def _place_root(self) -> None:
        """Pages charged to the root cgroup itself are the root group's."""
        root = self._tree.root_id
        if root and root not in self._told:
            self._engine.place_cgroup(root, root)
            self._tell(root)

    # --- Cgroups that are gone

    def _bury(self, removed: Sequence[tuple[int, int]], met: MutableSet[int]) -> None:
        for id_, parent in removed:
            self._dead[id_] = parent
            self._dead.move_to_end(id_)
        while len(self._dead) > _DEAD_MAX:
            self._dead.popitem(last=False)
        for id_, parent in removed:
            if self._told.pop(id_, None) is not None:
                self._engine.remove_cgroup(id_)
            elif id_ in met:
                # Now, since another cgroup may have the id already.
                met.remove(id_)
                self._bequeath(id_, parent)

    def _bequeath(self, id_: int, parent: int) -> None:
        """The pages of a group that was never placed go to its nearest living ancestor."""
        heir = self._living(parent)
        if heir and self._place(heir):
            self._engine.place_cgroup(id_, heir)
        self._engine.remove_cgroup(id_)
        # Its id leads elsewhere from now on, also when nobody has seen it alive.
        self._dead.setdefault(id_, parent)

    def _living(self, id_: int) -> int:
        """The cgroup itself, or its nearest ancestor that is alive; 0: the root."""
        seen: set[int] = set()
        while id_ and not self._tree.lineage(id_):
            # Ids that were given out again can make a ring of the dead.
            seen.add(id_)
            id_ = self._dead.get(id_, 0)
            if id_ in seen:
                return 0
        return id_

    # --- Cgroups that are alive

    def _obey(self, ids: Iterable[int]) -> None:
        """Their limit files say something else now, or operators' wishes are other ones."""
        for id_ in ids:
            if id_ in self._told:
                self._tell(id_)
            self._place_ahead([id_, *self._tree.descendants(id_)])

    def _place_ahead(self, ids: Iterable[int]) -> None:
        for id_ in ids:
            if len(self._told) >= _AHEAD_MAX:
                return
            if id_ in self._told or id_ not in self._tree:
                continue
            # What is set for the root group holds for all that are below it, placed or not.
            if any(own_settings(*self._own(of)) != NOTHING_SET for of in self._tree.lineage(id_)):
                self._place(id_)

    def _place(self, id_: int) -> bool:
        """With its ancestors and their settings. False: the engine has no room."""
        parent = 0
        for each in self._tree.lineage(id_):
            if not self._engine.place_cgroup(each, parent):
                # Unless there is no room, it is placed elsewhere: another cgroup had this id.
                self._engine.remove_cgroup(each)
                self._told.pop(each, None)
                if not self._engine.place_cgroup(each, parent):
                    self._is_full = True
                    return False
            self._dead.pop(each, None)
            self._tell(each)
            parent = each
        if id_ == self._tree.root_id:
            self._tell(id_)
        return True

    def _tell(self, id_: int) -> None:
        own = own_settings(*self._own(id_))
        if own != self._told.get(id_, NOTHING_SET):
            self._engine.configure_cgroup(
                id_,
                pool_limit_bytes=own.pool_limit_bytes,
                writeback=own.writeback,
                remote_pages_max=own.remote_pages_max,
                compressor=own.compressor,
            )
        self._told[id_] = own
