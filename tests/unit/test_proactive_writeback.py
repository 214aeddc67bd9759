"""What proactive writeback samples, and what it starts in the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd.cgroups.groups import CgroupGroups, GroupChange
from farswap.client_nbd.cgroups.pressure import ProactivePolicy
from farswap.client_nbd.cgroups.proactive import ProactiveWriteback
from farswap.client_nbd.cgroups.tree import CgroupTree
from farswap.client_nbd.kernel.files import KernelFiles
from group_model import GroupModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECOND_US = 1_000_000
STALL = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 total=0\n"


class Engine(GroupModel):
    def __init__(self) -> None:
        super().__init__()
        self.gauges = {
            "pool_entry_bytes": 40,
            "pool_limit_bytes": 100,
            "accept_threshold_percent": 50,
        }
        self.shrinks: list[tuple[int, int, int]] = []

    def stats(self) -> dict[str, int]:
        return self.gauges

    def write_back_proactively(self, cgroup: int, pages: int, older_than_s: int) -> None:
        self.shrinks.append((cgroup, pages, older_than_s))


class Machine:
    """Cgroup /a/b with a thousand pages, on a host at rest whose pool is at the low mark."""

    def __init__(self, root: Path, *, older_than_s: int = 0) -> None:
        self.root = root
        self.now_s = 0.0
        (root / "proc/pressure").mkdir(parents=True)
        (root / "cgroup/a/b").mkdir(parents=True)
        self.id = (root / "cgroup/a/b").stat().st_ino & 0xFFFF_FFFF
        self.host_stalls(0)
        self.engine = Engine()
        self.tree = CgroupTree(root / "cgroup")
        self.groups = CgroupGroups(self.engine, self.tree, lambda: self.now_s)
        self.shrinker = ProactiveWriteback(
            self.engine,
            self.groups,
            self.tree,
            KernelFiles(root),
            ProactivePolicy(by_pressure=True, older_than_s=older_than_s),
            lambda: self.now_s,
        )
        for page in range(1000):
            self.engine.store(self.id, page)
        self.second()
        self.engine.shrinks.clear()

    def host_stalls(self, total_us: int) -> None:
        (self.root / "proc/pressure/memory").write_text(STALL.format(total_us))

    def cgroup_stalls(self, path: str, total_us: int) -> None:
        (self.root / "cgroup" / path / "memory.pressure").write_text(STALL.format(total_us))

    def pool_fills(self) -> None:
        """From the low mark to the threshold."""
        self.engine.gauges["pool_entry_bytes"] = 50

    def second(self) -> list[tuple[int, int, int]]:
        """Pages and age of what is asked for in a second."""
        self.groups.update()
        self.now_s += 1.0
        self.engine.shrinks = []
        self.shrinker.step()
        return self.engine.shrinks


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.tree.close()


def test_a_host_at_rest(machine: Machine) -> None:
    assert machine.second() == []


def test_pressure_of_the_host(machine: Machine) -> None:
    machine.pool_fills()
    machine.host_stalls(SECOND_US // 5)
    assert machine.second() == [(machine.id, 24, 0)]
    assert machine.second() == []


def test_pressure_of_the_cgroup_alone(machine: Machine) -> None:
    machine.cgroup_stalls("a/b", 0)
    machine.second()
    machine.pool_fills()
    machine.cgroup_stalls("a/b", SECOND_US // 5)
    assert machine.second() == [(machine.id, 24, 0)]


def test_pressure_while_the_pool_has_room(machine: Machine) -> None:
    machine.host_stalls(SECOND_US)
    assert machine.second() == []


def test_a_limit_of_an_ancestor_counts_where_the_pool_is_empty(machine: Machine) -> None:
    machine.engine.gauges["pool_entry_bytes"] = 0
    machine.groups.set("/a", GroupChange(pool_limit_bytes=20))
    tree_bytes = 8
    machine.engine.cgroups = lambda: [
        SimpleNamespace(**{**vars(record), "tree_pool_bytes": tree_bytes})
        for record in GroupModel.cgroups(machine.engine)
    ]
    machine.cgroup_stalls("a/b", 0)
    machine.second()
    machine.second()
    tree_bytes = 10
    machine.cgroup_stalls("a/b", SECOND_US // 5)
    assert machine.second() == [(machine.id, 24, 0)]
    machine.host_stalls(SECOND_US)
    assert machine.second() == []


def test_a_group_without_writeback_is_left_alone(machine: Machine) -> None:
    machine.groups.set("/a", GroupChange(writeback=False))
    machine.pool_fills()
    machine.host_stalls(SECOND_US // 5)
    assert machine.second() == []


def test_age(tmp_path: Path) -> None:
    machine = Machine(tmp_path, older_than_s=60)
    assert machine.second() == [(machine.id, 1000, 60)]
    machine.tree.close()


def test_a_kernel_without_psi(machine: Machine) -> None:
    (machine.root / "proc/pressure/memory").unlink()
    machine.pool_fills()
    assert machine.second() == []


def test_time_that_does_not_go_on(machine: Machine) -> None:
    machine.pool_fills()
    machine.host_stalls(SECOND_US // 5)
    machine.engine.shrinks = []
    machine.shrinker.step()
    assert machine.engine.shrinks == []
