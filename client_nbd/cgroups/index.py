"""Index of cgroups by id and path, without input or output.

A `Directory` is known from adopt() to forget(). Ids are unique: the owner forgets the earlier
directory with an id before it adopts another.

One thread changes the index. Others may look up meanwhile, and may find a cgroup that is about to
be forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ID_MASK = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class LimitFiles:
    """Limits in a cgroup's files; Documentation/admin-guide/cgroup-v2.rst.

    Both hold for all that is below the cgroup as well: `zswap_max_bytes` for the sum of the
    subtree's compressed pages, and writeback is off if it is off here or in any ancestor.
    """

    zswap_max_bytes: int | None = None  # None: no limit, or no such file
    zswap_writeback: bool = True


NO_LIMITS = LimitFiles()


def id_of_inode(inode: int) -> int:
    """The id in the kernel's attribution of pages."""
    return inode & _ID_MASK


class Directory:
    """Equal to itself alone. Its path is by its parents, so that a rename is one change."""

    __slots__ = ("children", "inode", "limits", "name", "parent", "watch")

    def __init__(self, inode: int, name: str, parent: Directory | None, watch: int) -> None:
        self.inode = inode
        self.name = name
        self.parent = parent  # None: this is the root
        self.watch = watch  # of inotify; -1: none
        self.limits = NO_LIMITS
        self.children: dict[str, Directory] = _CHILDLESS

    @property
    def id(self) -> int:
        """The id in the kernel's attribution of pages."""
        return id_of_inode(self.inode)

    @property
    def path(self) -> str:
        """As "/x/y"; "" is the root."""
        names: list[str] = []
        at = self
        while at.parent is not None:
            names.append(at.name)
            at = at.parent
        return "".join(f"/{name}" for name in reversed(names))

    def family(self) -> list[Directory]:
        """Itself and all below it, parents first."""
        members = [self]
        for member in members:
            members.extend(list(member.children.values()))
        return members


# Shared by all directories without children; never changed.
_CHILDLESS: dict[str, Directory] = {}


class CgroupIndex:
    """Empty at first. The first directory to be adopted is the root."""

    def __init__(self) -> None:
        self._directories: dict[int, Directory] = {}
        self._root: Directory | None = None

    # --- Looking up

    @property
    def root_id(self) -> int:
        """Of the root directory; 0 while there is none."""
        return self._root.id if self._root else 0

    def __contains__(self, id_: int) -> bool:
        return id_ in self._directories

    def __len__(self) -> int:
        return len(self._directories)

    def path_of(self, id_: int) -> str:
        """As "/x/y", "/" of the root, "" of an unknown id."""
        directory = self._directories.get(id_)
        return (directory.path or "/") if directory else ""

    def id_of(self, path: str) -> int:
        """Of "/x/y" or "/"; 0 when there is no such cgroup."""
        if not path.startswith("/"):
            return 0
        at = self._root
        for name in filter(None, path.split("/")):
            at = at.children.get(name) if at else None
        return at.id if at else 0

    def lineage(self, id_: int) -> list[int]:
        """From the ancestor just below the root down to `id_` itself; [] for root and unknown."""
        ids: list[int] = []
        at = self._directories.get(id_)
        while at is not None and at.parent is not None:
            ids.append(at.id)
            at = at.parent
        return ids[::-1]

    def descendants(self, id_: int) -> list[int]:
        """Parents first, without `id_` itself."""
        directory = self._directories.get(id_)
        return [member.id for member in directory.family()[1:]] if directory else []

    def limits(self, id_: int) -> LimitFiles:
        """As last read; those of an unknown cgroup limit nothing."""
        directory = self._directories.get(id_)
        return directory.limits if directory else NO_LIMITS

    # --- Changing

    def is_known(self, directory: Directory) -> bool:
        """It was adopted and not forgotten since."""
        return self._directories.get(directory.id) is directory

    def adopt(self, directory: Directory) -> None:
        """Its parent is known, its id and its name there are free."""
        if directory.id in self._directories:
            raise AssertionError(f"cgroup {directory.id} is known already")
        self._directories[directory.id] = directory
        if directory.parent is None:
            self._root = directory
        else:
            _attach(directory.parent, directory)

    def forget(self, directory: Directory) -> list[Directory]:
        """With all below it. Those forgotten, children before their parents."""
        if not self.is_known(directory):
            return []
        family = directory.family()
        for member in family:
            del self._directories[member.id]
            # No ring of references: objects of the daemon's start are not collected.
            member.children = _CHILDLESS
        if directory.parent is None:
            self._root = None
        else:
            del directory.parent.children[directory.name]
        return family[::-1]

    def rename(self, renamed: Iterable[tuple[Directory, str]]) -> None:
        """Each keeps its parent. The names may be each other's."""
        known = [
            (directory.parent, directory, name)
            for directory, name in renamed
            if directory.parent is not None and self.is_known(directory)
        ]
        for parent, directory, _ in known:
            del parent.children[directory.name]
        for parent, directory, name in known:
            directory.name = name
            _attach(parent, directory)


def _attach(parent: Directory, directory: Directory) -> None:
    if parent.children is _CHILDLESS:
        parent.children = {}
    parent.children[directory.name] = directory
