"""farswap-server: the parts of the daemon, in the order in which they start and stop.

Start: store and page service (native, serve from then on), admin service with health, metrics,
record in etcd, ready line. Stop: the reverse. Health turns NOT_SERVING before the first page is
refused; then the streams end, and the store is flushed and closed, which makes the next start fast.

SIGKILL loses no acknowledged page: see native/store/page_store.h.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.common import lifecycle, listening, log, metrics
from farswap.common.errors import StartError
from farswap.common.members import Member
from farswap.common.metrics_http import MetricsServer
from farswap.common.periodic import Periodic
from farswap.common.rpc_server import RpcServer
from farswap.common.version import Identity, release
from farswap.server import admin_service
from farswap.server.metrics import PagesMetrics
from farswap.server.owner_watch import OwnerWatch
from farswap.server.registration import Registration
from farswap.server.store_watch import StoreWatch
from farswap.v1 import server_admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from farswap.common.address import Address
    from farswap.native import PageServer
    from farswap.server.config import ServerConfig

    PagesFactory = Callable[[ServerConfig], PageServer]

_log = log.logger("server")

# For requests in progress at a stop, which take microseconds, or seconds if stalled.
_STOP_GRACE_MS = 2000
_WATCH_EVERY_S = 2.0


def native_pages(config: ServerConfig) -> PageServer:
    """Starts store and page service. Raises StartError."""
    try:
        from farswap import native  # noqa: PLC0415 - tests run the daemon without it
    except ImportError as error:
        raise StartError(f"failed to load the native core: {error}") from error
    _make_directory(Path(config.store.path))
    try:
        return native.PageServer(
            listen=config.server.listen.host_port,
            path=config.store.path,
            capacity_bytes=config.store.capacity,
            reserve_bytes=config.store.capacity * config.store.repair_reserve // 100,
            quota_default=config.volumes.quota_default or None,
            block_cache_bytes=config.store.block_cache,
            keepalive_ms=config.server.keepalive,
            owner_lease_ms=config.server.owner_lease,
            expire_after_ms=config.volumes.expire_after,
            scrub_interval_ms=config.store.scrub_interval,
            labels=config.server.labels,
        )
    except RuntimeError as error:
        raise StartError(str(error)) from error


def run(config: ServerConfig, make_pages: PagesFactory = native_pages) -> None:
    """Serves until a signal. Raises an error of farswap's tree if the start fails."""
    log.configure(config.log.format)
    lifecycle.run(_serve(config, make_pages))


async def _serve(config: ServerConfig, make_pages: PagesFactory) -> None:
    signals = lifecycle.StopSignals()
    parts = lifecycle.StopStack()
    try:
        await _start(config, make_pages, parts)
        _log.info("stopping", signal=await signals.wait())
    finally:
        await parts.stop()


async def _start(
    config: ServerConfig, make_pages: PagesFactory, parts: lifecycle.StopStack
) -> None:
    identity = Identity("farswap-server")
    pages = await asyncio.to_thread(make_pages, config)
    parts.push("pages", lambda: asyncio.to_thread(pages.stop, _STOP_GRACE_MS))
    watch = Periodic("store", StoreWatch(pages, config.store.path).look, _WATCH_EVERY_S)
    parts.push("store watch", watch.stop)
    await watch.start()
    owner_watch = Periodic("owners", OwnerWatch(pages).look, _WATCH_EVERY_S)
    parts.push("owner watch", owner_watch.stop)
    await owner_watch.start()
    listening.drop_vanished_at(pages.port, config.server.keepalive)
    listen = config.server.listen.with_port(pages.port)
    advertise = config.server.advertise or listen
    if not advertise.port:
        advertise = advertise.with_port(pages.port)
    registration = _registration(config, pages, advertise)
    parts.push("registration", registration.stop)
    admin = RpcServer(config.admin.listen, config.admin.keepalive)
    service = admin_service.ServerAdminService(
        config=config,
        pages=pages,
        registration=registration,
        listen=listen,
        advertise=advertise,
        identity=identity,
    )
    admin.add(
        admin_service.SERVICE_NAME,
        server_admin_pb2_grpc.add_ServerAdminServicer_to_server,
        service,
        reads=admin_service.READS,
    )
    parts.push("admin", admin.stop)
    await admin.start()
    pages.set_admin_address(_for_operators(admin.address, advertise))
    ready = {"pages": str(listen), "admin": str(admin.address)}
    if config.metrics.listen is not None:
        exposition = MetricsServer(metrics.registry(PagesMetrics(pages)))
        parts.push("metrics", exposition.stop)
        ready["metrics"] = str(await exposition.start(config.metrics.listen))
    registration.start()
    lifecycle.announce_ready(**ready, pid=os.getpid())


def _registration(config: ServerConfig, pages: PageServer, advertise: Address) -> Registration:
    member = Member(
        uuid=pages.uuid.hex(),
        address=str(advertise),
        version=release(),
    )
    return Registration(config.cluster, member)


def _for_operators(admin: Address, advertise: Address) -> str:
    """The admin address as other machines know it; empty if only this one can reach it."""
    if admin.is_unix or (admin.is_local and not advertise.is_local):
        return ""
    return str(advertise.with_port(admin.port) if admin.is_any else admin)


def _make_directory(path: Path) -> None:
    """Creates the store's directory. Its parent must exist: a typing error must not fill a disk."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise StartError(f"store.path {path}: not a directory") from error
    except FileNotFoundError as error:
        raise StartError(f"store.path {path}: no directory {path.parent}; create it") from error
    except OSError as error:
        raise StartError(f"store.path {path}: {error.strerror}") from error
