"""Binding a kernel device, on a fixture tree of /sys and /proc and a driver of Python objects."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest
from fake_engine import FakeEngine
from fake_machine import FakeMachine
from farswap.client_nbd.kernel import netlink
from farswap.client_nbd.kernel.attach import DEAD_CONNECTION_TIMEOUT_S, KernelDevice
from farswap.client_nbd.kernel.device_use import ExportDevices
from farswap.common.errors import BusyError, InvalidArgumentError, NotPossibleError
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 64 << 20


class FakeDriver:
    """Keeps duplicates of the sockets that it is given, as the kernel keeps references."""

    def __init__(self) -> None:
        self.bodies: list[dict[int, bytes]] = []
        self.sockets: list[socket.socket] = []
        self.disconnected: list[int] = []
        self.connected = False
        self.fail: OSError | None = None
        self.refusals = 0  # how often RECONFIGURE finds no connection that has ended

    def __enter__(self) -> FakeDriver:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, body: bytes) -> None:
        if self.fail is not None:
            raise self.fail
        fields = dict(netlink.attributes(body))
        self.bodies.append(fields)
        for _, item in netlink.attributes(fields[7]):
            number = int.from_bytes(dict(netlink.attributes(item))[1], "little")
            self.sockets.append(socket.socket(fileno=os.dup(number)))
        self.connected = True

    def reconfigure(self, body: bytes) -> None:
        fields = dict(netlink.attributes(body))
        self.bodies.append(fields)
        if self.refusals:
            self.refusals -= 1
            return
        ((_, item),) = netlink.attributes(fields[7])
        number = int.from_bytes(dict(netlink.attributes(item))[1], "little")
        self.sockets.append(socket.socket(fileno=os.dup(number)))

    def disconnect(self, index: int) -> None:
        self.disconnected.append(index)
        self.connected = False
        for kernels in self.sockets:
            kernels.close()

    def is_connected(self, _: int) -> bool:
        return self.connected


class FakeAttribution:
    """Keeps what it watches, and whether the kernel could have swapped before it did."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.device = ""

    def start(self, device: str) -> None:
        assert self.driver.connected
        self.device = device

    def stop(self) -> None:
        assert not self.driver.connected
        self.device = ""


class Machine:
    """A fixture tree with /dev/nbd0, and what stands around a KernelDevice."""

    def __init__(self, root: Path) -> None:
        self.root = root
        queue = root / "sys/block/nbd0/queue"
        queue.mkdir(parents=True)
        (queue / "io_timeout").write_text("30000\n")
        self.files = FakeMachine(root)
        self.files.add_device("nbd0", (43, 0))
        self.devices = ExportDevices(self.files)
        self.engine = FakeEngine()
        self.driver = FakeDriver()
        self.attribution = FakeAttribution(self.driver)
        self.device = self.kernel_device(lambda: self.driver)

    @property
    def io_timeout(self) -> str:
        return (self.root / "sys/block/nbd0/queue/io_timeout").read_text().strip()

    def kernel_device(self, open_driver: Callable[[], FakeDriver]) -> KernelDevice:
        return KernelDevice(
            self.engine,
            self.engine.serve,
            SIZE,
            self.files,
            self.devices,
            self.attribution,
            open_driver,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def test_attach_requests_what_was_found_safe(machine: Machine) -> None:
    assert machine.device.attach("/dev/nbd0", 0, 0) == "/dev/nbd0"
    (fields,) = machine.driver.bodies
    assert number(fields[1]) == 0  # INDEX
    assert number(fields[2]) == SIZE
    assert number(fields[3]) == 4096  # BLOCK_SIZE_BYTES
    assert number(fields[4]) == 0  # TIMEOUT
    assert number(fields[5]) == netlink.FLAG_HAS_FLAGS | netlink.FLAG_SEND_TRIM
    assert number(fields[8]) == DEAD_CONNECTION_TIMEOUT_S
    assert len(machine.driver.sockets) == 1
    assert machine.io_timeout == "1000"
    assert machine.device.device() == "/dev/nbd0"
    assert [peer for _, peer in machine.engine.served.values()] == ["kernel /dev/nbd0"]
    assert machine.engine.initial == b""


def test_pages_are_attributed_as_long_as_the_device_is_attached(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 1, 0)
    assert machine.attribution.device == "/dev/nbd0"
    machine.device.detach("/dev/nbd0")
    assert machine.attribution.device == ""


def test_kernel_and_engine_alone_hold_the_two_ends(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 1, 60)
    (kernels,) = machine.driver.sockets
    kernels.settimeout(HANG_GUARD_S)
    (engine_fd, _) = machine.engine.served[1]
    os.write(engine_fd, b"reply")
    assert kernels.recv(16) == b"reply"
    # The kernel letting go must be the engine's end of file: no copy may be left with us.
    kernels.close()
    assert os.read(engine_fd, 16) == b""


def test_several_connections_need_the_flag_for_them(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 3, 0)
    (fields,) = machine.driver.bodies
    assert number(fields[5]) & netlink.FLAG_CAN_MULTI_CONN
    assert len(machine.driver.sockets) == len(machine.engine.served) == 3


@pytest.mark.parametrize(
    ("device", "connections", "timeout_s"),
    [
        ("/dev/sda", 1, 0),
        ("/dev/nbd", 1, 0),
        ("/dev/nbd0p1", 1, 0),
        ("nbd0", 1, 0),
        ("/dev/nbd0", 17, 0),
        ("/dev/nbd0", 1, 1 << 40),
    ],
)
def test_invalid_requests_change_nothing(
    machine: Machine, device: str, connections: int, timeout_s: int
) -> None:
    with pytest.raises(InvalidArgumentError):
        machine.device.attach(device, connections, timeout_s)
    assert not machine.engine.served


def test_a_missing_device_comes_with_the_way_to_get_it(machine: Machine) -> None:
    with pytest.raises(NotPossibleError, match=r"/dev/nbd1 does not exist: .*modprobe nbd"):
        machine.device.attach("/dev/nbd1", 1, 0)


def test_a_missing_driver_comes_with_the_way_to_get_it(machine: Machine) -> None:
    def no_family() -> FakeDriver:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    device = machine.kernel_device(no_family)
    with pytest.raises(NotPossibleError, match="modprobe nbd"):
        device.attach("/dev/nbd0", 1, 0)


def test_a_device_of_another_process_is_refused(machine: Machine) -> None:
    (machine.root / "sys/block/nbd0/pid").write_text("4242\n")
    with pytest.raises(NotPossibleError, match="in use, by process 4242"):
        machine.device.attach("/dev/nbd0", 1, 0)
    (machine.root / "sys/block/nbd0/pid").unlink()
    machine.driver.connected = True
    with pytest.raises(NotPossibleError, match="in use"):
        machine.device.attach("/dev/nbd0", 1, 0)
    assert not machine.engine.served


def test_one_device_at_a_time(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 1, 0)
    with pytest.raises(NotPossibleError, match="/dev/nbd0 is already attached"):
        machine.device.attach("/dev/nbd0", 1, 0)


def test_a_refused_connect_leaves_no_connection(machine: Machine) -> None:
    machine.driver.fail = PermissionError(errno.EPERM, "Operation not permitted")
    with pytest.raises(NotPossibleError, match="CAP_SYS_ADMIN"):
        machine.device.attach("/dev/nbd0", 1, 0)
    assert not machine.engine.served
    assert machine.device.device() == ""


def test_an_engine_that_refuses_sockets_leaves_no_connection(machine: Machine) -> None:
    machine.engine.serve_error = RuntimeError("too many connections")
    with pytest.raises(NotPossibleError, match="too many connections"):
        machine.device.attach("/dev/nbd0", 1, 0)
    assert not machine.driver.bodies


def test_a_timeout_that_cannot_be_set_undoes_the_connect(machine: Machine) -> None:
    (machine.root / "sys/block/nbd0/queue/io_timeout").unlink()
    (machine.root / "sys/block/nbd0/queue").rmdir()
    with pytest.raises(NotPossibleError, match="failed to set the request timeout"):
        machine.device.attach("/dev/nbd0", 1, 0)
    assert machine.driver.disconnected == [0]
    assert not machine.engine.served
    assert machine.device.device() == ""


def test_detach_disconnects_and_ends_the_connections(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 2, 0)
    machine.device.detach("/dev/nbd0")
    assert machine.driver.disconnected == [0]
    assert not machine.engine.served
    assert machine.device.device() == ""
    machine.driver.sockets.clear()
    assert machine.device.attach("/dev/nbd0", 1, 0) == "/dev/nbd0"


def test_an_active_swap_area_is_not_detached(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 1, 0)
    machine.files.swaps("/dev/nbd0                               partition\t65532\t\t1024\t\t-2")
    assert machine.devices.use().used_bytes == 1 << 20
    with pytest.raises(NotPossibleError, match="active swap area"):
        machine.device.detach("/dev/nbd0")
    assert machine.driver.disconnected == []


def test_a_device_that_something_is_stacked_on_is_not_detached(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 1, 0)
    machine.files.add_device("loop1", (7, 1), backing="/dev/nbd0")
    with pytest.raises(NotPossibleError, match="/dev/loop1 is on it"):
        machine.device.detach("/dev/nbd0")
    machine.files.swaps("/dev/loop1 partition 4092 100 -2")
    with pytest.raises(NotPossibleError, match="used by swap on /dev/loop1"):
        machine.device.detach("/dev/nbd0")
    assert machine.driver.disconnected == []
    # A daemon that stops, and is certain that no swap is left, lets it go all the same.
    machine.files.swaps()
    machine.device.let_go()
    assert machine.driver.disconnected == [0]
    assert machine.devices.use().numbers == frozenset()


def test_a_device_that_something_is_stacked_on_is_not_attached(machine: Machine) -> None:
    machine.files.add_device("loop1", (7, 1), backing="/dev/nbd0")
    with pytest.raises(NotPossibleError, match="/dev/loop1 is on it"):
        machine.device.attach("/dev/nbd0", 1, 0)
    assert not machine.engine.served


def test_a_device_stays_ours_for_the_stop_when_the_kernel_has_released_it(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 1, 0)
    machine.engine.close_connection(1)
    machine.files.swaps("/dev/nbd0 partition 65532 1024 -2")
    assert machine.devices.use().used_bytes == 1 << 20


def test_what_is_not_attached_cannot_be_detached(machine: Machine) -> None:
    with pytest.raises(NotPossibleError, match="/dev/nbd0 is not attached"):
        machine.device.detach("/dev/nbd0")


def test_a_device_that_the_kernel_released_is_no_longer_attached(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 1, 0)
    machine.engine.close_connection(1)
    assert machine.device.device() == ""


def test_attach_and_detach_exclude_each_other(machine: Machine) -> None:
    def detach_meanwhile(body: bytes) -> None:
        with pytest.raises(BusyError):
            machine.device.detach("/dev/nbd0")
        FakeDriver.connect(machine.driver, body)

    machine.driver.connect = detach_meanwhile  # type: ignore[method-assign]
    machine.device.attach("/dev/nbd0", 1, 0)


# --- After the death of a daemon


@pytest.fixture
def successor(machine: Machine) -> Machine:
    """What the next worker finds: a device that an earlier one has attached, by two sockets."""
    machine.device.attach("/dev/nbd0", 2, 777)
    backend = machine.driver.bodies[0][10].rstrip(b"\0")
    (machine.root / "sys/block/nbd0/backend").write_bytes(backend + b"\n")
    machine.devices = ExportDevices(machine.files)
    machine.driver.sockets.clear()
    machine.driver.bodies.clear()
    machine.engine = FakeEngine()
    machine.engine.state.takeovers = 1
    machine.device = machine.kernel_device(lambda: machine.driver)
    return machine


def test_a_successor_gives_new_connections_to_the_device(successor: Machine) -> None:
    successor.device.reconnect()
    assert successor.device.device() == "/dev/nbd0"
    assert len(successor.engine.served) == len(successor.driver.sockets) == 2
    assert successor.device.dead_connection_timeout_s == 777
    assert successor.attribution.device == "/dev/nbd0"
    assert (43, 0) in successor.devices.use().numbers
    for fd, peer in successor.engine.served.values():
        assert peer == "kernel /dev/nbd0"
        os.write(fd, b"x")
    assert all(kernels.recv(2) == b"x" for kernels in successor.driver.sockets)


def test_a_socket_that_the_driver_did_not_take_is_offered_again(successor: Machine) -> None:
    successor.driver.refusals = 3
    successor.device.reconnect()
    assert len(successor.engine.served) == 2
    assert len(successor.driver.bodies) == 5


def test_a_connection_that_the_driver_ends_is_replaced(successor: Machine) -> None:
    successor.device.reconnect()
    successor.engine.close_connection(1)
    successor.device.reconnect()
    assert list(successor.engine.served) == [2, 3]
    successor.device.reconnect()
    assert list(successor.engine.served) == [2, 3]


@pytest.mark.parametrize(
    "backend", ["farswap " + "ff" * 16 + " connections=1 dead_timeout=1s", "/images/disk", ""]
)
def test_a_device_of_other_pages_is_left_alone(successor: Machine, backend: str) -> None:
    (successor.root / "sys/block/nbd0/backend").write_text(backend + "\n")
    successor.device.reconnect()
    assert successor.driver.bodies == []
    assert successor.device.device() == ""


def test_a_device_that_was_detached_is_not_reconnected(machine: Machine) -> None:
    machine.device.attach("/dev/nbd0", 0, 0)
    machine.engine.close_connection(1)  # nbd-client -d: the driver has no backend any more
    machine.device.reconnect()
    assert len(machine.driver.bodies) == 1
    assert machine.device.device() == ""
