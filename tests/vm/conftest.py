"""What a test in a guest needs: a kernel, the machine emulator, and a place to work."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bench.programs import MissingProgramError, native_program
from swap.real_swap import PageVerifier, build_program
from vm.guest import Guest, system_program
from vm.host_guest import HostGuest
from vm.kernel import Kernel, KernelUnavailableError, debian_kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import MakeServer

CACHE = Path(__file__).parents[2] / "build" / "kernel"


def kernel_of(series: str) -> Kernel:
    for program in ("qemu-system-x86_64", "busybox", "nbd-client", "modprobe", "cpio"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"needs the program {program}")
    try:
        return debian_kernel(CACHE, series)
    except KernelUnavailableError as error:
        pytest.skip(f"needs a Debian {series} kernel: {error}")


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    return kernel_of("6.12")


@pytest.fixture
def guest(kernel: Kernel, tmp_path: Path) -> Guest:
    verifier = PageVerifier.build(tmp_path)
    return Guest(kernel, tmp_path, programs=[system_program("nbd-client"), verifier.program])


@pytest.fixture
def host_guest(guest: Guest, memory_server: MakeServer, tmp_path: Path) -> HostGuest:
    """A guest for the host daemon, which page_verifier swaps on."""
    shared = tmp_path / "shared"
    shared.mkdir()
    return HostGuest(guest, memory_server(), shared)


@pytest.fixture
def slot_guest(tmp_path: Path) -> Callable[[str], Guest]:
    """slot_guest("6.1"): a guest with the programs that swap on slot_server."""

    def make(series: str) -> Guest:
        try:
            natives = [native_program(name, "tests") for name in ("slot_server", "bpf_test")]
        except MissingProgramError as missing:
            pytest.skip(str(missing))
        programs = [build_program(name, tmp_path) for name in ("slot_churn", "slot_sieve")]
        return Guest(kernel_of(series), tmp_path, memory_mib=1024, programs=natives + programs)

    return make
