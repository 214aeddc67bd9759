"""A drain of a memory server as an operator sees it: what is left, rate, remaining time, stalls.

`Left` is one look at the server. `Progress` makes a `Report` of each look. `follow` looks at one or
more servers until each has no shard, or its drain was ended. A look that gets no answer counts as
a look: the server keeps the drain, so a wait outlasts its restart.

A host may place a shard until it receives the answer to its next heartbeat. So a server without
shards is drained once each live host was heard after the drain began.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.admin import output
from farswap.common.errors import FarswapError, VersionMismatchError
from farswap.common.text import count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from farswap.v1 import server_admin_pb2 as pb

# A look may read an index of all pages: between looks is at least this, and four times a look's
# time, but a tenth of the remaining time at most, so that the end is noticed.
_INTERVAL_S = 1.0
_PAUSE_FACTOR = 4
_PAUSE_OF_ETA = 0.1
# The rate changes as servers come back and shards get scarce. The remaining time is the mean of
# what these spans give.
_RATE_OVER_S = 60.0
_RECENTLY_S = 10.0
STALLED_AFTER_S = 30.0
# The server counts silence in ticks of 100 ms.
_TICKS_S = 0.2
# Volumes in texts; JSON has all.
_NAMED_MAX = 8


@dataclass(frozen=True, slots=True)
class Left:
    """What hosts have not moved. `volumes`: those with shards, the silent ones first."""

    draining: bool
    volumes: tuple[pb.VolumeStatus, ...] = ()
    silent_ms: int | None = None  # of the live host that was heard least recently

    @classmethod
    def of(cls, status: pb.ServerStatus) -> Left:
        """From a status with numbers of shards."""
        volumes = sorted(
            (volume for volume in status.volumes if volume.shards),
            key=lambda volume: (volume.owner_live, -volume.bytes, volume.host_id, volume.device),
        )
        live = [volume for volume in status.volumes if volume.owner_live and not volume.garbage]
        return cls(
            status.draining,
            tuple(volumes),
            max((volume.silent_ms for volume in live), default=None),
        )

    @property
    def shards(self) -> int:
        """On the server."""
        return sum(volume.shards for volume in self.volumes)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(volume.bytes for volume in self.volumes)

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "draining": self.draining,
            "shards": self.shards,
            "bytes": self.bytes,
            "waits_for": [
                {
                    "host_id": volume.host_id,
                    "device": volume.device,
                    "owner_name": volume.owner_name,
                    "shards": volume.shards,
                    "bytes": volume.bytes,
                    "silent": not volume.owner_live,
                    "silent_ms": volume.silent_ms,
                    "expires_in_ms": _expires_in_ms(volume),
                }
                for volume in self.volumes
            ],
        }

    def waits(self) -> list[str]:
        """A line for each volume, as far as there is room."""
        named = self.volumes[:_NAMED_MAX]
        lines = [output.printable(f"waits for {_volume_text(volume)}") for volume in named]
        more = len(self.volumes) - len(lines)
        return lines + ([f"waits for {more} more volumes"] if more > 0 else [])


@dataclass(frozen=True, slots=True)
class Report:
    """A look, compared with earlier ones. None: not known."""

    left: Left
    moved_bytes: int = 0
    bytes_per_second: float | None = None
    eta_s: float | None = None
    stalled_s: float = 0.0
    hosts_informed: bool = False
    no_answer: str = ""  # why the server did not answer; the rest is of the last answer

    @property
    def finished(self) -> bool:
        """The server confirms that it has no shard, and no host has or will place one here."""
        empty = self.left.draining and not self.left.volumes
        return empty and self.hosts_informed and not self.no_answer

    @property
    def ended(self) -> bool:
        """By `undrain`."""
        return not self.no_answer and not self.left.draining

    @property
    def done(self) -> bool:
        """No later look changes it."""
        return self.finished or self.ended

    def document(self) -> dict[str, object]:
        """For JSON."""
        return self.left.document() | {
            "finished": self.finished,
            "moved_bytes": self.moved_bytes,
            "bytes_per_second": self.bytes_per_second and round(self.bytes_per_second),
            "eta_s": self.eta_s and round(self.eta_s, 1),
            "stalled_s": round(self.stalled_s),
            "hosts_informed": self.hosts_informed,
            "no_answer": self.no_answer,
        }

    def lines(self) -> list[str]:
        """The figures, then what the drain waits for."""
        if self.no_answer:
            return [f"drain: waits for the server: {self.no_answer}"]
        words = [f"drain: {amount(self.left)} left", f"{output.size(self.moved_bytes)} moved"]
        if self.stalled_s:
            words.append(f"STALLED: nothing moved for {output.span(round(self.stalled_s * 1000))}")
        elif self.bytes_per_second is not None and self.eta_s is not None:
            words.append(f"{output.size(round(self.bytes_per_second))}/s")
            words.append(f"{output.span(round(self.eta_s * 1000))} to go")
        waits = self.left.waits() or [
            "waits for heartbeats of hosts, whose answers carry the drain"
        ]
        return [", ".join(words), *(f"  {line}" for line in waits)]

    def key(self) -> object:
        """Changes when a log of the drain needs another line."""
        whole = self.moved_bytes + self.left.bytes
        tenth = 10 * self.moved_bytes // whole if whole else 0
        silent = {volume.volume_id for volume in self.left.volumes if not volume.owner_live}
        return tenth, bool(self.stalled_s), bool(self.no_answer), silent


class Progress:
    """The looks so far. A drain stalls if neither bytes nor shards reach a new minimum.

    `started_s`: a time of a monotonic clock when the server was draining.
    """

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._looks: deque[tuple[float, int]] = deque()
        self._first_bytes = 0
        self._least = (0, 0)
        self._moved_at_s = 0.0
        self._last = Report(Left(draining=True), no_answer="not asked yet")

    def note(self, left: Left, at_s: float, now_s: float) -> Report:
        """Of an answer, at `now_s`, to a look that began at `at_s`."""
        if not self._looks:
            self._first_bytes = left.bytes
            self._least = (left.bytes, left.shards)
            self._moved_at_s = at_s
        elif left.bytes < self._least[0] or left.shards < self._least[1]:
            self._least = (min(left.bytes, self._least[0]), min(left.shards, self._least[1]))
            self._moved_at_s = at_s
        self._looks.append((at_s, left.bytes))
        while len(self._looks) > 2 and at_s - self._looks[0][0] > _RATE_OVER_S:
            self._looks.popleft()
        rates = [rate for rate in (self._rate(_RATE_OVER_S), self._rate(_RECENTLY_S)) if rate > 0]
        idle_s = at_s - self._moved_at_s
        self._last = Report(
            left,
            moved_bytes=max(0, self._first_bytes - left.bytes),
            bytes_per_second=rates[0] if rates else None,
            eta_s=_eta_s(left, rates, now_s - at_s) if rates else None,
            stalled_s=idle_s if idle_s >= STALLED_AFTER_S and left.shards else 0.0,
            hosts_informed=left.silent_ms is None
            or at_s - left.silent_ms / 1000 - _TICKS_S > self._started_s,
        )
        return self._last

    def _rate(self, over_s: float) -> float:
        """Of the looks of the last `over_s`, of the last two at least; in bytes per second."""
        at_s, left = self._looks[-1]
        since_s, before = next(
            (look for look in list(self._looks)[:-1] if at_s - look[0] <= over_s),
            self._looks[-2] if len(self._looks) > 1 else self._looks[-1],
        )
        return (before - left) / (at_s - since_s) if at_s > since_s else 0.0

    def note_no_answer(self, why: str) -> Report:
        """Of a look without an answer."""
        last = self._last
        return Report(last.left, moved_bytes=last.moved_bytes, no_answer=why)


def follow(
    looks: Sequence[Callable[[], Left]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[list[Report]]:
    """Reports of drains that began together, until each is finished or ended.

    A server that is done is looked at no more. There is no time limit.
    """
    progress = [Progress(clock()) for _ in looks]
    reports: dict[int, Report] = {}
    while True:
        began_s = clock()
        for at, look in enumerate(looks):
            if at not in reports or not reports[at].done:
                reports[at] = _report(progress[at], look, clock)
        yield list(reports.values())
        if all(report.done for report in reports.values()):
            return
        etas = [report.eta_s for report in reports.values() if not report.done]
        soon = min((eta for eta in etas if eta is not None), default=math.inf)
        pause = min(_PAUSE_FACTOR * (clock() - began_s), _PAUSE_OF_ETA * soon)
        sleep(max(_INTERVAL_S, pause))


def _report(progress: Progress, look: Callable[[], Left], clock: Callable[[], float]) -> Report:
    began_s = clock()
    try:
        left = look()
        return progress.note(left, began_s, clock())
    except VersionMismatchError:
        raise
    except FarswapError as error:
        return progress.note_no_answer(str(error))


def _eta_s(left: Left, rates: Sequence[float], ago_s: float) -> float:
    """Until the look that finds the server empty."""
    moving_s = statistics.fmean(left.bytes / rate for rate in rates)
    return max(0.0, moving_s + _INTERVAL_S - ago_s) if left.volumes else 0.0


def amount(left: Left) -> str:
    """`3 shards, 12.0 MiB of 2 volumes`."""
    return (
        f"{count(left.shards, 'shard')}, {output.size(left.bytes)} "
        f"of {count(len(left.volumes), 'volume')}"
    )


def _expires_in_ms(volume: pb.VolumeStatus) -> int | None:
    return volume.expires_in_ms if volume.HasField("expires_in_ms") else None


def _volume_text(volume: pb.VolumeStatus) -> str:
    size = f"{count(volume.shards, 'shard')}, {output.size(volume.bytes)}"
    text = f"{volume.host_id}/{volume.device}: {size}"
    if volume.owner_live:
        return text
    host = volume.owner_name or "its host"
    text += f"; {host} is silent for {output.span(volume.silent_ms)}: start farswap-host there"
    expires_in_ms = _expires_in_ms(volume)
    if expires_in_ms is None:
        return text
    return f"{text}, or the volume is deleted in {output.span(expires_in_ms)}"
