"""The running kernel's swap on the host daemon by its own nbd driver, where it has one.

`farswap-host attach` and `detach` do all of it: bind /dev/nbdN, make the swap area, swapon; then
swapoff, trim, unbind. An attach that fails half-way undoes its own part.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from swap.real_swap import memory_cgroup_root, run

if TYPE_CHECKING:
    from bench.local_cluster import LocalCluster

FARSWAP_HOST = (sys.executable, "-m", "farswap.client_nbd.main")
PRIORITY = 100
DETACH_DEADLINE_S = 150


def missing_requirement() -> str | None:
    """Returns what this machine lacks for it; None when it lacks nothing."""
    if os.geteuid() != 0:
        return "needs root: attach and swapon"
    if not Path("/sys/block/nbd0").exists():
        subprocess.run(["modprobe", "-q", "nbd"], check=False)
    if free_device() is None:
        return "needs the kernel's nbd driver, and a device of it that is free"
    if shutil.which("cc") is None:
        return "needs the program cc"
    if memory_cgroup_root() is None:
        return "needs the memory cgroup controller, v1 or v2, writable"
    return None


def free_device() -> Path | None:
    """Returns an unbound nbd device."""
    blocks = sorted(Path("/sys/block").glob("nbd*"))
    free = [block for block in blocks if not (block / "pid").exists()]
    return Path("/dev", free[0].name) if free else None


class SwapOnNbd:
    """A swap area on the cluster's host; the like of swap.real_swap.SwapOnLoop."""

    device: str
    swapoff_seconds: float

    def __init__(self, cluster: LocalCluster) -> None:
        self._host = ("--host", cluster.host.admin)

    def __enter__(self) -> Self:
        device = free_device()
        if device is None:
            raise RuntimeError("no nbd device is free")
        self.device = str(device)
        options = ("--swapon", "--priority", str(PRIORITY), "--discard")
        run(*FARSWAP_HOST, "attach", "--device", device, *options, *self._host)
        return self

    def __exit__(self, *exception: object) -> None:
        started = time.monotonic()
        command = ("detach", "--device", self.device, *self._host)
        run(*FARSWAP_HOST, *command, deadline_s=DETACH_DEADLINE_S)
        self.swapoff_seconds = time.monotonic() - started
