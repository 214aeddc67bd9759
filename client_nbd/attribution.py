"""Attribution of pages to cgroups, and free notifications: starts the best available source.

The sources, best first:

1. `bpf`: programs in the running kernel, for one block device that swaps to this daemon: the
   attached kernel device, or one that the configuration or an operator names (a loop device over a
   FUSE mount of the export, an nbd device of a client on this machine).
2. `label`: all pages belong to the cgroup in the configuration.
3. `root`: all pages belong to the root group.

Without the programs the engine falls back by itself. A missing source is never an error: `state()`
and the log report it.

`start()` and `stop()` block for a tenth of a second, and exclude each other by a lock: call them
from worker threads. `state()` takes no lock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from farswap.common import log
from farswap.common.errors import NotFoundError, NotPossibleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from farswap.client_nbd.config import AttributionSection
    from farswap.client_nbd.kernel.device_use import ExportDevices
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.native import HostEngine

_log = log.logger("attribution")


@dataclass(frozen=True, slots=True)
class AttributionState:
    """`problem`: why a better source, or the free hook, is not in use; "" if none."""

    source: str  # "bpf", "label", "root"
    device: str  # watched by the programs; "" without them
    free_hook: str  # the hooked kernel function that frees slots; "" if none
    problem: str
    events: int
    pages: int
    unattributed: int
    ring_full: int


class Attribution:
    """Attribution of one engine. `id_of` returns a cgroup's id, or raises NotFoundError."""

    def __init__(
        self,
        engine: HostEngine,
        section: AttributionSection,
        files: KernelFiles,
        devices: ExportDevices,
        id_of: Callable[[str], int],
    ) -> None:
        self._engine = engine
        self._section = section
        self._files = files
        self._devices = devices
        self._id_of = id_of
        self._lock = threading.Lock()
        self._device = ""
        self._missing = "" if section.device is None else f"{section.device} does not exist"
        self._label_missing = ""
        self._label = 0

    def start(self, device: str, *, replace: bool = True) -> AttributionState:
        """Attributes pages swapped out to `device` from now on, if the kernel allows it.

        Programs watch one device. Raises NotPossibleError if that is another one, unless `replace`.
        """
        with self._lock:
            return self._start(device, replace=replace)

    def _start(self, device: str, *, replace: bool) -> AttributionState:
        number = self._files.device_number(device)
        if number is None:
            return self._refuse(device, "not a block device of this machine")
        # Also without attribution: the machine may swap to it.
        self._devices.add(device, number)
        if self._files.device_offset_bytes(number) > 0:
            # The kernel numbers its slots differently: freed ones may be in use here.
            return self._refuse(device, "a part of a disk or file; name the whole device")
        watched = self.state().device
        if watched not in ("", device):
            if not replace:
                raise NotPossibleError(
                    f"{watched} is attributed, and only one device can be: --replace ends that "
                    f"and attributes {device}"
                )
            _log.warning("attribution moves to another device", device=watched, by=device)
        section = self._section
        self._engine.attribute(number, section.pin_directory, section.free_notifications)
        self._device, self._missing = device, ""
        state = self.state()
        write = _log.warning if state.problem else _log.info
        write(
            "attribution",
            device=device,
            source=state.source,
            free_hook=state.free_hook,
            problem=state.problem,
        )
        return state

    @property
    def device(self) -> str:
        """The device that swaps to this daemon, or ""."""
        return self._device or self._section.device or ""

    def _refuse(self, device: str, problem: str) -> AttributionState:
        """Only records the problem for status."""
        if not self._device:
            self._missing = f"{device}: {problem}"
        return replace(self.state(), problem=problem)

    def stop(self) -> None:
        """Ends attribution of the device."""
        with self._lock:
            self._engine.stop_attribution()
            self._device = ""

    def state(self) -> AttributionState:
        """The current state. Never blocks."""
        found = self._engine.attribution()
        problems = [text for text in (found.problem, self._missing, self._label_missing) if text]
        if not problems and not self._device:
            problems = ["no device of this daemon is known: attach one, or name it"]
        return AttributionState(
            source=found.source,
            device=self._device if found.source == "bpf" else "",
            free_hook=found.free_hook,
            problem="; ".join(problems),
            events=found.events,
            pages=found.pages,
            unattributed=found.unattributed,
            ring_full=found.ring_full,
        )

    def look(self) -> None:
        """Starts the sources in the configuration, once they exist. Call it periodically."""
        section = self._section
        if section.cgroup is not None:
            self._look_for_label(section.cgroup)
        with self._lock:
            # An attached device has precedence.
            if section.device is None or self._device:
                return
            if self._files.device_number(section.device) is not None:
                self._start(section.device, replace=False)

    def _look_for_label(self, path: str) -> None:
        try:
            id_ = self._id_of(path)
        except NotFoundError:
            self._label_missing = f"no cgroup {path}"
            return
        self._label_missing = ""
        if id_ != self._label:
            self._engine.set_label(id_)
            self._label = id_
            _log.info("labelled", cgroup=path, id=id_)
