"""Makes a swap area of an empty device, as mkswap(8) does. linux/swap.h: union swap_header."""

from __future__ import annotations

import os
import struct
import uuid
from typing import TYPE_CHECKING

from farswap.common.errors import NotPossibleError
from farswap.common.units import PAGE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

_SIGNATURE = b"SWAPSPACE2"  # the last bytes of the first page
# After 1 KiB for boot loaders: version, last page, number of bad pages, uuid, label.
_HEADER = struct.Struct("=1024x3I16s16s")
_VERSION = 1
_LABEL = b"farswap"
# Where file systems, partition tables and volume managers put their signatures.
_PROBE_BYTES = 1 << 20


def make(device: str, node: Path) -> None:
    """Leaves a swap area as it is. Refuses to overwrite anything else: NotPossibleError."""
    try:
        with node.open("r+b", buffering=0) as file:
            head = file.read(_PROBE_BYTES)
            if head[PAGE_BYTES - len(_SIGNATURE) : PAGE_BYTES] == _SIGNATURE:
                return
            if any(head):
                raise NotPossibleError(
                    f"{device} has data that is not a swap area; run mkswap by hand to overwrite it"
                )
            last_page = file.seek(0, os.SEEK_END) // PAGE_BYTES - 1
            header = _HEADER.pack(_VERSION, last_page, 0, uuid.uuid4().bytes, _LABEL)
            file.seek(0)
            file.write(header.ljust(PAGE_BYTES - len(_SIGNATURE), b"\0") + _SIGNATURE)
            os.fsync(file.fileno())
    except OSError as error:
        raise NotPossibleError(f"{device}: failed to make a swap area: {error.strerror}") from error
