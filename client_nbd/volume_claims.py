"""That no two daemons of one machine use the same volume of a memory server.

A volume is a device of a host, kept by one server. To open it with a new incarnation makes garbage
of the pages that are there, and fences whoever had it open. A second daemon, started by mistake
from the same configuration or from a copy of it, would do so before it finds its addresses in use,
and programs would die of the pages that the first one has lost: the server keeps the two apart, but
in favour of the wrong one. So each volume is claimed before anything is opened.

The kernel has no name that is one machine's, whatever its namespaces. So a claim is two things that
the kernel gives to one process at a time and takes back however that ends:

- the name of an abstract unix socket, unix(7), to which nobody connects: one in a network
  namespace, whatever files its processes see. Attaching needs the machine's first one.
- a lock on a byte of a file in the runtime directory: one in all that see the same /run, whatever
  their networks. Whoever may not write there has the name alone, which the log says.

Containers with a network and a /run of their own each are told apart by nothing here: give each a
device.host_id of its own.
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

from farswap.common import log
from farswap.common.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farswap.client_nbd.config import HostConfig

_log = log.logger("claims")

RUNTIME_DIRECTORY = Path("/run/farswap")
_LOCK_FILE = "volumes.lock"
# struct flock of fcntl(2): type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi0q")


@contextlib.contextmanager
def claimed(config: HostConfig, runtime_directory: Path = RUNTIME_DIRECTORY) -> Iterator[None]:
    """The volumes of `config` are ours in between. Raises StartError."""
    with contextlib.ExitStack() as claims:
        lock_file = _lock_file(runtime_directory, claims) if config.cluster.servers else None
        for server in config.cluster.servers:
            volume = f"{config.host_id}/{config.device.name}"
            digest = hashlib.sha256(f"{volume} {server}".encode())
            try:
                ours = _bind(digest.hexdigest(), claims)
                if lock_file is not None:
                    ours = ours and _lock(lock_file, digest.digest())
            except OSError as error:
                raise StartError(
                    f"the volume {volume} on {server} cannot be claimed: {error.strerror}"
                ) from error
            if not ours:
                raise StartError(
                    f"another farswap-host of this machine has the volume {volume} on {server}: "
                    "stop it, or give this one a device.name of its own"
                )
        yield


def _bind(name: str, claims: contextlib.ExitStack) -> bool:
    """False: another process has the name."""
    claim = claims.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        claim.bind(b"\0farswap-volume-" + name.encode())
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    return True


def _lock_file(directory: Path, claims: contextlib.ExitStack) -> int | None:
    """A descriptor; None where we may not write there."""
    try:
        directory.mkdir(mode=0o755, exist_ok=True)
        lock_file = os.open(directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        _log.warning(
            "another daemon for the same volumes is found in this network namespace alone",
            problem=f"{directory / _LOCK_FILE}: {error.strerror}",
        )
        return None
    claims.callback(os.close, lock_file)
    return lock_file


def _lock(lock_file: int, digest: bytes) -> bool:
    """False: another process has the byte, whose number is what an offset holds of the digest."""
    at = int.from_bytes(digest[:8], "big") >> 2
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    try:
        fcntl.fcntl(lock_file, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
