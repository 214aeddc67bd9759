"""Pages by state, of a host's tier or of one cgroup: both statuses have the same fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.admin import output
from farswap.common.units import PAGE_BYTES

if TYPE_CHECKING:
    from farswap.v1 import host_admin_pb2 as pb

    Status = pb.TierStatus | pb.CgroupStatus

_STATES = ("same_filled", "local", "writing", "clean", "remote")


def by_state(status: Status) -> dict[str, int]:
    """The sum is the number of pages held."""
    return {state: getattr(status, f"{state}_pages") for state in _STATES}


def in_pool(status: Status) -> int:
    """Pages with an entry in the pool."""
    return status.local_pages + status.writing_pages + status.clean_pages


def rows(status: Status) -> list[output.Row]:
    """Total and by place."""
    in_both = f", and {status.clean_pages} of those in the pool" if status.clean_pages else ""
    return [
        ("pages", f"{status.held_pages} ({output.size(status.held_pages * PAGE_BYTES)})"),
        ("  in pool", f"{in_pool(status)}, of these {status.raw_pages} do not compress"),
        ("  on servers", f"{status.remote_pages}{in_both}"),
        ("  same-filled", str(status.same_filled_pages)),
    ]
