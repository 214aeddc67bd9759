"""NBD connections of a worker, with which the next one goes on.

Each has a place: an io_uring of the supervisor, and memory, which it holds as well, with the
socket. There are as many as the supervisor has rings; further connections end with the worker.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from farswap.client_nbd.survival.link import Kept
from farswap.client_nbd.survival.worker import PRIVATE

if TYPE_CHECKING:
    from farswap.client_nbd.survival.worker import WorkerLink
    from farswap.native import HostEngine

_MEMORY = "connection-"  # then the place
_SOCKET = "socket-"


class Connections:
    """Of one engine. Without a supervisor, or with private memory, all end with the process."""

    def __init__(self, engine: HostEngine, link: WorkerLink | None) -> None:
        self.engine = engine
        self.link = link
        self._keeper = None if engine.state.memory[0] == PRIVATE else link
        # Reports are in the order of what happens in the engine.
        self._lock = threading.Lock()

    def adopt(self) -> int:
        """Goes on with those of the worker before. Returns their number."""
        if self._keeper is None:
            return 0
        kept = self._keeper.take_kept()
        adopted = 0
        for name in [name for name in kept if name.startswith(_MEMORY)]:
            index = int(name.removeprefix(_MEMORY))
            memory, socket = kept[name], kept.get(f"{_SOCKET}{index}")
            if socket is None:
                memory.close()
                continue
            try:
                self.engine.adopt_connection(index, memory.kind, memory.number, socket.number)
                adopted += 1
            except RuntimeError:
                # It had not begun, or had ended.
                self._keeper.drop(socket.name)
        return adopted

    def serve(self, fd: int, initial: bytes, peer: str) -> int:
        """As HostEngine.serve()."""
        with self._lock:
            place = None if self._keeper is None else self.engine.reserve_connection()
            if place is None or self._keeper is None:
                return self.engine.serve(fd, initial, peer)
            index, kind, number = place
            self._keeper.keep(
                Kept(f"{_MEMORY}{index}", kind, number), Kept(f"{_SOCKET}{index}", "socket", fd)
            )
            return self.engine.serve_kept(index, fd, initial, peer)

    def drop_ended(self) -> None:
        """Has the supervisor close sockets of connections that have ended. Periodically."""
        if self._keeper is None:
            return
        with self._lock:
            for index in self.engine.ended_connections():
                self._keeper.drop(f"{_SOCKET}{index}")
