"""What a program makes of the process that it is started in, before it opens anything itself."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys

_STOPPING = (signal.SIGTERM, signal.SIGINT)
# Faults of this process itself; SIGKILL and SIGSTOP, which no process can ignore; SIGCHLD and
# SIGCONT, which do nothing to a process that runs and has no children.
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
    """/dev/null for those of 0, 1 and 2 that are closed: else what we open next is one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
    # Python has no streams for descriptors that were closed when it started.
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def use_utf8() -> None:
    """Starts the program over with UTF-8 for names of files, where the locale has another encoding.

    Paths in configuration files and in gRPC are UTF-8, whatever the locale is.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        environment = os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, sys.orig_argv, environment)  # noqa: S606 - itself


def become_daemon() -> None:
    """For a process that stays. Call it before a thread starts and before gRPC is loaded."""
    _ignore_signals()
    os.umask(0o077)
    # A file at RLIMIT_FSIZE refuses writes. RocksDB keeps a descriptor per file of 64 MiB.
    _raise_limit(resource.RLIMIT_FSIZE)
    _raise_limit(resource.RLIMIT_NOFILE)
    _settle_grpc()


def _ignore_signals() -> None:
    """All but those that stop the daemon and those that tell of a fault in it.

    A terminal or shell that ends sends SIGHUP, logrotate SIGHUP or SIGUSR1, Ctrl-Z SIGTSTP: by
    default they end or freeze a process that the machine may swap to. The log is stderr, so there
    is none to open again.
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
    # gRPC 1.51 hands an epoll set from thread to thread at every event; with the few descriptors of
    # a daemon, poll is quicker: a fetched page took 2.1 instead of 3.4 times a raw TCP ping-pong.
    os.environ.setdefault("GRPC_POLL_STRATEGY", "poll")
    # gRPC writes its own lines to stderr from the threads that serve pages, and waits for them.
    os.environ["GRPC_VERBOSITY"] = "NONE"
    os.environ.pop("GRPC_TRACE", None)
