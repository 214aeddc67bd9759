"""What an operator should know: protections that were refused, settings that fight with us.

A finding is said in the log when it is made and shown by `farswapctl status` as long as it
holds. Those of the start are made once; those of the machine's state are looked up every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.client_nbd.config import HostConfig
    from farswap.client_nbd.kernel_files import KernelFiles
    from farswap.native import ReclaimProtection

Level = Literal["warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is a short stable name, `message` a sentence."""

    level: Level
    subject: str
    message: str


def of_start(config: HostConfig, protections: Sequence[ReclaimProtection] | None) -> list[Finding]:
    """`protections` is what the engine asked the kernel for; None when it did not."""
    found = [
        Finding("warning", protection.subject, protection.message)
        for protection in protections or ()
        if not protection.granted
    ]
    if protections is None:
        message = "reclaim.protect is false: this daemon can be swapped out, so do not swap to it"
        found.append(Finding("warning", "reclaim", message))
    found += [
        Finding("warning", "nbd.listen", f"{address} can be reached from other machines, in clear")
        for address in config.nbd.listen
        if not address.is_local
    ]
    if not config.admin.listen.is_local:
        found.append(
            Finding(
                "warning",
                "admin.listen",
                f"{config.admin.listen} lets other machines operate this daemon",
            )
        )
    if not config.cluster.servers:
        found.append(
            Finding("warning", "cluster.servers", "no memory server: the pool is all there is")
        )
    return found


def of_machine(files: KernelFiles) -> list[Finding]:
    """Looked up now."""
    if not files.zswap_enabled():
        return []
    return [
        Finding(
            "warning",
            "zswap",
            "the kernel's zswap is on and compresses pages a first time: "
            "echo N > /sys/module/zswap/parameters/enabled",
        )
    ]
