"""Ctrl-C that never tears a set-up or a clean-up in two.

SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, once. While something is being set up
or put back they wait: a swapoff cut short would leave a swap area whose daemon is about to go. What
is put back has deadlines of its own, so waiting is bounded.

    with Interrupts() as interrupts, interrupts.shield(SwapOnLoop(uri)) as swap:
        ...
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

Entered = TypeVar("Entered")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """The signals of a program. One at a time, in the main thread."""

    def __init__(self) -> None:
        self._holds = 0
        self._pending = False
        self._raised = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._arrived) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def check(self) -> None:
        """Raises a pending interrupt."""
        if self._pending and not self._holds:
            self._raise()

    def shield(self, context: AbstractContextManager[Entered]) -> _Shielded[Entered]:
        """The same context, entered and left in one piece."""
        return _Shielded(self, context)

    def hold(self) -> None:
        """From here on signals wait."""
        self._holds += 1

    def release(self) -> None:
        """Ends one hold; `check` raises an interrupt that arrived meanwhile."""
        self._holds -= 1

    def _arrived(self, _number: int, _frame: object) -> None:
        self._pending = True
        self.check()

    def _raise(self) -> None:
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt


class _Shielded(Generic[Entered]):
    def __init__(self, interrupts: Interrupts, context: AbstractContextManager[Entered]) -> None:
        self._interrupts = interrupts
        self._context = context

    def __enter__(self) -> Entered:
        self._interrupts.check()
        self._interrupts.hold()
        try:
            return self._context.__enter__()
        finally:
            # Without check(): raised here, it would leave what was just entered behind.
            self._interrupts.release()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        self._interrupts.hold()
        try:
            return self._context.__exit__(kind, error, trace)
        finally:
            self._interrupts.release()
