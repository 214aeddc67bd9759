"""What doubles of the native engine derive from, so that mypy holds them to native.pyi.

For mypy a double is a HostEngine: a method with another signature, or one marked with @override
that the engine does not have, is an error of `make lint`. When run it derives from object.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from farswap.native import HostEngine, State
    from typing_extensions import override as override  # noqa: PLC0414 - for doubles to import

    EngineDouble = HostEngine
    StateDouble = State
else:
    EngineDouble = StateDouble = object

    def override(method):
        return method


Record = TypeVar("Record")


def record(kind: type[Record], **fields: Any) -> Record:
    """A double of a record that the engine returns; it has no field that `kind` lacks."""
    assert not (unknown := fields.keys() - vars(kind).keys()), unknown
    return cast("Record", SimpleNamespace(**fields))
