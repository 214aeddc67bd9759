"""Compares the pages on a swap device with the cgroups that the host daemon says they belong to.

Pages are those of stamped_pages.h: each stamp names the seed of the program that wrote it, and each
seed stands for a cgroup. Also a program, for a guest in which the daemon runs:

    slot_stamps.py [--host ADDR] --device /dev/nbd0 --owner SEED:CGROUP_ID...

which prints one JSON object with `right`, `crossed` and `unknown`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import mmap
import os
import struct
import time

from farswap.admin.session import Session
from farswap.v1 import host_admin_pb2 as pb

PAGE_BYTES = 4096
# What stamped_pages.h writes, and where.
STAMP = 0x66617273776F0000
SEED_MASK = 0xFFFF
STAMP_AT = struct.Struct("<24xQ")
RUN_SLOTS = 64
CALL_TIMEOUT_S = 60


@dataclasses.dataclass
class StampCount:
    """Stamped pages, by what the daemon says of them."""

    right: int = 0
    crossed: int = 0  # it names another cgroup
    unknown: int = 0  # it names none


def slot_owners(admin: str | None, slots: int) -> list[int]:
    """The cgroup id of each slot's page."""
    owners: list[int] = []
    with Session(admin, None, CALL_TIMEOUT_S).host() as host:
        while len(owners) < slots:
            request = pb.SlotOwnersRequest(first=len(owners), count=1 << 16)
            owners += host.client.call(host.stub.SlotOwners, request).cgroup_ids
    return owners


def compare(device: str, admin: str | None, seeds: dict[int, int]) -> StampCount:
    """`seeds` gives the cgroup id of each program; nothing may swap meanwhile."""
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
    # Aligned, as direct reads want it.
    buffer = mmap.mmap(-1, RUN_SLOTS * PAGE_BYTES)
    count = StampCount()
    try:
        slots = os.lseek(descriptor, 0, os.SEEK_END) // PAGE_BYTES
        owners = slot_owners(admin, slots)
        for first in range(0, slots, RUN_SLOTS):
            run = owners[first : first + RUN_SLOTS]
            if not any(run):
                continue
            os.preadv(descriptor, [buffer], first * PAGE_BYTES)
            for index, owner in enumerate(run):
                (stamp,) = STAMP_AT.unpack_from(buffer, index * PAGE_BYTES)
                if stamp & ~SEED_MASK != STAMP or stamp & SEED_MASK not in seeds:
                    continue
                if owner == seeds[stamp & SEED_MASK]:
                    count.right += 1
                elif owner == 0:
                    count.unknown += 1
                else:
                    count.crossed += 1
    finally:
        buffer.close()
        os.close(descriptor)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host")
    parser.add_argument("--device", required=True)
    parser.add_argument("--owner", action="append", required=True)
    arguments = parser.parse_args()
    seeds = dict(map(int, owner.split(":")) for owner in arguments.owner)
    started = time.monotonic()
    count = compare(arguments.device, arguments.host, seeds)
    seconds = int(time.monotonic() - started)
    print(json.dumps(dataclasses.asdict(count) | {"seconds": seconds}))


if __name__ == "__main__":
    main()
