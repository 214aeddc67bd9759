"""Protocol messages from figures of the native core, which have the names of their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import MutableMapping

Kind = TypeVar("Kind", bound=Message)


def of_record(kind: type[Kind], record: object, **others: object) -> Kind:
    """A message with `others`; all other fields are attributes of `record`."""
    names = kind.DESCRIPTOR.fields_by_name.keys() - others.keys()
    return kind(**{name: getattr(record, name) for name in names}, **others)


def take_fields(kind: type[Message], stats: MutableMapping[str, int]) -> dict[str, Any]:
    """Removes the values that are fields of `kind`; the rest are counters."""
    names = kind.DESCRIPTOR.fields_by_name.keys() & stats.keys()
    return {name: stats.pop(name) for name in names}
