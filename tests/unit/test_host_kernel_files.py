"""What is read from /proc and /sys, on fixture trees."""

from pathlib import Path

import pytest
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel.files import KernelFiles
from farswap.client_nbd.kernel.tables import SwapArea

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
        SwapArea("/var/swap file", 4 << 10, 0, -2, is_file=True),
    ]


def test_a_kernel_without_swap_has_no_areas(root: Path) -> None:
    (root / "proc/swaps").unlink()
    (root / "proc/meminfo").write_text("MemTotal: 4 kB\n")
    assert KernelFiles(root).swap_areas() == []


def test_without_proc_nothing_is_known_of_swap(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        KernelFiles(tmp_path).swap_areas()


def test_names_of_interfaces_are_bytes(root: Path) -> None:
    (root / "proc/net").mkdir()
    line = b"fd000000000000000000000000000002 04 40 00 82 %s\n"
    names = (b"\xe9th", "a\u2028b".encode(), b"a\xc2\xa0")
    (root / "proc/net/if_inet6").write_bytes(b"".join(line % name for name in names))
    assert KernelFiles(root).local_addresses() == {"fd00::2"}


@pytest.mark.parametrize(("text", "enabled"), [("Y\n", True), ("N\n", False), (None, False)])
def test_zswap_is_on_when_its_parameter_is_on(
    root: Path, text: str | None, *, enabled: bool
) -> None:
    parameters = root / "sys/module/zswap/parameters"
    parameters.mkdir(parents=True)
    if text is not None:
        (parameters / "enabled").write_text(text)
    assert KernelFiles(root).zswap_enabled() is enabled


def test_the_machine_s_addresses_are_found_in_both_families(root: Path) -> None:
    (root / "proc/net").mkdir()
    (root / "proc/net/fib_trie").write_text(
        "Local:\n  +-- 10.0.0.0/24 2 0 2\n     |-- 10.0.0.5\n        /32 host LOCAL\n"
        "     |-- 10.0.0.255\n        /32 link BROADCAST\n"
    )
    (root / "proc/net/if_inet6").write_text("fd000000000000000000000000000002 04 40 00 82 eth0\n")
    assert KernelFiles(root).local_addresses() == {"10.0.0.5", "fd00::2"}


def test_the_running_machine_has_a_loopback_address() -> None:
    assert "127.0.0.1" in KernelFiles().local_addresses()


@pytest.mark.parametrize(("text", "number"), [("1000\n", 1000), ("", None), ("x", None)])
def test_settings_of_a_block_device_are_numbers_or_unknown(
    root: Path, text: str, number: int | None
) -> None:
    queue = root / "sys/block/nbd3/queue"
    queue.mkdir(parents=True)
    (queue / "io_timeout").write_text(text)
    assert KernelFiles(root).io_timeout_ms(3) == number
    assert KernelFiles(root).discard_bytes_max(3) is None


@pytest.mark.parametrize(
    ("file", "text", "offset"),
    [("start", "2048\n", 1 << 20), ("loop/offset", "4096\n", 4096), ("loop/offset", "0\n", 0)],
)
def test_a_partition_and_a_loop_device_may_begin_behind_the_start(
    root: Path, file: str, text: str, offset: int
) -> None:
    device = root / "sys/dev/block/43:1"
    (device / file).parent.mkdir(parents=True)
    (device / file).write_text(text)
    assert KernelFiles(root).device_offset_bytes((43, 1)) == offset
    assert KernelFiles(root).device_offset_bytes((43, 0)) == 0


def test_the_running_kernel_refuses_swapon_and_swapoff_of_what_is_no_device(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for call in (
        lambda: kernel_files.swapon(missing, 5, "pages"),
        lambda: kernel_files.swapoff(missing),
    ):
        with pytest.raises(OSError, match="missing"):
            call()
