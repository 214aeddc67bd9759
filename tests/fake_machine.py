"""A machine's block devices, mounts and swap areas, on a fixture tree of /proc, /sys and /dev.

Nodes are entries of a dictionary, as only root can make real ones. A device that is swapped on, or
in `held`, cannot be claimed, as in the kernel.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from farswap.client_nbd.kernel.files import KernelFiles

if TYPE_CHECKING:
    from pathlib import Path

    from farswap.client_nbd.kernel.tables import Number

SWAPS_HEADER = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
ROOT_DISK = (254, 0)


class FakeMachine(KernelFiles):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self.nodes: dict[str, tuple[Number, bool]] = {}
        self.held: set[Number] = set()
        for directory in ("proc/self", "sys/dev/block", "sys/block", "dev"):
            (root / directory).mkdir(parents=True, exist_ok=True)
        self._mounts: list[str] = []
        self.mount("/", ROOT_DISK, "ext4")
        self.mount("/dev", (0, 5), "devtmpfs")
        if not (root / "proc/swaps").exists():
            self.swaps()
        self.memory_available(512)

    def add_device(self, name: str, number: Number, *, on: str = "", backing: str = "") -> None:
        """`on`: the device that it holds or is a partition of; `backing`: a loop device has it."""
        (self.root / "dev" / name).touch()
        self.nodes[f"/dev/{name}"] = number, True
        directory = self.root / "sys/block" / name
        (directory / "holders").mkdir(parents=True, exist_ok=True)
        (self.root / "sys/dev/block/{}:{}".format(*number)).symlink_to(directory)
        (directory / "dev").write_text("{}:{}\n".format(*number))
        (directory / "uevent").write_text(f"MAJOR={number[0]}\nDEVNAME={name}\n")
        if on and name.startswith(f"{on}p"):
            (directory / "partition").write_text("1\n")
            (self.root / "sys/block" / on / name).symlink_to(directory)
        elif on:
            (self.root / "sys/block" / on / "holders" / name).symlink_to(directory)
        if backing:
            (directory / "loop").mkdir()
            (directory / "loop/backing_file").write_text(f"{backing}\n")

    def mount(self, point: str, number: Number, kind: str) -> None:
        self._mounts.append("36 35 {}:{} / {} rw - {} none rw\n".format(*number, point, kind))
        (self.root / "proc/self/mountinfo").write_text("".join(self._mounts))

    def swaps(self, *lines: str) -> None:
        """Each as "/dev/nbd0 partition 4092 100 -2"."""
        text = SWAPS_HEADER + "".join(f"{line}\n" for line in lines)
        (self.root / "proc/swaps").write_text(text)

    def memory_available(self, mib: int) -> None:
        text = f"MemTotal:  1048576 kB\nMemAvailable:  {mib << 10} kB\n"
        (self.root / "proc/meminfo").write_text(text)

    def look_up(self, path: str) -> tuple[Number, bool]:
        if path not in self.nodes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.nodes[path]

    def claim(self, number: Number, flags: int = os.O_RDONLY) -> int:
        if not (self.root / "sys/dev/block/{}:{}".format(*number)).exists():
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        swapped_on = {self.nodes.get(area.path) for area in self.swap_areas()}
        if number in self.held or (number, True) in swapped_on:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return os.open("/dev/null", flags)
