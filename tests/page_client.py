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


def make_page(slot: int, version: int, content: bytes | None = None) -> pb.Page:
    data = lz4.block.compress(content or page_content(slot, version), store_size=False)
    return pb.Page(
        slot=slot,
        version=version,
        codec=types_pb2.CODEC_LZ4,
        checksum=checksum(slot, types_pb2.CODEC_LZ4, data),
        data=data,
        stored_boot_s=1_700_000_000,
    )


def content_of(page: pb.Page) -> bytes:
    assert page.checksum == checksum(page.slot, page.codec, page.data)
    return lz4.block.decompress(page.data, uncompressed_size=PAGE_BYTES)


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
    """One host with one volume. Store, Fetch and Session have streams, made at their first use."""

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
        self._store: Stream | None = None
        self._fetch: Stream | None = None
        self._session: Stream | None = None
        self.volume_id = 0
        self.epoch = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._store, self._fetch, self._session):
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

    def batch(self, pages: Iterable[pb.Page], batch_id: int = 1) -> pb.StoreRequest:
        return pb.StoreRequest(
            batch_id=batch_id, volume_id=self.volume_id, epoch=self.epoch, pages=pages
        )

    def store(self, pages: Iterable[pb.Page]) -> pb.StoreResponse:
        if self._store is None:
            self._store = Stream(self.stub.Store)
        return self._store.ask(self.batch(pages))

    def fetch(self, slots: Sequence[int]) -> pb.FetchResponse:
        if self._fetch is None:
            self._fetch = Stream(self.stub.Fetch)
        return self._fetch.ask(
            pb.FetchRequest(request_id=1, volume_id=self.volume_id, epoch=self.epoch, slots=slots)
        )

    def fetch_contents(self, slots: Sequence[int]) -> list[bytes | None]:
        """Contents, verified; None for a page that is not there."""
        contents: list[bytes | None] = []
        for start in range(0, len(slots), 64):
            response = self.fetch(slots[start : start + 64])
            assert response.status == pb.STREAM_STATUS_OK
            for result in response.results:
                assert result.status in {pb.PAGE_STATUS_OK, pb.PAGE_STATUS_NOT_FOUND}
                found = result.status == pb.PAGE_STATUS_OK
                contents.append(content_of(result.page) if found else None)
        return contents

    def discard(self, items: Iterable[tuple[int, int]]) -> pb.DiscardResponse:
        request = pb.DiscardRequest(
            volume_id=self.volume_id,
            epoch=self.epoch,
            items=[pb.DiscardRequest.Item(slot=slot, version=version) for slot, version in items],
        )
        return self.stub.Discard(request, timeout=HANG_GUARD_S)
