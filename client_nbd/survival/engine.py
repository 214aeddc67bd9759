"""Makes the engine of a worker: on the pages of another one, once that has ended, or on none."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from farswap.common.errors import StartError
from farswap.common.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farswap.client_nbd.config import HostConfig
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.client_nbd.survival.link import Ring
    from farswap.client_nbd.survival.worker import WorkerLink
    from farswap.native import HostEngine, State


def state_of_worker(config: HostConfig, link: WorkerLink, files: KernelFiles) -> State:
    """Returns when no other worker serves. In the main thread. Raises StartError."""
    from farswap import native  # noqa: PLC0415 - not in the supervisor

    pages = link.pages
    if pages is not None:
        try:
            state = native.State.adopt(
                pages.kind, pages.number, config.slots, config.tier.pool_limit
            )
        except RuntimeError as error:
            raise StartError(str(error)) from error
        link.waits()
    else:
        state = _fresh_state(config, link, files)
        link.made(state)
    link.listen()
    state.serve()
    link.adopted()
    return state


def private_state(config: HostConfig, files: KernelFiles) -> State:
    """Of an empty device; ends with the process. Raises StartError."""
    from farswap import native  # noqa: PLC0415 - as above

    _refuse_page_size(resource.getpagesize())
    _refuse_more_than_there_is(config, files)
    try:
        return native.State.create(config.slots, config.tier.pool_limit)
    except RuntimeError as error:
        raise StartError(str(error)) from error


def _fresh_state(config: HostConfig, link: WorkerLink, files: KernelFiles) -> State:
    from farswap import native  # noqa: PLC0415 - as above

    if config.tier.state == "off":
        return private_state(config, files)
    _refuse_page_size(resource.getpagesize())
    _refuse_more_than_there_is(config, files)
    try:
        return native.State.create_to_survive(config.slots, config.tier.pool_limit)
    except RuntimeError as error:
        if config.tier.state == "required":
            raise StartError(str(error)) from error
        link.problem = str(error)
    return private_state(config, files)


def native_engine(
    config: HostConfig, state: State, rings: Sequence[Ring] = (), *, take_over: bool = False
) -> HostEngine:
    """`take_over`: displace a host that has the volume. Raises StartError."""
    from farswap import native  # noqa: PLC0415 - as above

    try:
        return native.HostEngine(
            state=state,
            accept_threshold_percent=config.tier.accept_threshold_percent,
            store_wait_ms=config.tier.store_wait,
            fetch_wait_ms=config.cluster.fetch_wait,
            servers=[str(address) for address in config.cluster.servers],
            host_id=config.host_id,
            device=config.device.name,
            take_over=take_over,
            replicas=config.cluster.replicas,
            spread=config.cluster.spread,
            repair_after_ms=config.cluster.repair_after,
            rebalance_every_ms=config.cluster.rebalance_every,
            rings=[(ring.descriptor, bytes.fromhex(ring.parameters)) for ring in rings],
        )
    except RuntimeError as error:
        raise StartError(str(error)) from error


def _refuse_page_size(kernel_page_bytes: int) -> None:
    """The kernel swaps whole pages; a slot of tier and protocol is 4 KiB."""
    if kernel_page_bytes != PAGE_BYTES:
        raise StartError(
            f"this kernel has pages of {kernel_page_bytes >> 10} KiB, and farswap supports only "
            f"{PAGE_BYTES >> 10} KiB: boot a kernel with pages of that size"
        )


def _refuse_more_than_there_is(config: HostConfig, files: KernelFiles) -> None:
    """The OOM killer would kill other programs: this process is protected."""
    available = files.available_bytes()
    if available is not None and config.locked_bytes > available:
        raise StartError(
            f"tier.pool_limit and the slot table need {config.locked_bytes >> 20} MiB of memory, "
            f"but {available >> 20} MiB are available: lower tier.pool_limit or device.size"
        )
