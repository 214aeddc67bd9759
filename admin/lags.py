"""Which memory servers lag behind the others, by what servers and hosts say.

Hosts measure how long their fetches from each server take, and report the 99th percentile in their
heartbeats. A server's figure is the median of its hosts': a host with a slow network makes no
server slow. One far beyond the other servers is named.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from farswap.admin import latency, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.admin.members import Member

_FULL_SHARE = 0.9
# A fetch p99 beyond both is slow.
_SLOW_US = 5000
_SLOW_FACTOR = 3


def lags(looked: Sequence[Member]) -> list[tuple[str, str]]:
    """Addresses, and why."""
    found = []
    for one in looked:
        why = _state(one) or _slowness(one, [other for other in looked if other is not one])
        if why:
            found.append((one.address, why))
    return found


def fetch_p99_us(member: Member) -> float | None:
    """Time within which 99 % of fetches from it end. None: too few fetches."""
    measured = [
        volume.placement.fetch_p99_us
        for volume in member.answer.volumes
        if volume.live and volume.placement.fetch_p99_us
    ]
    return statistics.median(measured) if measured else None


def _state(member: Member) -> str:
    if member.problem:
        return f"unreachable: {member.problem.removeprefix('no answer: ')}"
    if member.state not in ("active", "draining"):
        return member.state.replace("_", " ")
    if member.answer.used_bytes > _FULL_SHARE * member.answer.capacity_bytes:
        share = output.share(member.answer.used_bytes, member.answer.capacity_bytes)
        return f"{share} of its capacity is used"
    return ""


def _slowness(member: Member, others: Sequence[Member]) -> str:
    slow_us = fetch_p99_us(member)
    elsewhere = [us for us in map(fetch_p99_us, others) if us is not None]
    if slow_us is None or not elsewhere:
        return ""
    usual_us = statistics.median(elsewhere)
    if slow_us <= max(_SLOW_US, _SLOW_FACTOR * usual_us):
        return ""
    return f"slow: fetch p99 {latency.text(slow_us)}, {latency.text(usual_us)} on other servers"
