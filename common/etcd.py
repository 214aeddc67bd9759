"""A client of etcd's public API, version 3: keys, leases, and watches of a prefix.

Generated from our own part of that API (etcd.proto) and called over grpc.aio: no library is needed.

Every call goes to the endpoint that answered last; when that fails, to each other one. Calls carry
`hasleader`, so that an etcd server cut off from its cluster refuses them instead of waiting.

`watch_prefix()` lists the records, then follows changes. Whenever its stream ends, for whatever
reason, it lists them again: an etcd that was compacted, replaced or emptied needs no case of its
own.

`away_s` and `problem` are the state for operators. It changes, and is logged, when no endpoint
answers a call, and when one answers again.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from farswap.common import log
from farswap.common.errors import FarswapError, RemoteError, TimedOutError
from farswap.common.rpc_client import error_of
from farswap.v1 import etcd_pb2 as pb
from farswap.v1 import etcd_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Mapping,
        Sequence,
    )
    from typing import Self

    from farswap.common.address import Address

    Records = Mapping[str, bytes]

    _Stream = grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse]

Answer = TypeVar("Answer")

_log = log.logger("etcd")

# etcd refuses clients that ping more often than every 5 s.
_PING_AFTER_MS = 10_000
_PING_TIMEOUT_MS = 5_000
_RECONNECT_MS_MAX = 2_000
# etcd refuses larger values; a listing has many small ones.
_MESSAGE_BYTES_MAX = 64 << 20

_METADATA = (("hasleader", "true"),)

# Clients of an etcd that restarts do not come back in step.
_RETRY_S = (0.5, 1.5)


class Etcd:
    """One etcd, by the client addresses of its servers.

    Used on one event loop; `away_s` and `problem` by any thread.
    """

    def __init__(self, endpoints: Sequence[Address], timeout_s: float = 3.0) -> None:
        self._endpoints = endpoints
        self._timeout_s = timeout_s
        self._channels = [_channel(endpoint) for endpoint in endpoints]
        self._current = 0
        self._away_since: float | None = time.monotonic()
        self.problem = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all calls."""
        for channel in self._channels:
            await channel.close(None)

    @property
    def away_s(self) -> float | None:
        """How long it has not answered; None if the last call was answered."""
        since = self._away_since  # read once: other threads ask
        return None if since is None else time.monotonic() - since

    # --- Calls. Without an answer of any endpoint, each raises the error of the first one.

    async def get(self, key: str) -> bytes | None:
        """The key's value, if it exists."""
        request = pb.RangeRequest(key=key.encode())
        answer = await self._call(lambda c: etcd_pb2_grpc.KVStub(c).Range, request)
        return answer.kvs[0].value if answer.kvs else None

    async def list_prefix(self, prefix: str) -> Records:
        """Values by key."""
        return _records(await self._range(prefix))

    async def put(self, key: str, value: bytes, lease: int = 0) -> None:
        """Sets the key. It is deleted with the lease, if one is given."""
        request = pb.PutRequest(key=key.encode(), value=value, lease=lease)
        await self._call(lambda c: etcd_pb2_grpc.KVStub(c).Put, request)

    async def grant_lease(self, ttl_s: int) -> int:
        """Id of a lease that ends after `ttl_s` without keep_alive()."""
        request = pb.LeaseGrantRequest(TTL=ttl_s)
        return int((await self._call(lambda c: etcd_pb2_grpc.LeaseStub(c).LeaseGrant, request)).ID)

    async def revoke_lease(self, lease: int) -> None:
        """Deletes the lease's keys."""
        request = pb.LeaseRevokeRequest(ID=lease)
        await self._call(lambda c: etcd_pb2_grpc.LeaseStub(c).LeaseRevoke, request)

    async def keep_alive(self, lease: int) -> bool:
        """False: the lease has ended."""

        async def renew(channel: grpc.aio.Channel) -> bool:
            # The call is a stream; a stream of one request needs no reader beside its writer.
            call = etcd_pb2_grpc.LeaseStub(channel).LeaseKeepAlive(
                iter([pb.LeaseKeepAliveRequest(ID=lease)]),
                timeout=self._timeout_s,
                metadata=_METADATA,
            )
            try:
                answer = await call.read()
                return isinstance(answer, pb.LeaseKeepAliveResponse) and answer.TTL > 0
            finally:
                call.cancel()

        return await self._try_each(renew)

    async def watch_prefix(self, prefix: str) -> AsyncGenerator[Records, None]:
        """All records below the prefix, again after each change; goes on while etcd is away.

        Callers close it (`aclosing`): its stream ends with it.
        Records may be the same as before. After an outage, earlier ones may be missing: an etcd
        that lost its data comes back empty.
        """
        while True:
            try:
                async with aclosing(self._follow(prefix)) as listings:
                    async for records in listings:
                        yield records
            except FarswapError:
                pass  # no endpoint answers: `problem`
            except grpc.aio.AioRpcError:
                self._use_next()
            await asyncio.sleep(random.uniform(*_RETRY_S))  # noqa: S311 - no secret

    # --- Internals

    async def _follow(self, prefix: str) -> AsyncGenerator[Records, None]:
        """Until the stream ends.

        The watch exists before the records are listed: an etcd that is replaced by another one in
        between, whose revisions mean other things, ends it.
        """
        async with self._stream(prefix) as stream:
            listing = await self._range(prefix)
            records = _records(listing)
            yield dict(records)
            while isinstance(response := await stream.read(), pb.WatchResponse):
                if response.canceled:
                    return
                for event in response.events:
                    if event.kv.mod_revision <= listing.header.revision:
                        continue
                    key = event.kv.key.decode(errors="replace")
                    if event.type == pb.Event.PUT:
                        records[key] = event.kv.value
                    else:
                        records.pop(key, None)
                if response.events:
                    yield dict(records)

    @asynccontextmanager
    async def _stream(self, prefix: str) -> AsyncIterator[_Stream]:
        """A watch that etcd has confirmed."""
        create = pb.WatchCreateRequest(
            key=prefix.encode(), range_end=_end_of(prefix), fragment=True
        )

        async def begin(channel: grpc.aio.Channel) -> _Stream:
            stream: _Stream = etcd_pb2_grpc.WatchStub(channel).Watch(metadata=_METADATA)
            try:
                async with asyncio.timeout(self._timeout_s):
                    # Raised by a write to a stream that has failed; read() raises the cause.
                    with suppress(asyncio.InvalidStateError):
                        await stream.write(pb.WatchRequest(create_request=create))
                    _check_created(await stream.read())
            except BaseException:
                stream.cancel()
                raise
            return stream

        stream = await self._try_each(begin)
        try:
            yield stream
        finally:
            stream.cancel()

    async def _range(self, prefix: str) -> pb.RangeResponse:
        request = pb.RangeRequest(key=prefix.encode(), range_end=_end_of(prefix))
        answer: pb.RangeResponse = await self._call(
            lambda c: etcd_pb2_grpc.KVStub(c).Range, request
        )
        return answer

    async def _call(
        self,
        method: Callable[[grpc.aio.Channel], Callable[..., Awaitable[Answer]]],
        request: object,
    ) -> Answer:
        async def call(channel: grpc.aio.Channel) -> Answer:
            return await method(channel)(request, timeout=self._timeout_s, metadata=_METADATA)

        return await self._try_each(call)

    async def _try_each(self, call: Callable[[grpc.aio.Channel], Awaitable[Answer]]) -> Answer:
        problems: list[FarswapError] = []
        while len(problems) < len(self._channels):
            try:
                answer = await call(self._channels[self._current])
            except (grpc.aio.AioRpcError, TimeoutError, RemoteError) as error:
                problems.append(self._error_of(error))
                self._use_next()
            else:
                self._note_answer()
                return answer
        self._note_failure("; ".join(map(str, problems)))
        raise problems[0]

    def _error_of(self, error: grpc.aio.AioRpcError | TimeoutError | RemoteError) -> FarswapError:
        peer = f"etcd {self._endpoints[self._current]}"
        if isinstance(error, grpc.aio.AioRpcError):
            return error_of(error, peer, self._timeout_s)
        if isinstance(error, RemoteError):
            return RemoteError(f"{peer}: {error}")
        return TimedOutError(f"{peer}: no answer within {self._timeout_s:g} s")

    def _use_next(self) -> None:
        self._current = (self._current + 1) % len(self._channels)

    def _note_answer(self) -> None:
        if self.problem:
            _log.info("etcd answers")
        self._away_since = None
        self.problem = ""

    def _note_failure(self, problem: str) -> None:
        if not self.problem:
            _log.warning("etcd does not answer", error=problem)
        if self._away_since is None:
            self._away_since = time.monotonic()
        self.problem = problem


def _channel(endpoint: Address) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        endpoint.grpc_target,
        options=[
            ("grpc.enable_http_proxy", 0),
            # Connections of its own: one that is shared with another client waits between attempts.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.default_authority", "localhost"),
            ("grpc.keepalive_time_ms", _PING_AFTER_MS),
            ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS_MAX // 4),
            ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS_MAX),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ],
    )


def _check_created(answer: object) -> None:
    if not isinstance(answer, pb.WatchResponse) or answer.canceled:
        raise RemoteError(f"watch refused: {getattr(answer, 'cancel_reason', 'no answer')}")


def _records(answer: pb.RangeResponse) -> dict[str, bytes]:
    return {item.key.decode(errors="replace"): item.value for item in answer.kvs}


def _end_of(prefix: str) -> bytes:
    """First key beyond the prefix. Prefixes end with "/", so that the last byte has a successor."""
    start = prefix.encode()
    return start[:-1] + bytes([start[-1] + 1])
