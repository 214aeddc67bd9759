"""Sections that the configurations of both daemons share, and checks of their addresses."""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from farswap.common.address import Address
from farswap.common.config import Section, Within
from farswap.common.units import Milliseconds

# The kernel probes in whole seconds, at least three times; TCP_KEEPIDLE is a third of it.
Keepalive = Annotated[Milliseconds, Within("3s", "1d")]
KEEPALIVE_DEFAULT = Milliseconds(30_000)


class ClusterSection(Section, frozen=True):
    """[cluster]: an etcd, by its client addresses, that lists memory servers below `prefix`."""

    etcd: list[Address] = msgspec.field(default_factory=list)
    prefix: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._/-]{0,127}/$")] = "farswap/"


class MetricsSection(Section, frozen=True):
    """[metrics]: `/metrics` for Prometheus, if `listen` is set."""

    listen: Address | None = None


class LogSection(Section, frozen=True):
    """[log]: lines on stderr."""

    format: Literal["text", "json"] = "text"


def unusable_addresses(key: str, addresses: Sequence[Address]) -> list[tuple[str, str]]:
    """Problems, as (key, message), of addresses to call: listed twice, or without a port."""
    twice = {str(a) for a in addresses if addresses.count(a) > 1 and a.is_fixed}
    return [(key, f"{address} is listed twice") for address in sorted(twice)] + [
        (key, f"{address} has no port") for address in addresses if not address.is_fixed
    ]


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
