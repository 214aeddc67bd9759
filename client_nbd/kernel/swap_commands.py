"""`farswap-host attach`, `detach` and `attribute`: short-lived processes beside the daemon.

They do what the daemon must not: wait for swapoff, draw a progress bar. Attach: the daemon attaches
the device, then a swap area is made if needed, then swapon(2); a failure undoes earlier steps.
Detach: swapoff(2), then a discard of the whole device, which the kernel omits, then the daemon
detaches it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.client_nbd.kernel import device_use, swap_area
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel.files import KernelFiles
from farswap.common import cli
from farswap.common.errors import FarswapError, NotPossibleError
from farswap.common.rpc_client import RpcClient
from farswap.common.units import format_size
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import host_admin_pb2_grpc
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from farswap.client_nbd.kernel.files import Discard
    from farswap.client_nbd.kernel.tables import SwapArea
    from farswap.common.address import Address

_CALL_TIMEOUT_S = 30.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class SwapOptions:
    """For swapon(2)."""

    priority: int | None
    discard: Discard | None


def attach(
    address: Address,
    device: str,
    connections: int,
    swap: SwapOptions | None,
    files: KernelFiles | None = None,
) -> None:
    """Raises an error of farswap's tree, after undoing earlier steps."""
    files = files or KernelFiles()
    index = kernel_files.nbd_index(device)
    if files.device_number(device) != files.nbd_number(index):
        # Else mkswap would write to another device than the attached one.
        raise NotPossibleError(f"{device} is not the node of the kernel's nbd{index}: remove it")
    client, stub = _connect(address)
    answer = client.call(stub.Attach, pb.AttachRequest(device=device, connections=connections))
    if swap is not None:
        try:
            swap_area.make(device, files.node(device))
            kernel_files.swapon(device, swap.priority, swap.discard)
        except (FarswapError, OSError, KeyboardInterrupt) as error:
            client.call(stub.Detach, pb.DetachRequest(device=device))
            if isinstance(error, OSError):
                raise NotPossibleError(f"swapon {device}: {error.strerror}") from error
            raise
    state = "swap is on" if swap else "attached"
    print(f"{device}: {state}, {format_size(answer.size_bytes)}")


def detach(address: Address, device: str | None, files: KernelFiles | None = None) -> None:
    """Raises an error of farswap's tree."""
    files = files or KernelFiles()
    client, stub = _connect(address)
    status = client.status(stub.Status, pb.HostStatusRequest()).device
    if not status.attached:
        raise NotPossibleError("no kernel device is attached")
    device = device or status.attached
    if device != status.attached:
        raise NotPossibleError(f"{device} is not attached; {status.attached} is")
    number = files.nbd_number(kernel_files.nbd_index(device))
    use = device_use.look(files, [number])
    if use.stacked:
        use.refuse(device)
    for area in use.own:
        _swapoff(area, files)
    with device_use.unused(files, device, number, os.O_RDWR) as descriptor:
        try:
            kernel_files.discard_all(descriptor, status.size_bytes)
        except OSError as error:
            # Its pages stay in pool and servers until they are overwritten.
            cli.say(f"{device}: failed to discard: {error.strerror}")
    client.call(stub.Detach, pb.DetachRequest(device=device))
    print(f"{device}: detached")


def attribute(address: Address, device: str, *, replace: bool) -> None:
    """Raises an error of farswap's tree."""
    client, stub = _connect(address)
    status = client.call(stub.Attribute, pb.AttributeRequest(device=device, replace=replace))
    if status.device != device:
        raise NotPossibleError(f"{device}: {status.problem}")
    print(f"{device}: pages are attributed by {status.source}")
    if status.problem:
        cli.say(f"{device}: {status.problem}")


def _connect(address: Address) -> tuple[RpcClient, host_admin_pb2_grpc.HostAdminStub]:
    client = RpcClient(address, "farswap-host", _CALL_TIMEOUT_S)
    stub = host_admin_pb2_grpc.HostAdminStub(client.channel)
    client.status(stub.Status, pb.HostStatusRequest())
    return client, stub


def _swapoff(area: SwapArea, files: KernelFiles) -> None:
    """swapoff(2) in a thread, with progress; Ctrl-C stops it."""
    failed: list[OSError] = []

    def work() -> None:
        try:
            kernel_files.swapoff(area.path)
        except OSError as error:
            failed.append(error)

    worker = threading.Thread(target=work, name="swapoff")
    # A signal to the thread interrupts its system call.
    signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
    worker.start()
    try:
        _show_swapoff(worker, area, files)
    except KeyboardInterrupt:
        while worker.is_alive() and worker.ident is not None:
            signal.pthread_kill(worker.ident, signal.SIGUSR1)
            worker.join(_POLL_S)
    except OSError:
        pass  # the terminal is gone; go on
    worker.join()
    if failed:
        raise NotPossibleError(f"swapoff {area.name}: {failed[0].strerror}")


def _show_swapoff(worker: threading.Thread, area: SwapArea, files: KernelFiles) -> None:
    console = Console(stderr=True)
    total = area.used_bytes
    if not console.is_terminal:
        cli.say(f"{area.name}: swapoff of {total >> 20} MiB")
        worker.join()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[left]} MiB left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"swapoff {area.name}", total=total or 1, left=total >> 20)
        while worker.is_alive():
            left = sum(now.used_bytes for now in files.swap_areas() if now.path == area.path)
            progress.update(task, completed=total - left, left=left >> 20)
            time.sleep(_POLL_S)
        progress.update(task, completed=total or 1, left=0)
