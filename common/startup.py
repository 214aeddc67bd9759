"""Preparation of the process, before the program opens anything."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys

_STOPPING = (signal.SIGTERM, signal.SIGINT)
# Faults of this process; SIGKILL and SIGSTOP, which cannot be ignored; SIGCHLD and SIGCONT, which
# have no effect on a running process without children.
_LEFT = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    signal.SIGCONT,
}


def open_standard_descriptors() -> None:
    """Opens /dev/null for closed descriptors 0 to 2, which the next open() would return."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Returns the lowest free one, which is this one.
            os.open(os.devnull, os.O_RDWR)
    # Python has no streams for descriptors that were closed when it started.
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def use_utf8() -> None:
    """Restarts the program with UTF-8 for file names, if the locale has another encoding.

    Paths in configuration files and in gRPC are UTF-8 in any locale.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        environment = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 - itself


def become_daemon() -> None:
    """Prepares a process that stays. Call it before a thread starts and before gRPC is loaded."""
    _ignore_signals()
    os.umask(0o077)
    # Writes beyond RLIMIT_FSIZE fail. RocksDB keeps a descriptor per file of 64 MiB.
    _raise_limit(resource.RLIMIT_FSIZE)
    _raise_limit(resource.RLIMIT_NOFILE)
    _settle_grpc()


def _ignore_signals() -> None:
    """Ignores all signals but those that stop the daemon and those of its faults.

    A terminal or shell that ends sends SIGHUP, logrotate SIGHUP or SIGUSR1, Ctrl-Z SIGTSTP: by
    default these end or freeze a process that the machine may swap to. The log is stderr, so no
    log file needs reopening.
    """
    for number in signal.valid_signals() - _LEFT - set(_STOPPING):
        signal.signal(number, signal.SIG_IGN)
    # The mask is inherited; a blocked SIGTERM would never arrive.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _raise_limit(limit: int) -> None:
    _, hard = resource.getrlimit(limit)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(limit, (hard, hard))


def _settle_grpc() -> None:
    # gRPC 1.51 passes its epoll set from thread to thread at every event. With few descriptors poll
    # is faster: a fetch took 2.1 instead of 3.4 times a raw TCP ping-pong.
    os.environ.setdefault("GRPC_POLL_STRATEGY", "poll")
    # gRPC writes to stderr from the threads that serve pages, and waits for it.
    os.environ["GRPC_VERBOSITY"] = "NONE"
    os.environ.pop("GRPC_TRACE", None)
