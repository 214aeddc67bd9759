"""The ServerAdmin service: only translation to and from protocol messages.

A worker thread reads the store's figures, since its locks and a walk over its files take time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from farswap.common.errors import NotPossibleError
from farswap.common.messages import of_record, take_fields
from farswap.v1 import page_store_pb2, server_admin_pb2_grpc, types_pb2
from farswap.v1 import server_admin_pb2 as pb

if TYPE_CHECKING:
    import grpc.aio
    from farswap.common.address import Address
    from farswap.common.version import Identity
    from farswap.native import PageServer, Volume
    from farswap.server.config import ServerConfig

    _Context = grpc.aio.ServicerContext[Any, Any]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ServerAdmin"].full_name
# Methods that change nothing; calls of all others are audited.
READS = ("Status",)

# Only in /metrics: `disk_problem` and `ballast_bytes` replace them here.
_ONLY_METRICS = ("ballast_bytes_max", "disk_full")


class ServerAdminService(server_admin_pb2_grpc.ServerAdminServicer):
    """The service of one daemon."""

    def __init__(
        self,
        *,
        config: ServerConfig,
        pages: PageServer,
        listen: Address,
        advertise: Address,
        identity: Identity,
    ) -> None:
        self._config = config
        self._pages = pages
        self._listen = listen
        self._advertise = advertise
        self._identity = identity

    async def Status(  # noqa: N802 - named by the protocol
        self, request: pb.ServerStatusRequest, context: _Context
    ) -> pb.ServerStatus:
        """The whole status."""
        return await asyncio.to_thread(self._status, count_shards=request.count_shards)

    async def Drain(  # noqa: N802
        self, request: pb.DrainRequest, context: _Context
    ) -> pb.DrainResponse:
        """NotPossibleError if the store cannot keep it."""
        await asyncio.to_thread(self._set_draining, draining=True)
        return pb.DrainResponse()

    async def Undrain(  # noqa: N802
        self, request: pb.UndrainRequest, context: _Context
    ) -> pb.UndrainResponse:
        """NotPossibleError if the store cannot keep it."""
        await asyncio.to_thread(self._set_draining, draining=False)
        return pb.UndrainResponse()

    def _set_draining(self, *, draining: bool) -> None:
        try:
            self._pages.set_draining(draining)
        except RuntimeError as error:
            raise NotPossibleError(f"nothing changed: {error}") from error

    def _status(self, *, count_shards: bool) -> pb.ServerStatus:
        stats = self._pages.stats()
        gauges = take_fields(pb.ServerStatus, stats)
        for name in _ONLY_METRICS:
            del stats[name]
        return pb.ServerStatus(
            info=self._identity.server_info(),
            listen=str(self._listen),
            advertise=str(self._advertise),
            path=self._config.store.path,
            volumes=[
                self._volume(volume, count_shards=count_shards) for volume in self._pages.volumes()
            ],
            counters=[types_pb2.Counter(name=name, value=value) for name, value in stats.items()],
            uuid=self._pages.uuid.hex(),
            run_id=self._pages.run_id.hex(),
            state=page_store_pb2.ServerState.Name(self._pages.state),
            owner_lease_ms=self._config.server.owner_lease,
            disk_problem=self._pages.disk_problem(),
            **gauges,
        )

    def _volume(self, volume: Volume, *, count_shards: bool) -> pb.VolumeStatus:
        shards: int | None = None
        if count_shards and not volume.garbage:
            shards = self._count_shards(volume)
        placement = volume.placement
        return of_record(
            pb.VolumeStatus,
            volume,
            incarnation=volume.incarnation.hex(),
            owner_name=volume.owner.host_name,
            owner_address=volume.owner.address,
            owner_live=volume.live,
            shards=shards,
            placement=placement and of_record(page_store_pb2.VolumePlacement, placement),
        )

    def _count_shards(self, volume: Volume) -> int:
        try:
            return self._pages.count_shards(volume.volume_id)
        except RuntimeError as error:
            raise NotPossibleError(f"failed to count shards: {error}") from error
