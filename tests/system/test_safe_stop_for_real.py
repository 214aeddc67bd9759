"""With 50 MiB swapped out to it, the daemon gets SIGTERM; a program's memory stays whole."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hang_guard import until
from requirements import REAL_SWAP
from swap.real_swap import run, swap_areas
from system.swapped_out import MIB, swapped_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemons import HostDaemon

pytestmark = REAL_SWAP


@pytest.fixture
def host(host: HostDaemon, monkeypatch: pytest.MonkeyPatch) -> HostDaemon:
    """Started, in a process that faults can be put into."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    host._module = "system.host_with_faults"
    host.start()
    return host


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("swapoff", "Cannot allocate memory"),
        ("unreadable", "unknown whether"),
        ("short", "memory has no room"),
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
def test_an_odd_name_in_the_table_of_swap_areas_has_no_effect(
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
