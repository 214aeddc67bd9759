"""Cgroups of a directory tree and the real engine: where pages go, what limits do, what remains.

The label of the export says which cgroup pages belong to, in place of the kernel.
"""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd.cgroups.groups import CgroupGroups, GroupChange
from farswap.client_nbd.cgroups.pressure import ProactivePolicy
from farswap.client_nbd.cgroups.proactive import ProactiveWriteback
from farswap.client_nbd.cgroups.tree import CgroupTree
from farswap.client_nbd.kernel.files import KernelFiles
from hang_guard import HANG_GUARD_S, until
from nbd_client import NbdClient
from requirements import require_native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakeHost, MakeServer
    from farswap.native import CgroupRecord

PAGE = 4096
STALL = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"


class Machine:
    """An engine with an 8 MiB pool and a memory server, over cgroups below root/cgroup."""

    def __init__(self, root: Path, server: str) -> None:
        from farswap import native  # noqa: PLC0415 - only where it was built

        self.root = root
        (root / "cgroup").mkdir()
        (root / "proc/pressure").mkdir(parents=True)
        self.engine = native.HostEngine(
            state=native.State.create(4096, 8 << 20),
            accept_threshold_percent=90,
            store_wait_ms=int(HANG_GUARD_S * 1000),
            fetch_wait_ms=int(HANG_GUARD_S * 1000),
            servers=[server],
            host_id="cgroups",
            device="swap0",
            take_over=False,
            replicas=1,
            spread="host",
            repair_after_ms=300_000,
            rebalance_every_ms=600_000,
            rings=[],
        )
        ours, theirs = socket.socketpair()
        self.engine.serve(theirs.detach(), b"", "test")
        self.client = NbdClient(ours)
        self.tree = CgroupTree(root / "cgroup")
        self.groups = CgroupGroups(self.engine, self.tree)
        self.pages: dict[int, bytes] = {}
        self.random = random.Random(1)

    def make(self, path: str, **files: str) -> int:
        directory = self.root / "cgroup" / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / f"memory.zswap.{name}").write_text(text)
        return directory.stat().st_ino & 0xFFFF_FFFF

    def remove(self, path: str) -> None:
        directory = self.root / "cgroup" / path
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()

    def write(self, cgroup: int, first: int, count: int) -> None:
        """Pages of the cgroup that do not compress."""
        self.engine.set_label(cgroup)
        for slot in range(first, first + count):
            self.pages[slot] = self.random.randbytes(PAGE)
            self.client.write(slot * PAGE, self.pages[slot])

    def verify(self) -> None:
        for slot, page in self.pages.items():
            assert self.client.read(slot * PAGE, PAGE) == page

    def records(self) -> dict[str, CgroupRecord]:
        return {self.groups.path_of(record.id): record for record in self.engine.cgroups()}

    def close(self) -> None:
        self.tree.close()
        self.client.close()
        self.engine.stop()


@pytest.fixture
def machine(tmp_path: Path, memory_server: MakeServer) -> Iterator[Machine]:
    require_native()
    made = Machine(tmp_path, memory_server().pages)
    yield made
    made.close()


def test_pages_follow_their_cgroup_and_then_its_parent(machine: Machine) -> None:
    machine.groups.update()
    c = machine.make("a/b/c", max="4194304")
    machine.write(c, 0, 100)
    machine.groups.update()
    records = machine.records()
    assert set(records) == {"/", "/a", "/a/b", "/a/b/c"}
    assert all(record.placed for record in records.values())
    assert records["/a/b/c"].parent == records["/a/b"].id
    assert records["/a/b/c"].pool_limit_bytes == 4 << 20
    assert records["/a/b/c"].local_pages == 100
    machine.remove("a/b/c")
    machine.groups.update()
    machine.write(c, 100, 10)
    records = machine.records()
    assert set(records) == {"/", "/a", "/a/b"}
    assert records["/a/b"].local_pages == 110
    machine.verify()


def test_an_id_given_out_again_is_of_the_new_cgroup_alone(machine: Machine) -> None:
    machine.make("x")
    old = machine.make("a/b")
    machine.write(old, 0, 10)
    machine.groups.update()
    machine.remove("a/b")
    if machine.make("x/y") != old:
        pytest.skip("needs a file system that gives out inode numbers again at once")
    machine.groups.update()
    machine.write(old, 10, 5)
    records = machine.records()
    assert records["/a"].local_pages == 10
    assert records["/x/y"].local_pages == 5


def test_a_limit_holds_from_the_first_page_of_a_cgroup_below_on(machine: Machine) -> None:
    machine.make("limited", max=str(1 << 20))
    machine.groups.update()
    below = machine.make("limited/below")
    machine.groups.update()
    machine.write(below, 0, 1024)
    until(lambda: machine.records()["/limited"].tree_pool_bytes <= 1 << 20)
    counters = machine.records()["/limited/below"].counters
    assert counters["writeback_started_cgroup_limit"] > 700
    machine.verify()


def test_limits_of_files_hold_from_the_first_page_on(machine: Machine) -> None:
    limited = machine.make("limited", max=str(1 << 20))
    kept = machine.make("kept", writeback="0")
    machine.groups.update()
    machine.write(kept, 0, 512)
    machine.write(limited, 512, 1024)
    until(lambda: machine.records()["/limited"].tree_pool_bytes <= 1 << 20)
    records = machine.records()
    assert records["/limited"].remote_pages > 700
    assert records["/limited"].counters["writeback_started_cgroup_limit"] > 700
    assert records["/kept"].local_pages == 512
    assert records["/kept"].remote_pages == 0
    machine.verify()
    machine.groups.set("/kept", GroupChange(writeback=True, pool_limit_bytes=1 << 20))
    machine.write(kept, 0, 1)
    until(lambda: machine.records()["/kept"].remote_pages > 0)
    machine.verify()


def test_pressure_moves_pages_while_the_pool_fills(machine: Machine) -> None:
    now_s = stall_us = 0
    shrinker = ProactiveWriteback(
        machine.engine,
        machine.groups,
        machine.tree,
        KernelFiles(machine.root),
        ProactivePolicy(by_pressure=True, older_than_s=0),
        lambda: now_s,
    )

    def five_seconds(*, stalled: bool) -> int:
        """Pages of /a that were sent until then."""
        nonlocal now_s, stall_us
        for _ in range(5):
            machine.groups.update()
            now_s += 1
            stall_us += 500_000 * stalled
            (machine.root / "proc/pressure/memory").write_text(STALL.format(stall_us))
            shrinker.step()
        return machine.records()["/a"].counters["writeback_started_shrinker"]

    a = machine.make("a")
    machine.write(a, 0, 1024)
    machine.write(machine.make("kept", writeback="0"), 1024, 256)
    five_seconds(stalled=False)
    assert five_seconds(stalled=True) == 0, "the pool has room"
    machine.write(a, 1280, 500)
    assert five_seconds(stalled=False) == 0
    five_seconds(stalled=True)
    until(lambda: machine.records()["/a"].remote_pages > 50)
    assert machine.records()["/a"].counters["writeback_started_shrinker"] > 50
    assert machine.records()["/kept"].local_pages == 256
    machine.verify()


def test_age_moves_pages_proactively(machine: Machine) -> None:
    policy = ProactivePolicy(by_pressure=False, older_than_s=1)
    files = KernelFiles(machine.root)
    shrinker = ProactiveWriteback(machine.engine, machine.groups, machine.tree, files, policy)
    machine.write(machine.make("a"), 0, 300)
    machine.groups.update()

    def all_are_remote() -> bool:
        shrinker.step()
        return machine.records()["/a"].remote_pages == 300

    until(all_are_remote)
    assert machine.records()["/a"].counters["writeback_started_age"] >= 300
    machine.verify()


def test_a_thousand_cgroups_leave_nothing_behind(machine: Machine) -> None:
    machine.groups.update()
    for slot in range(1000):
        machine.write(machine.make(f"a/c{slot}"), slot, 1)
    machine.groups.update()
    assert len(machine.records()) == 1002
    for slot in range(1000):
        machine.remove(f"a/c{slot}")
    machine.groups.update()
    assert set(machine.records()) == {"/", "/a"}
    assert machine.records()["/a"].local_pages + machine.records()["/a"].remote_pages == 1000
    machine.verify()


def test_the_daemon_follows_cgroups(host_daemon: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "cgroup/a/b").mkdir(parents=True)
    host = host_daemon(
        cgroups={"root": str(tmp_path / "cgroup")}, shrinker={"proactive": True, "older_than": "1s"}
    )
    with NbdClient.of(host) as client:
        client.write(0, bytes(range(256)) * 16)
        (tmp_path / "cgroup/a/b").rmdir()
        (tmp_path / "cgroup/a/c").mkdir()
        assert client.read(0, PAGE) == bytes(range(256)) * 16
    assert host.stop() == 0
    assert "Traceback" not in host.log()


def test_a_host_without_cgroups_is_served_all_the_same(
    host_daemon: MakeHost, tmp_path: Path
) -> None:
    host = host_daemon(cgroups={"root": str(tmp_path / "none")})
    assert "no cgroups are known" in host.log()
    with NbdClient.connect_unix(host.nbd_path) as client:
        assert client.negotiate("swap0") == 64 << 20
    assert host.stop() == 0
    assert "Traceback" not in host.log()
