"""The native tier as a Python module: built for tests only, and found in the build tree.

Its threads make runs that cannot be repeated at will, so every call is recorded, and what a run
that failed has called is kept in a file.
"""

from __future__ import annotations

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

TOP = Path(__file__).resolve().parents[2]


class MissingModuleError(Exception):
    """The module has not been built; the message says how to."""


def load_native_tier() -> ModuleType:
    """native/tests/tier_model_module.cc, of the newest build."""
    name = f"tier_model{EXTENSION_SUFFIXES[0]}"
    candidates = [TOP / "build" / build / "tests" / name for build in ("release", "debug")]
    built = [path for path in candidates if path.exists()]
    if not built:
        raise MissingModuleError(f"{name} is not built: run `make programs`")
    newest = max(built, key=lambda path: path.stat().st_mtime)
    spec = importlib.util.spec_from_file_location("tier_model", newest)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class RecordedTier:
    """Passes calls on to a ModelTier and remembers them."""

    SHOWN_BYTES = 24

    def __init__(self, tier: object) -> None:
        self._tier = tier
        self._calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._tier, name)

        def call(*positional: object, **named: object) -> object:
            words = [self._shown(value) for value in positional]
            words += [f"{key}={value}" for key, value in named.items()]
            result = method(*positional, **named)
            self._calls.append(f"{name}({', '.join(words)}) -> {self._shown(result)}")
            return result

        return call

    def _shown(self, value: object) -> str:
        if isinstance(value, bytes):
            return f"{len(value)} bytes {value[: self.SHOWN_BYTES].hex()}"
        return repr(value) if isinstance(value, bool | int | str | tuple | None) else "..."

    def keep_calls(self, path: Path) -> None:
        """Writes the calls, oldest first."""
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(self._calls) + "\n")
