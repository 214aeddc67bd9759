"""Findings about the states of memory servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.client_nbd.checks.findings import Finding
from farswap.common.text import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from farswap.client_nbd.checks.findings import Level
    from farswap.native import MemoryServer

_FULL_SHARE = 0.9
_SUBJECT = "server"

_TAKE_OVER = (
    "stop the daemon there and restart this one, or give one of the two hosts another "
    "device.host_id; `farswap-host --take-over` takes the volume, and the other host loses its "
    "pages on servers"
)


def servers(known: Iterable[MemoryServer]) -> list[Finding]:
    """Whether each memory server is connected, usable by this host, and has room."""
    return [finding for server in known for finding in (_state(server), *_losses(server))]


def alarm(known: Sequence[MemoryServer]) -> str:
    """First line of `status`; empty if no other host has this host's volume."""
    for state, meaning in (
        (
            "fenced",
            "FENCED: {owner} took over this volume{deleted}; pages only on {where} are lost",
        ),
        ("already_open", "ALREADY OPEN: {owner} has this volume; this daemon does not use {where}"),
    ):
        ended = [server for server in known if server.state == state]
        if ended:
            named = next((server for server in ended if server.owner_name), ended[0])
            where = ", ".join(server.address for server in ended)
            return meaning.format(owner=_owner(named), deleted=_or_deleted(named), where=where)
    return ""


def is_nearly_full(server: MemoryServer) -> bool:
    """Whether it may refuse pages soon."""
    return server.used_bytes > server.capacity_bytes * _FULL_SHARE


def _owner(server: MemoryServer) -> str:
    if not server.owner_name:
        return "another host"
    return f"host {server.owner_name} ({server.owner_address})"


def _or_deleted(server: MemoryServer) -> str:
    return "" if server.owner_name else ", or an operator deleted it"


def _state(server: MemoryServer) -> Finding:
    error = _of_owner(server) or _of_identity(server)
    if error is not None:
        return error
    if not server.connected:
        why = f": {server.last_error}" if server.last_error else ""
        level: Level = "error"
        away = f"no answer from {server.address} for {server.disconnected_ms // 1000} s{why}"
        if server.last_shards:
            away += f"; {count(server.last_shards, 'shard')} unreadable until it answers"
        elif server.shards:
            level = "warning"
            away += "; its pages are read from other replicas"
        remedy = "start farswap-server there, or fix the network"
        if server.state == "connecting":
            remedy = f"remove it from cluster.servers if its server moved; else {remedy}"
        return Finding(level, _SUBJECT, away, remedy)
    if server.at_quota:
        message = f"{server.address} refuses pages: the quota of this device there is reached"
        remedy = "raise it by `farswapctl volume set-quota` on that server, or add a server"
        return Finding("warning", _SUBJECT, message, remedy)
    if is_nearly_full(server):
        share = 100 * server.used_bytes // max(1, server.capacity_bytes)
        remedy = "raise store.capacity there, or add a server"
        return Finding("warning", _SUBJECT, f"{server.address} is {share} % full", remedy)
    return Finding("ok", _SUBJECT, f"{server.address} is connected")


def _of_owner(server: MemoryServer) -> Finding | None:
    """A finding if another host has the volume on this server."""
    if server.state == "fenced":
        lost = "; pages that are only there are lost" if server.shards else ""
        message = f"{_owner(server)} took over the volume on {server.address}"
        message += f"{_or_deleted(server)}{lost}"
        remedy = "two daemons have one host id and device: find the other; " + _TAKE_OVER
        return Finding("error", _SUBJECT, message, remedy)
    if server.state == "already_open":
        message = (
            f"{server.address} is not used: {_owner(server)} has this volume"
            if server.owner_name
            else f"{server.address} is not used: another server names an owner of this volume"
        )
        return Finding("error", _SUBJECT, message, _TAKE_OVER)
    if server.state == "waiting":
        message = f"{server.address} is not used yet: {_owner(server)} has this volume"
        remedy = "wait half a minute: the lease of a dead owner ends by then"
        return Finding("warning", _SUBJECT, message, remedy)
    return None


def _of_identity(server: MemoryServer) -> Finding | None:
    """A finding if the server is used under another name, or a copy of it is."""
    if server.state == "duplicate":
        remedy = "list each server once in cluster.servers"
    elif server.state == "clone":
        remedy = "give the copied server an empty store.path, or remove it from cluster.servers"
    elif server.state == "removed":
        remedy = "empty its store.path to use the server again, or stop it"
    else:
        return None
    return Finding("error", _SUBJECT, f"{server.address} is not used: {server.last_error}", remedy)


def _losses(server: MemoryServer) -> list[Finding]:
    found: list[Finding] = []
    if server.lost_shards:
        message = (
            f"{server.address} has another store than before: the former one had the last replica "
            f"of {count(server.lost_shards, 'shard')}; pages there are lost, and reads of them "
            "fail with EIO"
        )
        remedy = "restore the former store, or restart the programs that had pages there"
        found.append(Finding("error", _SUBJECT, message, remedy))
    if server.unclean_restarts:
        message = (
            f"the machine of {server.address} went down "
            f"{count(server.unclean_restarts, 'time')} without closing its store: acknowledged "
            "pages may be missing; reads of those fail with EIO"
        )
        remedy = "see fetch_missing in `farswapctl tier show`, which counts reads of missing pages"
        found.append(Finding("warning", _SUBJECT, message, remedy))
    return found
