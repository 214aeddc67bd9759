"""What is read from /proc and /sys, on fixture trees."""

from pathlib import Path

import pytest
from farswap.client_nbd import kernel_files
from farswap.client_nbd.kernel_files import KernelFiles, SwapArea

SWAPS = """Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/nbd0                               partition\t1048572\t\t2048\t\t100
/var/swap\\040file                      file\t\t4\t\t0\t\t-2
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/swaps").write_text(SWAPS)
    return tmp_path


def test_swap_areas_have_bytes_and_unescaped_paths(root: Path) -> None:
    assert KernelFiles(root).swap_areas() == [
        SwapArea("/dev/nbd0", 1048572 << 10, 2048 << 10, 100),
        SwapArea("/var/swap file", 4 << 10, 0, -2),
    ]


def test_a_kernel_without_swap_has_no_areas(tmp_path: Path) -> None:
    assert KernelFiles(tmp_path).swap_areas() == []
    assert KernelFiles(tmp_path).swap_area("/dev/nbd0") is None


@pytest.mark.parametrize(("text", "enabled"), [("Y\n", True), ("N\n", False), (None, False)])
def test_zswap_is_on_when_its_parameter_says_so(
    root: Path, text: str | None, *, enabled: bool
) -> None:
    parameters = root / "sys/module/zswap/parameters"
    parameters.mkdir(parents=True)
    if text is not None:
        (parameters / "enabled").write_text(text)
    assert KernelFiles(root).zswap_enabled() is enabled


def test_the_running_kernel_refuses_swapon_and_swapoff_of_what_is_no_device(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for call in (
        lambda: kernel_files.swapon(missing, 5, "pages"),
        lambda: kernel_files.swapoff(missing),
    ):
        with pytest.raises(OSError, match="missing"):
            call()
