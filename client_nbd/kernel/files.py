"""Access of farswap-host to /proc, /sys and /dev, and the two swap system calls.

The root directory is a parameter, so that tests use a fixture tree. System calls that change the
machine (swapon, swapoff, discard) are separate functions, so that tests can replace them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import os
import re
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from farswap.client_nbd.kernel import tables
from farswap.common.errors import InvalidArgumentError, NotPossibleError

if TYPE_CHECKING:
    from farswap.client_nbd.kernel.tables import Mount, Number, SwapArea

# linux/fs.h: _IO(0x12, 119); its argument is {first byte, length}.
_BLKDISCARD = 0x1277
# linux/swap.h
_SWAP_FLAG_PREFER = 0x8000
_SWAP_FLAG_PRIO_MASK = 0x7FFF
_SWAP_FLAG_DISCARD = 0x10000
_SWAP_FLAG_DISCARD_ONCE = 0x20000
_SWAP_FLAG_DISCARD_PAGES = 0x40000

_SECTOR_BYTES = 512  # of sysfs, whatever the device's

# Errors of reading a file of sysfs that is missing or vanishes.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO)

Discard = Literal["pages", "once", "both"]

_DISCARD_FLAGS: dict[Discard, int] = {
    "both": _SWAP_FLAG_DISCARD,
    "once": _SWAP_FLAG_DISCARD | _SWAP_FLAG_DISCARD_ONCE,
    "pages": _SWAP_FLAG_DISCARD | _SWAP_FLAG_DISCARD_PAGES,
}


class KernelFiles:
    """The kernel's files below `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def swap_areas(self) -> list[SwapArea]:
        """Active swap areas. Raises OSError, ValueError."""
        try:
            table = (self._root / "proc/swaps").read_bytes()
        except FileNotFoundError:
            if not (self._root / "proc/meminfo").exists():
                raise
            return []  # a kernel without swap
        return tables.swap_areas(table)

    def mounts(self) -> list[Mount]:
        """Mounts of this mount namespace. Raises OSError, ValueError."""
        return tables.mounts((self._root / "proc/self/mountinfo").read_bytes())

    def has_block_device(self, device: str) -> bool:
        """Whether both the kernel's object and its node exist."""
        name = Path(device).name
        return (self._root / "sys/block" / name).exists() and self.node(device).exists()

    def node(self, device: str) -> Path:
        """Path of the node of `device` ("/dev/nbd0")."""
        return self._root / device.lstrip("/")

    def look_up(self, path: str) -> tuple[Number, bool]:
        """The number of a block device, and True; for a file, that of its device, and False.

        Raises OSError.
        """
        found = self.node(path).stat()
        is_device = stat.S_ISBLK(found.st_mode)
        number = found.st_rdev if is_device else found.st_dev
        return (os.major(number), os.minor(number)), is_device

    def device_number(self, device: str) -> Number | None:
        """Number of a block device; None for anything else."""
        try:
            number, is_device = self.look_up(device)
        except OSError:
            return None
        return number if is_device else None

    def nbd_number(self, index: int) -> Number:
        """Device number of nbdN, by sysfs. Raises NotPossibleError if it does not exist."""
        try:
            return tables.number((self._root / f"sys/block/nbd{index}/dev").read_bytes())
        except (OSError, ValueError) as error:
            raise NotPossibleError(
                f"/dev/nbd{index} does not exist: load the driver with `modprobe nbd nbds_max=16`"
            ) from error

    def device_path(self, number: Number) -> str:
        """The usual node of a block device, "/dev/loop1", else its number."""
        for field in tables.rows(self._bytes(f"{_directory(number)}/uevent")):
            if field[0].startswith(b"DEVNAME="):
                return f"/dev/{tables.name(field[0]).removeprefix('DEVNAME=')}"
        return "{}:{}".format(*number)

    def holders(self, number: Number) -> list[Number]:
        """Partitions of a device, and devices that hold it: device mapper, md. Raises OSError."""
        directory = self._root / _directory(number)
        if not directory.exists():
            directory.parent.stat()  # raises if unknown
            return []
        parts = [entry for entry in directory.iterdir() if (entry / "partition").exists()]
        return [
            tables.number((entry / "dev").read_bytes())
            for entry in [*parts, *(directory / "holders").iterdir()]
        ]

    def backings(self) -> list[tuple[Number, str]]:
        """Loop and zram devices, with their backing paths. Raises OSError."""
        found = []
        for block in (self._root / "sys/block").iterdir():
            for name in ("loop/backing_file", "backing_dev"):
                try:
                    path = (block / name).read_bytes().removesuffix(b"\n")
                except OSError as error:
                    if error.errno not in _ABSENT:
                        raise
                    continue
                if path.startswith(b"/"):
                    number = tables.number((block / "dev").read_bytes())
                    found.append((number, os.fsdecode(path)))
        return found

    def claim(self, number: Number, flags: int = os.O_RDONLY) -> int:
        """Opens the device exclusively, which prevents swap, mounts and holders.

        Raises OSError: EBUSY if it is swapped to, mounted or held; ENXIO if it does not exist.
        """
        if not (self._root / _directory(number)).exists():
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        node = self.node(self.device_path(number))
        descriptor = os.open(node, flags | os.O_EXCL | os.O_CLOEXEC)
        if os.fstat(descriptor).st_rdev != os.makedev(*number):
            os.close(descriptor)
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), str(node))
        return descriptor

    def device_offset_bytes(self, number: Number) -> int:
        """Start of a partition on its disk, or of a loop device in its file; else 0."""
        directory = _directory(number)
        sectors = self._number(f"{directory}/start") or 0
        return sectors * _SECTOR_BYTES + (self._number(f"{directory}/loop/offset") or 0)

    def nbd_owner_pid(self, index: int) -> int | None:
        """The process of a connected nbd device; None if not connected."""
        return self._number(f"sys/block/nbd{index}/pid")

    def nbd_backends(self) -> dict[int, str]:
        """What the programs that attached nbd devices have named them, by index."""
        found = {}
        for file in (self._root / "sys/block").glob("nbd*/backend"):
            backend = self._bytes(f"sys/block/{file.parent.name}/backend")
            found[int(file.parent.name[3:])] = backend.decode("utf-8", "replace").strip()
        return found

    def set_io_timeout(self, index: int, timeout_ms: int) -> None:
        """Raises OSError."""
        path = self._root / f"sys/block/nbd{index}/queue/io_timeout"
        path.write_text(str(timeout_ms))

    def io_timeout_ms(self, index: int) -> int | None:
        """Request timeout of the block layer; None: unknown."""
        return self._number(f"sys/block/nbd{index}/queue/io_timeout")

    def discard_bytes_max(self, index: int) -> int | None:
        """Maximum discard of the device, 0 if unsupported; None: unknown."""
        return self._number(f"sys/block/nbd{index}/queue/discard_max_bytes")

    def hibernates_to(self) -> str | None:
        """Device number ("MAJOR:MINOR") for hibernation images; None without hibernation.

        "0:0" is the swap area that was activated first (kernel/power/swap.c, swsusp_swap_check).
        """
        states = tables.rows(self._bytes("sys/power/state"))
        if not any(b"disk" in line for line in states):
            return None
        return self._bytes("sys/power/resume").decode().strip() or None

    def local_addresses(self) -> set[str]:
        """IP addresses of this machine, canonical, in this process's network namespace."""
        found = set()
        leaf = b""
        for fields in tables.rows(self._bytes("proc/net/fib_trie")):
            if fields == [b"/32", b"host", b"LOCAL"]:
                found.add(leaf.decode())
            leaf = fields[-1]
        for address, *_ in tables.rows(self._bytes("proc/net/if_inet6")):
            found.add(str(ipaddress.IPv6Address(bytes.fromhex(address.decode()))))
        return found

    def available_bytes(self) -> int | None:
        """MemAvailable of proc(5), available without swapping; None: unknown."""
        for key, *values in tables.rows(self._bytes("proc/meminfo")):
            if key == b"MemAvailable:" and values[1:] == [b"kB"]:
                return int(values[0]) << 10
        return None

    def memory_stall_us(self) -> int | None:
        """Total time that tasks have waited for memory; None without PSI."""
        return tables.stall_us(self._bytes("proc/pressure/memory"))

    def zswap_enabled(self) -> bool:
        """Whether the kernel compresses pages before it swaps them out."""
        return self._bytes("sys/module/zswap/parameters/enabled").strip() in (b"Y", b"1")

    def _bytes(self, path: str) -> bytes:
        """Contents of a file, empty if missing."""
        try:
            return (self._root / path).read_bytes()
        except OSError:
            return b""

    def _number(self, path: str) -> int | None:
        text = self._bytes(path).strip()
        return int(text) if text.isdigit() else None


def _directory(number: Number) -> str:
    return "sys/dev/block/{}:{}".format(*number)


def nbd_index(device: str) -> int:
    """0 of "/dev/nbd0". Raises InvalidArgumentError."""
    match = re.fullmatch(r"/dev/nbd([0-9]{1,5})", device)
    if match is None:
        raise InvalidArgumentError(f'"{device}" is not an nbd device such as /dev/nbd0')
    return int(match[1])


def swapon(device: str, priority: int | None, discard: Discard | None) -> None:
    """swapon(2). Raises OSError."""
    flags = 0
    if priority is not None:
        flags |= _SWAP_FLAG_PREFER | (priority & _SWAP_FLAG_PRIO_MASK)
    if discard is not None:
        flags |= _DISCARD_FLAGS[discard]
    if _libc.swapon(os.fsencode(device), ctypes.c_int(flags)):
        _raise_errno(device)


def swapoff(device: str) -> None:
    """swapoff(2): reads all pages back, which may take minutes. Raises OSError."""
    if _libc.swapoff(os.fsencode(device)):
        _raise_errno(device)


def discard_all(descriptor: int, size_bytes: int) -> None:
    """Discards all pages of the device. Raises OSError."""
    fcntl.ioctl(descriptor, _BLKDISCARD, struct.pack("=QQ", 0, size_bytes))


# ctypes releases the GIL during the call, which may take minutes.
_libc = ctypes.CDLL(None, use_errno=True)


def _raise_errno(device: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), device)
