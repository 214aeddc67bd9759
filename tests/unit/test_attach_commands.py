"""`farswap-host attach` and `detach`: the steps of the short-lived process, and their undoing.

The daemon is a real gRPC server with a service of objects; the device is a file in a fixture tree;
swapon, swapoff and discard are noted instead of done.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import struct
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from fake_machine import FakeMachine
from farswap.client_nbd import main
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel import swap_commands
from farswap.client_nbd.kernel.swap_commands import SwapOptions
from farswap.common.address import Address
from farswap.common.errors import InvalidArgumentError, NotPossibleError
from farswap.common.rpc_server import RpcServer
from farswap.common.version import Identity
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import host_admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 8 << 20
DEVICE = "/dev/nbd0"


class Daemon(host_admin_pb2_grpc.HostAdminServicer):
    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.attached = ""

    async def Status(self, request, context) -> pb.HostStatus:  # noqa: N802
        return pb.HostStatus(
            info=Identity("farswap-host").server_info(),
            device=pb.DeviceStatus(size_bytes=SIZE, attached=self.attached),
        )

    async def Attach(self, request, context) -> pb.AttachResponse:  # noqa: N802
        self.events.append(f"attach {request.device} {request.connections}")
        self.attached = request.device
        return pb.AttachResponse(device=request.device, size_bytes=SIZE)

    async def Detach(self, request, context) -> pb.DetachResponse:  # noqa: N802
        self.events.append(f"detach {request.device}")
        self.attached = ""
        return pb.DetachResponse()


class Machine:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.events: list[str] = []
        self.daemon = Daemon(self.events)
        self.files = FakeMachine(root)
        self.files.add_device("nbd0", (43, 0))
        self.node = root / "dev/nbd0"
        self.node.write_bytes(bytes(SIZE))
        self.swapon_error: OSError | None = None
        self.swapoff_error: OSError | None = None
        self.discard_error: OSError | None = None
        monkeypatch.setattr(kernel_files, "swapon", self._swapon)
        monkeypatch.setattr(kernel_files, "swapoff", self._swapoff)
        monkeypatch.setattr(kernel_files, "discard_all", self._discard_all)

    def swap_on(self, *, active: bool) -> None:
        self.files.swaps(*([f"{DEVICE} partition 8188 4096 -2"] if active else []))

    def _swapon(self, device: str, priority: int | None, discard: str | None) -> None:
        self.events.append(f"swapon {device} {priority} {discard}")
        if self.swapon_error is not None:
            raise self.swapon_error

    def _swapoff(self, device: str) -> None:
        self.events.append(f"swapoff {device}")
        if self.swapoff_error is not None:
            raise self.swapoff_error
        self.swap_on(active=False)

    def _discard_all(self, descriptor: int, size_bytes: int) -> None:
        os.fstat(descriptor)
        self.events.append(f"discard {size_bytes}")
        if self.discard_error is not None:
            raise self.discard_error

    def attach(self, swap: SwapOptions | None) -> None:
        swap_commands.attach(self.address, DEVICE, 1, swap, self.files)

    def detach(self, device: str | None = None) -> None:
        swap_commands.detach(self.address, device, self.files)

    def serve(self, address: Future[Address], stop: asyncio.Event) -> None:
        async def main() -> None:
            server = RpcServer(Address.parse("127.0.0.1:0"))
            server.add(
                "farswap.v1.HostAdmin",
                host_admin_pb2_grpc.add_HostAdminServicer_to_server,
                self.daemon,
                reads=pb.DESCRIPTOR.services_by_name["HostAdmin"].methods_by_name,
            )
            await server.start()
            self.loop = asyncio.get_running_loop()
            address.set_result(server.address)
            await stop.wait()
            await server.stop(0)

        asyncio.run(main())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path, monkeypatch)
    address: Future[Address] = Future()
    stop = asyncio.Event()
    thread = threading.Thread(target=made.serve, args=[address, stop])
    thread.start()
    made.address = address.result(20)
    yield made
    made.loop.call_soon_threadsafe(stop.set)
    thread.join(20)


def signature(machine: Machine) -> bytes:
    return machine.node.read_bytes()[4086:4096]


def swap_header(machine: Machine) -> tuple[int, ...]:
    """Version, last page, number of bad pages: swapon(2) refuses wrong ones."""
    return struct.unpack_from("=3I", machine.node.read_bytes(), 1024)


def test_a_fresh_device_becomes_a_swap_area(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.attach(SwapOptions(100, "pages"))
    assert machine.events == [f"attach {DEVICE} 1", f"swapon {DEVICE} 100 pages"]
    assert signature(machine) == b"SWAPSPACE2"
    assert swap_header(machine) == (1, SIZE // 4096 - 1, 0)
    assert capsys.readouterr().out == "/dev/nbd0: swap is on, 8MiB\n"


def test_a_swap_area_is_used_as_it_is(machine: Machine) -> None:
    machine.attach(SwapOptions(None, None))
    made = machine.node.read_bytes()
    machine.attach(SwapOptions(None, None))
    assert machine.node.read_bytes() == made


def test_other_data_is_never_overwritten_and_the_device_is_detached(machine: Machine) -> None:
    with machine.node.open("r+b") as file:
        file.seek(65536)
        file.write(b"_BHRfS_M")
    before = machine.node.read_bytes()
    with pytest.raises(NotPossibleError, match="has data that is not a swap area"):
        machine.attach(SwapOptions(None, None))
    assert machine.node.read_bytes() == before
    assert machine.events == [f"attach {DEVICE} 1", f"detach {DEVICE}"]


def test_a_refused_swapon_lets_the_device_go(machine: Machine) -> None:
    machine.swapon_error = OSError(errno.EPERM, "Operation not permitted")
    with pytest.raises(NotPossibleError, match="swapon /dev/nbd0: Operation not permitted"):
        machine.attach(SwapOptions(None, None))
    assert machine.events[-1] == f"detach {DEVICE}"


def test_without_swapon_the_device_is_only_bound(machine: Machine) -> None:
    machine.attach(None)
    assert machine.events == [f"attach {DEVICE} 1"]
    assert machine.node.read_bytes() == bytes(SIZE)


def test_what_is_no_nbd_device_never_reaches_the_daemon(machine: Machine) -> None:
    with pytest.raises(InvalidArgumentError):
        swap_commands.attach(machine.address, "/dev/sda", 1, None, machine.files)
    assert machine.events == []


def test_a_node_of_another_device_is_not_made_a_swap_area(machine: Machine) -> None:
    machine.files.nodes[DEVICE] = (8, 1), True
    with pytest.raises(NotPossibleError, match="not the node of the kernel's nbd0"):
        machine.attach(SwapOptions(None, None))
    assert machine.events == []
    assert machine.node.read_bytes() == bytes(SIZE)


def test_detach_swaps_off_then_discards_then_unbinds(machine: Machine) -> None:
    machine.daemon.attached = DEVICE
    machine.swap_on(active=True)
    machine.detach()
    assert machine.events == [f"swapoff {DEVICE}", f"discard {SIZE}", f"detach {DEVICE}"]


def test_detach_without_swap_needs_no_swapoff(machine: Machine) -> None:
    machine.daemon.attached = DEVICE
    machine.detach(DEVICE)
    assert machine.events == [f"discard {SIZE}", f"detach {DEVICE}"]


def test_detach_leaves_alone_what_is_stacked_on_the_device(machine: Machine) -> None:
    machine.daemon.attached = DEVICE
    machine.files.add_device("loop1", (7, 1), backing=DEVICE)
    machine.files.swaps("/dev/loop1 partition 8188 4096 -2")
    with pytest.raises(NotPossibleError, match="used by swap on /dev/loop1"):
        machine.detach()
    machine.files.swaps()
    with pytest.raises(NotPossibleError, match="/dev/loop1 is on it"):
        machine.detach()
    assert machine.events == []


def test_a_refused_swapoff_leaves_all_as_it_is(machine: Machine) -> None:
    machine.daemon.attached = DEVICE
    machine.swap_on(active=True)
    machine.swapoff_error = OSError(errno.ENOMEM, "Cannot allocate memory")
    with pytest.raises(NotPossibleError, match="swapoff /dev/nbd0: Cannot allocate memory"):
        machine.detach()
    assert machine.events == [f"swapoff {DEVICE}"]


def test_a_refused_discard_is_reported_and_does_not_keep_the_device(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.daemon.attached = DEVICE
    machine.discard_error = OSError(errno.EOPNOTSUPP, "Operation not supported")
    machine.detach()
    assert machine.events[-1] == f"detach {DEVICE}"
    assert "failed to discard: Operation not supported" in capsys.readouterr().err


def test_detach_goes_on_when_stderr_is_gone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.daemon.attached = DEVICE
    machine.swap_on(active=True)
    machine.discard_error = OSError(errno.EOPNOTSUPP, "Operation not supported")
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        machine.detach()
    assert machine.events[0] == f"swapoff {DEVICE}"
    assert machine.events[-1] == f"detach {DEVICE}"


def test_only_the_attached_device_is_detached(machine: Machine) -> None:
    with pytest.raises(NotPossibleError, match="no kernel device is attached"):
        machine.detach()
    machine.daemon.attached = DEVICE
    with pytest.raises(NotPossibleError, match=r"/dev/nbd1 is not attached; /dev/nbd0 is"):
        machine.detach("/dev/nbd1")
    assert machine.events == []


def test_ctrl_c_interrupts_the_system_call_of_swapoff(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = threading.Event()

    def swapoff_until_interrupted(_: str) -> None:
        waiting.set()
        if not interrupted.wait(20):
            raise AssertionError
        raise OSError(errno.EINTR, "Interrupted system call")

    waiting = threading.Event()
    monkeypatch.setattr(kernel_files, "swapoff", swapoff_until_interrupted)
    kill = signal.pthread_kill

    def note_and_kill(thread: int, number: int) -> None:
        kill(thread, number)
        interrupted.set()

    monkeypatch.setattr(signal, "pthread_kill", note_and_kill)

    def press_ctrl_c(*_: object) -> None:
        assert waiting.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(swap_commands, "_show_swapoff", press_ctrl_c)
    machine.daemon.attached = DEVICE
    machine.swap_on(active=True)
    with pytest.raises(NotPossibleError, match="Interrupted system call"):
        machine.detach()
    assert machine.events == []


@pytest.mark.parametrize("args", [[], ["attach"], ["detach"], ["attribute"]])
def test_help_teaches_by_example(args: list[str]) -> None:
    page = CliRunner().invoke(main.command, [*args, "--help"])
    assert page.exit_code == 0
    assert "Example" in page.output
