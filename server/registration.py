"""The server's record in etcd, by which hosts find it.

The record is under a lease that this daemon keeps alive. Hosts keep the servers that they know, so
a record that is missing for a while costs nothing but that new hosts do not find the server. While
etcd is away the server serves on; it registers again when etcd answers without its record: after
the lease has ended, a restore of older data, or a deletion.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from farswap.common import log, members
from farswap.common.errors import FarswapError
from farswap.common.etcd import Etcd

if TYPE_CHECKING:
    from farswap.common.config_sections import ClusterSection
    from farswap.common.members import Member

_log = log.logger("registration")

_LEASE_S = 10
_REFRESH_EVERY_S = 3.0


class Registration:
    """start(), then stop(), once each; without etcd in the configuration they do nothing."""

    def __init__(self, config: ClusterSection, member: Member) -> None:
        self._etcd = Etcd(config.etcd) if config.etcd else None
        self._prefix = config.prefix
        self._key = members.prefix_of(config.prefix) + member.uuid
        self._record = members.to_record(member)
        self._lease: int | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        """Why etcd does not answer; empty if it does, or is not configured. Any thread."""
        return self._etcd.problem if self._etcd is not None else ""

    async def listed(self) -> list[Member]:
        """All servers that etcd lists; none without etcd. Raises FarswapError."""
        if self._etcd is None:
            return []
        return await members.fetch_members(self._etcd, self._prefix)

    def start(self) -> None:
        """Registers in the background."""
        if self._etcd is not None:
            self._task = asyncio.create_task(self._keep(self._etcd))

    async def stop(self) -> None:
        """Deletes the record if etcd answers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._etcd is None:
            return
        if self._lease is not None and not self.problem:
            with contextlib.suppress(FarswapError):
                await self._etcd.revoke_lease(self._lease)
        await self._etcd.close()

    async def _keep(self, etcd: Etcd) -> None:
        while True:
            try:
                await self._refresh(etcd)
            except FarswapError:
                pass  # logged by the client
            except Exception:  # noqa: BLE001 - the server serves on
                _log.exception("failed to register")
            await asyncio.sleep(_REFRESH_EVERY_S)

    async def _refresh(self, etcd: Etcd) -> None:
        if self._lease is None or not await etcd.keep_alive(self._lease):
            self._lease = await etcd.grant_lease(_LEASE_S)
        elif await etcd.get(self._key) is not None:
            return
        await etcd.put(self._key, self._record, self._lease)
        _log.info("registered in etcd", key=self._key)
