"""The tree of exceptions for failures of the environment, with their gRPC statuses and exit codes.

`_TABLE` maps each to its gRPC status and exit code. Status codes are strings here, so that this
module does not load grpc: farswap-host reports a bad configuration before a thread can start.

An assertion or any other exception is a bug in farswap: INTERNAL, exit code 1.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2


class FarswapError(Exception):
    """Base of all. `str(error)` is one line for the operator: what failed, and where."""


class ConfigError(FarswapError):
    """The configuration is wrong. Has all problems, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidArgumentError(FarswapError):
    """The request is invalid in any state."""


class NotFoundError(FarswapError):
    """The object does not exist, e.g. a cgroup."""


class NotPossibleError(FarswapError):
    """The present state does not allow the request: a device in use, a missing driver."""


class BusyError(FarswapError):
    """Another job of this kind is running. Try again later."""


class UnreachableError(FarswapError):
    """No process answers at the address."""


class TimedOutError(FarswapError):
    """No answer before the deadline."""


class VersionMismatchError(FarswapError):
    """The peer has another version of the protocol, or is another program."""


class BindError(FarswapError):
    """A listen address cannot be bound."""


class StartError(FarswapError):
    """A part of the daemon could not be started."""


class RemoteError(FarswapError):
    """The peer reports any other failure."""


_TABLE: dict[type[FarswapError], tuple[str, int]] = {
    ConfigError: ("INVALID_ARGUMENT", EXIT_USAGE),
    InvalidArgumentError: ("INVALID_ARGUMENT", EXIT_USAGE),
    NotFoundError: ("NOT_FOUND", EXIT_FAILED),
    NotPossibleError: ("FAILED_PRECONDITION", EXIT_FAILED),
    BusyError: ("ABORTED", EXIT_FAILED),
    UnreachableError: ("UNAVAILABLE", EXIT_FAILED),
    TimedOutError: ("DEADLINE_EXCEEDED", EXIT_FAILED),
    VersionMismatchError: ("UNIMPLEMENTED", EXIT_FAILED),
    BindError: ("INTERNAL", EXIT_FAILED),
    StartError: ("INTERNAL", EXIT_FAILED),
    RemoteError: ("INTERNAL", EXIT_FAILED),
    FarswapError: ("INTERNAL", EXIT_FAILED),
}

# Errors by the status that a peer returned.
_ERROR_BY_STATUS: dict[str, type[FarswapError]] = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "OUT_OF_RANGE": InvalidArgumentError,
    "NOT_FOUND": NotFoundError,
    "FAILED_PRECONDITION": NotPossibleError,
    "ABORTED": BusyError,
    "UNAVAILABLE": UnreachableError,
    "DEADLINE_EXCEEDED": TimedOutError,
    "UNIMPLEMENTED": VersionMismatchError,
}


def status_name(error: FarswapError) -> str:
    """Name of the grpc.StatusCode of `error`."""
    return _TABLE[type(error)][0]


def exit_code(error: FarswapError) -> int:
    """1: failed. 2: wrong usage."""
    return _TABLE[type(error)][1]


def error_of_status(status: str, message: str) -> FarswapError:
    """The exception for a received status."""
    return _ERROR_BY_STATUS.get(status, RemoteError)(message)
