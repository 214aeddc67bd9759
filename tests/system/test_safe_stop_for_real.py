"""With 50 MiB swapped out to it, the daemon is told to stop; a program's memory stays whole."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemons import HostDaemon, require_native, run_program
from hang_guard import HANG_GUARD_S
from system.real_swap import MemoryCgroup, PageVerifier, SwapOnLoop, run, swap_areas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
SWAPPED_OUT_MIB = 50
pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.timeout(300),
]


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_GUARD_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def host(tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostDaemon]:
    """A daemon whose pool holds all, in a process that faults can be put into."""
    require_native()
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    made = HostDaemon(
        "host",
        tmp_path,
        {
            "device": {"name": "swap0", "size": "128MiB", "host_id": "h"},
            "nbd": {"listen": [f"unix:{short_path}/nbd"]},
            "tier": {"pool_limit": "128MiB"},
            "cluster": {"servers": []},
            "admin": {"listen": f"unix:{short_path}/admin"},
        },
    )
    made._module = "system.host_with_faults"
    made.start()
    yield made
    made.clean_up()


@contextlib.contextmanager
def swapped_out(host: HostDaemon, directory: Path, *, stacked: bool = False) -> Iterator[None]:
    """While 50 MiB of a program are swapped out to the daemon; then its memory must be whole."""

    def attribute(device: str) -> None:
        words = ["attribute", "--device", device, "--host", host.admin]
        done = run_program("farswap.client_nbd.main", *words)
        assert done.returncode == 0, done.stderr

    verifier = PageVerifier.build(directory)
    with (
        SwapOnLoop(host.nbd_uri, stacked=stacked, before_swapon=attribute),
        MemoryCgroup(32 * MIB) as cgroup,
    ):
        program = verifier.start(mib=96, cgroup=cgroup.path, passes=1, pause=directory)
        until((directory / "1").exists)
        assert int(host.ask("status")["device"]["swap_used_bytes"]) >= SWAPPED_OUT_MIB * MIB
        cgroup.lift_limit()
        yield
        (directory / "1.go").touch()
        assert verifier.result(program, HANG_GUARD_S).wrong_pages == 0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("swapoff", "Cannot allocate memory"),
        ("unreadable", "not certain"),
        ("short", "memory cannot hold"),
    ],
)
def test_the_daemon_serves_on_until_it_can_stop(
    host: HostDaemon, tmp_path: Path, fault: str, reason: str
) -> None:
    with swapped_out(host, tmp_path):
        (tmp_path / fault).touch()
        for _ in range(2):
            os.kill(host.pid, signal.SIGTERM)
        until(lambda: reason in host.log())
        assert "stop" in [finding["subject"] for finding in host.ask("status")["findings"]]
        (tmp_path / fault).unlink()
        assert host.stop() == 0


@pytest.fixture
def odd_swap_area(tmp_path: Path) -> Iterator[None]:
    """Another area, whose node has a name that is not UTF-8 and holds a no-break space."""
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    loop = run("losetup", "--find", "--show", image)
    node = os.fsencode(tmp_path) + b"/odd\xa0\xc2\xa0\xe2\x80\xa8 node"
    try:
        os.mknod(node, stat.S_IFBLK | 0o600, Path(loop).stat().st_rdev)
        run("mkswap", loop)
        run("swapon", "--priority", "0", os.fsdecode(node))
        yield
    finally:
        if os.fsdecode(node) in swap_areas():
            run("swapoff", os.fsdecode(node))
        run("losetup", "--detach", loop)


@pytest.mark.usefixtures("odd_swap_area")
def test_an_odd_name_in_the_table_of_swap_areas_harms_nobody(
    host: HostDaemon, tmp_path: Path
) -> None:
    with swapped_out(host, tmp_path):
        assert host.ctl("doctor").returncode in (0, 1)
        assert host.stop() == 0
    assert any("odd" in area for area in swap_areas())


def test_swap_on_a_stacked_device_is_swapped_off_first(host: HostDaemon, tmp_path: Path) -> None:
    with swapped_out(host, tmp_path, stacked=True):
        (area,) = host.ask("status")["device"]["swap_areas"]
        assert area in host.ask("status")["device"]["stacked"]
        assert host.stop() == 0
        assert area not in swap_areas()
