"""Calls of an admin service: blocking, with a deadline, with errors of farswap's own tree.

Used by command line programs. Every first contact checks who answers: `ServerInfo` must name the
expected program and this API version, before anything else of an answer is trusted.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import grpc
from farswap.common.errors import (
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
    """A channel to one daemon. `program` is who must be there: "farswap-host"."""

    def __init__(self, address: Address, program: str, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._program = program
        self.channel = grpc.insecure_channel(
            address.grpc_target,
            options=[
                # An HTTP proxy of the environment is never meant for a daemon's admin address.
                ("grpc.enable_http_proxy", 0),
                # The default authority of unix sockets, percent-encoded, is refused by some peers.
                ("grpc.default_authority", "localhost"),
                # A call without a deadline of its own ends when the daemon's gRPC is silent.
                ("grpc.keepalive_time_ms", _PING_AFTER_MS),
                ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
                ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
                ("grpc.http2.max_pings_without_data", 0),
            ],
        )

    def close(self) -> None:
        """Ends what is under way."""
        self.channel.close()

    def status(self, method: Callable[..., Status], request: object) -> Status:
        """The Status call, which every session begins with; checks who answered."""
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
                f"{self.address}: {info.program} {info.version} speaks API version "
                f"{info.api_version}, this program speaks {API_VERSION}"
            )
        return answer

    def call(self, method: Callable[..., Answer], request: object) -> Answer:
        """A unary call. Raises an error of farswap's tree."""
        with self.errors():
            return method(request, timeout=self.timeout_s)

    def stream(
        self, method: Callable[..., Any], request: object, timeout_s: float | None = None
    ) -> Generator[Any, None, None]:
        """The answers of a streaming call, which is cancelled when the iterator is closed."""
        with self.errors():
            call = method(request, timeout=timeout_s)
            try:
                yield from call
            finally:
                call.cancel()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what gRPC raises within into errors of farswap's tree."""
        try:
            yield
        except grpc.RpcError as error:
            code = _code(error)
            if code is grpc.StatusCode.UNAVAILABLE:
                raise UnreachableError(f"{self.address}: no answer: {_reason(error)}") from None
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimedOutError(
                    f"{self.address}: no answer within {self.timeout_s:g} s"
                ) from None
            raise error_of_status(code.name, _details(error)) from None


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    # What a call raises is a grpc.Call too; the library's types do not say so.
    return cast("grpc.Call", error).code()


def _details(error: grpc.RpcError) -> str:
    return cast("grpc.Call", error).details() or _code(error).name


def _reason(error: grpc.RpcError) -> str:
    """gRPC's details name the address again, and the system's reason at their end."""
    details = _details(error)
    if "Connection refused" in details:
        return "connection refused"
    if "No such file or directory" in details:
        return "no such socket"
    if "Permission denied" in details:
        return "permission denied"
    return details.rpartition("; last error: ")[2]
