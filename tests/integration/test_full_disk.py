"""The disk of a memory server, really full or read-only: it serves what it has, loses nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from farswap.v1 import page_store_pb2 as pb
from hang_guard import until
from page_client import PageClient, make_object, page_content
from requirements import require_native
from soak.full_disk import run_full_disk, small_disk

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeServer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts small file systems"),
]
SLOTS = list(range(200))


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_is_filled_and_freed_at_random_ends_nothing_and_costs_no_page(
    kind: str, tmp_path: Path
) -> None:
    require_native()
    report = run_full_disk(kind, 10, tmp_path)
    assert report.kills
    assert report.fills


def stored(client: PageClient, version: int) -> set[int]:
    """What a batch was answered with."""
    return set(client.put(make_object(slot, version) for slot in SLOTS).results)


def store_until(client: PageClient, expected: int, version: int) -> None:
    versions = itertools.count(version)
    until(lambda: stored(client, next(versions)) == {expected}, every_s=0)


def test_a_server_without_inodes_refuses_pages_starts_again_and_goes_on(
    memory_server: MakeServer, tmp_path: Path
) -> None:
    with small_disk("tmpfs", tmp_path) as disk:
        subprocess.run(["mount", "-o", "remount,nr_inodes=300", str(disk)], check=True)
        server = memory_server(store={"path": f"{disk}/store", "capacity": "64MiB"})
        taken = disk / "taken"
        taken.mkdir()
        with PageClient(server.pages) as client:
            client.open()
            assert stored(client, 1) == {pb.OBJECT_STATUS_OK}
            with contextlib.suppress(OSError):
                for number in range(1000):
                    (taken / str(number)).touch()
            assert len(list(taken.iterdir())) < 300
            store_until(client, pb.OBJECT_STATUS_FULL, 2)
        server.restart()
        assert "inodes are free" in server.ask("server", "show")["disk_problem"]
        with PageClient(server.pages) as client:
            client.open()
            assert None not in client.get_contents(SLOTS)
            for file in taken.iterdir():
                file.unlink()
            store_until(client, pb.OBJECT_STATUS_OK, 1000)
        server.kill()


def test_a_server_starts_on_a_disk_that_is_mounted_read_only_and_goes_on_when_it_is_not(
    memory_server: MakeServer, tmp_path: Path
) -> None:
    with small_disk("ext4", tmp_path) as disk:
        server = memory_server(store={"path": f"{disk}/store", "capacity": "64MiB"})
        with PageClient(server.pages) as client:
            client.open()
            assert stored(client, 1) == {pb.OBJECT_STATUS_OK}
        server.kill()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        server.start()
        status = server.ask("server", "show")
        assert "ead-only file system" in status["disk_problem"]
        assert int(status["pages"]) == len(SLOTS)
        assert status["state"] == "disk_full"
        with PageClient(server.pages) as client:
            client.open()  # by the same run of the host daemon: nothing is written for it
            assert client.get_contents(SLOTS) == [page_content(slot, 1) for slot in SLOTS]
            assert stored(client, 2) == {pb.OBJECT_STATUS_FULL}
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        until(lambda: not server.ask("server", "show")["disk_problem"])
        with PageClient(server.pages) as client:
            client.open()
            assert client.get_contents(SLOTS) == [page_content(slot, 1) for slot in SLOTS]
            assert stored(client, 2) == {pb.OBJECT_STATUS_OK}
        server.kill()
