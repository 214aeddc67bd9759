"""io_urings of the supervisor, one for each connection that outlives a worker.

A ring can only be inherited, so they are made before the first worker. io_uring_setup(2).
"""

from __future__ import annotations

import ctypes
import os

from farswap.client_nbd.survival.link import Ring

_SYS_IO_URING_SETUP = 425
_ENTRIES = 8
_PARAMETERS_BYTES = 120  # struct io_uring_params

_libc = ctypes.CDLL(None, use_errno=True)


def make_rings(count: int) -> tuple[Ring, ...]:
    """Fewer, or none, where the kernel refuses them."""
    rings = []
    for _ in range(count):
        parameters = ctypes.create_string_buffer(_PARAMETERS_BYTES)
        descriptor = _libc.syscall(_SYS_IO_URING_SETUP, _ENTRIES, parameters)
        if descriptor < 0:
            break
        os.set_inheritable(descriptor, True)  # noqa: FBT003
        rings.append(Ring(descriptor, parameters.raw.hex()))
    return tuple(rings)
