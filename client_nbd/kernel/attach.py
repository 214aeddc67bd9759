"""Attaches and detaches the kernel's nbd device.

Kernel and engine are connected by socketpairs. One end goes to the engine's threads, the other to
the driver by netlink; the daemon then closes its copy of the latter, so that each side sees the end
of the other. Safe settings for a swap device (a dead daemon stalls it for 1 to 3 s, and a slow one
is never disconnected):

- one connection: with more, a slow request disconnects all but the last;
- TIMEOUT 0, and the block layer's request timeout set to 1 s *after* CONNECT, which sets it to
  30 s: a restarted daemon then gets the requests of the dead one within a second;
- a long dead connection timeout: at its end programs get EIO and die.

A device whose connections have ended gets new ones (RECONFIGURE): after a death of the daemon, and
where the driver ends a new connection along with the old one. The driver keeps a name for the
device, by which the next worker finds it: the incarnation of its pages, and how it was attached.

All methods block: call them from a worker thread. A lock makes attach and detach exclude each
other; reading `device` takes no lock.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from farswap.client_nbd.kernel import device_use, netlink
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel.netlink import NbdNetlink
from farswap.common import log
from farswap.common.errors import BusyError, InvalidArgumentError, NotPossibleError
from farswap.common.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from farswap.client_nbd.kernel.device_use import ExportDevices
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.client_nbd.kernel.tables import Number
    from farswap.native import HostEngine

_log = log.logger("attach")

# Time for an operator to restart a crashed daemon; programs then continue.
DEAD_CONNECTION_TIMEOUT_S = 86_400
DEAD_CONNECTION_TIMEOUT_S_MAX = 10 * 365 * 86_400

CONNECTIONS_MAX = 16
IO_TIMEOUT_MS = 1000

# No flush: the daemon acknowledges a write when it is stored.
_FLAGS = netlink.FLAG_HAS_FLAGS | netlink.FLAG_SEND_TRIM

_DETACH_WAIT_MS = 5000
# The driver notices the end of a connection within milliseconds. Until then it closes new ones.
_RECONNECT_S = 10.0
_RECONNECT_RETRY_S = 0.005
# The driver may end a new connection when it ends the threads of the old one.
_SETTLE_MS = 50


class Attribution(Protocol):
    """attribution.Attribution, which imports this folder."""

    def start(self, device: str, /) -> object:
        """Starts attribution of `device`."""

    def stop(self) -> None:
        """Ends attribution."""


class KernelDevice:
    """The attached device, at most one: the engine has one export."""

    def __init__(
        self,
        engine: HostEngine,
        serve: Callable[[int, bytes, str], int],
        size_bytes: int,
        files: KernelFiles,
        devices: ExportDevices,
        attribution: Attribution,
        open_driver: Callable[[], NbdNetlink] = NbdNetlink,
    ) -> None:
        self._engine = engine
        self._serve = serve
        self._size_bytes = size_bytes
        self._files = files
        self._devices = devices
        self._attribution = attribution
        self._open_driver = open_driver
        self._lock = threading.Lock()
        self._device = ""
        self._connection_ids: list[int] = []
        self._dead_connection_timeout_s = 0

    @property
    def dead_connection_timeout_s(self) -> int:
        """Set at attach; the kernel does not report it."""
        return self._dead_connection_timeout_s

    @property
    def connection_count(self) -> int:
        """Connections of the attached device."""
        return len(self._connection_ids)

    def device(self) -> str:
        """The attached device; "" if none, or if the kernel has ended it."""
        ids = self._connection_ids
        if self._device and all(self._engine.wait_connection(id_, 0) for id_ in ids):
            return ""
        return self._device

    def attach(self, device: str, connections: int, dead_connection_timeout_s: int) -> str:
        """Attaches `device`; returns it. Zeros stand for the defaults.

        Raises InvalidArgumentError, NotPossibleError, BusyError. A failure leaves nothing behind.
        """
        index = kernel_files.nbd_index(device)
        count = _in_range("connections", connections or 1, CONNECTIONS_MAX)
        timeout_s = _in_range(
            "dead connection timeout",
            dead_connection_timeout_s or DEAD_CONNECTION_TIMEOUT_S,
            DEAD_CONNECTION_TIMEOUT_S_MAX,
        )
        with self._exclusive():
            if self.device():
                raise NotPossibleError(f"{self._device} is already attached; detach it first")
            number = self._files.nbd_number(index)
            with self._driver() as driver:
                self._refuse_if_in_use(driver, device, index, number)
                ids = self._connect(driver, device, index, count, timeout_s)
                try:
                    self._files.set_io_timeout(index, IO_TIMEOUT_MS)
                except OSError as error:
                    driver.disconnect(index)
                    self._end(ids)
                    raise NotPossibleError(
                        f"{device}: failed to set the request timeout: {error.strerror}"
                    ) from error
            self._dead_connection_timeout_s = timeout_s
            self._devices.add(device, number)
            # Before swapon, so that every page is attributed.
            self._attribution.start(device)
            self._device, self._connection_ids = device, ids
        _log.info("attached", device=device, connections=count, dead_timeout_s=timeout_s)
        return device

    def detach(self, device: str) -> None:
        """Detaches it. Raises NotPossibleError unless it is certain that nothing uses it."""
        number = self._files.nbd_number(kernel_files.nbd_index(device))
        with self._exclusive():
            if self.device() != device:
                raise NotPossibleError(f"{device} is not attached")
            with device_use.unused(self._files, device, number):
                self._let_go(device)

    def let_go(self) -> None:
        """Detaches the device, if any, also while it is open. No swap may be on it."""
        with self._exclusive():
            if device := self.device():
                self._let_go(device)

    def reconnect(self) -> None:
        """Gives connections to devices of these pages that lack some. Call it periodically."""
        if self._device:
            if not any(self._engine.wait_connection(id_, 0) for id_ in self._connection_ids):
                return
        elif self._engine.state.takeovers == 0:
            return
        if not self._lock.acquire(blocking=False):
            return
        try:
            for index, name in self._files.nbd_backends().items():
                backend = _Backend.parse(name)
                if (
                    backend is not None
                    and backend.incarnation == self._engine.state.incarnation.hex()
                ):
                    self._reconnect(index, backend)
        finally:
            self._lock.release()

    def _reconnect(self, index: int, backend: _Backend) -> None:
        device = f"/dev/nbd{index}"
        if self._device != device:
            self._devices.add(device, self._files.nbd_number(index))
            # Before pages arrive, so that each is attributed.
            self._attribution.start(device)
            self._dead_connection_timeout_s = backend.dead_connection_timeout_s
            # Those of the worker before, with which this one goes on.
            known = [it.id for it in self._engine.connections() if it.peer == f"kernel {device}"]
            self._device, self._connection_ids = device, known
        if not self._missing(backend.connections):
            return
        with self._driver() as driver:
            while missing := self._missing(backend.connections):
                for _ in range(missing):
                    ours = _take_dead_connection(driver, index, backend)
                    id_ = self._serve(ours.detach(), b"", f"kernel {device}")
                    self._connection_ids = [*self._connection_ids, id_]
                self._engine.wait_connection(self._connection_ids[-1], _SETTLE_MS)
        _log.warning("reconnected", device=device, connections=backend.connections)

    def _backend(self, connections: int, timeout_s: int) -> _Backend:
        return _Backend(self._engine.state.incarnation.hex(), connections, timeout_s)

    def _missing(self, connections: int) -> int:
        ids = self._connection_ids
        self._connection_ids = [id_ for id_ in ids if not self._engine.wait_connection(id_, 0)]
        return connections - len(self._connection_ids)

    def _let_go(self, device: str) -> None:
        with self._driver() as driver:
            try:
                driver.disconnect(kernel_files.nbd_index(device))
            except OSError as error:
                raise NotPossibleError(f"{device}: {error.strerror}") from error
        self._end(self._connection_ids)
        self._attribution.stop()
        self._devices.drop(device)
        self._device, self._connection_ids = "", []
        _log.info("detached", device=device)

    def _connect(
        self, driver: NbdNetlink, device: str, index: int, count: int, timeout_s: int
    ) -> list[int]:
        """Returns the ids of the engine's connections."""
        ids: list[int] = []
        with contextlib.ExitStack() as kernel_ends:
            descriptors = []
            try:
                for _ in range(count):
                    ours, kernels = socket.socketpair()
                    kernel_ends.enter_context(kernels)
                    descriptors.append(kernels.fileno())
                    ids.append(self._serve(ours.detach(), b"", f"kernel {device}"))
                driver.connect(
                    netlink.connect_body(
                        index=index,
                        size_bytes=self._size_bytes,
                        block_bytes=PAGE_BYTES,
                        flags=_FLAGS | (netlink.FLAG_CAN_MULTI_CONN if count > 1 else 0),
                        timeout_s=0,
                        dead_connection_timeout_s=timeout_s,
                        backend=str(
                            _Backend(self._engine.state.incarnation.hex(), count, timeout_s)
                        ),
                        descriptors=descriptors,
                    )
                )
            except (OSError, RuntimeError) as error:
                self._end(ids)
                raise NotPossibleError(f"{device}: {_why(error)}") from error
        return ids

    def _refuse_if_in_use(
        self, driver: NbdNetlink, device: str, index: int, number: Number
    ) -> None:
        if not self._files.has_block_device(device):
            raise NotPossibleError(
                f"{device} does not exist: load the driver with `modprobe nbd nbds_max=16`"
            )
        pid = self._files.nbd_owner_pid(index)
        if pid is not None:
            raise NotPossibleError(f"{device} is in use, by process {pid}")
        device_use.look(self._files, [number]).refuse(device)
        try:
            connected = driver.is_connected(index)
        except (OSError, ValueError) as error:
            raise NotPossibleError(f"{device}: {_why(error)}") from error
        if connected:
            raise NotPossibleError(f"{device} is in use")

    @contextlib.contextmanager
    def _driver(self) -> Iterator[NbdNetlink]:
        try:
            driver = self._open_driver()
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise NotPossibleError(
                    "the kernel's nbd driver is not loaded: run `modprobe nbd`"
                ) from error
            raise NotPossibleError(f"netlink: {_why(error)}") from error
        with driver:
            yield driver

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise BusyError("another attach or detach is running")
        try:
            yield
        finally:
            self._lock.release()

    def _end(self, ids: Sequence[int]) -> None:
        """Waits for the driver's NBD_CMD_DISC, else closes the connections."""
        for id_ in ids:
            if not self._engine.wait_connection(id_, _DETACH_WAIT_MS):
                self._engine.close_connection(id_)


class _Backend(NamedTuple):
    """The driver's name for a device."""

    incarnation: str
    connections: int
    dead_connection_timeout_s: int

    def __str__(self) -> str:
        return _BACKEND.format(*self)

    @classmethod
    def parse(cls, name: str) -> _Backend | None:
        """None: the device is of another program."""
        match = re.fullmatch(_BACKEND.format("([0-9a-f]{32})", "([0-9]+)", "([0-9]+)"), name)
        return match and cls(match[1], int(match[2]), int(match[3]))


_BACKEND = "farswap {} connections={} dead_timeout={}s"


def _take_dead_connection(driver: NbdNetlink, index: int, backend: _Backend) -> socket.socket:
    """The daemon's end of a new connection. Raises NotPossibleError.

    The driver acknowledges RECONFIGURE also where it found no connection that has ended: then it
    has closed the socket.
    """
    deadline = time.monotonic() + _RECONNECT_S
    while True:
        ours, kernels = socket.socketpair()
        try:
            with kernels:
                driver.reconfigure(
                    netlink.reconfigure_body(
                        index=index, backend=str(backend), descriptor=kernels.fileno()
                    )
                )
        except OSError as error:
            ours.close()
            raise NotPossibleError(f"/dev/nbd{index}: {_why(error)}") from error
        if not _is_closed(ours):
            return ours
        ours.close()
        if time.monotonic() > deadline:
            raise NotPossibleError(f"/dev/nbd{index}: the driver takes no new connection")
        time.sleep(_RECONNECT_RETRY_S)


def _is_closed(ours: socket.socket) -> bool:
    try:
        return not ours.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _in_range(what: str, value: int, limit: int) -> int:
    if not 1 <= value <= limit:
        raise InvalidArgumentError(f"{what} {value} is not in 1..{limit}")
    return value


def _why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "not permitted: the daemon needs CAP_SYS_ADMIN"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
