"""Restarts a program when it dies, as systemd restarts a unit, with its descriptor store.

`python unit_restarts.py NOTIFY_SOCKET PROGRAM...`; SIGTERM goes to the program. Ends with it once
it ends with code 0. Only what farswap uses: FDSTORE, FDSTOREREMOVE, LISTEN_FDS.
"""

from __future__ import annotations

import array
import functools
import os
import select
import signal
import socket
import subprocess
import sys

from farswap.client_nbd.survival import process


class Manager:
    def __init__(self, notify_path: str, program: list[str]) -> None:
        self._program = program
        self._stored: dict[str, int] = {}
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(notify_path)
        self._environment = os.environ | {"NOTIFY_SOCKET": notify_path}

    def run(self) -> None:
        while True:
            child = self._start()
            signal.signal(signal.SIGTERM, lambda *_, child=child: child.send_signal(signal.SIGTERM))
            ended = os.pidfd_open(child.pid)
            while True:
                ready = select.select([self._notify, ended], [], [])[0]
                if self._notify in ready:
                    self._take()
                elif child.wait() == 0:
                    return
                else:
                    os.close(ended)
                    break

    def _start(self) -> subprocess.Popen[bytes]:
        redirections = [f"{3 + i}<&{number}" for i, number in enumerate(self._stored.values())]
        script = f'LISTEN_PID=$$ exec "$@" {" ".join(redirections)}'
        return subprocess.Popen(
            ["bash", "-c", script, "bash", *self._program],
            pass_fds=list(self._stored.values()),
            preexec_fn=functools.partial(process.die_with, os.getpid()),  # noqa: PLW1509
            env=self._environment
            | {"LISTEN_FDS": str(len(self._stored)), "LISTEN_FDNAMES": ":".join(self._stored)},
        )

    def _take(self) -> None:
        message, ancillary, *_ = self._notify.recvmsg(4096, socket.CMSG_SPACE(4))
        lines = message.decode().splitlines()
        name = next((line[7:] for line in lines if line.startswith("FDNAME=")), "")
        if "FDSTORE=1" in lines:
            (self._stored[name],) = array.array("i", ancillary[0][2])
            # Above those that redirections use.
            high = os.dup2(self._stored[name], 100 + len(self._stored))
            os.close(self._stored[name])
            self._stored[name] = high
        elif "FDSTOREREMOVE=1" in lines and name in self._stored:
            os.close(self._stored.pop(name))


if __name__ == "__main__":
    Manager(sys.argv[1], sys.argv[2:]).run()
