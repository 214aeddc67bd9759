"""What an operator should know: protections that were refused, settings that fight with us.

Findings of the start are made once, said in the log, and shown by `farswapctl status` as long as
the daemon lives. Those of the machine's state are looked up every time: see kernel.py and tier.py
here, whose checks also tell what is in order, for `farswapctl doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from farswap.client_nbd.config import HostConfig
    from farswap.native import ReclaimProtection

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is a short stable name, `message` a sentence, `remedy` what to do, if anything."""

    level: Level
    subject: str
    message: str
    remedy: str = ""


def of_start(config: HostConfig, protections: Sequence[ReclaimProtection] | None) -> list[Finding]:
    """What is wrong already before anything runs; `protections` as of of_protections()."""
    return [*problems(of_protections(protections, swapping=False)), *of_configuration(config)]


def of_protections(report: Sequence[ReclaimProtection] | None, *, swapping: bool) -> list[Finding]:
    """What the engine asked the kernel for, so as never to wait for its own device.

    `report` is None where it did not ask; `swapping`: the machine swaps to this daemon.
    """
    level: Level = "error" if swapping else "warning"
    if report is None:
        message = "reclaim.protect is false: this daemon can be swapped out, so do not swap to it"
        return [Finding(level, "reclaim", message, "set it to true and restart the daemon")]
    return [
        Finding("ok", protection.subject, "granted")
        if protection.granted
        else Finding(level, protection.subject, protection.message)
        for protection in report
    ]


def of_configuration(config: HostConfig) -> list[Finding]:
    """Settings that are allowed and seldom wanted."""
    found = [
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


def of_stop(waits_for: str) -> list[Finding]:
    """A daemon that was told to stop and goes on serving; `waits_for` is empty where it was not."""
    if not waits_for:
        return []
    message = f"the daemon is to stop, and goes on serving: {waits_for}"
    return [Finding("warning", "stop", message, "the daemon tries again by itself")]


def of_groups(problems: Mapping[str, str]) -> list[Finding]:
    """`problems` as of CgroupGroups.problems()."""
    return [Finding("warning", subject, message) for subject, message in problems.items()]


def problems(checks: Iterable[Finding]) -> list[Finding]:
    """Those that are not ok."""
    return [finding for finding in checks if finding.level != "ok"]
