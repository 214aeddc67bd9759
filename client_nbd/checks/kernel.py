"""What of the kernel's settings helps or harms a machine that swaps to us.

Each check looks at one thing and returns one finding, also when all is well. They read files and
change nothing. `farswapctl doctor` shows them all, `farswapctl status` those that are not ok.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from farswap.client_nbd.checks.findings import Finding
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel.attach import IO_TIMEOUT_MS
from farswap.common.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from farswap.client_nbd.attribution import AttributionState
    from farswap.client_nbd.checks.findings import Level
    from farswap.client_nbd.kernel.device_use import Use
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.client_nbd.kernel.tables import SwapArea
    from farswap.common.address import Address

# Shorter than any restart by hand: programs would die of EIO before somebody is there.
_DEAD_CONNECTION_TIMEOUT_S_MIN = 600
# Above that share, and that size, pages that the kernel has given up are a waste worth a word.
_STALE_SHARE = 0.25
_STALE_PAGES_MIN = 16_384


class Device(Protocol):
    """What of attach.KernelDevice is looked at."""

    def device(self) -> str:
        """The attached device, or an empty string."""

    @property
    def connection_count(self) -> int:
        """Sockets between it and us."""

    @property
    def dead_connection_timeout_s(self) -> int:
        """How long it waits for a daemon that died."""


def of_kernel(files: KernelFiles, device: Device, use: Use) -> list[Finding]:
    """zswap, the attached device if there is one, and the swap areas by which we are swapped to."""
    found = [zswap(files)]
    attached = device.device()
    if attached:
        found += _of_device(files, device, kernel_files.nbd_index(attached))
    else:
        found.append(Finding("ok", "device", "no kernel device is attached to this daemon"))
    for area in use.areas:
        found.append(priority(area, use.elsewhere))
        found.append(hibernation(area, files.hibernates_to(), files.device_number(area.path)))
    return [*found, *swap(use), *stacking(use)]


def swap(use: Use) -> list[Finding]:
    """Whether it is known who swaps to us."""
    subject = "swap"
    if use.doubts:
        message = f"it is not certain who swaps to this daemon: {'; '.join(use.doubts)}"
        remedy = "swapoff the areas that are named, or make their paths visible to the daemon"
        return [Finding("warning", subject, message, f"{remedy}; until then it does not stop")]
    if use.numbers and not use.areas:
        return [Finding("ok", subject, "the machine does not swap to this daemon's devices")]
    return []


def stacking(use: Use) -> list[Finding]:
    """Swap on a device that is stacked on ours."""
    if not use.stacked:
        return []
    names = ", ".join(area.name for area in use.stacked)
    message = (
        f"the machine swaps to {names}, stacked on this daemon's device: each page passes both, "
        "is not attributed to its cgroup, and may be kept after the kernel has freed it"
    )
    remedy = "swapoff it, and swap to the device itself"
    return [Finding("warning", "stacking", message, remedy)]


def zswap(files: KernelFiles) -> Finding:
    """The kernel's own compressed pool in front of ours."""
    if not files.zswap_enabled():
        return Finding("ok", "zswap", "the kernel's zswap is off")
    return Finding(
        "warning",
        "zswap",
        "the kernel's zswap is on: pages are compressed twice, and only its coldest reach us",
        "echo N > /sys/module/zswap/parameters/enabled; zswap.enabled=0 for the next boot",
    )


def _of_device(files: KernelFiles, device: Device, index: int) -> list[Finding]:
    return [
        connections(device.connection_count),
        io_timeout(files.io_timeout_ms(index)),
        dead_connection_timeout(device.dead_connection_timeout_s),
        discard_support(files.discard_bytes_max(index)),
    ]


def connections(count: int) -> Finding:
    """More than one makes the driver cut live sockets off."""
    if count == 1:
        return Finding("ok", "connections", "one connection to the kernel")
    return Finding(
        "warning",
        "connections",
        f"{count} connections to the kernel: it cuts off all but the last when a request is slow",
        "detach, and attach with --connections 1",
    )


def io_timeout(timeout_ms: int | None) -> Finding:
    """The block layer's, after which requests of a dead daemon go to its successor."""
    subject = "io_timeout"
    if timeout_ms == IO_TIMEOUT_MS:
        return Finding("ok", subject, f"the device's request timeout is {timeout_ms} ms")
    what = "unknown" if timeout_ms is None else f"{timeout_ms} ms"
    return Finding(
        "warning",
        subject,
        f"the device's request timeout is {what}: requests of a daemon that died wait as long "
        "before the next daemon gets them",
        f"echo {IO_TIMEOUT_MS} > /sys/block/nbdN/queue/io_timeout; attach does so",
    )


def dead_connection_timeout(timeout_s: int) -> Finding:
    """The driver's, after which programs get EIO."""
    subject = "dead_connection_timeout"
    message = f"programs wait {timeout_s} s for a daemon that died, then fail"
    if timeout_s >= _DEAD_CONNECTION_TIMEOUT_S_MIN:
        return Finding("ok", subject, message)
    return Finding("warning", subject, message, "attach with a longer dead connection timeout")


def discard_support(bytes_max: int | None) -> Finding:
    """Whether the device takes TRIM at all."""
    if bytes_max:
        return Finding("ok", "trim", "the device takes TRIM")
    return Finding(
        "warning",
        "trim",
        "the device takes no TRIM: pages that the kernel gave up stay in the pool",
        "detach and attach again; something else set its discard_max_bytes to 0",
    )


def priority(area: SwapArea, areas: Iterable[SwapArea]) -> Finding:
    """Who is swapped to first."""
    higher = [other.name for other in areas if other.priority > area.priority]
    if not higher:
        return Finding("ok", "swap_priority", f"{area.name} has the highest, {area.priority}")
    remedy = f"swapoff {area.name}, then swapon --priority N {area.name} with a higher N"
    message = f"the machine swaps to {', '.join(higher)} before {area.name} ({area.priority})"
    return Finding("warning", "swap_priority", message, remedy)


def hibernation(area: SwapArea, to: str | None, number: tuple[int, int] | None) -> Finding:
    """Whether the kernel may write its image to us, after it has frozen this daemon."""
    subject = "hibernation"
    if to is None:
        return Finding("ok", subject, "this machine does not hibernate")
    if to != "0:0" and number is not None and to != "{}:{}".format(*number):
        return Finding("ok", subject, f"the machine hibernates to device {to}")
    return Finding(
        "warning",
        subject,
        f"the machine may hibernate to {area.path}, which nobody serves while it does: it hangs",
        "name another device in /sys/power/resume, or systemctl mask hibernate.target "
        "hybrid-sleep.target suspend-then-hibernate.target",
    )


def discard(use: Use, stats: Mapping[str, int], held_pages: int, *, free_hook: bool) -> Finding:
    """Whether swap slots that the kernel frees reach us; seen by what piles up when not."""
    subject = "discard"
    if not use.areas:
        return Finding("ok", subject, "the machine does not swap to this daemon's device")
    stale = max(0, held_pages - use.used_bytes // PAGE_BYTES)
    seen = stats.get("trims", 0) + stats.get("early_frees", 0)
    wasted = stale > max(_STALE_PAGES_MIN, held_pages * _STALE_SHARE)
    if seen and (free_hook or not wasted):
        return Finding("ok", subject, f"freed pages are reported: {seen} so far")
    if not wasted:
        return Finding("ok", subject, "no page was reported free so far; few are held in vain")
    message = f"{stale} of {held_pages} pages are held that the kernel no longer uses"
    if seen:
        message += ": TRIM tells of wholly free clusters only"
        return Finding("warning", subject, message, "see the check of early frees")
    name = use.areas[0].name
    remedy = f"swapoff {name}, then swapon --discard=pages {name}"
    return Finding("warning", subject, f"{message}; swap is on without discard", remedy)


def attribution(state: AttributionState, *, expected: bool) -> list[Finding]:
    """Whether it is known whose pages are swapped out, and which ones the kernel gives up.

    `expected`: there is a device whose pages could be known.
    """
    subject = "attribution"
    if state.source == "bpf":
        known = f"{state.pages - state.unattributed} of {state.pages} pages swapped to"
        found = Finding("ok", subject, f"the cgroup is known of {known} {state.device}")
        return [found, _early_frees(state)]
    whose = "one cgroup's" if state.source == "label" else "the root cgroup's"
    message = f"all pages are taken to be {whose}: {state.problem}"
    if not expected:
        return [Finding("ok", subject, message)]
    remedy = "limits of cgroups hold only with BPF: as root, on a kernel of 6.1 or later with BTF"
    return [Finding("warning", subject, message, remedy)]


def _early_frees(state: AttributionState) -> Finding:
    subject = "early_frees"
    if state.free_hook:
        return Finding("ok", subject, f"{state.free_hook} tells of each page that is given up")
    why = f": {state.problem}" if state.problem else ", as configured"
    level: Level = "warning" if state.problem else "ok"
    return Finding(level, subject, f"TRIM alone tells of pages that are given up{why}")


def server_place(
    server: Address, resolved: Iterable[str], local: set[str], *, swapping: bool
) -> Finding:
    """Whether a memory server takes from the memory that it is to relieve.

    `resolved`: the IP addresses that the server's host name stands for; none: unknown.
    """
    subject = "server_place"
    is_ours = server.is_local or not local.isdisjoint(resolved)
    if not is_ours:
        return Finding("ok", subject, f"{server} is another machine")
    effect = "swapping takes the memory that it frees" if swapping else "its pages take memory here"
    return Finding(
        "warning",
        subject,
        f"{server} is on this very machine: {effect}",
        "use memory servers on other machines, which do not swap to this one",
    )
