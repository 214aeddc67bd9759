"""The ServerAdmin service: only translation to and from protocol messages.

A worker thread reads the store's figures, since its locks and a walk over its files take time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from farswap.common import members
from farswap.common.errors import FarswapError, InvalidArgumentError, NotPossibleError
from farswap.common.messages import of_record, take_fields
from farswap.server.config import QUOTA_BYTES_MIN
from farswap.v1 import page_store_pb2, server_admin_pb2_grpc, types_pb2
from farswap.v1 import server_admin_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc.aio
    from farswap.common.address import Address
    from farswap.common.version import Identity
    from farswap.native import PageServer, Volume, VolumePlacement
    from farswap.server.config import ServerConfig
    from farswap.server.registration import Registration

    _Context = grpc.aio.ServicerContext[Any, Any]

_T = TypeVar("_T")

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ServerAdmin"].full_name
# Methods that change nothing; calls of all others are audited.
READS = ("Status", "Peers")

# Only in /metrics: `disk_problem` and `ballast_bytes` replace them here.
_ONLY_METRICS = ("ballast_bytes_max", "disk_full")


class ServerAdminService(server_admin_pb2_grpc.ServerAdminServicer):
    """The service of one daemon."""

    def __init__(
        self,
        *,
        config: ServerConfig,
        pages: PageServer,
        registration: Registration,
        listen: Address,
        advertise: Address,
        identity: Identity,
    ) -> None:
        self._config = config
        self._pages = pages
        self._registration = registration
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
        await _try(self._pages.set_draining, draining=True)
        return pb.DrainResponse()

    async def Undrain(  # noqa: N802
        self, request: pb.UndrainRequest, context: _Context
    ) -> pb.UndrainResponse:
        """NotPossibleError if the store cannot keep it."""
        await _try(self._pages.set_draining, draining=False)
        return pb.UndrainResponse()

    async def Peers(  # noqa: N802
        self, request: pb.PeersRequest, context: _Context
    ) -> pb.PeersResponse:
        """As configured, and as etcd lists them now."""
        peers = pb.PeersResponse(admin_addresses=map(str, self._config.cluster.peers))
        try:
            listed = await self._registration.listed()
            peers.page_addresses.extend(member.address for member in listed)
        except FarswapError as error:
            peers.etcd_problem = str(error)
        return peers

    async def RemoveServer(  # noqa: N802
        self, request: pb.RemoveServerRequest, context: _Context
    ) -> pb.RemoveServerResponse:
        """NotPossibleError if it is this server, or if the store cannot keep it."""
        if not members.UUID.fullmatch(request.uuid):
            raise InvalidArgumentError("a uuid has 32 hexadecimal digits")
        await _try(self._pages.remove_server, uuid=bytes.fromhex(request.uuid))
        return pb.RemoveServerResponse()

    async def Scrub(  # noqa: N802
        self, request: pb.ScrubRequest, context: _Context
    ) -> pb.ScrubResponse:
        """NotPossibleError if the store is read-only."""
        await _try(self._pages.scrub)
        return pb.ScrubResponse()

    async def DeleteVolume(  # noqa: N802
        self, request: pb.DeleteVolumeRequest, context: _Context
    ) -> pb.DeleteVolumeResponse:
        """NotPossibleError if there is none, or if its owner is live, unless forced."""
        deleted = await _try(
            self._pages.delete_volume,
            host_id=request.host_id,
            device=request.device,
            force=request.force,
        )
        return pb.DeleteVolumeResponse(pages=deleted.pages, bytes=deleted.bytes)

    async def SetQuota(  # noqa: N802
        self, request: pb.SetQuotaRequest, context: _Context
    ) -> pb.SetQuotaResponse:
        """NotPossibleError if the device was never open here."""
        kind = request.WhichOneof("quota")
        if kind is None or (kind == "bytes" and request.bytes < QUOTA_BYTES_MIN):
            raise InvalidArgumentError(f"a quota has at least {QUOTA_BYTES_MIN} bytes")
        quotas = {"bytes": request.bytes, "off": self._pages.NO_QUOTA, "use_default": None}
        await _try(
            self._pages.set_quota,
            host_id=request.host_id,
            device=request.device,
            quota_bytes=quotas[kind],
        )
        return pb.SetQuotaResponse()

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
            labels=self._config.server.labels,
            etcd_problem=self._registration.problem,
            **gauges,
        )

    def _volume(self, volume: Volume, *, count_shards: bool) -> pb.VolumeStatus:
        placement = volume.placement
        shards: int | None = None
        if count_shards and not volume.garbage:
            mapped = placement.replicas_here if placement and volume.live else 0
            # After a drain the index has tombstones alone: reading them takes seconds.
            shards = mapped or (self._count_shards(volume) if volume.pages else 0)
        return of_record(
            pb.VolumeStatus,
            volume,
            incarnation=volume.incarnation.hex(),
            owner_name=volume.owner.host_name,
            owner_address=volume.owner.address,
            owner_live=volume.live,
            shards=shards,
            placement=placement and _placement(placement),
        )

    def _count_shards(self, volume: Volume) -> int:
        try:
            return self._pages.count_shards(volume.volume_id)
        except RuntimeError as error:
            raise NotPossibleError(f"failed to count shards: {error}") from error


def _placement(placement: VolumePlacement) -> page_store_pb2.VolumePlacement:
    away = [of_record(page_store_pb2.AwayServer, server) for server in placement.away]
    return of_record(page_store_pb2.VolumePlacement, placement, away=away)


async def _try(change: Callable[..., _T], **arguments: object) -> _T:
    """Calls a method of the store, on a thread since it waits for the disk."""
    try:
        return await asyncio.to_thread(change, **arguments)
    except RuntimeError as error:
        raise NotPossibleError(f"nothing changed: {error}") from error
