"""Checks of the kernel's settings on a machine that swaps to this daemon.

Each check returns one finding, also if it is ok. Checks read files and change nothing. `farswapctl
doctor` shows all findings, `farswapctl status` those that are not ok.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.client_nbd.checks.findings import Finding
from farswap.client_nbd.kernel import files as kernel_files
from farswap.client_nbd.kernel.attach import IO_TIMEOUT_MS
from farswap.common.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from farswap.client_nbd.attribution import AttributionState
    from farswap.client_nbd.checks.findings import Level
    from farswap.client_nbd.kernel.attach import KernelDevice
    from farswap.client_nbd.kernel.device_use import Use
    from farswap.client_nbd.kernel.files import KernelFiles
    from farswap.client_nbd.kernel.tables import SwapArea
    from farswap.common.address import Address

# Shorter than a manual restart: programs would get EIO before it.
_DEAD_CONNECTION_TIMEOUT_S_MIN = 600
# Freed pages above this share and this number are a finding.
_STALE_SHARE = 0.25
_STALE_PAGES_MIN = 16_384


def of_kernel(files: KernelFiles, device: KernelDevice, use: Use) -> list[Finding]:
    """Checks zswap, the attached device, and the swap areas on this daemon's devices."""
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
    """Whether all users of this daemon's devices are known."""
    subject = "swap"
    if use.doubts:
        message = f"unknown whether the machine swaps to this daemon: {'; '.join(use.doubts)}"
        remedy = "swapoff these areas, or make their paths visible to the daemon"
        return [
            Finding("warning", subject, message, f"{remedy}; until then the daemon does not stop")
        ]
    if use.numbers and not use.areas:
        return [Finding("ok", subject, "the machine does not swap to this daemon's devices")]
    return []


def stacking(use: Use) -> list[Finding]:
    """Swap on a device stacked on this daemon's."""
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
    """The kernel's compressed pool in front of this one."""
    if not files.zswap_enabled():
        return Finding("ok", "zswap", "the kernel's zswap is off")
    return Finding(
        "warning",
        "zswap",
        "the kernel's zswap is on: pages are compressed twice, and only its coldest arrive here",
        "echo N > /sys/module/zswap/parameters/enabled; for the next boot, zswap.enabled=0",
    )


def _of_device(files: KernelFiles, device: KernelDevice, index: int) -> list[Finding]:
    return [
        connections(device.connection_count),
        io_timeout(files.io_timeout_ms(index)),
        dead_connection_timeout(device.dead_connection_timeout_s),
        discard_support(files.discard_bytes_max(index)),
    ]


def connections(count: int) -> Finding:
    """With more than one, the driver disconnects live sockets."""
    if count == 1:
        return Finding("ok", "connections", "one connection to the kernel")
    return Finding(
        "warning",
        "connections",
        f"{count} connections to the kernel: a slow request disconnects all but the last",
        "detach, and attach with --connections 1",
    )


def io_timeout(timeout_ms: int | None) -> Finding:
    """Request timeout of the block layer, after which a restarted daemon gets old requests."""
    subject = "io_timeout"
    if timeout_ms == IO_TIMEOUT_MS:
        return Finding("ok", subject, f"the device's request timeout is {timeout_ms} ms")
    what = "unknown" if timeout_ms is None else f"{timeout_ms} ms"
    return Finding(
        "warning",
        subject,
        f"the device's request timeout is {what}: a restarted daemon gets requests of a dead one "
        "only then",
        f"echo {IO_TIMEOUT_MS} > /sys/block/nbdN/queue/io_timeout; attach does so",
    )


def dead_connection_timeout(timeout_s: int) -> Finding:
    """Timeout of the driver, after which programs get EIO."""
    subject = "dead_connection_timeout"
    message = f"programs wait {timeout_s} s for a restart of a dead daemon, then get EIO"
    if timeout_s >= _DEAD_CONNECTION_TIMEOUT_S_MIN:
        return Finding("ok", subject, message)
    return Finding("warning", subject, message, "attach with a longer dead connection timeout")


def discard_support(bytes_max: int | None) -> Finding:
    """Whether the device supports TRIM."""
    if bytes_max:
        return Finding("ok", "trim", "the device supports TRIM")
    return Finding(
        "warning",
        "trim",
        "the device does not support TRIM: pages that the kernel has freed stay in the pool",
        "detach and attach again: another program set its discard_max_bytes to 0",
    )


def priority(area: SwapArea, areas: Iterable[SwapArea]) -> Finding:
    """Priority of the area among all swap areas."""
    higher = [other.name for other in areas if other.priority > area.priority]
    if not higher:
        return Finding(
            "ok", "swap_priority", f"{area.name} has the highest priority, {area.priority}"
        )
    remedy = f"swapoff {area.name}, then swapon --priority N {area.name} with a higher N"
    message = (
        f"the machine swaps to {', '.join(higher)} before {area.name} (priority {area.priority})"
    )
    return Finding("warning", "swap_priority", message, remedy)


def hibernation(area: SwapArea, to: str | None, number: tuple[int, int] | None) -> Finding:
    """Whether the kernel may write its image to this device, after it has frozen the daemon."""
    subject = "hibernation"
    if to is None:
        return Finding("ok", subject, "this machine does not hibernate")
    if to != "0:0" and number is not None and to != "{}:{}".format(*number):
        return Finding("ok", subject, f"the machine hibernates to device {to}")
    return Finding(
        "warning",
        subject,
        f"the machine may hibernate to {area.path}, and would hang: the daemon is frozen by then",
        "set another device in /sys/power/resume, or systemctl mask hibernate.target "
        "hybrid-sleep.target suspend-then-hibernate.target",
    )


def discard(use: Use, stats: Mapping[str, int], held_pages: int, *, free_hook: bool) -> Finding:
    """Whether freed slots are reported; if not, freed pages pile up."""
    subject = "discard"
    if not use.areas:
        return Finding("ok", subject, "the machine does not swap to this daemon's device")
    stale = max(0, held_pages - use.used_bytes // PAGE_BYTES)
    seen = stats.get("trims", 0) + stats.get("early_frees", 0)
    wasted = stale > max(_STALE_PAGES_MIN, held_pages * _STALE_SHARE)
    if seen and (free_hook or not wasted):
        return Finding("ok", subject, f"freed pages are reported: {seen} so far")
    if not wasted:
        return Finding("ok", subject, "no freed page was reported so far; few are held")
    message = f"pages held that the kernel freed: {stale} of {held_pages}"
    if seen:
        message += ": TRIM reports only wholly free clusters"
        return Finding("warning", subject, message, "see the check early_frees")
    name = use.areas[0].name
    remedy = f"swapoff {name}, then swapon --discard=pages {name}"
    return Finding("warning", subject, f"{message}: swap is on without discard", remedy)


def attribution(state: AttributionState, *, expected: bool) -> list[Finding]:
    """The source of attribution and of free notifications.

    `expected`: there is a device for which BPF could be used.
    """
    subject = "attribution"
    if state.source == "bpf":
        known = f"{state.pages - state.unattributed} of {state.pages} pages swapped to"
        found = Finding("ok", subject, f"the cgroup is known of {known} {state.device}")
        return [found, _early_frees(state)]
    owner = "one cgroup" if state.source == "label" else "the root cgroup"
    message = f"all pages count for {owner}: {state.problem}"
    if not expected:
        return [Finding("ok", subject, message)]
    remedy = "limits of cgroups need BPF: root, and a kernel of 6.1 or later with BTF"
    return [Finding("warning", subject, message, remedy)]


def _early_frees(state: AttributionState) -> Finding:
    subject = "early_frees"
    if state.free_hook:
        return Finding("ok", subject, f"{state.free_hook} reports each freed page")
    why = f": {state.problem}" if state.problem else ", as configured"
    level: Level = "warning" if state.problem else "ok"
    return Finding(level, subject, f"only TRIM reports freed pages{why}")


def server_place(
    server: Address, resolved: Iterable[str], local: set[str], *, swapping: bool
) -> Finding:
    """Whether a memory server is on this machine, whose memory it would use.

    `resolved`: IP addresses of the server; empty if unknown.
    """
    subject = "server_place"
    is_ours = server.is_local or not local.isdisjoint(resolved)
    if not is_ours:
        return Finding("ok", subject, f"{server} is another machine")
    effect = "swapped pages stay in its memory" if swapping else "its pages use this memory"
    return Finding(
        "warning",
        subject,
        f"{server} is on this machine: {effect}",
        "use memory servers on other machines",
    )
