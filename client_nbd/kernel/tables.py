r"""Parsers of the kernel's tables: /proc/swaps, mountinfo and their like. Pure; proc(5).

A table is bytes. Only a newline ends a line, and only blanks and tabs separate fields: file names
may have any other byte, including Unicode white space. The kernel writes white space and
backslashes in a name as a backslash and three octal digits. os.fsdecode() makes names `str`,
so that they can be opened; text.utf8() makes them printable.

No other module splits the lines of such a file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.common import text

if TYPE_CHECKING:
    from collections.abc import Iterator

Number = tuple[int, int]  # of a block device, or of a file system's device: major, minor

_ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
_SEPARATORS = re.compile(rb"[ \t]+")
_STALL = re.compile(rb"^some .*\btotal=([0-9]+)$", re.MULTILINE)
# Fields of a mount before its optional ones, proc_pid_mountinfo(5).
_MOUNT_FIELDS = 6


@dataclass(frozen=True, slots=True)
class SwapArea:
    """A line of /proc/swaps."""

    path: str
    size_bytes: int
    used_bytes: int
    priority: int
    is_file: bool = False

    @property
    def name(self) -> str:
        """The path, printable."""
        return text.utf8(self.path)


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo."""

    number: Number
    point: str
    kind: str
    options: frozenset[bytes]  # of the file system, not of the mount


def rows(table: bytes) -> Iterator[list[bytes]]:
    """The fields of each line that is not empty."""
    for line in table.split(b"\n"):
        fields = [field for field in _SEPARATORS.split(line) if field]
        if fields:
            yield fields


def name(field: bytes) -> str:
    """The file name in a field."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def number(field: bytes) -> Number:
    """(43, 0) of b"43:0". Raises ValueError."""
    major, minor = field.split(b":")
    return int(major), int(minor)


def swap_areas(table: bytes) -> list[SwapArea]:
    """Areas of /proc/swaps, whose sizes are in KiB. Raises ValueError."""
    areas = []
    for path, kind, size, used, priority in list(rows(table))[1:]:
        area = SwapArea(
            name(path), int(size) << 10, int(used) << 10, int(priority), kind != b"partition"
        )
        areas.append(area)
    return areas


def mounts(table: bytes) -> list[Mount]:
    """Mounts of mountinfo, in its order: a later one hides earlier ones. Raises ValueError."""
    found = []
    for line in filter(None, table.split(b"\n")):
        # One blank apart, so that an empty source counts as a field.
        fields = line.split(b" ")
        end = fields.index(b"-", _MOUNT_FIELDS)
        kind, _, *options = fields[end + 1 :]
        found.append(
            Mount(
                number(fields[2]),
                name(fields[4]),
                name(kind),
                frozenset(b" ".join(options).split(b",")),
            )
        )
    return found


def stall_us(table: bytes) -> int | None:
    """The total of "some" in a PSI file of memory, Documentation/accounting/psi.rst."""
    match = _STALL.search(table)
    return int(match[1]) if match else None
