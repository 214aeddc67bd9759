"""Labels of memory servers: which rack, zone or machine they are in."""

from __future__ import annotations

from typing import Self

_BYTES_MAX = 128
# Servers on one machine may have it; by default each is on a machine of its own.
DEFAULT = "host"


class LabelName(str):
    """1 to 128 bytes of printable text."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        if not is_short_text(text):
            raise ValueError(f"{text!a} is not a label of 1 to {_BYTES_MAX} bytes such as rack")
        return cls(text)


def is_short_text(text: object) -> bool:
    """Printable, and 1 to 128 bytes."""
    return isinstance(text, str) and text.isprintable() and 0 < len(text.encode()) <= _BYTES_MAX
