"""Whether shards of drained servers fit on the others, by what all servers answer.

A shard needs a server that takes new ones, has no replica of it, and has room. Hosts choose targets
by themselves, so a plan shows that places exist, not which ones the hosts will use. All shards of
a volume count with their average size.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farswap.admin import output
from farswap.common.text import count
from farswap.v1 import page_store_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from farswap.admin.members import Member


@dataclass(frozen=True, slots=True)
class Target:
    """A server that takes shards."""

    address: str
    free_bytes: int
    added_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What would move. `crowded_shards`: each other server has a replica of them already."""

    shards: int
    bytes: int
    unplaced_shards: int
    unplaced_bytes: int
    crowded_shards: int
    targets: tuple[Target, ...]

    @property
    def fits(self) -> bool:
        """Each shard has a place."""
        return self.unplaced_shards == 0

    @property
    def free_bytes(self) -> int:
        """On all targets."""
        return sum(target.free_bytes for target in self.targets)

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "fits": self.fits,
            "shards": self.shards,
            "bytes": self.bytes,
            "room_elsewhere_bytes": self.free_bytes,
            "unplaced_shards": self.unplaced_shards,
            "unplaced_bytes": self.unplaced_bytes,
            "crowded_shards": self.crowded_shards,
            "targets": [
                {
                    "address": target.address,
                    "free_bytes": target.free_bytes,
                    "added_bytes": target.added_bytes,
                }
                for target in self.targets
            ],
        }

    def summary(self) -> str:
        """One line."""
        room = f"{output.size(self.free_bytes)} free on {count(len(self.targets), 'server')}"
        if self.fits:
            return f"fits elsewhere: {output.size(self.bytes)} to move, {room}"
        text = (
            f"{count(self.unplaced_shards, 'shard')} of {self.shards} without a place, "
            f"{output.size(self.unplaced_bytes)} of {output.size(self.bytes)}: {room}"
        )
        if self.crowded_shards:
            text += (
                f"; {count(self.crowded_shards, 'shard')} already on each of them: "
                "a replica needs a server of its own"
            )
        return text


def plan(members: Sequence[Member], leaving: Set[str]) -> Plan:
    """Of a drain of the servers `leaving`, by uuid, together with drains that go on already."""
    goes = [one for one in members if one.uuid in leaving or one.draining]
    stays = [
        one
        for one in members
        if one.answer.state == pb.SERVER_STATE_ACTIVE and one.uuid not in leaving
    ]
    free = {one.uuid: one.free_bytes for one in stays}
    added: Counter[str] = Counter()
    shards = total = unplaced = unplaced_bytes = crowded = 0
    for size, holders, number in _groups(members, goes):
        shards += number
        total += size * number
        allowed = sorted(free.keys() - holders, key=lambda uuid: -free[uuid])
        if not allowed:
            crowded += number
        rest = number
        # Level the fullness: the emptiest first, down to what the next one has.
        while rest and allowed:
            allowed = [uuid for uuid in allowed if free[uuid] >= size]
            allowed.sort(key=lambda uuid: -free[uuid])
            share = max(1, rest // max(1, len(allowed)))
            for uuid in allowed:
                placed = min(rest, share, free[uuid] // size)
                free[uuid] -= placed * size
                added[uuid] += placed * size
                rest -= placed
        unplaced += rest
        unplaced_bytes += rest * size
    targets = tuple(Target(one.address, one.free_bytes, added[one.uuid]) for one in stays)
    return Plan(shards, total, unplaced, unplaced_bytes, crowded, targets)


def _groups(
    members: Sequence[Member], goes: Sequence[Member]
) -> list[tuple[int, frozenset[str], int]]:
    """Sizes, uuids of holders, numbers: of shards to move, the largest first."""
    holders: defaultdict[tuple[str, str, int], set[str]] = defaultdict(set)
    for one in members:
        for volume in one.answer.volumes:
            for shard in volume.shards:
                holders[volume.host_id, volume.device, shard].add(one.uuid)
    groups: Counter[tuple[int, frozenset[str]]] = Counter()
    for one in goes:
        for volume in one.answer.volumes:
            size = max(1, volume.bytes // max(1, len(volume.shards)))
            for shard in volume.shards:
                key = (volume.host_id, volume.device, shard)
                groups[size, frozenset(holders[key])] += 1
    return [(size, where, number) for (size, where), number in sorted(groups.items(), key=_by_size)]


def _by_size(group: tuple[tuple[int, frozenset[str]], int]) -> int:
    return -group[0][0]
