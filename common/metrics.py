"""Names and shapes of metric families, for both daemons.

A native counter `x` of part `p` is `farswap_p_x_total`; one in microseconds (`x_us`) becomes
seconds, the base unit of Prometheus. This module knows no counter by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.common import log
from farswap.common.version import release
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    Labels = Sequence[str]

_NO_MEANINGS: Mapping[str, str] = {}


def registry(collector: Collector) -> CollectorRegistry:
    """A registry with `collector` and prometheus-client's metrics of the process."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    made.register(_LogLines())
    made.register(collector)
    return made


class _LogLines(Collector):
    def collect(self) -> Iterator[Metric]:
        meaning = "Log lines lost because stderr failed or blocked."
        yield CounterMetricFamily("farswap_log_lines_lost", meaning, log.lines_lost())


def build_info(program: str) -> Metric:
    """`farswap_build_info{program, version} 1`."""
    value = {"program": program, "version": release()}
    return InfoMetricFamily("farswap_build", "Program and version.", value)


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, help_text, value)


def gauges(
    name: str, help_text: str, labels: Labels, values: Iterable[tuple[Labels, float]]
) -> Metric:
    """A gauge with labels: one value per set of them."""
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def counters(
    part: str,
    labels: Labels,
    values: Iterable[tuple[Labels, Mapping[str, int]]],
    meanings: Mapping[str, str] = _NO_MEANINGS,
) -> Iterator[Metric]:
    """Native counters, one family each; `meanings` are their help texts."""
    families: dict[str, CounterMetricFamily] = {}
    for of, by_name in values:
        for name, value in by_name.items():
            family = families.get(name)
            if family is None:
                family = families[name] = CounterMetricFamily(
                    f"farswap_{part}_{_in_base_units(name)}",
                    meanings.get(name, f"Counter {name}, since the daemon's start."),
                    labels=labels,
                )
            family.add_metric(of, value / 1e6 if name.endswith("_us") else value)
    yield from families.values()


def _in_base_units(name: str) -> str:
    return f"{name.removesuffix('_us')}_seconds" if name.endswith("_us") else name


def histogram(
    name: str, help_text: str, labels: Labels, values: Iterable[tuple[Labels, Sequence[int], int]]
) -> Metric:
    """From native latencies: (labels, counts by power of two of microseconds, sum in ns)."""
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for of, counts, sum_ns in values:
        buckets = []
        seen = 0
        for power, count in enumerate(counts[:-1]):
            seen += count
            buckets.append((repr(2**power / 1e6), seen))
        buckets.append(("+Inf", seen + counts[-1]))
        family.add_metric(of, buckets, sum_ns / 1e9)
    return family
