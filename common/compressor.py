"""Text form of a compressor: `lz4`, `lz4:8` (acceleration), `zstd:3` (level).

Used by configuration, command line and protocol, in its shortest form. The ranges are those of the
native codec.
"""

from __future__ import annotations

import re
from typing import Self

# Per codec: the smallest, the largest and the default level.
_LEVELS = {"lz4": (1, 65537, 1), "zstd": (1, 19, 3)}

_FORM = re.compile(r"([a-z0-9]+)(?::([0-9]{1,5}))?")


class Compressor(str):
    """Of lz4, a higher level is faster and compresses less; of zstd, slower and more."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[1] not in _LEVELS:
            raise ValueError(f'"{text}" is not a compressor such as lz4, lz4:8 or zstd:3')
        lowest, highest, default = _LEVELS[match[1]]
        level = int(match[2] or default)
        if not lowest <= level <= highest:
            what = "acceleration of lz4" if match[1] == "lz4" else f"level of {match[1]}"
            raise ValueError(f'"{text}": the {what} is not in {lowest}..{highest}')
        return cls.of(match[1], level)

    @classmethod
    def of(cls, codec: str, level: int) -> Self:
        """From the native core's codec and level."""
        return cls(codec if (codec, level) == ("lz4", 1) else f"{codec}:{level}")

    @property
    def codec(self) -> str:
        """`lz4` or `zstd`."""
        return self.partition(":")[0]

    @property
    def level(self) -> int:
        """Level for the native core: acceleration of lz4, level of zstd."""
        return int(self.partition(":")[2] or 1)


class Recompressor(Compressor):
    """Compressor of pages on their way to memory servers: zstd, or `off`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        if text == "off":
            return cls(text)
        compressor = Compressor.parse(text)
        if compressor.codec != "zstd":
            raise ValueError(f'"{text}" is neither off nor a level of zstd such as zstd:3')
        return cls(compressor)

    @property
    def is_on(self) -> bool:
        """Whether it is not `off`."""
        return self != "off"
