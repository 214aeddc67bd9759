"""The demonstration ends well, and leaves nothing behind however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.programs import MissingProgramError, native_program
from hang_guard import HANG_GUARD_S
from requirements import require_native
from swap.real_swap import memory_cgroup_root

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SMALL = ["--mib", "24", "--pool-mib", "4", "--swap-mib", "48"]
STAGES_WITHOUT_SWAP = [
    "start a memory server and a host daemon",
    "starting a c++ compiler",
    "taking 6 MiB of a sqlite database",
    "write",
    "read back",
]


@pytest.fixture(autouse=True)
def needs_everything_built() -> None:
    require_native()
    try:
        native_program("farswap-loadgen")
    except MissingProgramError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def nothing_left_behind(short_path: Path) -> Iterator[Path]:
    """The temporary directory of the demonstration; all it makes lies there or is counted."""
    cgroups = _idle_cgroups()
    yield short_path
    assert list(short_path.iterdir()) == []
    assert os.fsencode(short_path) not in Path("/proc/mounts").read_bytes()
    assert _processes_naming(short_path) == []
    assert _loop_devices_on(short_path) == []
    assert _idle_cgroups() <= cgroups


def _idle_cgroups() -> set[str]:
    root = memory_cgroup_root()
    found = [] if root is None else root.glob("farswap-test-*/cgroup.procs")
    return {procs.parent.name for procs in found if not procs.read_text()}


def _loop_devices_on(directory: Path) -> list[str]:
    """A swap area of ours is one of these."""
    found = Path("/sys/block").glob("loop*/loop/backing_file")
    return [str(path) for path in found if os.fsencode(directory) in path.read_bytes()]


def _processes_naming(directory: Path) -> list[str]:
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = os.fsdecode((process / "cmdline").read_bytes())
        except OSError:
            continue
        if str(directory) in line:
            lines.append(line)
    return lines


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TOOLS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *SMALL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(directory), "PYTHONPATH": path},
    )


def read_until(process: subprocess.Popen[str], line_wanted: str) -> None:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.strip() == line_wanted:
            return
    pytest.fail(f"never said {line_wanted!r}:\n{''.join(lines)}")


def test_real_pages_go_to_the_memory_server_and_come_back(nothing_left_behind: Path) -> None:
    with start(nothing_left_behind, "--no-swap") as demo:
        output, _ = demo.communicate(timeout=HANG_GUARD_S)
    assert demo.returncode == 0, output
    assert output.rstrip().endswith("demo: OK")
    assert "pages compared, none differed" in " ".join(output.split())


@pytest.mark.parametrize("stage", STAGES_WITHOUT_SWAP)
def test_interrupt_stops_everything(nothing_left_behind: Path, stage: str) -> None:
    with start(nothing_left_behind, "--no-swap") as demo:
        read_until(demo, f"stage: {stage}")
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=HANG_GUARD_S)
    assert demo.returncode == 130, output
    assert "demo: OK" not in output


@pytest.mark.root
@pytest.mark.kernel
def test_the_running_kernel_swaps_in_the_end(nothing_left_behind: Path) -> None:
    with start(nothing_left_behind) as demo:
        output, _ = demo.communicate(timeout=HANG_GUARD_S)
    assert demo.returncode == 0, output
    assert "0 wrong pages" in " ".join(output.split())


@pytest.mark.root
@pytest.mark.kernel
@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("swapon", signal.SIGINT),
        ("verify 48 MiB of memory in a cgroup of 24 MiB", signal.SIGTERM),
        ("swapoff", signal.SIGINT),
    ],
)
def test_interrupt_while_the_kernel_swaps_puts_everything_back(
    nothing_left_behind: Path, stage: str, number: signal.Signals
) -> None:
    with start(nothing_left_behind) as demo:
        read_until(demo, f"stage: {stage}")
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=HANG_GUARD_S)
    assert demo.returncode == 130, output
