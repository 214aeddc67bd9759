"""The harness of real swap proved on another NBD server, and its verifier on a lie."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hang_guard import until
from swap.real_swap import MemoryCgroup, PageVerifier, SwapOnLoop, swap_areas

MIB = 1 << 20
pytestmark = [pytest.mark.root, pytest.mark.kernel]


@pytest.fixture
def nbdkit_uri(tmp_path: Path) -> Iterator[str]:
    socket = tmp_path / "nbd.sock"
    command = ["nbdkit", "--foreground", "--unix", str(socket), "memory", "256M"]
    with subprocess.Popen(command) as nbdkit:
        until(lambda: nbdkit.poll() is not None or socket.exists())
        assert nbdkit.poll() is None, "nbdkit ended"
        yield f"nbd+unix:///?socket={socket}"
        nbdkit.terminate()


def test_kernel_swaps_on_loop_and_everything_is_put_back(nbdkit_uri: str, tmp_path: Path) -> None:
    before = swap_areas()
    verifier = PageVerifier.build(tmp_path)
    with SwapOnLoop(nbdkit_uri) as swap, MemoryCgroup(32 * MIB) as cgroup:
        assert swap.device in swap_areas()
        result = verifier.run(mib=64, cgroup=cgroup.path)
    assert result.wrong_pages == 0
    assert result.swapped_out > result.pages // 2
    assert result.swapped_in > result.pages // 2
    assert swap_areas() == before
    assert not cgroup.path.exists()
    backing = Path("/sys/block", Path(swap.device).name, "loop")
    assert not backing.exists()


def test_failure_inside_leaves_no_swap_area_behind(nbdkit_uri: str) -> None:
    before = swap_areas()

    def fail_while_swapping() -> None:
        with SwapOnLoop(nbdkit_uri):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_swapping()
    assert swap_areas() == before


def test_unreachable_server_fails_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = swap_areas()
    with (
        pytest.raises(RuntimeError, match="nbdfuse ended"),
        SwapOnLoop(f"nbd+unix:///?socket={tmp_path}/none"),
    ):
        pass
    assert swap_areas() == before
