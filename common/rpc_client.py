"""Calls of an admin service: blocking, with a deadline, with errors of farswap's tree.

Used by command line programs. The first call checks the peer: its `ServerInfo` must have the
expected program and this API version.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import grpc
from farswap.common.errors import (
    FarswapError,
    TimedOutError,
    UnreachableError,
    VersionMismatchError,
    error_of_status,
)
from farswap.common.version import API_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from farswap.common.address import Address
    from farswap.v1 import types_pb2


_PING_AFTER_MS = 10_000
_PING_TIMEOUT_MS = 5_000


class _HasInfo(Protocol):
    @property
    def info(self) -> types_pb2.ServerInfo: ...


Answer = TypeVar("Answer")
Status = TypeVar("Status", bound=_HasInfo)


class RpcClient:
    """A channel to one daemon. `program` is the expected one, e.g. "farswap-host"."""

    def __init__(self, address: Address, program: str, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._program = program
        self.channel = grpc.insecure_channel(
            address.grpc_target,
            options=[
                # Never use an HTTP proxy of the environment.
                ("grpc.enable_http_proxy", 0),
                # Some peers refuse the percent-encoded default authority of unix sockets.
                ("grpc.default_authority", "localhost"),
                # Ends calls without a deadline when the daemon's gRPC is silent.
                ("grpc.keepalive_time_ms", _PING_AFTER_MS),
                ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
                ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
                ("grpc.http2.max_pings_without_data", 0),
            ],
        )

    def close(self) -> None:
        """Ends all calls."""
        self.channel.close()

    def status(self, method: Callable[..., Status], request: object) -> Status:
        """The Status call, the first one of a session. Checks the peer."""
        with self.errors():
            try:
                answer = method(request, timeout=self.timeout_s)
            except grpc.RpcError as error:
                if _code(error) is grpc.StatusCode.UNIMPLEMENTED:
                    raise VersionMismatchError(f"{self.address}: not a {self._program}") from None
                raise
        info = answer.info
        if info.program != self._program:
            raise VersionMismatchError(
                f"{self.address}: not a {self._program} but {info.program or 'unknown'}"
            )
        if info.api_version != API_VERSION:
            raise VersionMismatchError(
                f"{self.address}: {info.program} {info.version} has API version "
                f"{info.api_version}, this program has {API_VERSION}; use the same release"
            )
        return answer

    def call(self, method: Callable[..., Answer], request: object) -> Answer:
        """A unary call. Raises an error of farswap's tree."""
        with self.errors():
            return method(request, timeout=self.timeout_s)

    def stream(
        self, method: Callable[..., Any], request: object, timeout_s: float | None = None
    ) -> Generator[Any, None, None]:
        """The answers of a streaming call. Closing the iterator cancels the call."""
        with self.errors():
            call = method(request, timeout=timeout_s)
            try:
                yield from call
            finally:
                call.cancel()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns gRPC's errors into those of farswap's tree."""
        try:
            yield
        except grpc.RpcError as error:
            raise error_of(error, str(self.address), self.timeout_s) from None


def error_of(error: grpc.RpcError, peer: str, timeout_s: float) -> FarswapError:
    """The exception of farswap's tree for gRPC's, of a call to `peer` with that deadline."""
    code = _code(error)
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnreachableError(f"{peer}: no answer: {_reason(error)}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOutError(f"{peer}: no answer within {timeout_s:g} s")
    return error_of_status(code.name, _details(error))


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    # Errors of calls are also a grpc.Call, which the library's types lack.
    return cast("grpc.Call", error).code()


def _details(error: grpc.RpcError) -> str:
    return cast("grpc.Call", error).details() or _code(error).name


def _reason(error: grpc.RpcError) -> str:
    """The system's reason, which gRPC's details contain."""
    details = _details(error)
    if "Connection refused" in details:
        return "connection refused"
    if "No such file or directory" in details:
        return "no such socket"
    if "Permission denied" in details:
        return "permission denied"
    return details.rpartition("; last error: ")[2]
