"""Boots a small Linux guest under QEMU, without hardware virtualization, and runs one script in it.

Two kinds of guest, from one initial file system of busybox and kernel modules:

- `bare`: nothing but busybox and the programs given; boots in seconds. The script is one of guest/.
- `overlay`: its root is this machine's own root file system, read-only by 9p, under a file system
  in memory that takes all writes; so the programs installed here run there, on another kernel.

The guest sees a port of this machine's loopback at 10.0.2.2. Scripts get their parameters as shell
variables. A script reports by printing. It has a serial line of its own: what the kernel says goes
to the console, at any time, and would end up in the middle of a report.
Its speed is a twentieth of this machine's or less: count pages, never seconds.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vm.kernel import SYSTEM_PATH, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

SCRIPTS = Path(__file__).with_name("guest")
HOST_ADDRESS = "10.0.2.2"
# Of a guest that hangs. None takes half as long, also on a busy machine.
DEADLINE_S = 900
TEST_TIMEOUT_S = DEADLINE_S + 100
MODULES = ["virtio_pci", "virtio_net", "nbd"]
OVERLAY_MODULES = ["9p", "9pnet_virtio", "overlay", "loop"]
STATUS = re.compile(r"^guest: status (\d+)$", re.MULTILINE)
REPORT = re.compile(r"^report (\w+) (\{.*\})$", re.MULTILINE)
NOISE = re.compile(r"\r|\x1b\[[0-9;?]*[A-Za-z]|\x1bc")


@dataclass(frozen=True)
class GuestRun:
    """What came of a guest."""

    console: str  # what the firmware and the kernel said
    output: str  # what the script printed

    @property
    def status(self) -> int | None:
        """Of the script; None when it never ended."""
        ended = STATUS.search(self.output)
        return int(ended[1]) if ended else None

    @property
    def transcript(self) -> str:
        """All output, to explain a failed test."""
        return f"--- the script:\n{self.output}\n--- the kernel:\n{self.console}"

    def reports(self) -> Reports:
        """Returns the JSON objects that the script printed as `report NAME {...}`."""
        found = {name: json.loads(text) for name, text in REPORT.findall(self.output)}
        return Reports(found, self.transcript)


class Reports(dict[str, dict[str, Any]]):
    """By name. One that is missing fails the test with the whole transcript."""

    def __init__(self, found: dict[str, dict[str, Any]], transcript: str) -> None:
        super().__init__(found)
        self._transcript = transcript

    def __missing__(self, name: str) -> NoReturn:
        raise AssertionError(f"the guest reported no {name}\n{self._transcript}")


@dataclass
class Guest:
    """A guest to boot: its kernel, what is in it, and its size."""

    kernel: Kernel
    workspace: Path
    memory_mib: int = 512
    cpus: int = 1  # one is 2.5 times as fast as two, whose wake-ups cost this machine dearly
    programs: list[Path] = field(default_factory=list)

    def run_bare(
        self, script: str, *, deadline_s: float = DEADLINE_S, **parameters: object
    ) -> GuestRun:
        """Runs a script of guest/ among the programs alone."""
        initrd = self._build_initrd(MODULES)
        words = {"script": f"/scripts/{script}", "host": HOST_ADDRESS, **parameters}
        return self._boot(initrd, words, [], deadline_s)

    def run_overlay(self, script: Path, *, shared: Path, **parameters: object) -> GuestRun:
        """Runs a script of this machine's on its root; what is written to `shared` stays."""
        initrd = self._build_initrd(MODULES + OVERLAY_MODULES)
        words = {"script": script, "overlay": SCRIPTS / "overlay_main", "shared": shared}
        root = "local,path=/,readonly=on,security_model=none,multidevs=remap,mount_tag=root"
        share = f"local,path={shared},security_model=none,mount_tag=shared"
        devices = ["-virtfs", root, "-virtfs", share]
        return self._boot(initrd, {**words, **parameters}, devices, DEADLINE_S)

    def _build_initrd(self, modules: list[str]) -> Path:
        root = self.workspace / "initrd"
        shutil.rmtree(root, ignore_errors=True)
        for directory in ("bin", "dev", "proc", "sys", "tmp", "run", "lib/modules"):
            (root / directory).mkdir(parents=True)
        shutil.copytree(SCRIPTS, root / "scripts")
        shutil.copy(SCRIPTS / "init", root / "init")
        busybox = shutil.which("busybox", path=SYSTEM_PATH)
        if busybox is None:
            raise FileNotFoundError("busybox")
        shutil.copy(busybox, root / "bin" / "busybox")
        for program in self.programs:
            _copy_with_libraries(program, root)
        order = [_unpack_module(path, root) for path in self.kernel.module_files(modules)]
        (root / "modules").write_text("\n".join(order) + "\n")
        image = self.workspace / "initrd.cpio"
        files = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with image.open("wb") as output:
            command = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"]
            subprocess.run(
                command, input=files.encode(), cwd=root, stdout=output, check=True, timeout=60
            )
        return image

    def _boot(
        self, initrd: Path, parameters: dict[str, object], devices: list[str], deadline_s: float
    ) -> GuestRun:
        words = [f"farswap.{name}={value}" for name, value in parameters.items()]
        console, output = self.workspace / "console", self.workspace / "output"
        fixed = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on"
        command = [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *(
                "-smp",
                str(self.cpus),
                "-m",
                str(self.memory_mib),
                "-nographic",
                "-nodefaults",
                "-no-user-config",
            ),
            *("-no-reboot", "-monitor", "none"),
            *("-serial", f"file:{console}", "-serial", f"file:{output}"),
            *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "virtio-rng-pci", *devices),
            *("-kernel", str(self.kernel.image), "-initrd", str(initrd)),
            *("-append", " ".join([fixed, *words])),
        ]
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, timeout=deadline_s, check=False)
        except subprocess.TimeoutExpired:
            with console.open("a") as end:
                end.write(f"\nkilled at its deadline of {deadline_s} s\n")
        return GuestRun(_read_line(console), _read_line(output))


def _read_line(path: Path) -> str:
    return NOISE.sub("", path.read_text(errors="replace")) if path.exists() else ""


def _copy_with_libraries(program: Path, root: Path) -> None:
    """Copies a program to bin/ and every shared library it names to where it names it."""
    shutil.copy(program, root / "bin" / program.name)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    for library in _absolute_paths(listed.stdout.split()):
        target = root / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def _absolute_paths(words: Iterable[str]) -> list[Path]:
    paths = [Path(word) for word in words if word.startswith("/")]
    return [path for path in paths if path.exists()]


def _unpack_module(path: Path, root: Path) -> str:
    """Puts a kernel module into the initial file system, uncompressed; returns where it is."""
    unpackers = {".xz": "xz", ".zst": "zstd"}
    name = path.name.removesuffix(path.suffix) if path.suffix in unpackers else path.name
    target = root / "lib" / "modules" / name
    if path.suffix in unpackers:
        with target.open("wb") as output:
            command = [unpackers[path.suffix], "--decompress", "--stdout", path]
            subprocess.run(command, stdout=output, check=True, timeout=60)
    else:
        shutil.copy(path, target)
    return f"/lib/modules/{name}"


def system_program(name: str) -> Path:
    """Returns where a program of the system's is, also in sbin."""
    path = shutil.which(name, path=SYSTEM_PATH)
    if path is None:
        raise FileNotFoundError(name)
    return Path(path)
