"""Logs changes of the memory servers' states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.client_nbd.checks import server as server_checks
from farswap.common import log

if TYPE_CHECKING:
    from farswap.native import HostEngine, MemoryServer

_log = log.logger("servers")


class ServerWatch:
    """look() runs periodically, in one thread at a time."""

    def __init__(self, engine: HostEngine) -> None:
        self._engine = engine
        # By address: last state and losses.
        self._seen: dict[str, tuple[str, int, int]] = {}

    def look(self) -> None:
        """Logs each server whose state or losses have changed."""
        servers = self._engine.servers()
        for address in self._seen.keys() - {server.address for server in servers}:
            del self._seen[address]
            _log.info(
                f"{address} is not used any more: removed, or no longer listed", server=address
            )
        for server in servers:
            now = (server.state, server.lost_shards, server.unclean_restarts)
            before = self._seen.get(server.address, ("connecting", 0, 0))
            # The first attempts to connect are not reported.
            if now != before:
                _report(server)
            self._seen[server.address] = now


def _report(server: MemoryServer) -> None:
    fields = {"server": server.address, "state": server.state}
    if server.owner_name:
        fields |= {"owner": server.owner_name, "owner_address": server.owner_address}
    for finding in server_checks.servers([server]):
        write = {"ok": _log.info, "warning": _log.warning, "error": _log.error}[finding.level]
        write(finding.message, **fields)
