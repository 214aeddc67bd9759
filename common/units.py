"""Sizes (`64MiB`) and durations (`500ms`) as operators write them, and back.

Both are integers, of bytes and milliseconds, with types that the configuration decoder recognizes.
Parsing is exact: no floats, no missing unit.
"""

from __future__ import annotations

import re
from typing import Self

_BYTES_BY_UNIT = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MS_BY_UNIT = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

# A page of the kernel, and a slot of a swap device.
PAGE_BYTES = 4096
# Pages that are placed together (native/tier/page.h).
SHARD_SLOTS = 4096

# Maximum of the signed 64-bit fields of protocol and native core.
BYTES_MAX = (1 << 63) - 1
# A year: longer is a typing error, and its seconds fit 32 bits.
MS_MAX = 366 * 86_400_000

_QUANTITY = re.compile(r"([0-9]+)([A-Za-z]+)")


def _parse(text: object, units: dict[str, int], limit: int, kind: str, example: str) -> int:
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"{_quoted(text)} is not a {kind} such as {example}")
    # More digits exceed any limit; int() refuses 5,000 of them.
    if len(match[1]) > 20 or int(match[1]) * units[match[2]] > limit:
        raise ValueError(f"{_quoted(text)} is too large a {kind}")
    return int(match[1]) * units[match[2]]


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


class ByteSize(int):
    """A number of bytes, written as `4096B`, `64KiB`, `64MiB`, `1GiB` or `2TiB`."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        return cls(_parse(text, _BYTES_BY_UNIT, BYTES_MAX, "size", "64MiB"))

    def __str__(self) -> str:
        return format_size(self)


class Milliseconds(int):
    """A time span, written as `500ms`, `2s`, `5m`, `1h` or `1d`."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        return cls(_parse(text, _MS_BY_UNIT, MS_MAX, "duration", "2s or 500ms"))

    def __str__(self) -> str:
        return _format(int(self), _MS_BY_UNIT)


def _format(value: int, units: dict[str, int]) -> str:
    amount = int(value)  # whose str() is plain digits, unlike that of the types here
    for unit, factor in reversed(units.items()):
        if amount and amount % factor == 0:
            return f"{amount // factor}{unit}"
    return f"{amount}{next(iter(units))}"


def format_size(value: int) -> str:
    """The exact size in its largest whole unit: `64MiB`, `65537B`. ByteSize.parse reads it back."""
    return _format(value, _BYTES_BY_UNIT)
