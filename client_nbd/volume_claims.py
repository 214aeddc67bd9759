"""That no two daemons of one machine use the same volume of a memory server.

A volume is a device of a host, kept by one server. To open it with a new incarnation makes garbage
of the pages that are there. A second daemon, started by mistake from the same configuration or from
a copy of it, would do so before it finds its addresses in use, and programs would die of the pages
that the first one has lost. So each volume is claimed before anything is opened.

A claim is the name of an abstract unix socket, unix(7), to which nobody connects: the kernel gives
it to one process of a network namespace at a time, and takes it back however the process ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from typing import TYPE_CHECKING

from farswap.common.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from farswap.client_nbd.config import HostConfig


@contextlib.contextmanager
def claimed(config: HostConfig) -> Iterator[None]:
    """The volumes of `config` are ours in between. Raises StartError."""
    volume = f"{config.host_id}/{config.device.name}"
    with contextlib.ExitStack() as claims:
        for server in config.cluster.servers:
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            claims.enter_context(claim)
            try:
                claim.bind(_name(volume, str(server)))
            except OSError as error:
                raise StartError(
                    f"another farswap-host of this machine has the volume {volume} on {server}: "
                    "stop it, or give this one a device.name of its own"
                ) from error
        yield


def _name(volume: str, server: str) -> bytes:
    """Short enough for a socket, whatever the names."""
    digest = hashlib.sha256(f"{volume} {server}".encode()).hexdigest()
    return b"\0farswap-volume-" + digest.encode()
