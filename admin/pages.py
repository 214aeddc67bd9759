"""Where pages are, of a host's tier in all or of one cgroup: both statuses say it alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.admin import output
from farswap.common.units import PAGE_BYTES

if TYPE_CHECKING:
    from farswap.v1 import host_admin_pb2 as pb

    Status = pb.TierStatus | pb.CgroupStatus

_STATES = ("same_filled", "local", "writing", "clean", "remote")


def by_state(status: Status) -> dict[str, int]:
    """Their sum is all that is stored."""
    return {state: getattr(status, f"pages_{state}") for state in _STATES}


def in_pool(status: Status) -> int:
    """Those that have bytes in it."""
    return status.pages_local + status.pages_writing + status.pages_clean


def rows(status: Status) -> list[output.Row]:
    """In all, and where they are."""
    in_both = f", and {status.pages_clean} of those in the pool" if status.pages_clean else ""
    return [
        ("pages", f"{status.pages_stored} ({output.size(status.pages_stored * PAGE_BYTES)})"),
        ("  in pool", f"{in_pool(status)}, of these {status.pages_raw} do not compress"),
        ("  on servers", f"{status.pages_remote}{in_both}"),
        ("  same-filled", str(status.pages_same_filled)),
    ]
