"""Rows about the replicas of a host's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.admin import output
from farswap.common.text import count

if TYPE_CHECKING:
    from farswap.v1 import host_admin_pb2 as pb
    from rich.console import Console
    from rich.text import Text


def print_rows(out: Console, placement: pb.PlacementStatus) -> None:
    """What is wanted, and what is missing."""
    rows: list[output.Row] = [
        ("replicas wanted", str(placement.replicas_wanted)),
        ("short of replicas", _shards(placement.replication_debt_shards)),
        ("copies under way", str(placement.replica_copies)),
        ("lost", _shards(placement.lost_shards)),
        ("on no replica", _count(placement.missing_pages, "page")),
        ("objects repaired", f"{placement.repaired_objects}, {placement.failed_repairs} failed"),
        ("failure domains", f"{placement.failure_domains}, by the label {placement.spread}"),
        ("two replicas in one", _shards(placement.crowded_shards)),
    ]
    output.print_rows(out, "placement", rows)


def _shards(number: int) -> Text:
    return _count(number, "shard")


def _count(number: int, noun: str) -> Text:
    return output.bad(count(number, noun)) if number else output.good("none")
