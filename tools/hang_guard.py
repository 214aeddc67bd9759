"""How long tests wait for what has to happen, before they call it a hang."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

# Far beyond what a busy machine ever holds a process up, and within pytest's own limit for a test.
HANG_GUARD_S = 180.0


def until(what: Callable[[], Result], every_s: float = 0.02) -> Result:
    """The first true result of `what`."""
    deadline = time.monotonic() + HANG_GUARD_S
    while not (result := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen in {HANG_GUARD_S} s")
        time.sleep(every_s)
    return result
