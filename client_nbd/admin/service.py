"""The HostAdmin service: only translation to and from protocol messages.

Protobuf types stop here and in messages.py. What can wait (the engine's locks, a memory
server, netlink) runs in worker threads, so that the event loop always answers.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

from farswap.client_nbd.admin import messages
from farswap.client_nbd.admin.operator_settings import OperatorSettings
from farswap.client_nbd.cgroups.groups import GroupChange
from farswap.client_nbd.checks import server as server_checks
from farswap.common import log
from farswap.common.compressor import Compressor, Recompressor
from farswap.common.errors import (
    BusyError,
    FarswapError,
    InvalidArgumentError,
    NotPossibleError,
)
from farswap.common.label import LabelName
from farswap.common.messages import of_record
from farswap.common.units import SHARD_SLOTS, Milliseconds
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import host_admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import grpc.aio
    from farswap.client_nbd.attribution import AttributionState
    from farswap.client_nbd.checks.doctor import Doctor
    from farswap.client_nbd.running_host import RunningHost
    from farswap.native import WritebackProgress
    from google.protobuf.message import Message

    _Context = grpc.aio.ServicerContext[Any, Any]

Value = TypeVar("Value")

_log = log.logger("admin")

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["HostAdmin"].full_name
# Methods that change nothing; calls of all others are audited.
READS = ("Status", "Doctor", "ListCgroups", "ExplainSlot", "ListShards", "SlotOwners")

# Well under the 200 ms that the protocol promises between two reports.
_PROGRESS_INTERVAL_S = 0.1
# A job without progress for this long ends, and the operator is informed.
WRITEBACK_STALL_S = 10.0
_STALLED = f"memory servers took no page for {WRITEBACK_STALL_S:.0f} s, see `farswapctl doctor`"
# The engine's reason when no page may be written back.
_NO_MORE = "no more entries to write back"
# An answer of them stays far below gRPC's limit.
_OWNERS_MAX = 1 << 16
_SHARDS_AT_A_TIME = 4096

_CGROUP_SETTINGS = GroupChange.__annotations__.keys()


class HostAdminService(host_admin_pb2_grpc.HostAdminServicer):
    """The service of one daemon."""

    def __init__(self, host: RunningHost, doctor: Doctor) -> None:
        self._host = host
        self._doctor = doctor
        self._settings = OperatorSettings(host.engine.state)

    async def restore(self) -> None:
        """Carries out again what operators had set when an earlier worker died."""
        methods: dict[type[Message], Callable[[Any], object]] = {
            pb.SetTierRequest: self._set_tier,
            pb.SetPlacementRequest: self._set_placement,
            pb.AttributeRequest: self._attribute,
            pb.SetCgroupRequest: self._set_cgroup,
        }
        for request in self._settings.requests():
            try:
                await asyncio.to_thread(methods[type(request)], request)
            except FarswapError as error:
                # The cgroup, the device or the room for the setting is gone.
                _log.warning("a setting was not restored", problem=str(error))

    async def Status(  # noqa: N802 - named by the protocol
        self, request: pb.HostStatusRequest, context: _Context
    ) -> pb.HostStatus:
        """The whole status, without blocking."""
        return await asyncio.to_thread(self._status)

    async def Doctor(  # noqa: N802
        self, request: pb.DoctorRequest, context: _Context
    ) -> pb.DoctorReport:
        """See doctor.Doctor."""
        checks = await asyncio.to_thread(self._doctor.examine)
        return pb.DoctorReport(checks=messages.findings(checks))

    async def ListCgroups(  # noqa: N802
        self, request: pb.ListCgroupsRequest, context: _Context
    ) -> AsyncIterator[pb.CgroupStatus]:
        """The root first. NotFoundError."""
        if request.path:
            yield await asyncio.to_thread(self._cgroup, request.path)
            return
        views = await asyncio.to_thread(self._host.groups.views)
        for view in sorted(views, key=lambda view: (view.path != "/", view.path, view.id)):
            yield messages.cgroup_status(view)

    async def SetCgroup(  # noqa: N802
        self, request: pb.SetCgroupRequest, context: _Context
    ) -> pb.CgroupStatus:
        """See CgroupGroups.set()."""
        await asyncio.to_thread(self._set_cgroup, request)
        self._settings.keep(request)
        return await asyncio.to_thread(self._cgroup, request.path)

    async def SetTier(  # noqa: N802
        self, request: pb.SetTierRequest, context: _Context
    ) -> pb.TierStatus:
        """See TierSettings.change()."""
        await asyncio.to_thread(self._set_tier, request)
        self._settings.keep(request)
        return await asyncio.to_thread(messages.tier_status, self._host)

    async def Writeback(  # noqa: N802
        self, request: pb.WritebackRequest, context: _Context
    ) -> AsyncIterator[pb.WritebackProgress]:
        """One job at a time: BusyError. Cancelled with the call, or when nothing moves."""
        engine = self._host.engine
        if request.bytes == 0:
            raise InvalidArgumentError("writeback of 0 bytes")
        cgroup = 0
        if request.cgroup not in ("", "/"):
            cgroup = await asyncio.to_thread(self._host.groups.id_of, request.cgroup)
        if not await asyncio.to_thread(
            engine.start_writeback, request.bytes, cgroup, request.older_than_s
        ):
            raise BusyError("another writeback job is running")
        ended = stalled = False
        moved_bytes, moved_at = 0, time.monotonic()
        try:
            while not (ended or stalled):
                progress = await asyncio.to_thread(engine.writeback_progress)
                if progress.written_bytes > moved_bytes:
                    moved_bytes, moved_at = progress.written_bytes, time.monotonic()
                ended = progress.finished
                stalled = not ended and time.monotonic() - moved_at > WRITEBACK_STALL_S
                yield of_record(
                    pb.WritebackProgress,
                    progress,
                    finished=ended or stalled,
                    stopped_because=_STALLED if stalled else await self._why(progress, request),
                )
                if not (ended or stalled):
                    await asyncio.sleep(_PROGRESS_INTERVAL_S)
        finally:
            if not ended:
                engine.cancel_writeback()

    async def _why(self, progress: WritebackProgress, request: pb.WritebackRequest) -> str:
        """The engine's reason for the end of a job, with more detail."""
        if progress.stopped_because != _NO_MORE:
            return progress.stopped_because
        views = await asyncio.to_thread(self._host.groups.views)
        kept = messages.kept_from_servers(views, request.cgroup or "/")
        age = Milliseconds(request.older_than_s * 1000)
        older = f" that are older than {age}" if age else ""
        return f"{_NO_MORE}{older}" + (f": {kept}" if kept else "")

    async def ExplainSlot(  # noqa: N802
        self, request: pb.ExplainSlotRequest, context: _Context
    ) -> pb.SlotExplanation:
        """Reads the page, also from a memory server, to verify it."""
        if request.slot >= self._host.config.slots:
            raise InvalidArgumentError(
                f"slot {request.slot} is out of range: the device has slots "
                f"0..{self._host.config.slots - 1}"
            )
        found = await asyncio.to_thread(self._host.engine.explain, request.slot)
        age_s = max(0, int(time.clock_gettime(time.CLOCK_BOOTTIME)) - found.stored_boot_s)
        known = found.stored_boot_s != 0
        age_ms = age_s * 1000 if known else 0
        replicas = [of_record(pb.Replica, replica) for replica in found.replicas]
        return of_record(
            pb.SlotExplanation, found, age_known=known, age_ms=age_ms, replicas=replicas
        )

    async def ListShards(  # noqa: N802
        self, request: pb.ListShardsRequest, context: _Context
    ) -> AsyncIterator[pb.ShardStatus]:
        """InvalidArgumentError if the device has no such shard."""
        if request.HasField("shard"):
            yield await asyncio.to_thread(self._shard, request.shard)
            return
        for first in range(0, self._shards, _SHARDS_AT_A_TIME):
            placed = await asyncio.to_thread(self._host.engine.shards, first, _SHARDS_AT_A_TIME)
            for shard in placed:
                yield messages.shard_status(shard.shard, shard.replicas, self._host.config.slots)

    async def MoveShard(  # noqa: N802
        self, request: pb.MoveShardRequest, context: _Context
    ) -> pb.ShardStatus:
        """NotPossibleError."""
        await asyncio.to_thread(self._shard, request.shard)
        try:
            await asyncio.to_thread(
                self._host.engine.move_shard, request.shard, request.source, request.target
            )
        except RuntimeError as error:
            raise NotPossibleError(f"shard {request.shard} stays: {error}") from error
        return await asyncio.to_thread(self._shard, request.shard)

    async def SetPlacement(  # noqa: N802
        self, request: pb.SetPlacementRequest, context: _Context
    ) -> pb.PlacementStatus:
        """InvalidArgumentError."""
        await asyncio.to_thread(self._set_placement, request)
        self._settings.keep(request)
        return messages.placement_status(self._host.engine.placement())

    async def Attach(  # noqa: N802
        self, request: pb.AttachRequest, context: _Context
    ) -> pb.AttachResponse:
        """See attach.KernelDevice."""
        device = await asyncio.to_thread(
            self._host.gate.admit,
            self._host.device.attach,
            request.device,
            request.connections,
            request.dead_connection_timeout_s,
        )
        return pb.AttachResponse(device=device, size_bytes=self._host.config.device.size)

    async def Detach(  # noqa: N802
        self, request: pb.DetachRequest, context: _Context
    ) -> pb.DetachResponse:
        """See attach.KernelDevice."""
        await asyncio.to_thread(self._host.device.detach, request.device)
        return pb.DetachResponse()

    async def Attribute(  # noqa: N802
        self, request: pb.AttributeRequest, context: _Context
    ) -> pb.AttributionStatus:
        """See attribution.Attribution."""
        state = await asyncio.to_thread(self._attribute, request)
        self._settings.keep(request)
        return messages.attribution_status(state)

    async def SlotOwners(  # noqa: N802
        self, request: pb.SlotOwnersRequest, context: _Context
    ) -> pb.SlotOwnersResponse:
        """Empty beyond the end of the device."""
        count = min(request.count, _OWNERS_MAX, max(0, self._host.config.slots - request.first))
        owners = await asyncio.to_thread(self._host.engine.slot_owners, request.first, count)
        return pb.SlotOwnersResponse(cgroup_ids=owners)

    def _set_cgroup(self, request: pb.SetCgroupRequest) -> None:
        self._host.groups.set(request.path, _cgroup_change(request))

    def _set_tier(self, request: pb.SetTierRequest) -> None:
        self._host.settings.change(
            pool_limit=_given(request, "pool_limit_bytes", int),
            accept_threshold_percent=_given(request, "accept_threshold_percent", int),
            compressor=_given(request, "compressor", Compressor.parse),
            recompress=_given(request, "recompress", Recompressor.parse),
            pack=_given(request, "pack", bool),
        )

    def _set_placement(self, request: pb.SetPlacementRequest) -> None:
        replicas = request.replicas if request.HasField("replicas") else None
        try:
            spread = LabelName.parse(request.spread) if request.HasField("spread") else None
            self._host.engine.set_placement(replicas, spread)
        except ValueError as error:
            raise InvalidArgumentError(str(error)) from error

    def _attribute(self, request: pb.AttributeRequest) -> AttributionState:
        host = self._host
        return host.gate.admit(host.attribution.start, request.device, replace=request.replace)

    @property
    def _shards(self) -> int:
        return -(-self._host.config.slots // SHARD_SLOTS)

    def _shard(self, shard: int) -> pb.ShardStatus:
        if shard >= self._shards:
            raise InvalidArgumentError(
                f"shard {shard} is out of range: the device has shards 0..{self._shards - 1}"
            )
        found = self._host.engine.shards(shard, 1)
        replicas = found[0].replicas if found else []
        return messages.shard_status(shard, replicas, self._host.config.slots)

    def _cgroup(self, path: str) -> pb.CgroupStatus:
        """A cgroup's status, also without pages in the tier. Raises NotFoundError."""
        groups = self._host.groups
        for view in groups.views():
            if view.path == path:
                return messages.cgroup_status(view)
        id_ = groups.id_of(path)
        settings = messages.cgroup_settings(groups.settings_of(id_))
        return pb.CgroupStatus(id=id_, path=path, settings=settings)

    def _status(self) -> pb.HostStatus:
        host = self._host
        servers = host.engine.servers()
        return pb.HostStatus(
            alarm=server_checks.alarm(servers),
            info=host.identity.server_info(),
            device=messages.device_status(host),
            tier=messages.tier_status(host),
            attribution=messages.attribution_status(host.attribution.state()),
            servers=[messages.server_status(server) for server in servers],
            placement=messages.placement_status(host.engine.placement()),
            membership=messages.membership_status(host.membership.state()),
            survival=messages.survival_status(host),
            findings=messages.findings(self._doctor.problems()),
        )


def _given(request: Message, field: str, parse: Callable[[Any], Value]) -> Value | None:
    """None if the request has none. Raises InvalidArgumentError."""
    return _parsed(parse, getattr(request, field)) if request.HasField(field) else None


def _parsed(parse: Callable[[Any], Value], value: object) -> Value:
    try:
        return parse(value)
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error


def _cgroup_change(request: pb.SetCgroupRequest) -> GroupChange:
    """Raises InvalidArgumentError."""
    changed: dict[str, Any] = {
        field: getattr(request, field) for field in _CGROUP_SETTINGS if request.HasField(field)
    }
    if request.HasField("compressor"):
        compressor = _parsed(Compressor.parse, request.compressor)
        changed["compressor"] = compressor.codec, compressor.level
    for field in request.defaults:
        if field not in _CGROUP_SETTINGS:
            raise InvalidArgumentError(f"a cgroup has no setting {field}")
        if request.HasField(field):
            raise InvalidArgumentError(f"{field} is both set and reset to its default")
        changed[field] = None
    if not changed:
        raise InvalidArgumentError("no setting was given")
    if request.path == "/" and changed.keys() != {"writeback"}:
        raise InvalidArgumentError("of the root cgroup only writeback can be set: see `tier set`")
    return cast("GroupChange", changed)
