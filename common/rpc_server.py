"""gRPC servers of the daemons' admin services, on grpc.aio.

An `RpcServer` has one listen address, its services, and the standard health and reflection ones.
Errors of farswap's tree become statuses here and nowhere else. Any other exception is a bug: it is
logged with its traceback and answered INTERNAL without details.

Each call of an audited method, one that changes something, is a log line: who, what, result.

Unix sockets are mode 0600: write permission is permission to operate the daemon. gRPC binds them in
a private directory, and they are renamed to their path (see unix_socket): this replaces a stale
socket, and other users can connect at no time.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import unquote

import grpc
import grpc.aio
from farswap.common import listening, log, text, unix_socket
from farswap.common.address import Address
from farswap.common.config_sections import KEEPALIVE_DEFAULT
from farswap.common.errors import BindError, FarswapError
from google.protobuf import descriptor_pool, text_format
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator

    from google.protobuf.message import Message

    _Handler = grpc.RpcMethodHandler[Any, Any]
    _Context = grpc.aio.ServicerContext[Any, Any]
    _Unary = Callable[[object, _Context], Awaitable[object]]
    _Stream = Callable[[object, _Context], AsyncGenerator[object, None]]
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor

_log = log.logger("admin")

# Far above the size of a status with thousands of connections.
_MESSAGE_BYTES_MAX = 4 << 20

# Clients ping during calls; gRPC's default would disconnect them for it.
_CLIENT_PING_INTERVAL_MS = 1000


class RpcServer:
    """A server that is built, then runs. `address` has the real port.

    The constructor raises BindError. Call it on the event loop that will serve.
    """

    def __init__(self, listen: Address, keepalive_ms: int = KEEPALIVE_DEFAULT) -> None:
        self._audited: set[str] = set()
        self._server = grpc.aio.server(
            interceptors=[_ErrorsToStatus(self._audited)],
            options=_options(listen, keepalive_ms),
            maximum_concurrent_rpcs=64,
        )
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.address = _bind(self._server, listen)
        if not listen.is_unix:
            listening.drop_vanished_at(self.address.port, keepalive_ms)

    def add(
        self,
        name: str,
        add_to_server: Callable[[Any, grpc.aio.Server], None],
        servicer: object,
        reads: Collection[str],
    ) -> None:
        """Adds a service by its generated add_..._to_server().

        `reads`: methods that change nothing. Calls of all others are audited.
        """
        add_to_server(servicer, self._server)
        self._names.append(name)
        methods = descriptor_pool.Default().FindServiceByName(name).methods_by_name
        self._audited |= {f"/{name}/{method}" for method in {*methods} - {*reads}}

    async def start(self) -> None:
        """Serves; every service reports SERVING."""
        reflection.enable_server_reflection(self._names, self._server)
        await self._server.start()
        for name in ["", *self._names]:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float = 2.0) -> None:
        """Reports NOT_SERVING at once; cancels calls after `grace_s`."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        if self.address.is_unix:
            unix_socket.remove(Path(self.address.path))


def _options(listen: Address, keepalive_ms: int) -> list[tuple[str, int]]:
    options = [
        # Two daemons on one port would each get a part of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.http2.min_ping_interval_without_data_ms", _CLIENT_PING_INTERVAL_MS),
        # For connections that do not start with HTTP/2.
        ("grpc.server_handshake_timeout_ms", keepalive_ms),
    ]
    if not listen.is_unix:
        # These also make gRPC set TCP_USER_TIMEOUT. The kernel reports the end of a unix peer.
        options += [
            ("grpc.keepalive_time_ms", keepalive_ms * 2 // 3),
            ("grpc.keepalive_timeout_ms", keepalive_ms // 3),
            ("grpc.http2.ping_timeout_ms", keepalive_ms // 3),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    return options


def _bind(server: grpc.aio.Server, listen: Address) -> Address:
    if listen.is_unix:
        with unix_socket.published(Path(listen.path)) as draft:
            try:
                server.add_insecure_port(Address(path=str(draft)).grpc_target)
            except RuntimeError as error:
                raise BindError(f"{listen}: {error}") from error
        return listen
    try:
        port = server.add_insecure_port(listen.grpc_target)
    except RuntimeError as error:
        raise BindError(f"{listen}: {_why_not_bound(listen)}") from error
    return listen.with_port(port)


def _why_not_bound(listen: Address) -> str:
    """gRPC hides the reason; binding a plain socket shows it."""
    try:
        family, kind, proto, _, target = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.bind(target)
            probe.listen()
    except OSError as error:
        return error.strerror or str(error)
    return "cannot be bound"


class _ErrorsToStatus(_Interceptor):
    """Wraps the behaviours of unary-unary and unary-stream methods, the only kinds used.

    `audited`: methods, as in URLs, whose calls are logged.
    """

    def __init__(self, audited: Collection[str]) -> None:
        self._audited = audited

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Called by grpc.aio for every call, before its behaviour."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/farswap."):
            return handler
        # In grpc.aio behaviours are coroutine functions; the library's types are wrong.
        if handler.unary_unary is not None:
            behaviour = cast("_Unary", handler.unary_unary)
            if method in self._audited:
                behaviour = _audit_unary(behaviour, method)
            return grpc.unary_unary_rpc_method_handler(
                cast("Any", _guard_unary(behaviour, method)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_stream is not None:
            responses = cast("_Stream", handler.unary_stream)
            if method in self._audited:
                responses = _audit_stream(responses, method)
            return grpc.unary_stream_rpc_method_handler(
                cast("Any", _guard_stream(responses, method)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return handler


@contextlib.contextmanager
def _audit(request: object, context: _Context, method: str) -> Generator[None]:
    """Logs who calls what, and how it ends."""
    # At the end of a cancelled call its context may be gone: peer() would crash the process.
    by = unquote(context.peer())
    result = "cancelled; it may have taken effect"
    try:
        yield
        result = "done"
    except Exception as error:
        result = f"failed: {error}" if isinstance(error, FarswapError) else "internal error"
        raise
    finally:
        fields = text_format.MessageToString(cast("Message", request), as_one_line=True)
        _log.info(
            "administration",
            by=by,
            call=method.rpartition("/")[2],
            **({"request": fields} if fields else {}),
            result=result,
        )


def _audit_unary(behaviour: _Unary, method: str) -> _Unary:
    async def audited(request: object, context: _Context) -> object:
        with _audit(request, context, method):
            return await behaviour(request, context)

    return audited


def _audit_stream(behaviour: _Stream, method: str) -> _Stream:
    async def audited(request: object, context: _Context) -> AsyncGenerator[object, None]:
        with _audit(request, context, method):
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    return audited


def _guard_unary(behaviour: _Unary, method: str) -> _Unary:
    async def guarded(request: object, context: _Context) -> object:
        try:
            return await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - the boundary where all errors become statuses
            return await _abort(error, method, context)

    return guarded


def _guard_stream(behaviour: _Stream, method: str) -> _Stream:
    async def guarded(request: object, context: _Context) -> AsyncGenerator[object, None]:
        try:
            # Closed at once when the call is cancelled, not by the garbage collector.
            async with contextlib.aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:  # noqa: BLE001 - the boundary where all errors become statuses
            await _abort(error, method, context)

    return guarded


async def _abort(error: Exception, method: str, context: _Context) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, FarswapError):
        await context.abort(grpc.StatusCode[error.status], text.utf8(str(error)))
    _log.error("internal error in RPC handler", method=method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "internal error; see the daemon's log")
