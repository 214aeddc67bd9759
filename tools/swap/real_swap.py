"""Makes the running kernel swap on any NBD server, by loop over FUSE, and puts everything back.

The kernels this runs on need no nbd driver: nbdfuse presents the NBD export as a file, a loop
device with direct I/O makes a block device of it, and that is what is swapped on. Three context
managers, used from the outside in by the tests and by the demonstration:

    with SwapOnLoop(nbd_uri) as swap, MemoryCgroup(limit_bytes) as cgroup:
        result = PageVerifier.build(directory).run(mib=128, cgroup=cgroup.path)

Each undoes what it did in reverse order however the block ends, also when only a part of its own
set-up succeeded. One exception: when swapoff fails, what is under the swap area stays, since the
kernel would lose pages without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from farswap.client_nbd.kernel.files import KernelFiles
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND_DEADLINE_S = HANG_GUARD_S
SWAPOFF_DEADLINE_S = HANG_GUARD_S
CGROUP_ROOT_V1 = Path("/sys/fs/cgroup/memory")
CGROUP_ROOT_V2 = Path("/sys/fs/cgroup")


def missing_requirement() -> str | None:
    """Returns what this machine lacks for real swap by loop over FUSE, or None."""
    if os.geteuid() != 0:
        return "needs root: swapon, losetup and cgroups"
    for program in ("nbdfuse", "losetup", "mkswap", "swapon", "swapoff", "fusermount3", "cc"):
        if shutil.which(program) is None:
            return f"needs the program {program}"
    if not Path("/dev/fuse").exists():
        subprocess.run(["modprobe", "-q", "fuse"], check=False)
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            return f"needs {device}"
    if memory_cgroup_root() is None:
        return "needs the memory cgroup controller, v1 or v2, writable"
    return None


def memory_cgroup_root() -> Path | None:
    """Returns the directory under which a memory cgroup can be made, v1 before v2."""
    if os.access(CGROUP_ROOT_V1 / "memory.limit_in_bytes", os.R_OK):
        return CGROUP_ROOT_V1 if os.access(CGROUP_ROOT_V1, os.W_OK) else None
    try:
        controllers = (CGROUP_ROOT_V2 / "cgroup.subtree_control").read_text().split()
        if "memory" not in controllers:
            (CGROUP_ROOT_V2 / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        return None
    return CGROUP_ROOT_V2


def run(*command: str | Path, deadline_s: float = COMMAND_DEADLINE_S) -> str:
    """Runs a command and returns what it printed; RuntimeError, with its errors, when it failed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=deadline_s)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def build_program(name: str, directory: Path) -> Path:
    """Compiles NAME.c of this folder into `directory`; static, so that a bare guest can run it."""
    program = directory / name
    flags = ["-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    source = Path(__file__).with_name(f"{name}.c")
    run("cc", *flags, "-o", program, source, deadline_s=COMMAND_DEADLINE_S)
    return program


def swap_areas() -> list[str]:
    """Returns the devices and files that the kernel swaps on now."""
    return [area.path for area in KernelFiles().swap_areas()]


class SwapOnLoop:
    """A swap area of the running kernel on the NBD export at a URI.

    `device` is the loop device. `swapoff_seconds` is known once the block has ended.
    """

    device: str
    swapoff_seconds: float

    def __init__(
        self,
        nbd_uri: str,
        *,
        priority: int = 100,
        discard: bool = True,
        stacked: bool = False,
        before_swapon: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`before_swapon` is called with the loop device on the export.

        `stacked`: what is swapped on is another loop device, on that one.
        """
        self._stacked = stacked
        self._nbd_uri = nbd_uri
        self._before_swapon = before_swapon
        self._swapon = ["swapon", "--priority", str(priority)]
        if discard:
            self._swapon.append("--discard=pages")
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            directory = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="farswap-")))
            image = undo.enter_context(_mounted_export(self._nbd_uri, directory / "export"))
            self.device = run("losetup", "--find", "--show", "--direct-io=on", image)
            undo.callback(run, "losetup", "--detach", self.device)
            below = self.device
            if self._stacked:
                self.device = run("losetup", "--find", "--show", "--direct-io=on", below)
                undo.callback(run, "losetup", "--detach", self.device)
            run("mkswap", self.device)
            self._before_swapon(below)
            run(*self._swapon, self.device)
            # From here on nothing below may be undone before swapoff has succeeded.
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        started = time.monotonic()
        if self.device in swap_areas():
            run("swapoff", self.device, deadline_s=SWAPOFF_DEADLINE_S)
        self.swapoff_seconds = time.monotonic() - started
        self._undo.close()


@contextlib.contextmanager
def _mounted_export(nbd_uri: str, mountpoint: Path) -> Iterator[Path]:
    """Presents the export as a file; nbdfuse mounts on the file itself."""
    mountpoint.touch()
    # A session of its own, so that an interrupt at the terminal leaves it alive until swapoff.
    nbdfuse = subprocess.Popen(["nbdfuse", mountpoint, nbd_uri], start_new_session=True)
    try:
        _wait_until_mounted(nbdfuse, mountpoint)
        yield mountpoint
    finally:
        if os.path.ismount(mountpoint):
            run("umount", mountpoint)
        try:
            nbdfuse.wait(timeout=COMMAND_DEADLINE_S)
        except subprocess.TimeoutExpired:
            nbdfuse.kill()
            nbdfuse.wait()


def _wait_until_mounted(nbdfuse: subprocess.Popen[bytes], mountpoint: Path) -> None:
    deadline = time.monotonic() + COMMAND_DEADLINE_S
    while not os.path.ismount(mountpoint):
        if nbdfuse.poll() is not None:
            raise RuntimeError(f"nbdfuse ended with status {nbdfuse.returncode}")
        if time.monotonic() > deadline:
            nbdfuse.kill()
            raise TimeoutError("nbdfuse did not mount in time")
        time.sleep(0.02)


class MemoryCgroup:
    """A memory cgroup with a limit, v1 or v2, whichever this machine has the controller in."""

    # Of v1 alone: its statistics go stale between two reads, and a cgroup of anonymous memory alone
    # can then be taken for one with nothing to reclaim and be killed with swap still free. Reading
    # them often refreshes them, and with the killer off a task waits until they are.
    _REFRESH_PERIOD_S = 0.02

    def __init__(self, limit_bytes: int) -> None:
        root = memory_cgroup_root()
        if root is None:
            raise RuntimeError(missing_requirement())
        self.path = Path(tempfile.mktemp(prefix="farswap-test-", dir=root))
        self._is_v1 = root == CGROUP_ROOT_V1
        self._limit_bytes = limit_bytes
        self._leaving = threading.Event()
        self._refresher = threading.Thread(target=self._refresh, name="memory-stat", daemon=True)

    def __enter__(self) -> Self:
        self.path.mkdir()
        try:
            if self._is_v1:
                (self.path / "memory.limit_in_bytes").write_text(str(self._limit_bytes))
                (self.path / "memory.oom_control").write_text("1")
                self._refresher.start()
            else:
                (self.path / "memory.max").write_text(str(self._limit_bytes))
        except OSError:
            self.path.rmdir()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._leaving.set()
        if self._is_v1:
            self._refresher.join()
        # What still runs in it would keep its pages swapped out, and swapoff could not take them
        # back into a full cgroup. A cgroup stays busy for moments after its last process is gone.
        for _ in range(100):
            for pid in (self.path / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.path.rmdir()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self.path} is still in use")

    def lift_limit(self) -> None:
        """What is swapped out can come back."""
        if self._is_v1:
            (self.path / "memory.limit_in_bytes").write_text("-1")
        else:
            (self.path / "memory.max").write_text("max")

    def _refresh(self) -> None:
        while not self._leaving.wait(self._REFRESH_PERIOD_S):
            (self.path / "memory.stat").read_text()


@dataclass(frozen=True)
class VerifierResult:
    """What page_verifier found; swapped pages are those of the whole machine while it ran."""

    pages: int
    passes: int
    wrong_pages: int
    swapped_out: int
    swapped_in: int
    fill_seconds: float
    verify_seconds: float
    waits_ms: list[float]  # of touches of pages that took longer than 30 ms


@dataclass(frozen=True)
class PageVerifier:
    """The program that fills memory and verifies it."""

    program: Path

    @classmethod
    def build(cls, directory: Path) -> Self:
        """Compiles it into `directory`."""
        return cls(build_program("page_verifier", directory))

    def start(
        self,
        *,
        mib: int,
        cgroup: Path | None = None,
        passes: int = 2,
        seed: int = 1,
        pause: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Starts it in `cgroup`; `result` waits for it. With `pause`, see page_verifier.c."""
        command: list[str | Path] = [self.program, "--mib", str(mib), "--passes", str(passes)]
        command += ["--seed", str(seed)]
        if cgroup is not None:
            command += ["--cgroup", cgroup]
        if pause is not None:
            command += ["--pause", pause]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @staticmethod
    def result(process: subprocess.Popen[str], deadline_s: float) -> VerifierResult:
        """Waits for its verdict; wrong pages are a verdict, any other failure is a RuntimeError."""
        try:
            output, errors = process.communicate(timeout=deadline_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode not in (0, 1) or not output:
            raise RuntimeError(f"page_verifier: status {process.returncode}: {errors.strip()}")
        return VerifierResult(**json.loads(output))

    def run(
        self,
        *,
        mib: int,
        cgroup: Path | None = None,
        passes: int = 2,
        seed: int = 1,
        deadline_s: float = 100,
    ) -> VerifierResult:
        """Runs it to its verdict."""
        process = self.start(mib=mib, cgroup=cgroup, passes=passes, seed=seed)
        return self.result(process, deadline_s)
