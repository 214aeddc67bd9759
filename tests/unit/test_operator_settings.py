"""What operators set at run time is kept for the next worker."""

from __future__ import annotations

import pytest
from fake_engine import FakeState
from farswap.client_nbd.admin.operator_settings import OperatorSettings
from farswap.v1 import host_admin_pb2 as pb


@pytest.fixture
def state() -> FakeState:
    return FakeState()


def kept(state: FakeState) -> list[object]:
    return list(OperatorSettings(state).requests())


def test_a_fresh_device_has_no_settings(state: FakeState) -> None:
    assert kept(state) == []


def test_later_settings_are_merged_with_earlier_ones(state: FakeState) -> None:
    settings = OperatorSettings(state)
    settings.keep(pb.SetTierRequest(compressor="lz4", pack=True))
    settings.keep(pb.SetTierRequest(compressor="zstd:3", pool_limit_bytes=1 << 23))
    settings.keep(pb.SetPlacementRequest(replicas=2))
    assert kept(state) == [
        pb.SetTierRequest(compressor="zstd:3", pool_limit_bytes=1 << 23, pack=True),
        pb.SetPlacementRequest(replicas=2),
    ]


def test_each_cgroup_has_its_own_until_all_are_reset(state: FakeState) -> None:
    settings = OperatorSettings(state)
    settings.keep(pb.SetCgroupRequest(path="/a", writeback=False, compressor="lz4"))
    settings.keep(pb.SetCgroupRequest(path="/b", pool_limit_bytes=1))
    settings.keep(pb.SetCgroupRequest(path="/a", defaults=["compressor"]))
    a = pb.SetCgroupRequest(path="/a", writeback=False)
    b = pb.SetCgroupRequest(path="/b", pool_limit_bytes=1)
    assert kept(state) == [a, b]
    settings.keep(pb.SetCgroupRequest(path="/a", defaults=["writeback"]))
    assert kept(state) == [b]


def test_a_worker_goes_on_from_the_settings_of_the_one_before(state: FakeState) -> None:
    OperatorSettings(state).keep(pb.SetTierRequest(pack=True))
    OperatorSettings(state).keep(pb.SetTierRequest(compressor="lz4"))
    assert kept(state) == [pb.SetTierRequest(compressor="lz4", pack=True)]


def test_every_named_device_is_kept_in_the_order_of_the_last_requests(state: FakeState) -> None:
    settings = OperatorSettings(state)
    for device in ("/dev/loop1", "/dev/loop2", "/dev/loop1"):
        settings.keep(pb.AttributeRequest(device=device, replace=True))
    assert [request.device for request in kept(state)] == ["/dev/loop2", "/dev/loop1"]
