"""A HostEngine of Python objects, for tests of what stands around the engine.

Sockets that it is given are kept open until they are closed by the test or by the peer; writeback
moves `writeback_step_bytes` at each look at its progress.
"""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace

PAGE_BYTES = 4096


def memory_server(**changed: object) -> SimpleNamespace:
    """What servers() says of one that is connected."""
    made = {
        "address": "10.0.0.7:7070",
        "state": "active",
        "connected": True,
        "capacity_bytes": 100,
        "used_bytes": 50,
        "epoch": 1,
        "reconnects": 0,
        "last_error": "",
        "disconnected_ms": 0,
        "shards": 0,
        "uuid": "00" * 16,
        "owner_name": "",
        "owner_address": "",
        "lost_shards": 0,
        "unclean_restarts": 0,
    }
    return SimpleNamespace(**(made | changed))


class FakeEngine:
    def __init__(self, *, slots: int = 1024, writeback_step_bytes: int = PAGE_BYTES) -> None:
        self.incarnation = bytes(range(16))
        self.slots = slots
        self.served: dict[int, tuple[int, str]] = {}
        self.stopped = False
        self.serve_error: Exception | None = None
        self.writeback_step_bytes = writeback_step_bytes
        self.writeback_ends = ""  # at once, with this reason, before anything has moved
        self.writeback_cancelled = threading.Event()
        self.server_list: list[SimpleNamespace] = []
        # Overrides of stats(), the result of cgroups(), the arguments of set_...().
        self.changed_stats: dict[str, int] = {}
        self.group_records: list[SimpleNamespace] = []
        self.settings: dict[str, tuple] = {}
        self.writeback_asked: tuple[int, int, int] | None = None
        self._writeback: SimpleNamespace | None = None
        self.attributed: list[tuple[tuple[int, int], str, bool]] = []
        self.attribution_problem = ""
        self.label = 0
        self._next_id = 1

    def serve(self, fd: int, initial: bytes, peer: str) -> int:
        if self.serve_error is not None:
            os.close(fd)
            raise self.serve_error
        assert initial == b""
        self.served[self._next_id] = (fd, peer)
        self._next_id += 1
        return self._next_id - 1

    def connections(self):
        return [
            SimpleNamespace(id=id_, peer=peer, requests=7, errors=0)
            for id_, (_, peer) in self.served.items()
        ]

    def close_connection(self, id_: int) -> bool:
        entry = self.served.pop(id_, None)
        if entry is None:
            return False
        os.close(entry[0])
        return True

    def wait_connection(self, id_: int, timeout_ms: int) -> bool:
        return id_ not in self.served

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

    def cgroups(self):
        return self.group_records

    def set_compressor(self, codec: str, level: int) -> None:
        self.settings["compressor"] = (codec, level)

    def set_recompress(self, codec: str, level: int) -> None:
        self.settings["recompress"] = (codec, level)

    def set_packing(self, on: bool) -> None:
        self.settings["packing"] = on

    def set_limits(self, pool_limit_bytes: int, accept_threshold_percent: int) -> None:
        self.settings["limits"] = (pool_limit_bytes, accept_threshold_percent)
        self.changed_stats |= {
            "pool_limit_bytes": pool_limit_bytes,
            "accept_threshold_percent": accept_threshold_percent,
        }

    def servers(self):
        return self.server_list

    def explain(self, slot: int):
        return SimpleNamespace(
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
            server="127.0.0.1:7070",
        )

    def start_writeback(self, bytes_: int, cgroup: int = 0, older_than_s: int = 0) -> bool:
        if self._writeback is not None and not self._writeback.finished:
            return False
        self.writeback_asked = (bytes_, cgroup, older_than_s)
        self._writeback = SimpleNamespace(
            target_bytes=bytes_,
            written_bytes=0,
            sent_bytes=0,
            finished=bool(self.writeback_ends),
            stopped_because=self.writeback_ends,
        )
        return True

    def cancel_writeback(self) -> None:
        self.writeback_cancelled.set()
        if self._writeback is not None:
            self._writeback.finished = True
            self._writeback.stopped_because = "cancelled"

    def writeback_progress(self):
        job = self._writeback
        assert job is not None
        if not job.finished:
            job.written_bytes = min(job.target_bytes, job.written_bytes + self.writeback_step_bytes)
            job.sent_bytes = job.written_bytes // 3
            job.finished = job.written_bytes == job.target_bytes
        return job

    def place_cgroup(self, id_: int, parent: int) -> bool:
        return True

    def slot_owners(self, first: int, count: int) -> list[int]:
        return [4711] * count

    def attribute(self, device: tuple[int, int], pin_directory: str, free_hook: bool):
        self.attributed.append((device, pin_directory, free_hook))
        return self.attribution()

    def attribution(self):
        by_bpf = bool(self.attributed) and not self.attribution_problem
        return SimpleNamespace(
            source="bpf" if by_bpf else "label" if self.label else "root",
            free_hook="swap_entries_free" if by_bpf else "",
            problem=self.attribution_problem,
            events=3,
            pages=100,
            unattributed=2,
            ring_full=0,
        )

    def stop_attribution(self) -> None:
        self.attributed.clear()

    def set_label(self, id_: int) -> None:
        self.label = id_

    def stop(self) -> None:
        for id_ in list(self.served):
            self.close_connection(id_)
        self.stopped = True
