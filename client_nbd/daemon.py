"""farswap-host: the parts of the daemon, in the order in which they start and stop.

Start: cgroups and attribution (known before the first page), kernel device (only the one of an
earlier worker is attached), memory servers by etcd, NBD listener, admin service, metrics, ready
line. Stop: the reverse, and then the engine, once it is certain that the machine does not swap to
this daemon (safe_stop.py). With a swap unit, systemd swaps off before it stops the daemon.

`run()` expects a process that is prepared for the reclaim path, which must precede any thread.
Nothing here forks or starts a program: a child would have copies of the sockets, and a fork would
duplicate locked memory.
"""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.client_nbd.admin import service as admin_service
from farswap.client_nbd.admin.metrics import HostMetrics
from farswap.client_nbd.attribution import Attribution
from farswap.client_nbd.cgroups.groups import CgroupGroups
from farswap.client_nbd.cgroups.pressure import ProactivePolicy
from farswap.client_nbd.cgroups.proactive import ProactiveWriteback
from farswap.client_nbd.cgroups.tree import CgroupTree, detect_root
from farswap.client_nbd.checks import findings
from farswap.client_nbd.checks.doctor import Doctor
from farswap.client_nbd.checks.watch import ServerWatch
from farswap.client_nbd.kernel import swap_area
from farswap.client_nbd.kernel.attach import KernelDevice
from farswap.client_nbd.kernel.device_use import ExportDevices
from farswap.client_nbd.kernel.files import KernelFiles
from farswap.client_nbd.membership import Membership
from farswap.client_nbd.nbd.listener import NbdListener
from farswap.client_nbd.running_host import RunningHost
from farswap.client_nbd.safe_stop import SafeStop, StopGate
from farswap.client_nbd.settings import TierSettings
from farswap.common import lifecycle, log, metrics
from farswap.common.errors import FarswapError, StartError
from farswap.common.metrics_http import MetricsServer
from farswap.common.periodic import Periodic
from farswap.common.rpc_server import RpcServer
from farswap.common.version import Identity
from farswap.v1 import host_admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.client_nbd.config import HostConfig
    from farswap.client_nbd.survival.connections import Connections
    from farswap.native import HostEngine, ReclaimProtection

_log = log.logger("host")

_CGROUPS_EVERY_S = 0.5
_PROACTIVE_EVERY_S = 1.0
_ATTRIBUTION_EVERY_S = 1.0
_SERVERS_EVERY_S = 0.5
_DEVICE_EVERY_S = 0.5
_CONNECTIONS_EVERY_S = 0.5


def run(
    config: HostConfig,
    protections: Sequence[ReclaimProtection] | None,
    connections: Connections,
    files: KernelFiles | None = None,
) -> None:
    """Serves until a signal. Raises an error of farswap's tree if the start fails.

    Without a link to a supervisor all pages end with the process.
    """
    log.configure(config.log.format)
    lifecycle.run(_Host(config, protections, connections, files or KernelFiles()).serve())


class _Host:
    """One run of the daemon."""

    def __init__(
        self,
        config: HostConfig,
        protections: Sequence[ReclaimProtection] | None,
        connections: Connections,
        files: KernelFiles,
    ) -> None:
        self._config = config
        self._connections = connections
        self._engine = connections.engine
        self._link = link = connections.link
        self._files = files
        # Signals are for the supervisor.
        self._main_pid = os.getpid() if link is None else link.orders.supervisor
        self._identity = Identity("farswap-host", self._main_pid)
        self._protections = protections

    async def serve(self) -> None:
        signals = lifecycle.StopSignals()
        for finding in findings.of_start(self._config, self._protections):
            _log.warning(finding.message, subject=finding.subject)
        parts = lifecycle.StopStack()
        try:
            running = await self._start(parts)
        except BaseException:
            # No page is here yet: devices are attached and named only after the start. Adopted
            # pages are for the next worker.
            if not self._adopts:
                await parts.stop()
                if self._link is not None:
                    self._link.discards(self._engine.state)
            raise
        if self._link is not None:
            self._link.serves()
        safe = SafeStop(running)
        await safe.wait(signals)
        if self._link is not None:
            await asyncio.to_thread(self._link.ends)
        running.engine.state.remove()
        await parts.stop()
        safe.release()

    @property
    def _adopts(self) -> bool:
        return self._link is not None and self._link.adopts

    async def _start(self, parts: lifecycle.StopStack) -> RunningHost:
        config, engine = self._config, self._engine
        parts.push("engine", lambda: asyncio.to_thread(engine.stop))
        settings = await asyncio.to_thread(TierSettings, engine, config.tier)
        groups = await self._follow_cgroups(engine, parts)
        devices = ExportDevices(self._files)
        attribution = await self._attribute(engine, devices, groups, parts)
        serve = self._connections.serve
        device = KernelDevice(engine, serve, config.device.size, self._files, devices, attribution)
        parts.push("device", lambda: asyncio.to_thread(device.let_go))
        reconnect = Periodic("device", device.reconnect, _DEVICE_EVERY_S)
        parts.push("device watch", reconnect.stop)
        await reconnect.start()
        await asyncio.to_thread(self._attach, device)
        if self._link is not None:
            self._link.answers(engine)
            self._link.tell()
        sweep = Periodic("connections", self._connections.drop_ended, _CONNECTIONS_EVERY_S)
        parts.push("connections", sweep.stop)
        await sweep.start()
        if self._link is not None:
            await asyncio.to_thread(self._link.await_death)
        membership = Membership(engine, config.cluster)
        parts.push("membership", membership.stop)
        membership.start()
        watch = Periodic("servers", ServerWatch(engine).look, _SERVERS_EVERY_S)
        parts.push("servers", watch.stop)
        await watch.start()
        listener = NbdListener(
            export_name=config.device.name,
            export_bytes=config.device.size,
            engine=engine,
            serve=serve,
            connections_max=config.nbd.connections_max,
            handshake_timeout_ms=config.nbd.handshake_timeout,
            keepalive_ms=config.nbd.keepalive,
        )
        parts.push("nbd", listener.stop)
        listen = await listener.start(config.nbd.listen)
        running = RunningHost(
            config=config,
            engine=engine,
            membership=membership,
            groups=groups,
            settings=settings,
            device=device,
            devices=devices,
            attribution=attribution,
            files=self._files,
            identity=self._identity,
            listen=listen,
            protections=self._protections,
            gate=StopGate(),
            link=self._link,
        )
        ready = {"nbd": ",".join(address.with_scheme for address in listen)}
        ready |= await _serve_operators(running, parts)
        # Objects of the start live until the end: exclude them from garbage collection.
        gc.collect()
        gc.freeze()
        lifecycle.announce_ready(**ready, pid=self._main_pid, worker=os.getpid())
        return running

    def _attach(self, device: KernelDevice) -> None:
        """Attaches the configured device, unless an earlier worker has. Raises StartError."""
        wanted = self._config.device.kernel
        if wanted is None or device.device() == wanted:
            return
        try:
            device.attach(wanted, 0, 0)
            swap_area.make(wanted, self._files.node(wanted))
        except FarswapError as error:
            raise StartError(str(error)) from error

    async def _follow_cgroups(self, engine: HostEngine, parts: lifecycle.StopStack) -> CgroupGroups:
        """Also starts proactive writeback, which works by cgroup."""
        cgroups, shrinker = self._config.cgroups, self._config.shrinker
        root = Path(cgroups.root) if cgroups.root else detect_root()
        tree = CgroupTree(root, watch=cgroups.watch)
        parts.push("cgroup tree", lambda: asyncio.to_thread(tree.close))
        groups = CgroupGroups(engine, tree)
        follow = Periodic("cgroups", groups.update, _CGROUPS_EVERY_S, tree.events)
        parts.push("cgroups", follow.stop)
        await follow.start()
        for subject, message in groups.problems().items():
            _log.warning(message, subject=subject)
        policy = ProactivePolicy(
            by_pressure=shrinker.proactive, older_than_s=shrinker.older_than // 1000
        )
        proactive = ProactiveWriteback(engine, groups, tree, self._files, policy)
        shrink = Periodic("shrinker", proactive.step, _PROACTIVE_EVERY_S)
        parts.push("shrinker", shrink.stop)
        if shrinker.proactive or shrinker.older_than:
            await shrink.start()
        return groups

    async def _attribute(
        self,
        engine: HostEngine,
        devices: ExportDevices,
        groups: CgroupGroups,
        parts: lifecycle.StopStack,
    ) -> Attribution:
        section = self._config.attribution
        attribution = Attribution(engine, section, self._files, devices, groups.id_of)
        follow = Periodic("attribution", attribution.look, _ATTRIBUTION_EVERY_S)
        parts.push("attribution", follow.stop)
        await follow.start()
        return attribution


async def _serve_operators(host: RunningHost, parts: lifecycle.StopStack) -> dict[str, str]:
    """Starts admin service and metrics; returns their addresses for the ready line."""
    doctor = Doctor(host)
    admin = RpcServer(host.config.admin.listen, host.config.admin.keepalive)
    service = admin_service.HostAdminService(host, doctor)
    await service.restore()
    admin.add(
        admin_service.SERVICE_NAME,
        host_admin_pb2_grpc.add_HostAdminServicer_to_server,
        service,
        reads=admin_service.READS,
    )
    parts.push("admin", admin.stop)
    await admin.start()
    where = {"admin": str(admin.address)}
    wanted = host.config.metrics
    if wanted.listen is not None:
        from farswap.native import counter_help  # noqa: PLC0415 - as in native_engine()

        collector = HostMetrics(host, doctor, wanted.cgroups_max, counter_help())
        server = MetricsServer(metrics.registry(collector))
        parts.push("metrics", server.stop)
        where["metrics"] = str(await server.start(wanted.listen))
    return where
