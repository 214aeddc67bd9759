"""Parts of a running daemon, for admin service, doctor and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.client_nbd.survival.worker import PRIVATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.client_nbd.attribution import Attribution
    from farswap.client_nbd.cgroups.groups import CgroupGroups
    from farswap.client_nbd.config import HostConfig
    from farswap.client_nbd.kernel.attach import KernelDevice
    from farswap.client_nbd.kernel.device_use import ExportDevices
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.client_nbd.membership import Membership
    from farswap.client_nbd.safe_stop import StopGate
    from farswap.client_nbd.settings import TierSettings
    from farswap.client_nbd.survival.worker import WorkerLink
    from farswap.common.address import Address
    from farswap.common.version import Identity
    from farswap.native import HostEngine, ReclaimProtection


@dataclass(frozen=True, slots=True)
class RunningHost:
    """`listen` are the NBD addresses, `protections` as of findings.of_protections().

    `link` is None without a supervisor.
    """

    config: HostConfig
    engine: HostEngine
    membership: Membership
    groups: CgroupGroups
    settings: TierSettings
    device: KernelDevice
    devices: ExportDevices
    attribution: Attribution
    files: KernelFiles
    identity: Identity
    listen: Sequence[Address]
    protections: Sequence[ReclaimProtection] | None
    gate: StopGate
    link: WorkerLink | None

    @property
    def survival_problem(self) -> str:
        """Why a death would lose pages, or hold up programs; "" if it would not."""
        if self.link is None:
            return ""
        if self.link.problem:
            return f"{self.link.problem}: the daemon's death loses all pages"
        kept = self.engine.state.memory[0] != PRIVATE
        return "no standby waits to take over" if kept and not self.link.has_standby else ""
