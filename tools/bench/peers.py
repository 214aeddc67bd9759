"""What the figures of farswap stand beside, run on the same machine in the same minute: nbdkit's
memory plugin, a zram device, a TCP ping-pong, RocksDB in one process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.programs import native_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_DEADLINE_S = 10
RUN_DEADLINE_S = 120
ZRAM_CONTROL = Path("/sys/class/zram-control")
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Nbdkit:
    """A running nbdkit."""

    pid: int
    connect: str


@contextlib.contextmanager
def nbdkit_memory(
    size_bytes: int, allocator: str = "sparse", filters: Sequence[str] = (), **settings: str
) -> Iterator[Nbdkit]:
    """Serves an empty memory disk on a unix socket; `settings` are the filters'."""
    with tempfile.TemporaryDirectory(prefix="farswap-") as directory:
        path = Path(directory, "nbd")
        command = ["nbdkit", "--foreground", "--unix", str(path)]
        command += [f"--filter={name}" for name in filters]
        command += ["memory", str(size_bytes), f"allocator={allocator}"]
        command += [f"{key.replace('_', '-')}={value}" for key, value in settings.items()]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            deadline = time.monotonic() + START_DEADLINE_S
            while not path.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("nbdkit did not start")
                time.sleep(0.01)
            yield Nbdkit(process.pid, f"unix:{path}")
        finally:
            process.terminate()
            process.wait(START_DEADLINE_S)


def pingpong_p50_us(
    request_bytes: int, reply_bytes: int, seconds: float, client_cpu: int, server_cpu: int
) -> float:
    """The median round trip of blocking messages over loopback TCP."""
    numbers = (request_bytes, reply_bytes, seconds, client_cpu, server_cpu)
    command = [str(native_program("farswap-pingpong")), *map(str, numbers)]
    p50_us: float = json.loads(_output(command))["p50_us"]
    return p50_us


def rocksdb_rates(corpus: Path, directory: Path) -> dict[str, float]:
    """Puts and gets a second of RocksDB alone with the compressed pages of the corpus."""
    store = directory / "rocksdb-peer"
    try:
        command = [str(native_program("farswap-rocksdb-peer")), str(corpus), str(store)]
        rates: dict[str, float] = json.loads(_output(command))
        return rates
    finally:
        shutil.rmtree(store, ignore_errors=True)


def zram_missing() -> str | None:
    """Returns why there can be no zram peer here; None when there can."""
    if os.geteuid() != 0:
        return "needs root: zram"
    if not ZRAM_CONTROL.exists():
        subprocess.run(["modprobe", "-q", "zram"], check=False)
    if not ZRAM_CONTROL.exists():
        return "needs zram in the kernel"
    return None


def zram_used_bytes(corpus: Path) -> int:
    """Memory of a zram device with LZ4 for the pages of the corpus (mem_used_total)."""
    number = int((ZRAM_CONTROL / "hot_add").read_text())
    block = Path(f"/sys/block/zram{number}")
    try:
        (block / "comp_algorithm").write_text("lz4")
        (block / "disksize").write_text(str(corpus.stat().st_size))
        with _device_node(block) as node, corpus.open("rb") as source, node.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)
            target.flush()
            os.fsync(target.fileno())
        used_bytes = int((block / "mm_stat").read_text().split()[2])
    finally:
        (block / "reset").write_text("1")
        (ZRAM_CONTROL / "hot_remove").write_text(str(number))
    return used_bytes


@contextlib.contextmanager
def _device_node(block: Path) -> Iterator[Path]:
    """The node of the device, created if missing."""
    major, minor = (int(part) for part in (block / "dev").read_text().split(":"))
    with tempfile.TemporaryDirectory(prefix="farswap-", dir="/dev") as directory:
        node = Path(directory, block.name)
        os.mknod(node, 0o600 | 0o060000, os.makedev(major, minor))
        yield node


def _output(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=RUN_DEADLINE_S
    ).stdout
