"""The protocol between a service and systemd: notifications, and the descriptor store.

sd_notify(3), sd_listen_fds(3). Imports nothing that starts a thread or logs.
"""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST_LISTEN_DESCRIPTOR = 3


def notify(state: str, descriptors: Sequence[int] = ()) -> bool:
    """Sends `state` to $NOTIFY_SOCKET. False if that is not set. Raises OSError. Never waits."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    # "@" stands for the zero byte of the abstract namespace.
    target = os.fsencode("\0" + path[1:] if path.startswith("@") else path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
        end.settimeout(0)
        message = [state.encode("utf-8", "backslashreplace")]
        # Not socket.send_fds(), which ignores the address (Python 3.11).
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        end.sendmsg(message, ancillary, 0, target)
    return True


def store(name: str, descriptor: int) -> bool:
    """Puts a descriptor into the unit's store, where it outlives the process.

    `name` has letters, digits and hyphens. As notify().
    """
    # FDPOLL=0: systemd would drop it when it reports an error.
    return notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [descriptor])


def remove_stored(name: str) -> bool:
    """As notify()."""
    return notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


def stored_descriptors() -> dict[str, int]:
    """Descriptors that this process was started with, by name. Programs it starts do not get them.

    Only the first call returns any.
    """
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdigit():
        return {}
    found = {}
    for descriptor, name in enumerate(names[: int(count)], _FIRST_LISTEN_DESCRIPTOR):
        os.set_inheritable(descriptor, False)  # noqa: FBT003
        found[name] = descriptor
    return found
