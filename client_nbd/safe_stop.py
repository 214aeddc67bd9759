"""Stops the daemon only when it is certain that nothing swaps to it.

After a signal, in a thread, since each step may block or fail:

1. refuse to attach or name more devices (StopGate);
2. swap off areas on this daemon's devices, or stacked on them, if memory has room for their pages;
3. open the devices exclusively, so that no one can swap to them from now on;
4. check again that there is no swap area, and no doubt.

After any failure the daemon goes on serving, logs the reason once, and tries again, by itself and
at each further signal. Only SIGKILL to the supervisor ends it earlier, which loses the pages that
are swapped to it unless systemd keeps them. Swap by an unnamed client of the NBD socket (a loop
device over FUSE, a VM's disk) is invisible.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, TypeVar

from farswap.client_nbd.kernel import files as kernel_files
from farswap.common import lifecycle, log, text
from farswap.common.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import ParamSpec

    from farswap.client_nbd.kernel.device_use import Use
    from farswap.client_nbd.kernel.tables import Number, SwapArea
    from farswap.client_nbd.running_host import RunningHost
    from farswap.common.lifecycle import StopSignals

    P = ParamSpec("P")

R = TypeVar("R")

_log = log.logger("host")

# Intervals of tries; short at first, as a table may just have been changing.
_RETRY_S = 1.0
_RETRY_S_MAX = 30.0
# During a try, systemd's timeout is extended by this much at each report.
_REPORT_S = 5.0
_EXTENSION_US = 60_000_000
# Memory that must be left after all pages are swapped in.
_SPARE_BYTES = 64 << 20

_FORCE = "SIGKILL to the supervisor ends it; then programs lose pages that systemd does not keep"


class StopGate:
    """Refuses new devices once the daemon stops. Threads: any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self.waits_for = ""  # why a requested stop waits; "": none

    def admit(self, act: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Calls `act`, which adds a device. Raises BusyError during a stop."""
        with self._lock:
            if self._closed:
                raise BusyError("the daemon is about to stop, and accepts no more devices")
            return act(*arguments, **options)

    def close(self) -> None:
        """Returns when no such call is in progress."""
        with self._lock:
            self._closed = True


class NotSafeError(Exception):
    """Reason not to stop. `details` may change while the reason stays."""

    def __init__(self, reason: str, **details: object) -> None:
        super().__init__(reason)
        self.details = details


class SafeStop:
    """The stop of one daemon."""

    def __init__(self, host: RunningHost) -> None:
        self._host = host
        self._doing = ""
        self._claims: dict[Number, int] = {}

    async def wait(self, signals: StopSignals) -> None:
        """Returns after a signal, when nothing can swap to the daemon."""
        _quietly(_log.info, "stopping", signal=await signals.wait())
        rest_s = _RETRY_S
        while (error := await self._try()) is not None:
            _quietly(self._say, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    _quietly(_log.info, "trying again to stop", signal=await signals.wait())
            rest_s = min(2 * rest_s, _RETRY_S_MAX)

    def release(self) -> None:
        """Closes the devices."""
        while self._claims:
            os.close(self._claims.popitem()[1])

    async def _try(self) -> BaseException | None:
        """Why it is not safe to stop, or None."""
        going = asyncio.create_task(asyncio.to_thread(self._why_not))
        while not (await asyncio.wait([going], timeout=_REPORT_S))[0]:
            _quietly(self._report)
        # An exception of the task itself: no thread could be started for it.
        return going.exception() or going.result()

    def _report(self) -> None:
        lifecycle.sd_notify(f"EXTEND_TIMEOUT_USEC={_EXTENSION_US}\nSTATUS={self._doing}")
        if self._host.gate.waits_for != self._doing:
            self._host.gate.waits_for = self._doing
            _log.info("still stopping", doing=self._doing)

    def _say(self, error: BaseException) -> None:
        """Logs each reason once."""
        reason = text.utf8(str(error) or repr(error))
        if reason == self._host.gate.waits_for:
            return
        self._host.gate.waits_for = reason
        lifecycle.sd_notify(f"STATUS=not stopping: {reason}")
        known = isinstance(error, NotSafeError)
        details = error.details if isinstance(error, NotSafeError) else {}
        _log.error(
            "not stopping: the daemon goes on serving and tries again",
            reason=reason,
            force=_FORCE,
            exc_info=None if known else error,
            **details,
        )

    def _name_clients(self) -> None:
        connected = [connection.peer for connection in self._host.engine.connections()]
        peers = [peer for peer in connected if not peer.startswith("kernel ")]
        if peers:
            _log.warning("connected clients may have data here", peers=peers)

    # --- In the thread

    def _why_not(self) -> BaseException | None:
        """Returns any error: only a proof ends the daemon."""
        try:
            self._prove()
            _quietly(self._name_clients)
        except BaseException as error:  # noqa: BLE001
            return error
        return None

    def _prove(self) -> None:
        """Raises NotSafeError, or any other error, unless it is safe to stop."""
        self._doing = "waiting for a device that is being attached"
        self._host.gate.close()
        self._doing = "checking what swaps to this daemon"
        areas = self._host.devices.use().areas
        failure = self._swap_off(areas) if areas else ""
        self._doing = "making sure that nothing swaps to this daemon"
        try:
            for number in self._host.devices.use().numbers:
                # Devices that cannot be opened are still checked.
                with contextlib.suppress(OSError):
                    self._claims[number] = self._host.files.claim(number)
            _refuse_unless_unused(self._host.devices.use(self._claims), failure)
        except BaseException:
            self.release()
            raise

    def _swap_off(self, areas: Sequence[SwapArea]) -> str:
        """Swaps off. Returns why an area failed, or ""."""
        used = sum(area.used_bytes for area in areas)
        available = self._host.files.available_bytes()
        if available is None:
            raise NotSafeError("/proc/meminfo does not show how much memory is available")
        if available < used + _SPARE_BYTES:
            # Short of memory in swapoff(2), the kernel kills the caller first, whatever its
            # oom_score_adj (mm/oom_kill.c: oom_task_origin): this daemon, with the pages.
            raise NotSafeError(
                "memory has no room for the pages that are swapped to this daemon",
                swapped_mib=used >> 20,
                available_mib=available >> 20,
            )
        failures = []
        for area in areas:
            self._doing = f"swapoff of {area.used_bytes >> 20} MiB on {area.name}"
            _quietly(_log.info, "swapoff", device=area.name, used_mib=area.used_bytes >> 20)
            try:
                kernel_files.swapoff(area.path)
            except OSError as error:
                failures.append(f"swapoff {area.name}: {error.strerror}")
        return "; ".join(failures)


def _refuse_unless_unused(use: Use, failure: str) -> None:
    """`failure`: of swapoff; ignored if the area is gone."""
    if use.areas:
        names = ", ".join(area.name for area in use.areas)
        raise NotSafeError(failure or f"the machine swaps to {names} again")
    if use.doubts:
        raise NotSafeError(f"unknown whether the machine swaps to this daemon: {use.doubts[0]}")


def _quietly(act: Callable[P, object], *arguments: P.args, **options: P.kwargs) -> None:
    """Ignores errors of logging and reporting: they must not end the daemon."""
    with contextlib.suppress(Exception):
        act(*arguments, **options)
