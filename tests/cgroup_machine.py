"""Cgroups of a real directory tree, and a model engine that gets them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd.cgroups.groups import CgroupGroups
from farswap.client_nbd.cgroups.tree import CgroupTree
from group_model import NOTHING_SET, GroupModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Machine:
    """Cgroups below `root`, an engine, and what ties them together."""

    def __init__(self, root: Path, *, watch: bool = True) -> None:
        self.root = root
        self.now_s = 0.0
        self.engine = GroupModel()
        self.tree = CgroupTree(root, watch=watch)
        self.groups = CgroupGroups(self.engine, self.tree, lambda: self.now_s)
        self.held: list[int] = []

    def make(self, path: str, **files: str) -> int:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / f"memory.zswap.{name}").write_text(text + "\n")
        return self.id(path)

    def remove(self, path: str, *, number_is_free: bool = False) -> None:
        """cgroupfs does not give out the inode number again, unless it is said to be free."""
        directory = self.root / path
        if not number_is_free:
            self.held.append(os.open(directory, os.O_RDONLY))
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()

    def id(self, path: str) -> int:
        return (self.root / path).stat().st_ino & 0xFFFF_FFFF

    def owner(self, page: str) -> str:
        group = self.engine.owner(page)
        return "/" if group is self.engine.root else self.tree.path_of(group.id)

    def settings(self, path: str) -> dict[str, object]:
        """The engine's settings, where they differ from none."""
        group = self.engine.group(self.id(path))
        assert group is not None, f"{path} has no group"
        return {name: value for name, value in group.settings.items() if value != NOTHING_SET[name]}

    def close(self) -> None:
        self.tree.close()
        for descriptor in self.held:
            os.close(descriptor)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Without a cgroup but the root."""
    made = Machine(tmp_path / "cg")
    made.root.mkdir()
    yield made
    made.close()
