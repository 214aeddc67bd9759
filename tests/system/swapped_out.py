"""A program with 50 MiB swapped out to a host daemon, for tests of the daemon."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from daemons import run_program
from hang_guard import HANG_GUARD_S, until
from swap.real_swap import MemoryCgroup, PageVerifier, SwapOnLoop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemons import HostDaemon

MIB = 1 << 20
SWAPPED_OUT_MIB = 50


def attribute(host: HostDaemon, device: str) -> None:
    words = ["attribute", "--device", device, "--host", host.admin]
    done = run_program("farswap.client_nbd.main", *words)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def swapped_out(host: HostDaemon, directory: Path, *, stacked: bool = False) -> Iterator[None]:
    """While 50 MiB of a program are swapped out to the daemon; then its memory must be whole."""
    verifier = PageVerifier.build(directory)
    with (
        SwapOnLoop(host.nbd_uri, stacked=stacked, before_swapon=partial(attribute, host)),
        MemoryCgroup(32 * MIB) as cgroup,
    ):
        program = verifier.start(mib=96, cgroup=cgroup.path, passes=1, pause=directory)
        until((directory / "1").exists)
        assert int(host.ask("status")["device"]["swap_used_bytes"]) >= SWAPPED_OUT_MIB * MIB
        cgroup.lift_limit()
        yield
        (directory / "1.go").touch()
        assert verifier.result(program, HANG_GUARD_S).wrong_pages == 0
