"""Metrics of farswap-server: figures of the store, and its volumes by host and device."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from farswap.common import metrics
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farswap.native import PageServer
    from prometheus_client import Metric

# Values of the store's stats() that are not counters.
_GAUGES = {
    "capacity_bytes": "Maximum bytes of live pages.",
    "reserve_bytes": "Bytes of the capacity only for copies from other servers.",
    "used_bytes": "Bytes of live pages, including keys.",
    "disk_bytes": "Bytes of the store's files.",
    "disk_free_bytes": "Bytes free for the server on the store's file system.",
    "disk_reserve_bytes": "Bytes free below which the store refuses pages.",
    "disk_full": "1 while the store refuses pages because its disk is full or failing.",
    "draining": "1 while hosts are to move their shards to other servers.",
    "ballast_bytes": "Bytes of the ballast, which reserves disk space for accepted pages.",
    "ballast_bytes_max": "Bytes of the whole ballast.",
    "pages": "Number of live pages.",
    "garbage_bytes": "Bytes of garbage volumes that are being deleted.",
    "scrub_running": "1 while a pass of the scrub is running.",
    "scrub_pass_bytes": "Bytes of pages that the pass of the scrub, or the last one, has read.",
    "scrub_passes": "Number of passes of the scrub that have ended, since the store was made.",
    "scrub_ended_ago_seconds": "Time since the last pass of the scrub ended, while servers ran.",
    "scrub_damaged_shards": "Shards in which damage was found, and which no host has compared yet.",
    "writes_stopped": "1 while the store refuses pages because compaction is behind.",
}


class PagesMetrics(Collector):
    """Collected at every scrape, on a thread that may wait."""

    def __init__(self, pages: PageServer) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client."""
        yield metrics.build_info("farswap-server")
        stats = self._pages.stats()
        for name, meaning in _GAUGES.items():
            yield metrics.gauge(f"farswap_server_{name}", meaning, stats.pop(name))
        yield from metrics.counters("server", [], [([], stats)])
        yield from self._volumes()

    def _volumes(self) -> Iterator[Metric]:
        # A device may have several earlier incarnations.
        pages: Counter[tuple[str, str, str]] = Counter()
        bytes_: Counter[tuple[str, str, str]] = Counter()
        silent: dict[tuple[str, str], float] = {}
        expires: dict[tuple[str, str], float] = {}
        quotas: dict[tuple[str, str], float] = {}
        for volume in self._pages.volumes():
            of = (volume.host_id, volume.device, "garbage" if volume.garbage else "live")
            pages[of] += volume.pages
            bytes_[of] += volume.bytes
            if not volume.garbage:
                if volume.quota_bytes is not None:
                    quotas[of[:2]] = volume.quota_bytes
                silent[of[:2]] = volume.silent_ms / 1000
                if volume.expires_in_ms is not None:
                    expires[of[:2]] = volume.expires_in_ms / 1000
        labels = ["host", "device", "state"]
        yield metrics.gauges(
            "farswap_server_volume_pages",
            "Number of pages of a host's device.",
            labels,
            pages.items(),
        )
        yield metrics.gauges(
            "farswap_server_volume_bytes",
            "Bytes of pages of a host's device.",
            labels,
            bytes_.items(),
        )
        yield metrics.gauges(
            "farswap_server_volume_quota_bytes",
            "Maximum bytes of pages of a host's device. Absent without a quota.",
            labels[:2],
            quotas.items(),
        )
        yield metrics.gauges(
            "farswap_server_volume_silent_seconds",
            "Time since the volume's host was heard, while servers ran on the store.",
            labels[:2],
            silent.items(),
        )
        yield metrics.gauges(
            "farswap_server_volume_expires_seconds",
            "Time until the volume of a silent host is deleted. Absent if expire_after is off.",
            labels[:2],
            expires.items(),
        )
