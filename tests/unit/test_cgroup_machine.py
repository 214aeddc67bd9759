"""Any order of cgroups made, renamed and removed, pages, limits and passes, against what is true.

The directories are real and so are their events; the engine is the model. As on cgroupfs, the
inode number of a removed directory is not given out again (it is held open), unless the machine
is the one that reuses numbers, which claims less.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from farswap.client_nbd.cgroups.groups import CgroupGroups
from farswap.client_nbd.cgroups.tree import CgroupTree
from group_model import NOTHING_SET, GroupModel
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

NAMES = st.sampled_from(["x", "y", "z"])


@dataclass(eq=False)
class Cgroup:
    """What is true of one, from its making on."""

    id: int
    name: str
    parent: Cgroup | None
    children: list[Cgroup] = field(default_factory=list)
    alive: bool = True
    seen: bool = False  # alive, by a pass

    @property
    def path(self) -> str:
        return f"{self.parent.path}/{self.name}" if self.parent else ""

    @property
    def successor(self) -> Cgroup:
        return self if self.alive else self.parent.successor


class Cgroups(RuleBasedStateMachine):
    """Numbers are never given out again."""

    holds_numbers = True
    watch = True

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="farswap-cgroups-"))
        self.now_s = 0.0
        self.engine = GroupModel()
        self.tree = CgroupTree(self.root, watch=self.watch)
        self.groups = CgroupGroups(self.engine, self.tree, lambda: self.now_s)
        self.held: list[int] = []
        top = Cgroup(self.number(self.root), "", None, seen=True)
        self.all = [top]
        self.pages: dict[int, Cgroup] = {}
        self.sure: set[int] = set()
        self.limits: dict[Cgroup, dict[str, str]] = {}
        self.settled = False
        self.look()

    def teardown(self) -> None:
        if hasattr(self, "tree"):
            self.tree.close()
            shutil.rmtree(self.root)
            for descriptor in self.held:
                os.close(descriptor)

    def number(self, path: Path) -> int:
        return path.stat().st_ino & 0xFFFF_FFFF

    def one(self, draw: st.DataObject, wanted) -> Cgroup | None:
        candidates = [cgroup for cgroup in self.all if wanted(cgroup)]
        return draw.draw(st.sampled_from(candidates)) if candidates else None

    def at(self, cgroup: Cgroup) -> Path:
        return Path(f"{self.root}{cgroup.path}")

    @rule(draw=st.data(), name=NAMES)
    def make(self, draw: st.DataObject, name: str) -> None:
        parent = self.one(draw, lambda it: it.alive)
        if any(child.name == name for child in parent.children):
            return
        path = self.at(parent) / name
        path.mkdir()
        cgroup = Cgroup(self.number(path), name, parent)
        parent.children.append(cgroup)
        self.all.append(cgroup)
        self.settled = False

    @rule(draw=st.data())
    def remove(self, draw: st.DataObject) -> None:
        cgroup = self.one(draw, lambda it: it.alive and it.parent and not it.children)
        if cgroup is None:
            return
        path = self.at(cgroup)
        if self.holds_numbers:
            self.held.append(os.open(path, os.O_RDONLY))
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        cgroup.alive = False
        cgroup.parent.children.remove(cgroup)
        self.limits.pop(cgroup, None)
        self.settled = False

    @rule(draw=st.data(), name=NAMES)
    def rename(self, draw: st.DataObject, name: str) -> None:
        cgroup = self.one(draw, lambda it: it.alive and it.parent)
        if cgroup is None or any(it.name == name for it in cgroup.parent.children):
            return
        path = self.at(cgroup)
        path.rename(path.with_name(name))
        cgroup.name = name
        self.settled = False

    @rule(draw=st.data())
    def store(self, draw: st.DataObject) -> None:
        """Also of one that is gone: the kernel keeps its pages, and its id on them."""
        cgroup = self.one(draw, lambda _: True)
        page = len(self.pages)
        self.pages[page] = cgroup
        if self.holds_numbers or cgroup.seen:
            self.sure.add(page)
        self.engine.store(cgroup.id, page)
        self.settled = False

    @rule(
        draw=st.data(),
        name=st.sampled_from(["max", "writeback"]),
        text=st.sampled_from(["0", "1", "8192", "max"]),
    )
    def limit(self, draw: st.DataObject, name: str, text: str) -> None:
        cgroup = self.one(draw, lambda it: it.alive and it.parent)
        if cgroup is not None:
            (self.at(cgroup) / f"memory.zswap.{name}").write_text(text)
            self.limits.setdefault(cgroup, {})[name] = text
            self.settled = False

    @rule()
    def look(self) -> None:
        self.groups.update()
        for cgroup in self.all:
            cgroup.seen = cgroup.seen or cgroup.alive
        self.settled = True

    @precondition(lambda self: getattr(self, "settled", False))
    @invariant()
    def paths_and_ids_are_those_of_the_directories(self) -> None:
        living = [cgroup for cgroup in self.all if cgroup.alive]
        assert {cgroup.path or "/": cgroup.id for cgroup in living} == {
            self.tree.path_of(id_): id_
            for id_ in [self.tree.root_id, *self.tree.descendants(self.tree.root_id)]
        }
        for cgroup in living:
            assert self.tree.id_of(cgroup.path or "/") == cgroup.id

    @precondition(lambda self: getattr(self, "settled", False))
    @invariant()
    def every_page_is_of_the_nearest_that_is_alive(self) -> None:
        for page in self.sure:
            cgroup = self.pages[page]
            if not self.holds_numbers and not cgroup.alive:
                continue  # another may have had its number before the check
            successor = cgroup.successor if cgroup.seen else self.all[0]
            group = self.engine.owner(page)
            assert group.id == successor.id, (cgroup.path, self.tree.path_of(group.id))

    @precondition(lambda self: getattr(self, "settled", False))
    @invariant()
    def groups_are_of_living_cgroups_and_obey_their_files(self) -> None:
        by_id = {cgroup.id: cgroup for cgroup in self.all if cgroup.alive}
        applied = set()
        for record in self.engine.cgroups():
            cgroup = by_id[record.id]
            assert record.placed
            if cgroup.parent is not None:
                assert record.parent == cgroup.parent.id
            files = self.limits.get(cgroup, {})
            maximum = files.get("max", "max")
            assert record.pool_limit_bytes == (int(maximum) if maximum.isdecimal() else None)
            assert record.writeback == (files.get("writeback") != "0")
            applied.add(cgroup)
        for cgroup in self.limits:
            group = self.engine.group(cgroup.id)
            assert cgroup in applied or group is None
            asks = self.limits[cgroup]
            if asks.get("writeback") == "0" or asks.get("max", "max") != "max":
                assert group is not None
                assert group.settings != NOTHING_SET


class ReusedNumbers(Cgroups):
    """On a file system that gives a number out again at once."""

    holds_numbers = False


class Rescans(Cgroups):
    """Without watches; a rescan in every pass."""

    watch = False

    @rule()
    def look(self) -> None:
        self.now_s += 5.0
        super().look()


FEW = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestCgroups = Cgroups.TestCase
TestCgroups.settings = FEW
TestReusedNumbers = ReusedNumbers.TestCase
TestReusedNumbers.settings = FEW
TestRescans = Rescans.TestCase
TestRescans.settings = FEW
