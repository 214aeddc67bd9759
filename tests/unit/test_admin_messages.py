"""Messages of the admin service: pages that may not leave the pool, replicas of shards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fake_cgroups import record
from fake_engine import placement
from farswap.client_nbd.admin.messages import kept_from_servers, placement_status
from farswap.v1 import host_admin_pb2 as pb


def view(
    path: str, *, writeback: bool = True, quota: int | None = None, **counts: int
) -> SimpleNamespace:
    return SimpleNamespace(
        path=path, writeback=writeback, remote_pages_max=quota, record=record(1, **counts)
    )


def test_of_cgroups_without_writeback_those_are_named_that_keep_pages() -> None:
    views = [
        view("/", local_pages=1),
        view("/a", writeback=False),
        view("/a/b", writeback=False, local_pages=1),
        view("/ab", writeback=False, local_pages=1),
    ]
    assert kept_from_servers(views, "/") == "writeback is off for /a/b, /ab"
    assert kept_from_servers(views, "/a") == "writeback is off for /a/b"
    assert kept_from_servers(views, "/c") == ""


@pytest.mark.parametrize(
    ("remote", "reason"), [(4, ""), (5, "no more may go to memory servers of /a")]
)
def test_a_quota_keeps_all_below_it(remote: int, reason: str) -> None:
    views = [
        view("/a", quota=5, tree_remote_pages=remote),
        view("/a/b", local_pages=1),
        view("/ab", local_pages=1),
        view("/full", quota=0),
    ]
    for path in ("/", "/a", "/a/b"):
        assert kept_from_servers(views, path) == reason
    assert kept_from_servers(views, "/ab") == ""


def test_of_many_the_first_are_named() -> None:
    views = [view(f"/{n}", writeback=False, local_pages=1) for n in range(1, 6)]
    assert kept_from_servers(views, "/") == "writeback is off for /1, /2, /3 and 2 more"


def test_the_placement_has_the_names_that_operators_read() -> None:
    placed = placement(
        replicas=2,
        debt_shards=5,
        copies=1,
        lost_shards=3,
        repaired_objects=9,
        failed_repairs=4,
        domains=2,
        crowded_shards=4,
        missing_pages=7,
        spread="rack",
    )
    assert placement_status(placed) == pb.PlacementStatus(
        replicas_wanted=2,
        replication_debt_shards=5,
        replica_copies=1,
        lost_shards=3,
        repaired_objects=9,
        failed_repairs=4,
        failure_domains=2,
        crowded_shards=4,
        missing_pages=7,
        spread="rack",
    )
