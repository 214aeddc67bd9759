"""A real etcd of one server, as a child process: stopped, emptied, compacted at will.

Its data and its addresses outlive stop(); clean_up() ends it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = shutil.which("etcd")


class EtcdServer:
    """Not started by the constructor. `address` is for clients.

    All calls are made in the network namespace of `host`.
    """

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self._directory = directory
        client, peer = _free_ports(host, 2)
        self.address = f"{host}:{client}"
        self._peer_url = f"http://{host}:{peer}"
        self._data = directory / "etcd.data"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        assert PROGRAM is not None
        assert self._process is None
        url = f"http://{self.address}"
        command = [PROGRAM, "--name", "only", "--data-dir", str(self._data)]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", self._peer_url]
        command += ["--initial-advertise-peer-urls", self._peer_url]
        command += ["--initial-cluster", f"only={self._peer_url}", "--logger", "zap"]
        command += [
            "--log-level",
            "warn",
            "--heartbeat-interval",
            "20",
            "--election-timeout",
            "200",
        ]
        with (self._directory / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + HANG_GUARD_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"etcd did not start\n{self.log()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGKILL, as a machine that fails."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(HANG_GUARD_S)
        self._process = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Deletes the data of a stopped etcd: it starts as a new one."""
        assert self._process is None
        shutil.rmtree(self._data)

    def compact(self) -> None:
        """Drops all changes before the present state."""
        revision = self.ask("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
        self.ask("/v3/kv/compaction", {"revision": revision, "physical": True})

    def ask(self, path: str, request: dict[str, object]) -> Any:
        """Calls etcd's JSON interface."""
        post = urllib.request.Request(
            f"http://{self.address}{path}", json.dumps(request).encode(), method="POST"
        )
        with urllib.request.urlopen(post, timeout=HANG_GUARD_S) as answer:
            return json.load(answer)

    def delete_all(self) -> None:
        """Deletes all keys."""
        self.ask("/v3/kv/deleterange", {"key": "AA==", "range_end": "AA=="})

    def calls(self, method: str) -> int:
        """How many calls of this gRPC method it has answered since it started."""
        series = f'grpc_server_handled_total{{grpc_code="OK",grpc_method="{method}",'
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=HANG_GUARD_S) as page:
            lines = [line.decode() for line in page if line.decode().startswith(series)]
        return sum(int(line.split()[-1]) for line in lines)

    def log(self) -> str:
        path = self._directory / "etcd.log"
        return path.read_text() if path.exists() else ""

    def clean_up(self) -> None:
        self.stop()
        print(f"--- log of etcd\n{self.log()}")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=1) as answer:
                return json.load(answer) == {"health": "true"}
        except (OSError, ValueError):
            return False


def _free_ports(host: str, count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((host, 0))
        return [each.getsockname()[1] for each in sockets]
