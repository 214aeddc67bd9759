"""The one tree of exceptions for what the world does to us, and what each becomes elsewhere.

`_TABLE` is the only place that says which gRPC status and which exit code an error has. Status
codes are named by strings here, so that importing this module does not load grpc: farswap-host
reports a bad configuration before it loads anything that might start a thread.

An assertion or any other exception is a bug of ours: INTERNAL, exit code 1.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_USAGE = 2


class FarswapError(Exception):
    """Base of all. `str(error)` is for the operator: one line, says what and where."""


class ConfigError(FarswapError):
    """The configuration is wrong. Carries every problem found, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidArgumentError(FarswapError):
    """What was asked for makes no sense, whatever the state of things."""


class NotFoundError(FarswapError):
    """What was asked for is not there: a cgroup of that name."""


class NotPossibleError(FarswapError):
    """What was asked for does not go with the present state: a device in use, a missing driver."""


class BusyError(FarswapError):
    """Another job of the kind is under way. Ask again later."""


class UnreachableError(FarswapError):
    """Nobody answers at the address."""


class TimedOutError(FarswapError):
    """An answer did not come before the deadline."""


class VersionMismatchError(FarswapError):
    """The other side speaks another version of the protocol, or is another program."""


class BindError(FarswapError):
    """A listen address cannot be had."""


class StartError(FarswapError):
    """A part of the daemon could not be started."""


class RemoteError(FarswapError):
    """The other side reports a failure that is none of the above."""


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

# The way back: what a status received from the other side is raised as.
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
    """The name of the grpc.StatusCode that the error is sent as."""
    return _TABLE[type(error)][0]


def exit_code(error: FarswapError) -> int:
    """1: failed. 2: the caller asked for something wrong."""
    return _TABLE[type(error)][1]


def error_of_status(status: str, message: str) -> FarswapError:
    """The exception that a received status stands for."""
    return _ERROR_BY_STATUS.get(status, RemoteError)(message)
