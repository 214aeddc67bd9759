"""Findings about the etcd that lists memory servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.client_nbd.checks.findings import Finding
from farswap.common.text import count

if TYPE_CHECKING:
    from farswap.client_nbd.membership import MembershipState

_SUBJECT = "etcd"


def of_membership(state: MembershipState | None) -> list[Finding]:
    """Whether etcd answers, and lists servers; nothing if it is not configured."""
    if state is None:
        return []
    if state.away_ms is not None:
        message = (
            f"no answer from {state.endpoints} for {state.away_ms // 1000} s: "
            f"{state.problem or 'connecting'}; the memory servers that are known stay in use"
        )
        remedy = "start etcd, fix the network, or correct cluster.etcd"
        return [Finding("warning", _SUBJECT, message, remedy)]
    if not state.listed:
        message = f"{state.endpoints} lists no memory server"
        remedy = "set cluster.etcd of the servers, and the same cluster.prefix"
        return [Finding("warning", _SUBJECT, message, remedy)]
    if state.without_room:
        message = (
            f"beyond a host's limit: {state.without_room} of {count(state.listed, 'listed server')}"
        )
        remedy = "restart the daemon once fewer servers are listed"
        return [Finding("warning", _SUBJECT, message, remedy)]
    return [
        Finding("ok", _SUBJECT, f"{state.endpoints} lists {count(state.listed, 'memory server')}")
    ]
