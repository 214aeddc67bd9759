"""The Debian kernels that guests boot: found by apt, unpacked and kept, never installed.

`debian_kernel(cache, series)` is all that callers need. It raises `KernelUnavailableError` with the
reason where this machine's package lists hold no such kernel or the archive cannot be reached.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

# What Debian 12's own packages for PCs are called: its first kernel, and the one of its backports.
PACKAGES = {"6.1": "linux-image-amd64", "6.12": "linux-image-6.12-amd64"}
DOWNLOAD_DEADLINE_S = 300
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class KernelUnavailableError(Exception):
    """No such kernel is available here."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    version: str
    root: Path  # holds boot/ and lib/modules/

    @property
    def image(self) -> Path:
        """The bootable file."""
        return self.root / "boot" / f"vmlinuz-{self.version}"

    def module_files(self, names: list[str]) -> list[Path]:
        """Returns the files to load for these modules, each after those it depends on."""
        files: dict[Path, None] = {}
        for name in names:
            arguments = ["--dirname", self.root, "--set-version", self.version, "--show-depends"]
            lines = run_system("modprobe", *arguments, name).splitlines()
            files |= {Path(line.split()[1]): None for line in lines if line.startswith("insmod ")}
        return list(files)


def run_system(program: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Runs a program of the system's, also of sbin, and returns what it printed."""
    path = shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        raise KernelUnavailableError(f"needs the program {program}")
    command = [path, *(str(argument) for argument in arguments)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=DOWNLOAD_DEADLINE_S
    )
    if done.returncode != 0:
        raise KernelUnavailableError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def debian_kernel(cache: Path, series: str = "6.12") -> Kernel:
    """Returns a kernel that is in `cache`, or else the newest of the package lists, put there."""
    for unpacked in sorted(cache.glob(f"{series}.*-amd64")):
        return Kernel(unpacked.name, unpacked)
    version = _newest_version(series)
    cache.mkdir(parents=True, exist_ok=True)
    # Unpacked aside and renamed when complete: an interrupted download leaves no half kernel.
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        aside = Path(scratch)
        run_system("apt-get", "download", f"linux-image-{version}", cwd=aside)
        (package,) = aside.glob("*.deb")
        run_system("dpkg-deb", "--extract", package, aside / "root")
        run_system("depmod", "--basedir", aside / "root", version)
        (aside / "root").rename(cache / version)
    return Kernel(version, cache / version)


def _newest_version(series: str) -> str:
    """Returns what Debian's package of this series stands for at present."""
    depends = run_system("apt-cache", "depends", PACKAGES[series])
    found = re.search(rf"linux-image-({re.escape(series)}\.[0-9]+\S*-amd64)", depends)
    if found is None:
        raise KernelUnavailableError(f"the package lists hold no {PACKAGES[series]} of {series}")
    return found[1]
