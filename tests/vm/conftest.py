"""What a test in a guest needs: a kernel, the machine emulator, and a place to work."""

import shutil
from pathlib import Path

import pytest
from system.real_swap import PageVerifier
from vm.guest import Guest, system_program
from vm.kernel import Kernel, KernelUnavailableError, debian_kernel

CACHE = Path(__file__).parents[2] / "build" / "kernel"


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    for program in ("qemu-system-x86_64", "busybox", "nbd-client", "modprobe", "cpio"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"needs the program {program}")
    try:
        return debian_kernel(CACHE)
    except KernelUnavailableError as error:
        pytest.skip(f"needs a Debian 6.12 kernel: {error}")


@pytest.fixture
def guest(kernel: Kernel, tmp_path: Path) -> Guest:
    verifier = PageVerifier.build(tmp_path)
    return Guest(kernel, tmp_path, programs=[system_program("nbd-client"), verifier.program])
