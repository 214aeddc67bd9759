"""Text from names that are bytes, and from numbers."""

from __future__ import annotations

import os


def utf8(name: str) -> str:
    r"""A name of os.fsdecode() as UTF-8, with other bytes as "\xff".

    Names from the kernel pass here on their way into messages, metrics and errors, since protobuf
    and Prometheus accept only UTF-8.
    """
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")


def count(number: int, noun: str) -> str:
    """`1 shard`, `3 shards`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
