"""The HostAdmin service: protocol messages in and out, and nothing but that.

Protobuf types stop here. What can wait (the engine's locks, a memory server, netlink) runs in
worker threads, so that the event loop always answers.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from farswap.client_nbd import findings
from farswap.common.errors import BusyError, InvalidArgumentError
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import host_admin_pb2_grpc, types_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import grpc.aio
    from farswap.client_nbd.attach import KernelDevice
    from farswap.client_nbd.config import HostConfig
    from farswap.client_nbd.findings import Finding
    from farswap.client_nbd.kernel_files import KernelFiles
    from farswap.common.address import Address
    from farswap.common.version import Identity
    from farswap.native import HostEngine

    _Context = grpc.aio.ServicerContext[Any, Any]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["HostAdmin"].full_name

# Well under the 200 ms that the protocol promises between two reports.
_PROGRESS_INTERVAL_S = 0.1

# Values of the engine's stats() that are no counters; each is a field of TierStatus.
_GAUGES = (
    "pool_limit_bytes",
    "pool_used_bytes",
    "pool_entry_bytes",
    "pool_payload_bytes",
    "metadata_bytes",
    "pages_same_filled",
    "pages_local",
    "pages_writing",
    "pages_remote",
    "pages_raw",
    "accept_threshold_percent",
)
_STORED = ("pages_same_filled", "pages_local", "pages_writing", "pages_remote")

_LEVELS = {
    "warning": pb.Finding.LEVEL_WARNING,
    "error": pb.Finding.LEVEL_ERROR,
}


class HostAdminService(host_admin_pb2_grpc.HostAdminServicer):
    """One daemon's."""

    def __init__(
        self,
        *,
        config: HostConfig,
        engine: HostEngine,
        device: KernelDevice,
        files: KernelFiles,
        identity: Identity,
        listen: Sequence[Address],
        start_findings: Sequence[Finding],
    ) -> None:
        self._config = config
        self._engine = engine
        self._device = device
        self._files = files
        self._identity = identity
        self._listen = listen
        self._start_findings = start_findings

    async def Status(  # noqa: N802 - named by the protocol
        self, request: pb.HostStatusRequest, context: _Context
    ) -> pb.HostStatus:
        """Everything at once; waits for nobody."""
        return await asyncio.to_thread(self._status)

    async def Writeback(  # noqa: N802
        self, request: pb.WritebackRequest, context: _Context
    ) -> AsyncIterator[pb.WritebackProgress]:
        """One job at a time: BusyError. Cancelled with the call."""
        if request.bytes == 0:
            raise InvalidArgumentError("writeback of 0 bytes")
        if not await asyncio.to_thread(self._engine.start_writeback, request.bytes):
            raise BusyError("a writeback is under way already")
        finished = False
        try:
            while not finished:
                progress = await asyncio.to_thread(self._engine.writeback_progress)
                finished = progress.finished
                yield pb.WritebackProgress(
                    target_bytes=progress.target_bytes,
                    written_bytes=progress.written_bytes,
                    sent_bytes=progress.sent_bytes,
                    finished=progress.finished,
                    stopped_because=progress.stopped_because,
                )
                if not finished:
                    await asyncio.sleep(_PROGRESS_INTERVAL_S)
        finally:
            if not finished:
                self._engine.cancel_writeback()

    async def ExplainSlot(  # noqa: N802
        self, request: pb.ExplainSlotRequest, context: _Context
    ) -> pb.SlotExplanation:
        """Reads the page, also from a memory server, to see that it is intact."""
        if request.slot >= self._config.slots:
            raise InvalidArgumentError(
                f"slot {request.slot} is out of range: the device has slots "
                f"0..{self._config.slots - 1}"
            )
        found = await asyncio.to_thread(self._engine.explain, request.slot)
        age_s = max(0, int(time.time()) - found.stored_unix_s)
        return pb.SlotExplanation(
            slot=found.slot,
            state=found.state,
            version=found.version,
            codec=types_pb2.Codec.Name(found.codec),
            size_bytes=found.size_bytes,
            age_known=found.stored_unix_s != 0,
            age_ms=age_s * 1000 if found.stored_unix_s else 0,
            referenced=found.referenced,
            server=found.server,
            fill=found.fill,
            verified=found.verified,
            problem=found.problem,
        )

    async def Attach(  # noqa: N802
        self, request: pb.AttachRequest, context: _Context
    ) -> pb.AttachResponse:
        """See attach.KernelDevice."""
        device = await asyncio.to_thread(
            self._device.attach,
            request.device,
            request.connections,
            request.dead_connection_timeout_s,
        )
        return pb.AttachResponse(device=device, size_bytes=self._config.device.size)

    async def Detach(  # noqa: N802
        self, request: pb.DetachRequest, context: _Context
    ) -> pb.DetachResponse:
        """See attach.KernelDevice."""
        await asyncio.to_thread(self._device.detach, request.device)
        return pb.DetachResponse()

    def _status(self) -> pb.HostStatus:
        return pb.HostStatus(
            info=self._identity.server_info(),
            device=self._device_status(),
            tier=self._tier_status(),
            servers=[
                pb.MemoryServerStatus(
                    address=server.address,
                    connected=server.connected,
                    capacity_bytes=server.capacity_bytes,
                    used_bytes=server.used_bytes,
                    epoch=server.epoch,
                    reconnects=server.reconnects,
                    last_error=server.last_error,
                    disconnected_ms=server.disconnected_ms,
                    shards=server.shards,
                )
                for server in self._engine.servers()
            ],
            findings=[
                pb.Finding(
                    level=_LEVELS[finding.level], subject=finding.subject, message=finding.message
                )
                for finding in [*self._start_findings, *findings.of_machine(self._files)]
            ],
        )

    def _device_status(self) -> pb.DeviceStatus:
        attached = self._device.device()
        area = self._files.swap_area(attached) if attached else None
        return pb.DeviceStatus(
            name=self._config.device.name,
            size_bytes=self._config.device.size,
            listen=[address.with_scheme for address in self._listen],
            connections=[
                pb.NbdConnection(
                    id=connection.id,
                    peer=connection.peer,
                    requests=connection.requests,
                    errors=connection.errors,
                )
                for connection in self._engine.connections()
            ],
            attached=attached,
            swap_active=area is not None,
            swap_used_bytes=area.used_bytes if area else 0,
            host_id=self._config.host_id,
            incarnation=self._engine.incarnation.hex(),
        )

    def _tier_status(self) -> pb.TierStatus:
        stats = self._engine.stats()
        gauges = {name: stats.pop(name) for name in _GAUGES}
        # Whether the shrinker runs just now is of no use to who sees it later.
        stats.pop("shrinking", None)
        return pb.TierStatus(
            **gauges,
            compressor=self._config.tier.compressor,
            pages_stored=sum(gauges[name] for name in _STORED),
            counters=[
                types_pb2.Counter(name=name, value=value) for name, value in sorted(stats.items())
            ],
        )
