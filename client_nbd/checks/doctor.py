"""Checks of a running host, for `status` (the quick ones) and `doctor` (all).

They block: files of the kernel, the engine's locks, the resolver. Call them from worker threads.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from farswap.client_nbd.checks import findings
from farswap.client_nbd.checks import kernel as kernel_checks
from farswap.client_nbd.checks import membership as membership_checks
from farswap.client_nbd.checks import replicas as replica_checks
from farswap.client_nbd.checks import server as server_checks
from farswap.client_nbd.checks import tier as tier_checks
from farswap.common.address import Address

if TYPE_CHECKING:
    from farswap.client_nbd.checks.findings import Finding
    from farswap.client_nbd.running_host import RunningHost


class Doctor:
    """The checks of one daemon."""

    def __init__(self, host: RunningHost) -> None:
        self._host = host

    def problems(self) -> list[Finding]:
        """Problems that the quick checks find."""
        return findings.problems(self._glance())

    def examine(self) -> list[Finding]:
        """All checks, including ok ones; takes a second if the accounting differs."""
        return [
            *self._glance(),
            *self._places_of_servers(),
            *tier_checks.accounting(self._accounts),
        ]

    def _glance(self) -> list[Finding]:
        host = self._host
        stats = host.engine.stats()
        servers = host.engine.servers()
        use = host.devices.use()
        state = host.attribution.state()
        expected = bool(host.device.device() or host.attribution.device)
        return [
            *findings.of_protections(host.protections, swapping=bool(use.areas)),
            *findings.of_configuration(host.config),
            *findings.of_survival(host.survival_problem),
            *kernel_checks.of_kernel(host.files, host.device, use),
            *kernel_checks.attribution(state, expected=expected),
            kernel_checks.discard(
                use, stats, tier_checks.held(stats), free_hook=bool(state.free_hook)
            ),
            *server_checks.servers(servers),
            *membership_checks.of_membership(host.membership.state()),
            *replica_checks.replicas(
                host.engine.placement(), servers, host.config.cluster.repair_after
            ),
            *tier_checks.failures(stats),
            *findings.of_stop(host.gate.waits_for),
            *findings.of_groups(host.groups.problems()),
        ]

    def _places_of_servers(self) -> list[Finding]:
        host = self._host
        local = host.files.local_addresses()
        swapping = bool(host.devices.use().areas)
        return [
            kernel_checks.server_place(address, _resolved(address), local, swapping=swapping)
            for address in (Address.parse(server.address) for server in host.engine.servers())
        ]

    def _accounts(self) -> tier_checks.Accounts:
        host = self._host
        return tier_checks.accounts(host.engine.stats(), host.engine.cgroups(), host.groups.path_of)


def _resolved(address: Address) -> list[str]:
    """IP addresses of a server; none if its name is unknown."""
    if address.is_unix:
        return []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(target[0]).partition("%")[0] for *_, target in found]
