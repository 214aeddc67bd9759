"""Real farswap daemons as child processes: started, watched, killed, restarted, always cleaned up.

Every wait is for an event with a deadline: the ready line, the end of the process. Listen
addresses have port 0; the ready line has the real one, which a restart then keeps.
"""

from __future__ import annotations

import json
import os
import re
import select
import selectors
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Sequence

Sections = dict[str, dict[str, object]]


def toml(sections: Sections) -> str:
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in keys.items())
        for section, keys in sections.items()
    )


def _value(value: object) -> str:
    # JSON's strings, numbers, booleans and flat lists are TOML's too.
    if not isinstance(value, dict):
        return json.dumps(value)
    return f"{{{', '.join(f'{json.dumps(key)} = {_value(of)}' for key, of in value.items())}}}"


def run_program(
    module: str, *args: str, by: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs one of farswap's programs, maybe by another one, to its end."""
    return subprocess.run(
        [*by, sys.executable, "-m", module, *args],
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        check=False,
    )


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


class Daemon(ABC):
    """One daemon over its restarts. `ready` is the ready line of the present process."""

    admin_option: str  # of farswapctl

    def __init__(self, module: str, name: str, directory: Path, sections: Sections) -> None:
        self.name = name
        self.directory = directory
        self.sections = sections
        self.config_path = directory / f"{name}.toml"
        self.log_path = directory / f"{name}.log"
        self.ready: dict[str, str] = {}
        self.by: Sequence[str] = ()  # the program that starts it, and farswapctl
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pid(self) -> int:
        """The process that serves; a host daemon has a supervisor as well."""
        return int(self.ready.get("worker", self.pid))

    @property
    def metrics_url(self) -> str:
        """Of a daemon that has a section [metrics]."""
        return f"http://{self.ready['metrics']}/metrics"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def start(self, *options: str) -> None:
        assert not self.running
        self.config_path.write_text(toml(self.sections))
        command = [sys.executable, "-m", self._module, "--config", str(self.config_path)]
        command = [*self.by, *command, *options]
        with self.log_path.open("ab") as log:
            # A session of its own: an interrupt at the terminal is for the caller, which may have
            # to swap off first.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.wait_until_ready()
        self.keep_addresses()

    def wait_until_ready(self) -> None:
        """The next ready line."""
        line = self._next_line()
        assert line.startswith("ready "), f"{self.name} did not start: {line!r}\n{self.log()}"
        words = re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', line)
        self.ready = {key: quoted or plain for key, quoted, plain in words}

    @abstractmethod
    def keep_addresses(self) -> None:
        """Puts the real ports into the configuration, for restarts."""

    def _next_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + HANG_GUARD_S
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not text.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise RuntimeError(
                        f"{self.name} was not ready in {HANG_GUARD_S} s\n{self.log()}"
                    )
                piece = os.read(self._process.stdout.fileno(), 4096)
                if not piece:
                    break
                text += piece
        return text.decode()

    def kill(self) -> None:
        """SIGKILL, and the process is gone, with its worker."""
        if self.running:
            assert self._process is not None
            workers = [os.pidfd_open(pid) for pid in self.worker_pids()]
            self._process.kill()
            for worker in workers:
                select.select([worker], [], [], HANG_GUARD_S)
                os.close(worker)
        self._reap(HANG_GUARD_S)

    def worker_pids(self) -> list[int]:
        """Its living child processes."""
        return [int(pid) for pid in _children(self.pid)]

    def stop(self, timeout_s: float = HANG_GUARD_S) -> int:
        """SIGTERM; the exit code. One that does not end in time is killed and fails the test."""
        assert self._process is not None
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.name} did not stop in {timeout_s} s\n{self.log()}") from None
        return self._reap(timeout_s)

    def restart(self) -> None:
        """The same configuration, at the same addresses. A running process is killed first."""
        self.kill()
        self.start()

    def _reap(self, timeout_s: float) -> int:
        if self._process is None:
            return 0
        code = self._process.wait(timeout_s)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    @property
    def admin(self) -> str:
        return self.ready["admin"]

    def ctl(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Runs farswapctl on it."""
        return run_program("farswap.admin.main", self.admin_option, self.admin, *args, by=self.by)

    def ask(self, *args: str) -> Any:
        """What farswapctl, which must succeed, answers as JSON."""
        done = self.ctl(*args, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def clean_up(self) -> None:
        """Of fixtures. The log goes to stdout, which pytest shows when the test failed."""
        self.kill()
        print(f"--- log of {self.name}\n{self.log()}")


class MemoryServer(Daemon):
    """farswap-server."""

    admin_option = "--server"

    def __init__(self, name: str, directory: Path, sections: Sections) -> None:
        super().__init__("farswap.server.main", name, directory, sections)

    @property
    def pages(self) -> str:
        return self.ready["pages"]

    @property
    def store_path(self) -> str:
        return str(self.sections["store"]["path"])

    def keep_addresses(self) -> None:
        self.sections["server"] |= {"listen": self.pages, "advertise": self.pages}
        self.sections["admin"]["listen"] = self.admin


class HostDaemon(Daemon):
    """farswap-host."""

    admin_option = "--host"

    def __init__(self, name: str, directory: Path, sections: Sections) -> None:
        super().__init__("farswap.client_nbd.main", name, directory, sections)

    def kill_worker(self) -> None:
        """SIGKILL; the next worker serves."""
        os.kill(self.worker_pid, signal.SIGKILL)
        self.wait_until_ready()

    @property
    def export(self) -> str:
        return str(self.sections["device"]["name"])

    @property
    def nbd_path(self) -> str:
        """The path of the unix socket."""
        return next(a.removeprefix("unix:") for a in self._nbd() if a.startswith("unix:"))

    @property
    def nbd_tcp(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = next(
            a.removeprefix("tcp:") for a in self._nbd() if a.startswith("tcp:")
        ).rpartition(":")
        return host, int(port)

    @property
    def nbd_uri(self) -> str:
        return f"nbd+unix:///{self.export}?socket={self.nbd_path}"

    def _nbd(self) -> list[str]:
        return [address for address in self.ready["nbd"].split(",") if address]

    def keep_addresses(self) -> None:
        self.sections["nbd"]["listen"] = self._nbd()
        self.sections["admin"]["listen"] = self.admin
