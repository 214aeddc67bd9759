"""Memory servers that etcd lists, for the engine.

A server that is no longer listed keeps its pages, and the host its session: the sessions and the
planner find out whether it is gone, or has another address. So an etcd that is away, or that comes
back empty, moves no page. The host only stops to try an address at which it never used a server.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.common import log, members
from farswap.common.etcd import Etcd

if TYPE_CHECKING:
    from farswap.client_nbd.config import ClusterSection
    from farswap.native import HostEngine

_log = log.logger("membership")

_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class MembershipState:
    """`away_ms` is None if etcd answers; else `problem` says why, if it is known."""

    endpoints: str
    away_ms: int | None
    problem: str
    listed: int  # servers, at the last answer
    without_room: int  # of these, beyond the number that a host can have


class Membership:
    """start(), then stop(), once each; without etcd in the configuration they do nothing."""

    def __init__(self, engine: HostEngine, config: ClusterSection) -> None:
        self._engine = engine
        self._config = config
        self._etcd = Etcd(config.etcd) if config.etcd else None
        self._task: asyncio.Task[None] | None = None
        self._addresses: frozenset[str] = frozenset()  # as listed
        self._without_room = 0

    def start(self) -> None:
        """Follows etcd in the background."""
        if self._etcd is not None:
            self._task = asyncio.create_task(self._follow(self._etcd))

    async def stop(self) -> None:
        """The engine gets no more servers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._etcd is not None:
            await self._etcd.close()

    def state(self) -> MembershipState | None:
        """Any thread. None: servers are those of the configuration."""
        if self._etcd is None:
            return None
        away_s = self._etcd.away_s
        return MembershipState(
            endpoints=", ".join(map(str, self._config.etcd)),
            away_ms=None if away_s is None else int(away_s * 1000),
            problem=self._etcd.problem,
            listed=len(self._addresses),
            without_room=self._without_room,
        )

    async def _follow(self, etcd: Etcd) -> None:
        prefix = self._config.prefix
        while True:
            try:
                async with aclosing(etcd.watch_prefix(members.prefix_of(prefix))) as watch:
                    async for records in watch:
                        await self._take(members.of_records(records, prefix))
            except Exception:  # noqa: BLE001 - the daemon serves on
                _log.exception("failed to follow etcd")
            await asyncio.sleep(_RETRY_S)

    async def _take(self, listed: list[members.Member]) -> None:
        addresses = frozenset(member.address for member in listed)
        before = await asyncio.to_thread(self._known)
        await asyncio.to_thread(self._engine.list_servers, sorted(addresses))
        known = await asyncio.to_thread(self._known)
        if new := (addresses & known) - before:
            _log.info("servers added", servers=", ".join(sorted(new)))
        if gone := self._addresses - addresses:
            _log.info("servers no longer listed", servers=", ".join(sorted(gone)))
        self._addresses = addresses
        self._without_room = len(addresses - known)

    def _known(self) -> frozenset[str]:
        return frozenset(server.address for server in self._engine.servers())
