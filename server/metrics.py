"""What farswap-server tells Prometheus: the store's figures, and its volumes by host and device."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from farswap.common import metrics
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farswap.native import PageServer
    from prometheus_client import Metric

# Values of the store's stats() that are no counters.
_GAUGES = {
    "capacity_bytes": "How many bytes of pages are accepted.",
    "used_bytes": "Bytes of live pages as kept, keys included.",
    "disk_bytes": "Files of the store.",
    "disk_free_bytes": "Free bytes of the store's file system, for the server's user.",
    "disk_reserve_bytes": "With fewer bytes free, the store takes no pages.",
    "disk_full": "1 while the store takes no pages, as its disk is full or fails.",
    "ballast_bytes": "Files that hold room on the disk for what the store has accepted.",
    "ballast_bytes_max": "The same when they are whole.",
    "pages": "Live pages.",
    "garbage_bytes": "Pages of devices that were started anew, being deleted.",
    "writes_stopped": "1 while the store takes no pages, as it is behind with its files.",
}


class PagesMetrics(Collector):
    """Collected at every scrape, one at a time, on a thread that may wait."""

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
        # Of the earlier incarnations of one device there may be several.
        pages: Counter[tuple[str, str, str]] = Counter()
        bytes_: Counter[tuple[str, str, str]] = Counter()
        silent: dict[tuple[str, str], float] = {}
        expires: dict[tuple[str, str], float] = {}
        for volume in self._pages.volumes():
            of = (volume.host_id, volume.device, "garbage" if volume.garbage else "live")
            pages[of] += volume.pages
            bytes_[of] += volume.bytes
            if not volume.garbage:
                silent[of[:2]] = volume.silent_ms / 1000
                if volume.expires_in_ms is not None:
                    expires[of[:2]] = volume.expires_in_ms / 1000
        labels = ["host", "device", "state"]
        yield metrics.gauges(
            "farswap_server_volume_pages", "Pages of a host's device.", labels, pages.items()
        )
        yield metrics.gauges(
            "farswap_server_volume_bytes", "The same in bytes.", labels, bytes_.items()
        )
        yield metrics.gauges(
            "farswap_server_volume_silent_seconds",
            "Since a live volume's host was heard, while servers ran on the store.",
            labels[:2],
            silent.items(),
        )
        yield metrics.gauges(
            "farswap_server_volume_expires_seconds",
            "Until it is deleted, if its host stays silent. None with volumes.expire_after = off.",
            labels[:2],
            expires.items(),
        )
