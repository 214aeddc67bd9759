"""Claims on volumes: no two daemons of one machine use the same volume of a memory server.

Opening a volume with a new incarnation makes its pages garbage, and fences the daemon that had it
open. A second daemon, started by mistake with the same configuration, would do so before it finds
its addresses in use. So each volume is claimed before anything is opened.

The kernel has no machine-wide names across namespaces. So a claim is two things that the kernel
gives to one process at a time, and frees at its end:

- the name of an abstract unix socket, unix(7), unique in a network namespace;
- a lock on a byte of a file in the runtime directory, unique among processes with the same /run.
  Without write permission there, the log warns, and only the name counts.

Containers that have separate networks and /run need different device.host_ids.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from farswap.common.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from farswap.client_nbd.config import HostConfig

RUNTIME_DIRECTORY = Path("/run/farswap")
_LOCK_FILE = "volumes.lock"
# struct flock of fcntl(2): type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi0q")


@contextlib.contextmanager
def claimed(
    config: HostConfig, warn: Callable[[str], None], runtime_directory: Path = RUNTIME_DIRECTORY
) -> Iterator[None]:
    """Claims the volumes of `config`. Raises StartError."""
    with contextlib.ExitStack() as claims:
        lock_file = _lock_file(runtime_directory, claims, warn) if config.cluster.servers else None
        for server in config.cluster.servers:
            volume = f"{config.host_id}/{config.device.name}"
            digest = hashlib.sha256(f"{volume} {server}".encode())
            try:
                ours = _bind(digest.hexdigest(), claims)
                if lock_file is not None:
                    ours = ours and _lock(lock_file, digest.digest())
            except OSError as error:
                raise StartError(
                    f"failed to claim the volume {volume} on {server}: {error.strerror}"
                ) from error
            if not ours:
                raise StartError(
                    f"another farswap-host of this machine has the volume {volume} on {server}: "
                    "stop it, or give this one another device.name"
                )
        yield


def _bind(name: str, claims: contextlib.ExitStack) -> bool:
    """False if another process has the name."""
    claim = claims.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        claim.bind(b"\0farswap-volume-" + name.encode())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    return True


def _lock_file(
    directory: Path, claims: contextlib.ExitStack, warn: Callable[[str], None]
) -> int | None:
    """A descriptor; None without permission to write."""
    try:
        directory.mkdir(mode=0o755, exist_ok=True)
        lock_file = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        warn(
            f"{directory / _LOCK_FILE}: {error.strerror}: other daemons for the same volumes are "
            "recognized only in this network namespace"
        )
        return None
    claims.callback(os.close, lock_file)
    return lock_file


def _lock(lock_file: int, digest: bytes) -> bool:
    """False if another process has the byte, at an offset from the digest."""
    at = int.from_bytes(digest[:8], "big") >> 2
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    try:
        fcntl.fcntl(lock_file, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
