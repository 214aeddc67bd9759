"""The tree of exceptions for failures of the environment, with their gRPC statuses and exit codes.

Status codes are strings here, so that this module does not load grpc: farswap-host reports a bad
configuration before a thread can start.

An assertion or any other exception is a bug in farswap: INTERNAL, exit code 1.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2


class FarswapError(Exception):
    """Base of all. `str(error)` is one line for the operator: what failed, and where."""

    status = "INTERNAL"
    exit_code = EXIT_FAILED


class ConfigError(FarswapError):
    """The configuration is wrong. Has all problems, one line each."""

    status = "INVALID_ARGUMENT"
    exit_code = EXIT_USAGE

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidArgumentError(FarswapError):
    """The request is invalid in any state."""

    status = "INVALID_ARGUMENT"
    exit_code = EXIT_USAGE


class NotFoundError(FarswapError):
    """The object does not exist, e.g. a cgroup."""

    status = "NOT_FOUND"


class NotPossibleError(FarswapError):
    """The present state does not allow the request: a device in use, a missing driver."""

    status = "FAILED_PRECONDITION"


class BusyError(FarswapError):
    """Another job of this kind is running. Try again later."""

    status = "ABORTED"


class UnreachableError(FarswapError):
    """No process answers at the address."""

    status = "UNAVAILABLE"


class TimedOutError(FarswapError):
    """No answer before the deadline."""

    status = "DEADLINE_EXCEEDED"


class VersionMismatchError(FarswapError):
    """The peer has another version of the protocol, or is another program."""

    status = "UNIMPLEMENTED"


class BindError(FarswapError):
    """A listen address cannot be bound."""


class StartError(FarswapError):
    """A part of the daemon could not be started."""


class RemoteError(FarswapError):
    """The peer reports any other failure."""


# Errors by the status that a peer returned.
_REMOTE: tuple[type[FarswapError], ...] = (
    InvalidArgumentError,
    NotFoundError,
    NotPossibleError,
    BusyError,
    UnreachableError,
    TimedOutError,
    VersionMismatchError,
)
_ERROR_BY_STATUS = {error.status: error for error in _REMOTE}
_ERROR_BY_STATUS["OUT_OF_RANGE"] = InvalidArgumentError


def error_of_status(status: str, message: str) -> FarswapError:
    """The exception for a received status."""
    return _ERROR_BY_STATUS.get(status, RemoteError)(message)
