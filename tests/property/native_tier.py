"""The native tier as a Python module: built for tests only, and found in the build tree."""

from __future__ import annotations

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        raise MissingModuleError(f"{name} is not built: run `make build`")
    newest = max(built, key=lambda path: path.stat().st_mtime)
    spec = importlib.util.spec_from_file_location("tier_model", newest)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
