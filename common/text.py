"""Text for people and programs, made of names that are bytes."""

from __future__ import annotations

import os


def utf8(name: str) -> str:
    r"""A name of os.fsdecode(), as it is shown: bytes that are not UTF-8 as "\xff".

    Every name that the kernel gives passes here on its way into a message, a metric or an error:
    protobuf and Prometheus refuse what is not UTF-8.
    """
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")
