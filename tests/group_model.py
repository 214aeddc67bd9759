"""The groups of the engine as plain objects, after native/tier/groups.h: who owns which page.

It counts calls, so that tests can check which were unnecessary.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from farswap import native
from native_double import EngineDouble, override, record

NOTHING_SET: dict[str, Any] = {
    "pool_limit_bytes": None,
    "writeback": True,
    "remote_pages_max": None,
    "compressor": None,
}


@dataclass(eq=False)
class Group:
    id: int
    parent: Group | None
    placed: bool = False
    settings: dict[str, Any] = field(default_factory=lambda: dict(NOTHING_SET))
    pages: list[object] = field(default_factory=list)


class GroupModel(EngineDouble):
    def __init__(self, groups_max: int = 4096) -> None:
        self.groups_max = groups_max
        self.root = Group(0, None, placed=True)
        self.calls: Counter[str] = Counter()
        # Cgroups that are gone lead to the group that has their pages.
        self._led: dict[int, Group] = {0: self.root}
        self._groups = [self.root]

    def store(self, id_: int, page: object) -> None:
        group = self._led.get(id_) or self._add(id_) or self.root
        group.pages.append(page)

    def group(self, id_: int) -> Group | None:
        """Of this very cgroup."""
        found = self._led.get(id_)
        return found if found is not None and found.id == id_ else None

    def owner(self, page: object) -> Group:
        (group,) = [group for group in self._groups if page in group.pages]
        return group

    def _add(self, id_: int) -> Group | None:
        if len(self._groups) >= self.groups_max:
            return None
        group = Group(id_, self.root)
        self._groups.append(group)
        self._led[id_] = group
        return group

    # --- As of HostEngine

    @override
    def cgroups(self) -> list[native.CgroupRecord]:
        return [
            record(
                native.CgroupRecord,
                id=group.id,
                parent=group.parent.id if group.parent else 0,
                placed=group.placed,
                local_pages=len(group.pages),
                pool_bytes=len(group.pages) * 1000,
                tree_pool_bytes=len(group.pages) * 1000,
                counters={"loads_remote": 0, "remote_wait_us": 0},
                **group.settings,
            )
            for group in self._groups
        ]

    @override
    def place_cgroup(self, id_: int, parent: int) -> bool:
        self.calls["place"] += 1
        if id_ == parent:
            if id_ in self._led:
                return self._led[id_] is self.root
            self.root.id = id_
            self._led[id_] = self.root
            return True
        above = self._led.get(parent)
        if above is None or (above.id != parent and parent) or not above.placed:
            return False
        group = self.group(id_) or self._add(id_)
        if group is None or group is self.root:
            return False
        if not group.placed:
            group.parent, group.placed = above, True
        return group.parent is above

    @override
    def remove_cgroup(self, id_: int) -> None:
        self.calls["remove"] += 1
        group = self.group(id_)
        if group is None or group.parent is None:
            return
        successor = group.parent
        successor.pages += group.pages
        for child in self._groups:
            if child.parent is group:
                child.parent = successor
        self._led = {
            id_: successor if leads_to is group else leads_to for id_, leads_to in self._led.items()
        }
        self._groups.remove(group)

    @override
    def configure_cgroup(
        self,
        id_: int,
        *,
        pool_limit_bytes: int | None,
        writeback: bool,
        remote_pages_max: int | None,
        compressor: tuple[str, int] | None,
    ) -> None:
        self.calls["configure"] += 1
        if compressor and compressor[0] not in ("lz4", "zstd"):
            raise ValueError(f"{compressor[0]} is no compressor")
        group = self.group(id_) or self._add(id_)
        if group is not None:
            group.settings = {
                "pool_limit_bytes": pool_limit_bytes,
                "writeback": writeback,
                "remote_pages_max": remote_pages_max,
                "compressor": compressor,
            }
