"""farswap-server against hosts that break the page protocol: each gets a clear answer, and another
host at work all the while notices nothing.
"""

from __future__ import annotations

import random
import socket
import threading
from typing import TYPE_CHECKING

import grpc
import pytest
from farswap.v1 import page_store_pb2 as pb
from farswap.v1 import types_pb2
from hang_guard import HANG_GUARD_S
from page_client import PageClient, Stream, checksum, make_object, page_content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import MakeServer
    from daemons import MemoryServer


@pytest.fixture
def server(memory_server: MakeServer) -> Iterator[MemoryServer]:
    """A server with another host at work on it, which must see no error until the test ends."""
    server = memory_server()
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with PageClient(server.pages, host_id="bystander") as client:
                client.open()
                version = 0
                while not stop.is_set():
                    version += 1
                    response = client.put(make_object(slot, version) for slot in range(32))
                    assert set(response.results) == {pb.OBJECT_STATUS_OK}
                    contents = client.get_contents(range(32))
                    assert contents == [page_content(slot, version) for slot in range(32)]
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            failures.append(error)

    bystander = threading.Thread(target=work)
    bystander.start()
    yield server
    stop.set()
    bystander.join(30)
    assert not failures, failures
    assert not bystander.is_alive()
    assert server.running


def raw_object(slot: int, data: bytes, codec: int = types_pb2.CODEC_RAW) -> pb.Object:
    return pb.Object(
        key=slot, version=1, codec=codec, checksum=checksum(slot, codec, data), bytes=data
    )


def test_each_garbage_page_is_invalid_and_its_neighbours_are_kept(server: MemoryServer) -> None:
    wrong_checksum = make_object(1, 1)
    wrong_checksum.checksum ^= 0x80000000
    other_slots = make_object(2, 1)
    other_slots.key = 3
    bad = [
        wrong_checksum,
        other_slots,
        raw_object(4, b"short"),
        raw_object(5, b""),
        raw_object(6, b"x" * 4097, types_pb2.CODEC_LZ4),
        raw_object(7, b"x" * 100, 0),
        raw_object(8, b"x" * 100, 99),
        make_object(1 << 20, 1),
        pb.Object(),
    ]
    with PageClient(server.pages) as client:
        client.open(slots=1 << 20)
        for damaged in bad:
            response = client.put([make_object(100, 1), damaged, make_object(101, 1)])
            assert list(response.results) == [
                pb.OBJECT_STATUS_OK,
                pb.OBJECT_STATUS_INVALID,
                pb.OBJECT_STATUS_OK,
            ]
        assert client.get_contents([1, 2, 3, 4, 5, 6, 7, 8, 0]) == [None] * 9


def test_wrong_limits_are_refused_and_the_stream_goes_on(server: MemoryServer) -> None:
    with PageClient(server.pages) as client:
        client.open()
        assert client.put([make_object(1, 1)] * 257).status == pb.CALL_STATUS_INVALID
        assert client.put([]).status == pb.CALL_STATUS_OK
        assert client.put([make_object(1, 1)] * 256).status == pb.CALL_STATUS_OK
        assert client.get([]).status == pb.CALL_STATUS_INVALID
        assert client.get([1] * 65).status == pb.CALL_STATUS_INVALID
        assert client.get([1] * 64).status == pb.CALL_STATUS_OK
        assert client.discard([(1, 0)] * 4097).status == pb.CALL_STATUS_INVALID
        assert client.discard([(1 << 20, 0)]).status == pb.CALL_STATUS_INVALID
        assert client.discard([(1, 0)] * 4096).status == pb.CALL_STATUS_OK


def test_open_with_a_bad_field_is_invalid_argument(server: MemoryServer) -> None:
    bad: list[dict[str, object]] = [
        {"host_id": ""},
        {"host_id": "h" * 129},
        {"device": ""},
        {"device": "d" * 129},
        {"incarnation": b""},
        {"incarnation": b"i" * 15},
        {"incarnation": b"i" * 17},
        {"session_nonce": b""},
        {"session_nonce": b"n" * 17},
        {"host_name": "h" * 129},
        {"slots": 0},
        {"slots": (1 << 31) + 1},
    ]
    with PageClient(server.pages) as client:
        for changed in bad:
            with pytest.raises(grpc.RpcError) as caught:
                client.open(**changed)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, changed
            assert next(iter(changed)) in caught.value.details(), changed


def test_wrong_epochs_and_volumes_write_nothing(server: MemoryServer) -> None:
    with PageClient(server.pages) as client:
        client.open()
        volume_id = client.open(session_nonce=b"m" * 16, takeover_count=1).volume_id
        epoch = client.epoch
        for wrong_volume, wrong_epoch, expected in (
            (volume_id, epoch - 1, pb.CALL_STATUS_FENCED),
            (volume_id, 0, pb.CALL_STATUS_FENCED),
            (volume_id, epoch + 1, pb.CALL_STATUS_UNKNOWN_VOLUME),
            (volume_id ^ 1, epoch, pb.CALL_STATUS_UNKNOWN_VOLUME),
            (0, 0, pb.CALL_STATUS_UNKNOWN_VOLUME),
        ):
            client.volume_id, client.epoch = wrong_volume, wrong_epoch
            assert client.put([make_object(1, 1)]).status == expected
            assert client.get([1]).status == expected
            assert client.discard([(1, 1)]).status == expected
            assert client.beat().status == expected
        client.volume_id, client.epoch = volume_id, epoch
        assert client.get_contents([1]) == [None]


def test_huge_messages_end_their_stream_alone(server: MemoryServer) -> None:
    with PageClient(server.pages) as client:
        client.open()
        for _ in range(5):
            stream = Stream(client.stub.Put)
            stream.send(client.batch([pb.Object(bytes=b"x" * (8 << 20))]))
            with pytest.raises(grpc.RpcError) as caught:
                next(stream.call)
            stream.end()
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.put([make_object(1, 1)]).results == [pb.OBJECT_STATUS_OK]


def test_cancelled_streams_leave_whole_batches(server: MemoryServer) -> None:
    with PageClient(server.pages) as client:
        client.open()
        for version in range(1, 30):
            stream = Stream(client.stub.Put)
            stream.send(client.batch(make_object(slot, version) for slot in range(64)))
            stream.call.cancel()
            stream.end()
        results = client.get(range(64)).results
        assert len({result.object.version for result in results}) == 1


def test_bytes_that_are_not_http2_and_half_open_connections_do_no_harm(
    server: MemoryServer,
) -> None:
    host, _, port = server.pages.rpartition(":")
    noise = random.Random(1)
    idle = [socket.create_connection((host, int(port)), timeout=HANG_GUARD_S) for _ in range(50)]
    for _ in range(50):
        with socket.create_connection((host, int(port)), timeout=HANG_GUARD_S) as connection:
            try:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: noise.randrange(25)])
                connection.sendall(noise.randbytes(noise.randrange(1, 4096)))
            except OSError:
                continue
    with PageClient(server.pages) as client:
        client.open()
        assert client.put([make_object(1, 1)]).results == [pb.OBJECT_STATUS_OK]
    for connection in idle:
        connection.close()
