"""The machine's cgroups as directories: the one file that touches cgroupfs.

A cgroup's id is the low 32 bits of its directory's inode number, as in the kernel's attribution.
The tree has every directory below its root, watched by inotify(7), and reads limits and pressure of
cgroups. It does not depend on the engine.

Events may be late, merged or reordered, or about a directory that was removed and created again;
each only names a path to check again. A directory is watched before it is listed, so that none is
missed. When the queue of events overflows, all directories are checked. When the user has no
watches left, watching ends: the tree is as of its last rescan, and `problem` says so. A cgroup may
vanish at any moment, also between two checks.

cgroupfs reuses an inode number only after millions of directories, so the number distinguishes two
directories of one name. Other file systems may reuse it at once; there the end of the watch does.

Call refresh() and reread_limits() in one thread at a time; the others may be called meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.client_nbd.cgroups import inotify
from farswap.client_nbd.cgroups.index import (
    NO_LIMITS,
    CgroupIndex,
    Directory,
    LimitFiles,
    id_of_inode,
)
from farswap.client_nbd.kernel import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

# Includes writes to files, so that limits change at once.
_WATCHED = (
    inotify.IN_CREATE
    | inotify.IN_DELETE
    | inotify.IN_MOVED_FROM
    | inotify.IN_MOVED_TO
    | inotify.IN_CLOSE_WRITE
    | inotify.IN_ONLYDIR
)
# Links of a directory without subdirectories, on cgroupfs and most other file systems.
_LINKS_OF_A_LEAF = 2
_FILE_BYTES_MAX = 256

_CONTROLLERS = "cgroup.controllers"
_ZSWAP_MAX = "memory.zswap.max"
_ZSWAP_WRITEBACK = "memory.zswap.writeback"
_PRESSURE = "memory.pressure"


@dataclass(slots=True)
class Changes:
    """Changes of a refresh. `removed` comes first: an id may be in both, of two cgroups."""

    removed: list[tuple[int, int]] = field(default_factory=list)  # (id, parent), children first
    added: list[int] = field(default_factory=list)  # parents first
    # With other limits than before, or another path, by which overrides are kept.
    limits: list[int] = field(default_factory=list)


class CgroupTree(CgroupIndex):
    """The cgroups below `root`: empty until the first refresh(). close() ends the watching."""

    def __init__(self, root: Path | None, *, watch: bool = True) -> None:
        super().__init__()
        self._base = "" if root is None else os.fspath(root)
        self._device = 0
        self._by_watch: dict[int, Directory] = {}
        self._inotify: inotify.Inotify | None = None
        self._root_problem = ""
        self._watch_problem = ""
        if root is None:
            self._root_problem = "no cgroups with the memory controller are mounted"
        elif watch:
            try:
                self._inotify = inotify.Inotify()
            except OSError as error:
                self._stop_watching(error)

    @property
    def problem(self) -> str:
        """Why the tree may be incomplete or late; "" if it is neither."""
        return self._root_problem or self._watch_problem

    @property
    def watching(self) -> bool:
        """False: only a rescan finds changes."""
        return self._inotify is not None

    def close(self) -> None:
        """Ends watching. Idempotent."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    # --- Files of a cgroup

    def reread_limits(self, ids: Iterable[int]) -> list[int]:
        """Reads the limits of these cgroups again; returns those with changes."""
        known = [self._directories[id_] for id_ in ids if id_ in self._directories]
        return [directory.id for directory in known if self._read_limits(directory)]

    def stall_us(self, id_: int) -> int | None:
        """Total time that tasks of the cgroup have waited for memory. None without PSI."""
        directory = self._directories.get(id_)
        text = _read(f"{self._base}{directory.path}/{_PRESSURE}") if directory else None
        return None if text is None else tables.stall_us(text.encode())

    def _read_limits(self, directory: Directory) -> bool:
        path = self._base + directory.path
        maximum = _read(f"{path}/{_ZSWAP_MAX}") or ""
        limits = LimitFiles(
            zswap_max_bytes=int(maximum) if maximum.isdecimal() else None,
            zswap_writeback=_read(f"{path}/{_ZSWAP_WRITEBACK}") != "0",
        )
        changed = limits != directory.limits
        directory.limits = NO_LIMITS if limits == NO_LIMITS else limits
        return changed

    # --- Keeping up

    def events(self) -> int | None:
        """A descriptor that is readable when there are events; the caller closes it.

        None without watching, which may also end meanwhile in another thread.
        """
        watching = self._inotify
        try:
            return watching.duplicate() if watching else None
        except OSError:
            return None

    def refresh(self, *, rescan: bool = False) -> Changes:
        """Applies events; with `rescan`, checks every directory."""
        changes = Changes()
        events = self._inotify.read() if self._inotify else []
        if self._root is None:
            self._find_root(changes)
        elif rescan or any(event.mask & inotify.IN_Q_OVERFLOW for event in events):
            self._rescan(list(self._directories.values()), changes)
            changes.limits += self.reread_limits(self._directories)
        # Also after a rescan: an event may be about a removed directory whose number was reused.
        self._take_in(events, changes)
        return changes

    def _find_root(self, changes: Changes) -> None:
        if not self._base:
            return
        try:
            self._device = Path(self._base).stat().st_dev
        except OSError as error:
            self._root_problem = f"no cgroups are known: {self._base}: {error.strerror}"
            return
        self._root_problem = ""
        self._explore(None, "", changes)

    def _take_in(self, events: list[inotify.Event], changes: Changes) -> None:
        touched: dict[tuple[Directory, str], int] = {}
        written: set[Directory] = set()
        for event in events:
            directory = self._by_watch.get(event.watch)
            if directory is None:
                continue
            if event.mask & inotify.IN_IGNORED:
                self._forget(directory, changes)
                if directory.parent is not None:
                    touched.setdefault((directory.parent, directory.name), 0)
            elif event.mask & inotify.IN_ISDIR:
                key = (directory, event.name)
                touched[key] = touched.get(key, 0) | event.mask
            elif event.name in (_ZSWAP_MAX, _ZSWAP_WRITEBACK):
                written.add(directory)
        self._look_at(touched, changes)
        for directory in filter(self.is_known, written):
            if self._read_limits(directory):
                changes.limits.append(directory.id)

    def _rescan(self, directories: Iterable[Directory], changes: Changes) -> None:
        touched: dict[tuple[Directory, str], int] = {}
        for directory in directories:
            path = self._base + directory.path
            found = self._directory_at(path)
            names = _subdirectories(path, found.st_nlink) if found else []
            for name in (*names, *directory.children):
                touched[directory, name] = 0
        self._look_at(touched, changes)

    def _look_at(self, touched: dict[tuple[Directory, str], int], changes: Changes) -> None:
        """Updates the tree from what these names are now.

        The masks are of the names' events, 0 when they are looked at for another reason. From the
        top down: what is below a renamed cgroup is found by the new name.
        """
        levels: dict[int, dict[tuple[Directory, str], int]] = {}
        for (parent, name), mask in touched.items():
            levels.setdefault(parent.path.count("/"), {})[parent, name] = mask
        for _, level in sorted(levels.items()):
            self._look_at_level(level, changes)

    def _look_at_level(self, touched: dict[tuple[Directory, str], int], changes: Changes) -> None:
        leaving: set[Directory] = set()
        renamed: dict[Directory, str] = {}
        arriving: list[tuple[Directory, str]] = []
        for (parent, name), mask in touched.items():
            if not self.is_known(parent):
                continue
            found = self._directory_at(f"{self._base}{parent.path}/{name}")
            inode = found.st_ino if found else 0
            present = parent.children.get(name)
            if present is not None and present.inode == inode:
                continue
            if present is not None:
                leaving.add(present)
            former = self._directories.get(id_of_inode(inode))
            # Cgroup v1 can rename within a parent: the cgroup stays the same.
            is_same = former is not None and former.inode == inode and former.parent is parent
            if former and is_same and (mask & inotify.IN_MOVED_TO or not mask):
                renamed[former] = name
            elif inode:
                arriving.append((parent, name))
        for directory in leaving - renamed.keys():
            self._forget(directory, changes)
        self.rename(renamed.items())
        for directory in renamed:
            # Paths below its former name were not found.
            self._rescan(directory.family(), changes)
            changes.limits += [member.id for member in directory.family()]
        for parent, name in arriving:
            self._explore(parent, name, changes)

    def _forget(self, directory: Directory, changes: Changes) -> None:
        for gone in self.forget(directory):
            self._unwatch(gone)
            if gone.parent is not None:
                changes.removed.append((gone.id, gone.parent.id))

    def _explore(self, parent: Directory | None, name: str, changes: Changes) -> None:
        """Adopts the directory of this name, and all below it, as new."""
        unexplored: list[tuple[Directory | None, str]] = [(parent, name)]
        while unexplored:
            parent, name = unexplored.pop()
            if parent is not None and not self.is_known(parent):
                continue
            path = f"{self._base}{parent.path}/{name}" if parent else self._base
            before = self._directory_at(path)
            if before is None:
                continue
            for former in (
                self._directories.get(id_of_inode(before.st_ino)),
                parent.children.get(name) if parent else None,
            ):
                if former is not None:
                    self._forget(former, changes)
            directory = Directory(before.st_ino, name, parent, self._watch(path))
            after = self._directory_at(path)
            if after is None or after.st_ino != before.st_ino:
                # Removed, maybe created again: it is unknown which of the two is watched.
                self._unwatch(directory)
                unexplored.append((parent, name))
                continue
            self._adopt(directory, changes)
            unexplored += [(directory, sub) for sub in _subdirectories(path, after.st_nlink)]

    def _adopt(self, directory: Directory, changes: Changes) -> None:
        self.adopt(directory)
        if directory.watch >= 0:
            self._by_watch[directory.watch] = directory
        self._read_limits(directory)
        if directory.parent is not None:
            changes.added.append(directory.id)

    def _directory_at(self, path: str) -> os.stat_result | None:
        """None also for a directory of another file system, whose numbers are not ids."""
        try:
            # No Path objects, for thousands of directories.
            found = os.stat(path, follow_symlinks=path == self._base)  # noqa: PTH116
        except OSError:
            return None
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_dev == self._device
        return found if is_ours else None

    # --- Watches

    def _watch(self, path: str) -> int:
        if self._inotify is None:
            return -1
        try:
            return self._inotify.add(path, _WATCHED)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                self._stop_watching(error)
            return -1

    def _unwatch(self, directory: Directory) -> None:
        if directory.watch >= 0:
            self._by_watch.pop(directory.watch, None)
            if self._inotify is not None:
                self._inotify.remove(directory.watch)

    def _stop_watching(self, error: OSError) -> None:
        self._watch_problem = (
            f"cgroups cannot be watched ({error.strerror}), so that new ones are noticed late: "
            "raise fs.inotify.max_user_watches and fs.inotify.max_user_instances"
        )
        self.close()
        self._by_watch.clear()


def detect_root(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path | None:
    """Mount point of cgroups with the memory controller: v2, else v1, else None. proc(5)."""
    try:
        mounts = tables.mounts(mountinfo.read_bytes())
    except (OSError, ValueError):
        return None
    v1 = None
    for mount in mounts:
        point = Path(mount.point)
        if mount.kind == "cgroup2":
            controllers = _read(f"{point}/{_CONTROLLERS}") or ""
            if "memory" in controllers.split(" "):
                return point
        if mount.kind == "cgroup" and v1 is None and b"memory" in mount.options:
            v1 = point
    return v1


def _subdirectories(path: str, links: int) -> list[str]:
    if links == _LINKS_OF_A_LEAF:
        return []
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _read(path: str) -> str | None:
    """Start of a cgroup's file; None if the file or the cgroup is missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _FILE_BYTES_MAX).decode(errors="replace").strip()
        finally:
            os.close(descriptor)
    except OSError:
        return None
