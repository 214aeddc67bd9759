"""What a process of the daemon requests of the kernel for itself, without the native core.

prctl(2), mlockall(2), proc(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

from farswap.common.errors import StartError

_PR_SET_PDEATHSIG = 1
_PR_SET_IO_FLUSHER = 57
_MCL_CURRENT_AND_FUTURE = 3

_libc = ctypes.CDLL(None, use_errno=True)


def enter_reclaim_path() -> None:
    """As EnterReclaimPath() of native/base, which reports refusals: workers call that."""
    _libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    _libc.mlockall(_MCL_CURRENT_AND_FUTURE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")


def die_with(parent: int) -> None:
    """SIGKILL to this process when its parent ends. Raises StartError if it has ended."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise StartError("the supervisor has ended")
