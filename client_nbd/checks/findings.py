"""Findings for operators: refused protections, harmful settings.

Findings of the start are made once, logged, and shown by `farswapctl status`. Those of the
machine's state are made at each request (kernel.py, tier.py), also if ok, for `farswapctl doctor`.
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
    """`subject` is a short stable name, `message` a sentence, `remedy` what to do, or ""."""

    level: Level
    subject: str
    message: str
    remedy: str = ""


def of_start(config: HostConfig, protections: Sequence[ReclaimProtection] | None) -> list[Finding]:
    """Problems at the start; `protections` as in of_protections()."""
    return [*problems(of_protections(protections, swapping=False)), *of_configuration(config)]


def of_protections(report: Sequence[ReclaimProtection] | None, *, swapping: bool) -> list[Finding]:
    """Protections against waiting for the daemon's own device.

    `report` is None without reclaim.protect; `swapping`: the machine swaps to this daemon.
    """
    level: Level = "error" if swapping else "warning"
    if report is None:
        message = "reclaim.protect is false: this daemon can be swapped out; do not swap to it"
        return [Finding(level, "reclaim", message, "set it to true and restart the daemon")]
    return [
        Finding("ok", protection.subject, "granted")
        if protection.granted
        else Finding(level, protection.subject, protection.message)
        for protection in report
    ]


def of_configuration(config: HostConfig) -> list[Finding]:
    """Settings that are allowed but risky."""
    risks = [
        ("nbd.listen", f"{address} accepts other machines, unencrypted")
        for address in config.nbd.listen
        if not address.is_local
    ]
    admin = config.admin.listen
    if not admin.is_local:
        risks.append(("admin.listen", f"{admin} allows other machines to operate this daemon"))
    if not (config.cluster.servers or config.cluster.etcd):
        risks.append(("cluster.servers", "no memory server is configured: pages stay in the pool"))
    return _warnings(risks)


def of_survival(problem: str) -> list[Finding]:
    """`problem` as of RunningHost.survival_problem."""
    if not problem:
        return []
    remedy = (
        "see the log for workers that end; for memory reserve huge pages at boot, or grant "
        "CAP_SYS_ADMIN or CAP_IPC_LOCK to the daemon"
    )
    return [Finding("warning", "survival", problem, remedy)]


def of_stop(waits_for: str) -> list[Finding]:
    """A stop that waits; `waits_for` is empty if there is none."""
    if not waits_for:
        return []
    message = f"the daemon has a request to stop, but still serves: {waits_for}"
    return [Finding("warning", "stop", message, "wait: the daemon tries again by itself")]


def of_groups(problems: Mapping[str, str]) -> list[Finding]:
    """`problems` as from CgroupGroups.problems()."""
    return _warnings(problems.items())


def _warnings(found: Iterable[tuple[str, str]]) -> list[Finding]:
    return [Finding("warning", subject, message) for subject, message in found]


def problems(checks: Iterable[Finding]) -> list[Finding]:
    """Findings that are not ok."""
    return [finding for finding in checks if finding.level != "ok"]
