"""Sections that the configurations of both daemons share, and a check of their addresses."""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
from collections.abc import Iterable
from typing import Annotated, Literal

from farswap.common.address import Address
from farswap.common.config import Section, Within
from farswap.common.units import Milliseconds

# The kernel probes in whole seconds, at least three times; TCP_KEEPIDLE is a third of it.
Keepalive = Annotated[Milliseconds, Within("3s", "1d")]
KEEPALIVE_DEFAULT = Milliseconds(30_000)


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
