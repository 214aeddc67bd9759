"""With 50 MiB swapped out to it, the daemon gets SIGTERM while its log fails or blocks."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from requirements import REAL_SWAP
from swap.real_swap import run
from system.swapped_out import swapped_out

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemons import HostDaemon

pytestmark = REAL_SWAP


def start(host: HostDaemon, log: Path) -> None:
    """With `log` as its stderr, of which nothing is read afterwards."""
    usual, host.log_path = host.log_path, log
    try:
        host.start()
    finally:
        host.log_path = usual


def fill(path: Path) -> None:
    """Until nothing more can be written, and what writes there blocks or fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, b"\n" * size)
    os.close(descriptor)


@pytest.fixture
def log_pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe, and the descriptor of its only reader, which reads nothing."""
    path = tmp_path / "log.pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    with contextlib.suppress(OSError):
        os.close(reader)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "none", path)
    yield path
    run("umount", "--lazy", path)


def test_the_reader_of_the_log_is_gone(
    host: HostDaemon, tmp_path: Path, log_pipe: tuple[Path, int]
) -> None:
    path, reader = log_pipe
    start(host, path)
    with swapped_out(host, tmp_path):
        os.close(reader)
        assert host.stop() == 0


def test_the_log_is_not_read(host: HostDaemon, tmp_path: Path, log_pipe: tuple[Path, int]) -> None:
    path, _ = log_pipe
    start(host, path)
    with swapped_out(host, tmp_path):
        fill(path)
        assert host.stop() == 0


def test_the_disk_of_the_log_is_full(host: HostDaemon, tmp_path: Path, small_disk: Path) -> None:
    log = small_disk / "log"
    start(host, log)
    with swapped_out(host, tmp_path):
        fill(small_disk / "other")
        fill(log)
        assert host.stop() == 0
