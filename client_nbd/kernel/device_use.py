"""Users of a block device: whether the machine swaps to this daemon.

The kernel identifies devices by number; a device may have several nodes, renamed or deleted ones.
A swap area may be on the device, or on something stacked on it:

    /dev/dm-0, /dev/md0, /dev/nbd0p1     its holders and partitions, in sysfs
    /dev/loop1, /dev/zram0               its path stands in their backing_file, backing_dev
    /mnt/swapfile                        a file of a file system on it
    /dev/loop2 on /mnt/image             and so on, to any depth

look() collects the numbers of all devices stacked on the given ones, and compares them with the
number behind each line of /proc/swaps. The result is one of three: swap is on (`areas`), it is off,
or unknown (`doubts` says why). A device may be detached only if it is off.

For an unreachable path (deleted, or in another mount namespace) the devices decide: the kernel
refuses an exclusive open while a device is swapped on, mounted or held. Only loop devices hold
nothing exclusively: one with an unreachable backing file stays a doubt.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.common import text
from farswap.common.errors import NotPossibleError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.client_nbd.kernel.tables import Mount, Number, SwapArea

_DELETED = " (deleted)"
# File systems whose files are on no block device: of memory, and of servers, which stat() may wait
# for. "fuse" and its kin count too.
_OF_MEMORY = frozenset({"devtmpfs", "ramfs", "tmpfs"})
_OF_SERVERS = frozenset({"9p", "afs", "ceph", "cifs", "nfs", "nfs4", "smb3"})


@dataclass(frozen=True, slots=True)
class Use:
    """Users of some devices, together."""

    own: tuple[SwapArea, ...] = ()  # on the devices themselves
    stacked: tuple[SwapArea, ...] = ()  # on what is stacked on them
    elsewhere: tuple[SwapArea, ...] = ()  # all others
    holders: tuple[str, ...] = ()  # devices stacked on them, and mount points
    doubts: tuple[str, ...] = ()  # why there may be more
    numbers: frozenset[Number] = frozenset()  # of the devices and of those stacked on them

    @property
    def areas(self) -> tuple[SwapArea, ...]:
        """All swap areas on the devices."""
        return self.own + self.stacked

    @property
    def used_bytes(self) -> int:
        """Bytes swapped out there."""
        return sum(area.used_bytes for area in self.areas)

    def refuse(self, device: str) -> None:
        """Raises NotPossibleError unless it is certain that nothing uses the device."""
        names = ", ".join(area.name for area in self.stacked)
        if names:
            raise NotPossibleError(
                f"{device} is used by swap on {names}, stacked on it: swapoff that, remove it from "
                f"{device}, then try again"
            )
        if self.own:
            raise NotPossibleError(f"{device} is an active swap area: swapoff first")
        if self.doubts:
            raise NotPossibleError(f"unknown whether {device} is unused: {self.doubts[0]}")
        if self.holders:
            raise NotPossibleError(f"{device} is in use: {', '.join(self.holders)} is on it")


class ExportDevices:
    """Block devices known to be backed by the export. Threads: any.

    A named device stays known when others are named: it may be swapped on.
    """

    def __init__(self, files: KernelFiles) -> None:
        self._files = files
        self._numbers: dict[str, Number] = {}

    def add(self, device: str, number: Number) -> None:
        """Adds a device that the kernel may swap to."""
        self._numbers[device] = number

    def drop(self, device: str) -> None:
        """Removes a device that was detached unused."""
        self._numbers.pop(device, None)

    def use(self, claimed: Collection[Number] = ()) -> Use:
        """The current users."""
        return look(self._files, tuple(self._numbers.values()), claimed)


def look(files: KernelFiles, devices: Iterable[Number], claimed: Collection[Number] = ()) -> Use:
    """Current users of these devices. `claimed`: those open exclusively in this process."""
    roots = frozenset(devices)
    if not roots:
        return Use()
    try:
        return _look(files, roots, claimed)
    except (OSError, ValueError) as error:
        return Use(doubts=(f"failed to read the kernel's tables: {error}",), numbers=roots)


@contextlib.contextmanager
def unused(
    files: KernelFiles, device: str, number: Number, flags: int = os.O_RDONLY
) -> Iterator[int]:
    """Opens an unused device exclusively, which prevents swap, mounts and holders.

    Raises NotPossibleError unless it is certain that nothing uses it.
    """
    look(files, [number]).refuse(device)
    try:
        descriptor = files.claim(number, flags)
    except OSError as error:
        why = "in use" if error.errno == errno.EBUSY else error.strerror
        raise NotPossibleError(f"failed to open {device} exclusively: {why}") from error
    try:
        look(files, [number], [number]).refuse(device)
        yield descriptor
    finally:
        os.close(descriptor)


def _look(files: KernelFiles, roots: frozenset[Number], claimed: Collection[Number]) -> Use:
    # Areas first: an area that ends before the rest is read is irrelevant.
    areas = files.swap_areas()
    mounts = files.mounts()
    above: dict[Number, list[Number]] = {}
    lost = []
    for number, path in files.backings():
        below = _number_behind(files, mounts, path)
        if below is None:
            lost.append(number)
        else:
            above.setdefault(below, []).append(number)
    stack = _stack(files, roots, above)
    perhaps = _stack(files, lost, above)
    own: list[SwapArea] = []
    stacked: list[SwapArea] = []
    elsewhere, unresolved, doubts = [], [], []
    swapped_on = set()
    for area in areas:
        at = _number_behind(files, mounts, area.path, is_file=area.is_file)
        if at in stack:
            (own if at in roots and not area.is_file else stacked).append(area)
        else:
            elsewhere.append(area)
        if at is None:
            unresolved.append(area)
        elif not area.is_file:
            swapped_on.add(at)
        if at in perhaps - stack:
            what = "a device with an unreachable backing file"
            doubts.append(f"{area.name} is a swap area on {what}")
    if unresolved and any(_is_held(files, number) for number in stack - swapped_on - set(claimed)):
        doubts += [f"the swap area {area.name} is unreachable" for area in unresolved]
    points = [text.utf8(mount.point) for mount in mounts if mount.number in stack]
    return Use(
        own=tuple(own),
        stacked=tuple(stacked),
        elsewhere=tuple(elsewhere),
        holders=(*sorted(files.device_path(number) for number in stack - roots), *points),
        doubts=tuple(doubts),
        numbers=stack,
    )


def _stack(
    files: KernelFiles, roots: Iterable[Number], above: Mapping[Number, Sequence[Number]]
) -> frozenset[Number]:
    """The devices and all devices stacked on them."""
    found: set[Number] = set()
    unseen = list(roots)
    while unseen:
        number = unseen.pop()
        if number not in found:
            found.add(number)
            unseen += [*files.holders(number), *above.get(number, [])]
    return frozenset(found)


def _number_behind(
    files: KernelFiles, mounts: Sequence[Mount], path: str, *, is_file: bool | None = None
) -> Number | None:
    """Number of the block device at a path, or of the one that its file is on. None: unknown.

    `is_file`: the kernel's kind of the area.
    """
    mount = _mount_of(mounts, path)
    if mount is None or path.endswith(_DELETED):
        return None
    if mount.kind in _OF_SERVERS or mount.kind.startswith("fuse"):
        return mount.number
    try:
        number, is_device = files.look_up(path)
    except OSError:
        return None
    if is_file is not None and is_file == is_device:
        return None  # replaced by another file
    # A file system without a device of its own number may be on any: btrfs, overlay.
    unnumbered = number[0] == 0 and mount.kind not in _OF_MEMORY
    return None if unnumbered and not is_device else number


def _mount_of(mounts: Sequence[Mount], path: str) -> Mount | None:
    """The last one of those with the longest mount point."""
    found = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        is_above = path == point or path.startswith(point + "/")
        if is_above and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _is_held(files: KernelFiles, number: Number) -> bool:
    """Whether it is open exclusively, or that is unknown."""
    try:
        os.close(files.claim(number))
    except OSError as error:
        return error.errno != errno.ENXIO
    return False
