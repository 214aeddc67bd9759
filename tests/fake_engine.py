"""A HostEngine of Python objects, for tests of what stands around the engine.

Sockets that it is given are kept open until they are closed by the test or by the peer; writeback
moves `writeback_step_bytes` at each look at its progress.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from farswap import native
from native_double import EngineDouble, StateDouble, override, record

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE_BYTES = 4096


def memory_server(**changed: object) -> native.MemoryServer:
    """What servers() says of one that is connected."""
    made: dict[str, object] = {
        "address": "10.0.0.7:7070",
        "failure_domain": "00" * 16,
        "labels": {},
        "state": "active",
        "connected": True,
        "capacity_bytes": 100,
        "used_bytes": 50,
        "epoch": 1,
        "reconnects": 0,
        "last_error": "",
        "disconnected_ms": 0,
        "shards": 0,
        "last_shards": 0,
        "uuid": "00" * 16,
        "owner_name": "",
        "owner_address": "",
        "lost_shards": 0,
        "unclean_restarts": 0,
        "hedged_fetches": 0,
        "fetch_p99_us": 0,
        "at_quota": False,
    }
    return record(native.MemoryServer, **(made | changed))


def placement(**changed: object) -> native.Placement:
    """What placement() says when each shard has its one replica."""
    made: dict[str, object] = {"replicas": 1, "spread": "host"}
    made |= {"debt_shards": 0, "lost_shards": 0, "copies": 0}
    made |= {"repaired_objects": 0, "failed_repairs": 0, "missing_pages": 0}
    made |= {"domains": 3, "crowded_shards": 0}
    return record(native.Placement, **(made | changed))


class FakeState(StateDouble):
    """Of a fresh device."""

    incarnation = bytes(range(16))
    memory = ("private", -1)
    takeovers = 0
    note = b""

    @override
    def note_down(self, note: bytes) -> bool:
        self.note = note
        return True

    @override
    def remove(self) -> None:
        pass


class FakeEngine(EngineDouble):
    def __init__(self, *, slots: int = 1024, writeback_step_bytes: int = PAGE_BYTES) -> None:
        self.slots = slots
        self._state = FakeState()
        self.served: dict[int, tuple[int, str]] = {}
        self.stopped = False
        self.initial: bytes | None = None  # of the last socket
        self.serve_error: Exception | None = None
        self.writeback_step_bytes = writeback_step_bytes
        self.writeback_ends = ""  # at once, with this reason, before anything has moved
        self.writeback_cancelled = threading.Event()
        self.server_list: list[native.MemoryServer] = []
        self.placed = placement()
        # Overrides of stats(), the result of cgroups(), the arguments of set_...().
        self.changed_stats: dict[str, int] = {}
        self.group_records: list[native.CgroupRecord] = []
        self.settings: dict[str, object] = {}
        self.writeback_asked: tuple[int, int, int] | None = None
        self._writeback: Any = None
        self.attributed: list[tuple[tuple[int, int], str, bool]] = []
        self.attribution_problem = ""
        self.label = 0
        self._next_id = 1

    @property
    @override
    def state(self) -> FakeState:
        return self._state

    @override
    def serve(self, fd: int, initial: bytes, peer: str) -> int:
        if self.serve_error is not None:
            os.close(fd)
            raise self.serve_error
        self.initial = initial
        self.served[self._next_id] = (fd, peer)
        self._next_id += 1
        return self._next_id - 1

    @override
    def connections(self) -> list[native.NbdConnection]:
        return [
            record(native.NbdConnection, id=id_, peer=peer, requests=7, errors=0)
            for id_, (_, peer) in self.served.items()
        ]

    @override
    def close_connection(self, id_: int) -> bool:
        entry = self.served.pop(id_, None)
        if entry is None:
            return False
        os.close(entry[0])
        return True

    @override
    def wait_connection(self, id_: int, timeout_ms: int) -> bool:
        return id_ not in self.served

    @override
    def stats(self) -> dict[str, int]:
        return {
            "pool_limit_bytes": 64 << 20,
            "pool_used_bytes": 3 << 20,
            "pool_entry_bytes": 2 << 20,
            "pool_payload_bytes": 2_000_000,
            "metadata_bytes": self.slots * 32,
            "same_filled_pages": 10,
            "local_pages": 1000,
            "writing_pages": 5,
            "clean_pages": 0,
            "remote_pages": 2000,
            "raw_pages": 20,
            "shrinking": 0,
            "accept_threshold_percent": 90,
            "stores": 4000,
            "overwrites": 900,
            "trims": 85,
            "loads_remote": 12,
            "remote_wait_us": 2_500_000,
            "fail_checksum": 0,
        } | self.changed_stats

    @override
    def cgroups(self) -> list[native.CgroupRecord]:
        return self.group_records

    @override
    def set_compressor(self, codec: str, level: int) -> None:
        self.settings["compressor"] = (codec, level)

    @override
    def set_recompress(self, codec: str, level: int) -> None:
        self.settings["recompress"] = (codec, level)

    @override
    def set_packing(self, on: bool) -> None:
        self.settings["packing"] = on

    @override
    def set_limits(self, pool_limit_bytes: int, accept_threshold_percent: int) -> None:
        self.settings["limits"] = (pool_limit_bytes, accept_threshold_percent)
        self.changed_stats |= {
            "pool_limit_bytes": pool_limit_bytes,
            "accept_threshold_percent": accept_threshold_percent,
        }

    @override
    def servers(self) -> list[native.MemoryServer]:
        return self.server_list

    @override
    def list_servers(self, addresses: Sequence[str]) -> None:
        known = {server.address for server in self.server_list}
        self.server_list += [
            memory_server(address=address) for address in addresses if address not in known
        ]

    @override
    def placement(self) -> native.Placement:
        return self.placed

    @override
    def explain(self, slot: int) -> native.SlotExplanation:
        return record(
            native.SlotExplanation,
            slot=slot,
            state="local",
            version=3,
            codec=2,
            size_bytes=1234,
            stored_boot_s=int(time.clock_gettime(time.CLOCK_BOOTTIME)) - 60,
            fill=0,
            referenced=True,
            verified=True,
            problem="",
            replicas=[
                record(native.Replica, address="127.0.0.1:7070", state="current"),
                record(native.Replica, address="127.0.0.2:7070", state="joining"),
            ],
        )

    @override
    def start_writeback(self, bytes_: int, cgroup: int = 0, older_than_s: int = 0) -> bool:
        if self._writeback is not None and not self._writeback.finished:
            return False
        self.writeback_asked = (bytes_, cgroup, older_than_s)
        self._writeback = record(
            native.WritebackProgress,
            target_bytes=bytes_,
            written_bytes=0,
            sent_bytes=0,
            finished=bool(self.writeback_ends),
            stopped_because=self.writeback_ends,
        )
        return True

    @override
    def cancel_writeback(self) -> None:
        self.writeback_cancelled.set()
        if self._writeback is not None:
            self._writeback.finished = True
            self._writeback.stopped_because = "cancelled"

    @override
    def writeback_progress(self) -> native.WritebackProgress:
        job: Any = self._writeback
        assert job is not None
        if not job.finished:
            job.written_bytes = min(job.target_bytes, job.written_bytes + self.writeback_step_bytes)
            job.sent_bytes = job.written_bytes // 3
            job.finished = job.written_bytes == job.target_bytes
        progress: native.WritebackProgress = job
        return progress

    @override
    def place_cgroup(self, id_: int, parent: int) -> bool:
        return True

    @override
    def slot_owners(self, first: int, count: int) -> list[int]:
        return [4711] * count

    @override
    def attribute(
        self, device: tuple[int, int], pin_directory: str, free_hook: bool
    ) -> native.Attribution:
        self.attributed.append((device, pin_directory, free_hook))
        return self.attribution()

    @override
    def attribution(self) -> native.Attribution:
        by_bpf = bool(self.attributed) and not self.attribution_problem
        return record(
            native.Attribution,
            source="bpf" if by_bpf else "label" if self.label else "root",
            free_hook="swap_entries_free" if by_bpf else "",
            problem=self.attribution_problem,
            events=3,
            pages=100,
            unattributed=2,
            ring_full=0,
        )

    @override
    def stop_attribution(self) -> None:
        self.attributed.clear()

    @override
    def set_label(self, id_: int) -> None:
        self.label = id_

    @override
    def stop(self) -> None:
        for id_ in list(self.served):
            self.close_connection(id_)
        self.stopped = True
