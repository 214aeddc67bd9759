"""farswap-server keeps what it acknowledged: over restarts and kills, full or not, and as an
independent reader of its files sees it.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from typing import TYPE_CHECKING

import grpc
import lz4.block
from farswap.v1 import page_store_pb2 as pb
from farswap.v1 import server_admin_pb2, server_admin_pb2_grpc
from hang_guard import HANG_GUARD_S
from page_client import (
    PAGE_BYTES,
    RECORD_OVERHEAD_BYTES,
    PageClient,
    checksum,
    make_object,
    page_content,
)
from rocksdict import AccessType, Options, Rdict

if TYPE_CHECKING:
    from conftest import MakeServer
    from daemons import MemoryServer

# As documented in native/store/record.h: format, codec, length, checksum, version, stored_boot_s.
HEADER = struct.Struct("<BBHIQI")


def server_status(server: MemoryServer) -> server_admin_pb2.ServerStatus:
    with grpc.insecure_channel(server.admin) as channel:
        stub = server_admin_pb2_grpc.ServerAdminStub(channel)
        return stub.Status(
            server_admin_pb2.ServerStatusRequest(), timeout=HANG_GUARD_S, wait_for_ready=True
        )


def read_store(path: str) -> dict[tuple[int, int], bytes]:
    """(volume, slot) -> value of every page, by a RocksDB that is not ours."""
    db = Rdict(path, Options(raw_mode=True), access_type=AccessType.read_only())
    try:
        return {struct.unpack(">QQ", key): value for key, value in db.items()}
    finally:
        db.close()


def test_an_independent_reader_finds_every_page_as_it_was_sent(memory_server: MakeServer) -> None:
    server = memory_server()
    with PageClient(server.pages) as client:
        client.open()
        for start in range(0, 1000, 250):
            response = client.put(make_object(slot, 7) for slot in range(start, start + 250))
            assert set(response.results) == {pb.OBJECT_STATUS_OK}
        used_bytes = response.used_bytes
        volume_id = client.volume_id
    assert server.stop() == 0
    stored = read_store(server.store_path)
    assert sorted(stored) == [(volume_id, slot) for slot in range(1000)]
    for (_, slot), value in stored.items():
        header, data = HEADER.unpack(value[: HEADER.size]), value[HEADER.size :]
        assert header == (1, 2, len(data), checksum(slot, 2, data), 7, 1_700_000_000)
        assert lz4.block.decompress(data, PAGE_BYTES) == page_content(slot, 7)
    assert used_bytes == sum(16 + len(value) for value in stored.values())


def test_a_restarted_server_serves_every_page_to_the_same_incarnation(
    memory_server: MakeServer,
) -> None:
    server = memory_server()
    with PageClient(server.pages) as client:
        first = client.open()
        client.put(make_object(slot, 1) for slot in range(256))
    assert server.stop() == 0
    server.start()
    with PageClient(server.pages) as client:
        second = client.open()
        assert second.volume_id == first.volume_id
        assert second.epoch == first.epoch, "by the same nonce"
        assert second.used_bytes > 0
        assert client.get_contents(range(256)) == [page_content(slot, 1) for slot in range(256)]
        status = server_status(server)
        assert status.used_bytes == second.used_bytes
        assert [volume.pages for volume in status.volumes] == [256]


def test_sigkill_in_the_middle_of_stores_loses_no_acknowledged_page(
    memory_server: MakeServer,
) -> None:
    server = memory_server(store={"capacity": "1GiB"})
    for round_number in range(1, 4):
        acknowledged = 0
        enough = threading.Event()

        def kill_when_enough(event: threading.Event = enough) -> None:
            assert event.wait(30)
            server.kill()

        killer = threading.Thread(target=kill_when_enough)
        killer.start()
        with PageClient(server.pages) as client, contextlib.suppress(grpc.RpcError):
            client.open()
            while True:
                start = acknowledged * 32
                slots = range(start, start + 32)
                response = client.put(make_object(slot, round_number) for slot in slots)
                assert set(response.results) == {pb.OBJECT_STATUS_OK}
                acknowledged += 1
                if acknowledged == 20:
                    enough.set()
        killer.join()
        assert acknowledged >= 20
        server.start()
        with PageClient(server.pages) as client:
            client.open()
            slots = range(acknowledged * 32)
            contents = client.get_contents(slots)
            assert contents == [page_content(slot, round_number) for slot in slots]
    before = server_status(server)
    assert server.stop() == 0
    stored = read_store(server.store_path)
    assert before.pages == len(stored)
    assert before.used_bytes == sum(16 + len(value) for value in stored.values())


def test_a_full_server_refuses_growth_and_reports_how_full_it_is(memory_server: MakeServer) -> None:
    server = memory_server(store={"capacity": "2MiB"})
    with PageClient(server.pages) as client:
        opened = client.open()
        assert opened.capacity_bytes == 2 << 20
        kept: list[int] = []
        used_bytes = 0
        for start in range(0, 1024, 256):
            objects = [make_object(slot, 1) for slot in range(start, start + 256)]
            response = client.put(objects)
            for sent, result in zip(objects, response.results, strict=True):
                if result == pb.OBJECT_STATUS_OK:
                    kept.append(sent.key)
                    used_bytes += RECORD_OVERHEAD_BYTES + len(sent.bytes)
                else:
                    assert result == pb.OBJECT_STATUS_FULL
            assert response.used_bytes == used_bytes <= 2 << 20
        assert 0 < len(kept) < 1024
        # What does not grow is taken; what is discarded makes room.
        same = make_object(kept[0], 2, page_content(kept[0], 1))
        assert client.put([same]).results == [pb.OBJECT_STATUS_OK]
        assert client.discard([(kept[1], 1)]).discarded == 1
        again = make_object(kept[1], 2, page_content(kept[1], 1))
        assert client.put([again]).results == [pb.OBJECT_STATUS_OK]
        status = server_status(server)
        assert status.used_bytes == used_bytes
        assert status.pages == len(kept)


def test_a_new_incarnation_starts_empty_and_the_old_one_is_refused(
    memory_server: MakeServer,
) -> None:
    server = memory_server()
    with PageClient(server.pages) as old, PageClient(server.pages, incarnation=b"j" * 16) as new:
        old.open()
        old.put(make_object(slot, 1) for slot in range(64))
        new.open(take_over=True)
        assert new.volume_id != old.volume_id
        assert new.get_contents(range(64)) == [None] * 64
        assert old.put([make_object(1, 9)]).status in {
            pb.CALL_STATUS_FENCED,
            pb.CALL_STATUS_UNKNOWN_VOLUME,
        }
        assert old.open().status == pb.OPEN_STATUS_FENCED
