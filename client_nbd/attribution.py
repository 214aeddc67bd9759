"""Where the engine learns whose page it stores, and which pages the kernel has given up.

Three sources, the best that is to be had, each the fallback of the one before:

1. `bpf`: programs in the running kernel, for one block device that swaps to this daemon: the
   kernel device that is attached here, or another one that the configuration or an operator names
   (a loop device over a FUSE mount of the export, an nbd device of a client of this machine's).
2. `label`: all pages belong to the cgroup that the configuration names.
3. `root`: all pages are the root group's.

The engine falls back by itself whenever the programs are not in the kernel; here it is told to try,
and which cgroup the label is. Nothing fails for a lack of attribution: what is
missing is said by `state()` and in the log.

`start()` and `stop()` block for a tenth of a second: call them from worker threads. A lock makes
them exclude each other; `state()` needs none.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from farswap.common import log
from farswap.common.errors import NotFoundError, NotPossibleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from farswap.client_nbd.config import AttributionSection
    from farswap.client_nbd.kernel.device_use import ExportDevices
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.native import Attribution as EngineAttribution

_log = log.logger("attribution")


class Engine(Protocol):
    """What of the native engine is used here."""

    def attribute(
        self,
        device: tuple[int, int],
        pin_directory: str,
        free_hook: bool,
        /,
    ) -> EngineAttribution:
        """Loads the programs for the device of this major and minor number."""

    def attribution(self) -> EngineAttribution:
        """What is in use now."""

    def stop_attribution(self) -> None:
        """Takes the programs out."""

    def set_label(self, id: int, /) -> None:  # noqa: A002 - the native name
        """All pages that nothing else attributes belong to this cgroup."""


@dataclass(frozen=True, slots=True)
class AttributionState:
    """`problem` says why a better source, or the free hook, is not in use; "" when nothing is."""

    source: str  # "bpf", "label", "root"
    device: str  # that the programs watch; "" without them
    free_hook: str  # the kernel's function by which freed slots are told; "" when they are not
    problem: str
    events: int
    pages: int
    unattributed: int
    ring_full: int


class Attribution:
    """One engine's. `id_of` gives the id of a cgroup path, or raises NotFoundError."""

    def __init__(
        self,
        engine: Engine,
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
        """Attributes what the kernel swaps out to `device` from now on, as far as it lets us.

        Programs watch one device. Raises NotPossibleError where that is another one, whose pages
        would be nobody's from then on, and `replace` is not set.
        """
        with self._lock:
            return self._start(device, replace=replace)

    def _start(self, device: str, *, replace: bool) -> AttributionState:
        number = self._files.device_number(device)
        if number is None:
            return self._refuse(device, "not a block device of this machine")
        # Also where its pages cannot be attributed: the machine may swap to it.
        self._devices.add(device, number)
        if self._files.device_offset_bytes(number) > 0:
            # Its slots are others to the kernel: those that it frees are in use here.
            return self._refuse(device, "a part of a disk or file: name the whole")
        watched = self.state().device
        if watched not in ("", device):
            if not replace:
                raise NotPossibleError(
                    f"the pages of {watched} are attributed, and only those of one device can be: "
                    f"--replace gives them up for those of {device}"
                )
            _log.warning("attribution is taken from a device", device=watched, by=device)
        section = self._section
        self._engine.attribute(number, section.pin_directory, section.free_notifications)
        self._device, self._missing = device, ""
        state = self.state()
        say = _log.warning if state.problem else _log.info
        say(
            "attribution",
            device=device,
            source=state.source,
            free_hook=state.free_hook,
            problem=state.problem,
        )
        return state

    @property
    def device(self) -> str:
        """That swaps to this daemon, whether or not programs watch it; "" when none is known."""
        return self._device or self._section.device or ""

    def _refuse(self, device: str, problem: str) -> AttributionState:
        """Changes nothing. Whoever named the device knows which it is; the status says it."""
        if not self._device:
            self._missing = f"{device}: {problem}"
        return replace(self.state(), problem=problem)

    def stop(self) -> None:
        """Nobody swaps to us any more, as far as we know."""
        with self._lock:
            self._engine.stop_attribution()
            self._device = ""

    def state(self) -> AttributionState:
        """Looked up now; waits for nobody."""
        found = self._engine.attribution()
        problems = [text for text in (found.problem, self._missing, self._label_missing) if text]
        if not problems and not self._device:
            problems = ["no device that swaps to this daemon is known: attach one, or name it"]
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
        """Sets going what the configuration names, if it is there by now. Call it periodically."""
        section = self._section
        if section.cgroup is not None:
            self._look_for_label(section.cgroup)
        with self._lock:
            # An attached device is the better known one.
            if section.device is None or self._device:
                return
            if self._files.device_number(section.device) is not None:
                self._start(section.device, replace=False)

    def _look_for_label(self, path: str) -> None:
        try:
            id_ = self._id_of(path)
        except NotFoundError:
            self._label_missing = f"there is no cgroup {path}"
            return
        self._label_missing = ""
        if id_ != self._label:
            self._engine.set_label(id_)
            self._label = id_
            _log.info("labelled", cgroup=path, id=id_)
