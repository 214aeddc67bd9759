"""Sections that the configurations of both daemons share, and a check of their addresses."""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
from collections.abc import Iterable
from typing import Literal, Self

from farswap.common.address import Address
from farswap.common.config import Section
from farswap.common.units import Milliseconds

# The kernel probes in whole seconds, at least three times.
_KEEPALIVE_MS_MIN = 3000
# A third of it is at most what TCP_KEEPIDLE takes.
_KEEPALIVE_MS_MAX = 86_400_000


class Keepalive(Milliseconds):
    """Time after which connections of a silent TCP peer are closed."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        span = super().parse(text)
        if span < _KEEPALIVE_MS_MIN:
            raise ValueError(f"{span} is less than {Milliseconds(_KEEPALIVE_MS_MIN)}")
        if span > _KEEPALIVE_MS_MAX:
            raise ValueError(f"{span} is more than {Milliseconds(_KEEPALIVE_MS_MAX)}")
        return span


KEEPALIVE_DEFAULT = Keepalive(30_000)


class MetricsSection(Section, frozen=True):
    """[metrics]: `/metrics` for Prometheus, if `listen` is set."""

    listen: Address | None = None


class LogSection(Section, frozen=True):
    """[log]: lines on stderr."""

    format: Literal["text", "json"] = "text"


def shared_addresses(services: Iterable[tuple[str, Address | None]]) -> list[tuple[str, str]]:
    """A problem, as (key, message), for each service at the address of an earlier one."""
    taken: dict[Address, str] = {}
    problems: list[tuple[str, str]] = []
    for key, address in services:
        if address is None or not address.is_fixed:
            continue
        if address in taken:
            problems.append((key, f"{address} is taken by {taken[address]}"))
        taken.setdefault(address, key)
    return problems
