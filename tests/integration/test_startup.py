"""What both daemons make of the process they are started in: descriptors, signals, limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemons import toml
from hang_guard import HANG_GUARD_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import MakeHost, MakeServer
    from daemons import Daemon

    MakeDaemon = Callable[[], Daemon]

# What shells, terminals, service managers and logrotate send, and what timers do.
SENT = (
    *("HUP", "QUIT", "PIPE", "WINCH", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR"),
    *("URG", "TSTP", "TTIN", "TTOU", "XCPU", "XFSZ", "STKFLT", "RTMIN", "RTMAX"),
)


def answers(daemon: Daemon) -> bool:
    noun = ["server", "show"] if daemon.admin_option == "--server" else ["status"]
    return daemon.ctl(*noun).returncode == 0


@pytest.fixture(params=["server", "host"])
def make_daemon(
    request: pytest.FixtureRequest, memory_server: MakeServer, host_daemon: MakeHost
) -> MakeDaemon:
    return memory_server if request.param == "server" else host_daemon


@pytest.fixture
def started(make_daemon: MakeDaemon) -> Daemon:
    return make_daemon()


def test_signals_that_are_not_meant_to_stop_it_do_nothing(started: Daemon) -> None:
    for name in SENT:
        os.kill(started.pid, signal.Signals[f"SIG{name}"])
    assert answers(started)
    assert started.stop() == 0


@pytest.fixture
def shell_started(started: Daemon) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts `started` once more, by a shell: `exec "$@"` with what is put around it."""
    started.stop()
    started.config_path.write_text(toml(started.sections))
    made: list[subprocess.Popen[bytes]] = []

    def start(script: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", started._module, "--config", str(started.config_path)]
        made.append(subprocess.Popen(["bash", "-c", script, "bash", *command]))
        until(lambda: made[-1].poll() is not None or answers(started))
        assert made[-1].poll() is None
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_dev_null(shell_started, closed: str) -> None:
    process = shell_started(f'exec "$@" {closed}')
    numbers = {"<&-": "0", ">&-": "1", "2>&-": "2"}
    for part in closed.split():
        descriptor = Path(f"/proc/{process.pid}/fd/{numbers[part]}")
        assert descriptor.readlink() == Path("/dev/null")
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANG_GUARD_S) == 0


def test_what_the_starter_left_behind_is_put_right(shell_started) -> None:
    process = shell_started('umask 0; ulimit -S -f 0; trap "" TERM HUP; exec "$@" </dev/null')
    status = Path(f"/proc/{process.pid}/status").read_text()
    assert "Umask:\t0077" in status
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    (size,) = (line for line in limits.splitlines() if line.startswith("Max file size"))
    assert size.split()[3] == size.split()[4]
    process.send_signal(signal.SIGTERM)
    assert process.wait(HANG_GUARD_S) == 0
