"""A host of the page protocol in a few lines of Python, independent of the native one: gRPC's
Python, PyPI's lz4 and xxhash. For tests of farswap-server.
"""

from __future__ import annotations

import random
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Self

import grpc
import lz4.block
import xxhash
from farswap.v1 import page_store_pb2 as pb
from farswap.v1 import page_store_pb2_grpc, types_pb2
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PAGE_BYTES = 4096
# What a page costs beside its bytes: key and record header (native/store/record.h).
RECORD_OVERHEAD_BYTES = 36


def page_content(slot: int, version: int) -> bytes:
    """4096 bytes that compress to about a half, and that no other slot or version has."""
    noise = random.Random(slot << 32 | version).randbytes(PAGE_BYTES // 2)
    return noise + bytes([slot % 256]) * (PAGE_BYTES // 2)


def checksum(slot: int, codec: int, data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data, seed=slot | codec << 32) & 0xFFFFFFFF


def make_object(slot: int, version: int, content: bytes | None = None) -> pb.Object:
    data = lz4.block.compress(content or page_content(slot, version), store_size=False)
    return pb.Object(
        key=slot,
        version=version,
        codec=types_pb2.CODEC_LZ4,
        checksum=checksum(slot, types_pb2.CODEC_LZ4, data),
        bytes=data,
        stored_boot_s=1_700_000_000,
    )


def content_of(kept: pb.Object) -> bytes:
    assert kept.checksum == checksum(kept.key, kept.codec, kept.bytes)
    return lz4.block.decompress(kept.bytes, uncompressed_size=PAGE_BYTES)


class Stream:
    """A bidirectional stream used as calls: send one, get one."""

    def __init__(self, method: Any) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self.call = method(iter(self._requests.get, None), timeout=HANG_GUARD_S)

    def ask(self, request: Any) -> Any:
        self.send(request)
        return next(self.call)

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def end(self) -> None:
        self._requests.put(None)


class PageClient:
    """One host with one volume. Put, Get and Session have streams, made at their first use."""

    def __init__(
        self, address: str, host_id: str = "tester", incarnation: bytes = b"i" * 16
    ) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options=options)
        self.stub = page_store_pb2_grpc.PageStoreStub(self._channel)
        self._identity = {
            "host_id": host_id,
            "device": "swap0",
            "incarnation": incarnation,
            "session_nonce": b"n" * 16,
            "protocol_min": 2,
            "protocol_max": 2,
            "host_name": f"{host_id}.example",
        }
        self._put: Stream | None = None
        self._get: Stream | None = None
        self._session: Stream | None = None
        self.volume_id = 0
        self.epoch = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._put, self._get, self._session):
            if stream is not None:
                stream.end()
        self._channel.close()

    def open(self, slots: int = 1 << 20, **changed: Any) -> pb.OpenVolumeResponse:
        request = pb.OpenVolumeRequest(slots=slots, **(self._identity | changed))
        opened = self.stub.OpenVolume(request, timeout=HANG_GUARD_S, wait_for_ready=True)
        self.volume_id, self.epoch = opened.volume_id, opened.epoch
        return opened

    def beat(self, sequence: int = 1) -> pb.SessionResponse:
        """A sign of life."""
        if self._session is None:
            self._session = Stream(self.stub.Session)
        return self._session.ask(
            pb.SessionRequest(sequence=sequence, volume_id=self.volume_id, epoch=self.epoch)
        )

    def batch(self, objects: Iterable[pb.Object]) -> pb.PutRequest:
        return pb.PutRequest(
            batch_id=1, volume_id=self.volume_id, epoch=self.epoch, objects=objects
        )

    def put(self, objects: Iterable[pb.Object]) -> pb.PutResponse:
        if self._put is None:
            self._put = Stream(self.stub.Put)
        return self._put.ask(self.batch(objects))

    def get(self, keys: Sequence[int]) -> pb.GetResponse:
        if self._get is None:
            self._get = Stream(self.stub.Get)
        return self._get.ask(
            pb.GetRequest(request_id=1, volume_id=self.volume_id, epoch=self.epoch, keys=keys)
        )

    def get_contents(self, keys: Sequence[int]) -> list[bytes | None]:
        """Contents, verified; None for a page that is not there."""
        contents: list[bytes | None] = []
        for start in range(0, len(keys), 64):
            response = self.get(keys[start : start + 64])
            assert response.status == pb.CALL_STATUS_OK
            for result in response.results:
                assert result.status in {pb.OBJECT_STATUS_OK, pb.OBJECT_STATUS_NOT_FOUND}
                found = result.status == pb.OBJECT_STATUS_OK
                contents.append(content_of(result.object) if found else None)
        return contents

    def discard(self, items: Iterable[tuple[int, int]]) -> pb.DiscardResponse:
        request = pb.DiscardRequest(
            volume_id=self.volume_id,
            epoch=self.epoch,
            items=[pb.DiscardRequest.Item(key=key, version=version) for key, version in items],
        )
        return self.stub.Discard(request, timeout=HANG_GUARD_S)
