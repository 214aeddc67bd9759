"""farswap-host with faults in what it asks the kernel, as long as files of their names are there.

`python -m system.host_with_faults --config FILE`; the directory is that of FILE:

    unreadable     /proc/swaps cannot be read
    short          the machine has 1 MiB of memory left
    swapoff        swapoff(2) fails
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.client_nbd import config as host_config
from farswap.client_nbd import daemon
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel.files import KernelFiles
from farswap.client_nbd.survival import engine as engines
from farswap.client_nbd.survival.connections import Connections

if TYPE_CHECKING:
    from farswap.client_nbd.kernel.tables import SwapArea

CONFIG = Path(sys.argv[-1])


def is_on(fault: str) -> bool:
    return (CONFIG.parent / fault).exists()


class FaultyFiles(KernelFiles):
    def swap_areas(self) -> list[SwapArea]:
        if is_on("unreadable"):
            raise OSError(errno.EIO, "Input/output error")
        return super().swap_areas()

    def available_bytes(self) -> int | None:
        return 1 << 20 if is_on("short") else super().available_bytes()


def main() -> None:
    swapoff = kernel_files.swapoff

    def faulty_swapoff(device: str) -> None:
        if is_on("swapoff"):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        swapoff(device)

    kernel_files.swapoff = faulty_swapoff
    config = host_config.load(CONFIG)
    files = FaultyFiles()
    engine = engines.native_engine(config, engines.private_state(config, files))
    daemon.run(config, None, Connections(engine, None), files)


if __name__ == "__main__":
    main()
