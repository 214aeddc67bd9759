"""Findings about the replicas of the device's shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.client_nbd.checks.findings import Finding
from farswap.client_nbd.checks.server import is_nearly_full
from farswap.common.label import DEFAULT
from farswap.common.text import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.common.units import Milliseconds
    from farswap.native import MemoryServer, Placement

_SUBJECT = "replicas"


def replicas(
    placement: Placement, servers: Sequence[MemoryServer], repair_after: Milliseconds
) -> list[Finding]:
    """Whether servers and replicas suffice.

    A lost shard, or a server that is away, is a finding of that server.
    """
    if not servers:
        return []
    found = [
        *(_servers(placement, servers) or _domains(placement)),
        *_labels(placement, servers),
        *_debt(placement, servers, repair_after),
        *_missing(placement),
    ]
    return found or [Finding("ok", _SUBJECT, f"no shard has fewer than {_current(placement)}")]


def _servers(placement: Placement, servers: Sequence[MemoryServer]) -> list[Finding]:
    connected = sum(server.connected for server in servers)
    if len(servers) < placement.replicas:
        have = count(len(servers), "memory server")
        remedy = "add memory servers, or lower cluster.replicas"
    elif 0 < connected < placement.replicas:
        have = f"{connected} of {count(len(servers), 'memory server')} connected"
        remedy = "see the findings of the servers"
    else:
        return []
    message = f"degraded: cluster.replicas is {placement.replicas}, with {have}"
    return [Finding("warning", _SUBJECT, message, remedy)]


def _domains(placement: Placement) -> list[Finding]:
    wanted, have = placement.replicas, placement.domains
    if placement.crowded_shards == 0 and (have == 0 or have >= wanted):
        return []
    message = (
        f"degraded: cluster.replicas is {wanted}, and the servers are in {have} failure "
        f"domain{'s' if have != 1 else ''} by the label {placement.spread}; shards with two "
        f"replicas in one: {placement.crowded_shards}"
    )
    remedy = "add memory servers in other failure domains, or correct server.labels"
    if have >= wanted:
        remedy = "wait: the replicas move apart as long as servers of other domains have room"
    return [Finding("warning", _SUBJECT, message, remedy)]


def _labels(placement: Placement, servers: Sequence[MemoryServer]) -> list[Finding]:
    """The default label is the server itself; any other one is there because servers share it."""
    label = placement.spread
    without = [server.address for server in servers if server.uuid and label not in server.labels]
    if label == DEFAULT or not without:
        return []
    message = (
        f"replicas are spread by the label {label}, which {', '.join(without)} "
        f"{'do' if len(without) > 1 else 'does'} not have: each counts as a domain of its own"
    )
    remedy = f"set {label} in server.labels there, and restart the server"
    return [Finding("warning", _SUBJECT, message, remedy)]


def _debt(
    placement: Placement, servers: Sequence[MemoryServer], repair_after: Milliseconds
) -> list[Finding]:
    if not placement.debt_shards:
        return []
    reasons = [reason for server in servers for reason in _reasons(server)]
    why = f" ({', '.join(reasons)})" if reasons else ""
    message = (
        f"{count(placement.debt_shards, 'shard')} with fewer than {_current(placement)}{why}; "
        f"copies under way: {placement.copies}"
    )
    remedy = (
        f"start the servers that are away, or wait: {repair_after} after a server went away, its "
        "replicas are replaced on servers with room"
    )
    return [Finding("warning", _SUBJECT, message, remedy)]


def _missing(placement: Placement) -> list[Finding]:
    if not placement.missing_pages:
        return []
    message = (
        "pages that were on no replica when it was compared with the slot table: "
        f"{placement.missing_pages}; reads of them fail with EIO"
    )
    remedy = "replace the disks of servers that lose pages, and restart the programs affected"
    return [Finding("error", _SUBJECT, message, remedy)]


def _reasons(server: MemoryServer) -> list[str]:
    if not server.connected:
        return [f"{server.address} is {server.state.replace('_', ' ')}"]
    return [f"{server.address} is nearly full"] if is_nearly_full(server) else []


def _current(placement: Placement) -> str:
    return count(placement.replicas, "current replica")
