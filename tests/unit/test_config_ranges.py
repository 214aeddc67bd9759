"""Every number, size and duration of both configurations has a range: no absurd value is taken."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from farswap.client_nbd.config import HostConfig
from farswap.common.config import Within
from farswap.common.units import ByteSize, Milliseconds
from farswap.server.config import ServerConfig


def keys() -> list[tuple[str, Any]]:
    return [
        (f"{section}.{key}", hint)
        for model in (HostConfig, ServerConfig)
        for section, table in get_type_hints(model).items()
        for key, hint in get_type_hints(table, include_extras=True).items()
    ]


def is_bounded(hint: object) -> bool:
    """A type of its own checks its range in parse()."""
    if get_origin(hint) is not Annotated:
        return hint not in (int, float, ByteSize, Milliseconds)
    plain, *rules = get_args(hint)
    if plain is int:
        (limits,) = (rule for rule in rules if isinstance(rule, msgspec.Meta))
        return limits.ge is not None and limits.le is not None
    return plain not in (ByteSize, Milliseconds) or any(isinstance(r, Within) for r in rules)


@pytest.mark.parametrize(("key", "hint"), keys())
def test_every_key_is_bounded(key: str, hint: object) -> None:
    assert is_bounded(hint), f"{key}: annotate it with Within()"
