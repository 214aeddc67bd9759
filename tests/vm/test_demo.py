"""The demonstration on a kernel with an nbd driver: it swaps on /dev/nbd0 and leaves it unbound."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bench.programs import MissingProgramError, native_program
from requirements import require_native
from vm.guest import SCRIPTS, TEST_TIMEOUT_S

if TYPE_CHECKING:
    from vm.guest import Guest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(TEST_TIMEOUT_S)]


def test_demonstration_swaps_by_the_nbd_driver(guest: Guest, tmp_path: Path) -> None:
    require_native()
    try:
        natives = native_program("farswap-loadgen").parent
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    shared = tmp_path / "shared"
    shared.mkdir()
    guest.memory_mib = 1536
    run = guest.run_overlay(
        SCRIPTS / "demo",
        shared=shared,
        programs=Path(sys.executable).parent,
        tools=TOOLS,
        natives=natives,
        pythonpath=os.environ.get("PYTHONPATH", ""),
    )
    output = (shared / "output").read_text() if (shared / "output").exists() else ""
    assert run.status == 0, run.transcript + output
    assert "by nbd driver: 16 MiB in a cgroup of 8 MiB" in " ".join(output.split())
    assert output.rstrip().endswith("demo: OK")
