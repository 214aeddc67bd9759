"""A memory server whose disk is filled and freed at random, and that is killed at random.

One thread puts, gets and discards pages by the page protocol, and remembers the last
acknowledged version of each. Another writes to the server's disk until 0 to 4 MiB are left, frees
some or all of it, and sends the server SIGKILL, also while the disk is full.

Right means that the server never ends by itself, starts on a full disk, answers every fetch of an
acknowledged page with that version or a later one, and takes pages again when there is room.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from daemons import MemoryServer
from farswap.v1 import page_store_pb2 as pb
from page_client import PageClient, content_of, make_object, page_content
from soak.legs import SoakError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
DISK_BYTES = 160 * MIB
LEFT_BYTES_MAX = 4 * MIB
SLOTS = 12_000
BATCH_PAGES_MAX = 256
FETCHED_SLOTS = 64
RESUME_S = 30
REFUSALS = frozenset({pb.OBJECT_STATUS_FULL, pb.OBJECT_STATUS_IO_ERROR})


@dataclass
class Report:
    """What happened."""

    pages: int = 0
    refused: int = 0
    verified: int = 0
    fills: int = 0
    kills: int = 0
    resume_s: float = 0

    def __str__(self) -> str:
        return (
            f"{self.pages:,} pages acknowledged, {self.refused:,} refused, {self.verified:,} "
            f"verified; the disk filled {self.fills} times, the server killed {self.kills} times, "
            f"{self.resume_s:.1f} s with room until it took pages again"
        )


@contextlib.contextmanager
def small_disk(kind: str, directory: Path, size: int = DISK_BYTES) -> Iterator[Path]:
    """A new file system of `kind`, tmpfs or ext4, mounted below `directory`. Needs root."""
    mounted = directory / "disk"
    mounted.mkdir()
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "disk", str(mounted)]
    else:
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(mounted)]
    subprocess.run(mount, check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def run_full_disk(kind: str, seconds: float, directory: Path) -> Report:
    """Runs it; SoakError when something was wrong."""
    with small_disk(kind, directory) as disk:
        server = MemoryServer(
            "full-disk",
            directory,
            {
                "server": {"listen": "127.0.0.1:0"},
                "store": {"path": str(disk / "store"), "capacity": "4GiB"},
                "admin": {"listen": "127.0.0.1:0"},
            },
        )
        report = Report()
        server.start()
        trouble = _Trouble(server, disk, report, random.Random(1))
        load = _Load(server, trouble.restarting, report, random.Random(2))
        try:
            trouble.start()
            load.run(seconds)
            trouble.stop()
            load.resume_and_verify()
        except SoakError as error:
            raise SoakError(f"{error}\n{server.log()[-4000:]}") from error
        finally:
            trouble.stop()
            load.close()
            server.kill()
        return report


class _Trouble(threading.Thread):
    """Fills and frees the disk, and kills the server."""

    def __init__(
        self, server: MemoryServer, disk: Path, report: Report, chance: random.Random
    ) -> None:
        super().__init__(daemon=True)
        self.restarting = threading.Lock()  # held while the server is away by our doing
        self._server = server
        self._files = [disk / f"other{n}" for n in range(3)]
        self._report = report
        self._chance = chance
        self._end = threading.Event()

    def run(self) -> None:
        for cycle in itertools.count():
            if self._end.wait(self._chance.uniform(0, 0.6)):
                return
            for file in self._chance.sample(self._files, self._chance.randint(1, 3)):
                self._fill(file)
            if cycle == 1 or self._chance.random() < 0.15:
                self._kill()
            self._end.wait(self._chance.uniform(0, 1.5))
            for file in self._chance.sample(self._files, self._chance.randint(1, 3)):
                file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Waits until it has stopped, and leaves the disk to the server."""
        self._end.set()
        if self.is_alive():
            self.join()
        for file in self._files:
            file.unlink(missing_ok=True)

    def _fill(self, path: Path) -> None:
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(self._chance.choice([4096, 65536, MIB])))
        left = self._chance.choice([0, self._chance.randrange(LEFT_BYTES_MAX)])
        with path.open("ab") as file:
            file.truncate(max(0, path.stat().st_size - left))
        self._report.fills += 1

    def _kill(self) -> None:
        with self.restarting:
            self._server.kill()
            self._report.kills += 1
            self._server.start()


@dataclass
class _Load:
    server: MemoryServer
    restarting: threading.Lock
    report: Report
    chance: random.Random
    version: int = 0
    acknowledged: dict[int, int] = field(default_factory=dict)
    client: PageClient | None = None

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                self._step()
            except (grpc.RpcError, StopIteration):
                self._reconnect_later()

    def close(self) -> None:
        if self.client:
            self.client.__exit__()
            self.client = None

    def resume_and_verify(self) -> None:
        """With room on the disk, pages are taken again. All that were acknowledged are there."""
        freed = time.monotonic()
        before = self.report.pages
        while self.report.pages == before:
            if time.monotonic() > freed + RESUME_S:
                raise SoakError(f"no page was taken in {RESUME_S} s with room on the disk")
            self.run(0.1)
        self.report.resume_s = time.monotonic() - freed
        slots = sorted(self.acknowledged)
        for first in range(0, len(slots), FETCHED_SLOTS):
            self._verify(slots[first : first + FETCHED_SLOTS])
        if not (self.report.refused and self.report.fills):
            raise SoakError(f"nothing was tried: {self.report}")

    def _step(self) -> None:
        if self.client is None:
            self.client = PageClient(self.server.pages)
            self.client.open()
        self._put()
        if self.acknowledged:
            some = self.chance.sample(sorted(self.acknowledged), min(40, len(self.acknowledged)))
            self._verify(some)
            if self.chance.random() < 0.1:
                self._discard(some[:10])

    def _put(self) -> None:
        assert self.client is not None
        self.version += 1
        slots = self.chance.sample(range(SLOTS), self.chance.randint(1, BATCH_PAGES_MAX))
        answer = self.client.put(make_object(slot, self.version) for slot in slots)
        if answer.status != pb.CALL_STATUS_OK:
            raise SoakError(f"a batch was answered {pb.CallStatus.Name(answer.status)}")
        for slot, result in zip(slots, answer.results, strict=True):
            if result == pb.OBJECT_STATUS_OK:
                self.acknowledged[slot] = self.version
                self.report.pages += 1
            elif result in REFUSALS:
                self.report.refused += 1
            else:
                raise SoakError(f"slot {slot} was answered {pb.ObjectStatus.Name(result)}")

    def _verify(self, slots: list[int]) -> None:
        assert self.client is not None
        answer = self.client.get(slots)
        if answer.status != pb.CALL_STATUS_OK:
            raise SoakError(f"a Get was answered {pb.CallStatus.Name(answer.status)}")
        for slot, result in zip(slots, answer.results, strict=True):
            if result.status != pb.OBJECT_STATUS_OK:
                raise SoakError(f"slot {slot} was answered {pb.ObjectStatus.Name(result.status)}")
            kept = result.object
            if kept.version < self.acknowledged[slot] or kept.key != slot:
                raise SoakError(f"slot {slot} has version {kept.version} of {kept.key}")
            if content_of(kept) != page_content(slot, kept.version):
                raise SoakError(f"slot {slot} has wrong bytes")
            self.report.verified += 1

    def _discard(self, slots: list[int]) -> None:
        assert self.client is not None
        items = [(slot, self.acknowledged.pop(slot)) for slot in slots]
        # A server without ballast refuses; the pages are then there or not.
        with contextlib.suppress(grpc.RpcError):
            self.client.discard(items)

    def _reconnect_later(self) -> None:
        self.close()
        with self.restarting:
            if not self.server.running:
                raise SoakError("the server ended by itself")
        time.sleep(0.02)
