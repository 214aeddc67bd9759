"""The supervisor of the host daemon, with small programs as its workers."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import small_host
from farswap.client_nbd import config as host_config
from farswap.client_nbd.survival import supervisor as supervisor_module
from farswap.client_nbd.survival.keeper import Keeper
from farswap.client_nbd.survival.link import Kept
from farswap.client_nbd.survival.supervisor import Supervisor
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Iterator

# Before each program: the link, and what the supervisor has for it.
PRELUDE = """
import os, signal, sys
from farswap.client_nbd.survival import process
from farswap.client_nbd.survival.link import Kept, Link, News, Orders, Report

link = Link.inherited(int(sys.argv[1]))
orders = link.receive(Orders)
process.die_with(orders.supervisor)

def keep(text, name="pages"):
    number = os.memfd_create("test")
    os.write(number, text)
    link.send(Report(kept=(Kept(name, "tmpfs", number),)))

def kept():
    return os.pread(orders.kept[0].number, 100, 0).decode()

def serve():
    link.send(Report(serving=True))

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def ask(**report):
    link.send(Report(number=7, **report))
    while link.receive(News).answer != 7:
        pass

later = {}  # what was kept after this worker has started

def turn():
    # As the mutex in the memory: a standby waits for the death of the active worker.
    death = orders.death
    while death is None and orders.standby:
        news = link.receive(News)
        death = news.death
        later.update({kept.name: kept for kept in news.kept})
        for name in news.dropped:
            del later[name]
    return death

def wait_for(text):
    while text not in open(sys.argv[2]).read().splitlines():
        pass

def note(text):
    with open(sys.argv[2], "a") as file:
        file.write(f"{text}\\n")
"""

# Of a worker whose end the next one sees as a standby.
DIES = "keep(b'pages'); serve(); wait_for('waits'); die()"


class Bench:
    """A supervisor of programs, the first of which is the first worker, and so on."""

    def __init__(self, directory: Path) -> None:
        self.notes = directory / "notes"
        self.notes.touch()
        self.config = host_config.parse(small_host.TEXT, "host.toml")
        self.keeper = Keeper(self.config, directory)
        self.programs: list[str] = []
        self.started = 0

    def run(self, *programs: str) -> int:
        """Further workers wait until they are killed."""
        self.programs = list(programs)
        return Supervisor(small_host.TEXT, self.keeper, self._start).run()

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def _start(self, link: int) -> int:
        programs = self.programs[self.started : self.started + 1] or ["signal.pause()"]
        self.started += 1
        program = PRELUDE + textwrap.dedent(programs[0])
        arguments = [sys.executable, "-c", program, str(link), str(self.notes)]
        return os.posix_spawn(sys.executable, arguments, os.environ)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(supervisor_module, "_RETRY_S", 0.001)
    return Bench(tmp_path)


def test_an_orderly_end_ends_the_supervisor_and_frees_the_memory(bench: Bench) -> None:
    assert bench.run("note(len(orders.kept)); keep(b'pages'); serve()") == 0
    assert bench.noted() == ["0"]
    assert not bench.keeper.kept


def test_an_orderly_end_ends_the_standby(bench: Bench) -> None:
    standby = "note(os.getpid()); note('waits'); signal.pause()"
    assert bench.run("keep(b''); serve(); wait_for('waits')", standby) == 0
    assert not Path(f"/proc/{bench.noted()[0]}").exists()


def test_a_worker_that_ends_in_order_has_no_standby_first(bench: Bench) -> None:
    ends = """
        keep(b'')
        serve()
        wait_for('waits')
        ask(ending=True)
        (standby,) = [line for line in open(sys.argv[2]).read().split() if line.isdigit()]
        note(os.path.exists(f"/proc/{standby}"))
        """
    assert bench.run(ends, "note(os.getpid()); note('waits'); signal.pause()") == 0
    assert bench.noted()[-1] == "False"
    assert bench.started == 2


def test_a_standby_has_the_memory_of_the_dead_one_and_how_it_died(bench: Bench) -> None:
    successor = "note('waits'); death = turn(); note(kept()); note(death.how); serve()"
    assert bench.run(DIES, successor) == 0
    assert bench.noted() == ["waits", "pages", "killed by SIGKILL"]


def test_a_standby_has_what_was_kept_after_it_started(bench: Bench) -> None:
    first = """
        keep(b'pages')
        serve()
        wait_for('waits')
        for name in 'abc':
            keep(name.encode(), name)
        link.send(Report(dropped=('b',)))
        die()
        """
    successor = """
        note('waits')
        turn()
        for name, kept in later.items():
            note(f"{name} {os.pread(kept.number, 9, 0).decode()}")
        """
    assert bench.run(first, successor) == 0
    assert bench.noted() == ["waits", "a a", "c c"]


def test_a_worker_is_started_at_once_when_both_are_dead(bench: Bench) -> None:
    last = "note(orders.standby); note(orders.death.how); note(kept()); serve()"
    assert bench.run(DIES, "note('waits'); turn(); sys.exit(3)", last) == 0
    assert bench.noted() == ["waits", "False", "ended with 3", "pages"]


def test_a_worker_has_its_answer_when_the_standby_has_the_news(bench: Bench) -> None:
    first = """
        keep(b'pages')
        serve()
        wait_for('waits')
        ask(kept=(Kept('late', 'tmpfs', os.memfd_create('late')),))
        die()
        """
    successor = """
        note('waits')
        note([kept.name for kept in link.receive(News).kept])
        turn()
        """
    assert bench.run(first, successor) == 0
    assert bench.noted() == ["waits", "['late']"]


def test_a_standby_that_takes_no_news_holds_nobody_up(bench: Bench) -> None:
    first = """
        keep(b'pages')
        serve()
        wait_for('waits')
        for number in range(2000):
            ask(kept=(Kept('a', 'tmpfs', os.memfd_create('a')),))
        """
    assert bench.run(first, "note('waits'); signal.pause()") == 0


def test_a_worker_that_dies_while_it_ends_is_the_last(bench: Bench) -> None:
    ends = "keep(b'pages'); serve(); wait_for('waits'); ask(ending=True); die()"
    assert bench.run(ends, "note('waits'); signal.pause()") == -signal.SIGKILL
    assert bench.started == 2
    assert not bench.keeper.kept


def test_a_standby_that_dies_is_replaced(bench: Bench) -> None:
    first = "keep(b'pages'); serve(); wait_for('third')"
    assert bench.run(first, "die()", "die()", "note('third'); signal.pause()") == 0


def test_each_worker_has_the_configuration_of_the_first(bench: Bench) -> None:
    bench.run(DIES, "note('waits'); turn(); note(orders.config == " + repr(small_host.TEXT) + ")")
    assert bench.noted() == ["waits", "True"]


def test_without_memory_that_outlives_it_a_worker_is_not_replaced(bench: Bench) -> None:
    assert bench.run("serve(); die()") == -signal.SIGKILL
    assert bench.started == 1


def test_a_failed_start_ends_the_supervisor(bench: Bench) -> None:
    assert bench.run("sys.exit(1)") == 1
    assert bench.started == 1


def test_a_failed_start_with_pages_of_an_earlier_supervisor_keeps_them(bench: Bench) -> None:
    bench.keeper.keep(Kept("pages", "tmpfs", os.memfd_create("test")))
    assert bench.run("sys.exit(1)") == 1
    assert bench.keeper.has_pages


def test_workers_that_die_before_they_serve_are_replaced_while_pages_are_kept(
    bench: Bench,
) -> None:
    successors = ("note('waits'); turn(); die()", "die()", "sys.exit(1)", "note(kept())")
    assert bench.run(DIES, *successors) == 0
    assert bench.noted() == ["waits", "pages"]


def test_a_signal_waits_for_a_worker_that_serves_the_kept_pages(bench: Bench) -> None:
    stop = "os.kill(orders.supervisor, signal.SIGTERM)"
    serves = """
        import threading
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: note("stopped") or stopped.set())
        note("serves")
        serve()
        stopped.wait()
        """
    assert bench.run(DIES, f"note('waits'); turn(); {stop}; die()", serves) == 0
    assert bench.noted() == ["waits", "serves", "stopped"]


def test_a_signal_ends_a_first_worker_that_does_not_serve_yet(bench: Bench) -> None:
    stop = "os.kill(orders.supervisor, signal.SIGTERM); signal.pause()"
    assert bench.run(stop) == -signal.SIGTERM


def test_a_worker_ends_with_its_supervisor(bench: Bench) -> None:
    supervise = f"""
import os, sys
from farswap.client_nbd.survival.supervisor import Supervisor
from types import SimpleNamespace

program = {PRELUDE + "note(os.getpid()); os.kill(orders.supervisor, 9); signal.pause()"!r}
start = lambda link: os.posix_spawn(
    sys.executable, [sys.executable, "-c", program, str(link), sys.argv[1]], os.environ
)
Supervisor("", SimpleNamespace(kept={{}}, has_pages=False), start).run()
"""
    subprocess.run([sys.executable, "-c", supervise, str(bench.notes)], check=False)
    (pid,) = bench.noted()
    with contextlib.suppress(ProcessLookupError):
        worker = os.pidfd_open(int(pid))
        assert select.select([worker], [], [], HANG_GUARD_S)[0]
        os.close(worker)


# --- Beyond the supervisor


def test_systemd_keeps_the_memory_and_the_next_supervisor_has_it(
    bench: Bench, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(short_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        bench.run(DIES, "note('waits'); turn()")
        stored, descriptors, *_ = socket.recv_fds(systemd, 4096, 1)
        assert stored.decode().split("\n") == ["FDSTORE=1", "FDNAME=pages-tmpfs", "FDPOLL=0"]
        assert systemd.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=pages-tmpfs", "at the orderly end"
    look = """
import os
from types import SimpleNamespace
from farswap.client_nbd.survival.keeper import Keeper
os.environ["LISTEN_PID"] = str(os.getpid())
config = SimpleNamespace(host_id="h1", device=SimpleNamespace(name="swap0"))
kept = Keeper(config).kept["pages"]
print(kept.kind, os.pread(kept.number, 100, 0).decode(), os.get_inheritable(kept.number))
"""
    found = subprocess.run(
        ["bash", "-c", f'exec "$@" 3<&{descriptors[0]}', "bash", sys.executable, "-c", look],
        env=os.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "pages-tmpfs"},
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert found.stdout == "tmpfs pages False\n"


@pytest.fixture
def segment() -> Iterator[int]:
    made = subprocess.run(["ipcmk", "-M", "4096"], stdout=subprocess.PIPE, text=True, check=True)
    number = int(made.stdout.split()[-1])
    yield number
    subprocess.run(["ipcrm", "-m", str(number)], check=False, stderr=subprocess.DEVNULL)


def test_a_segment_is_found_by_the_next_supervisor_until_it_is_discarded(
    bench: Bench, tmp_path: Path, segment: int
) -> None:
    kept = Kept("pages", "sysv", segment)
    bench.keeper.keep(kept)
    assert Keeper(bench.config, tmp_path).kept == {"pages": kept}
    bench.keeper.discard()
    assert not Keeper(bench.config, tmp_path).kept


def test_a_segment_that_is_gone_is_not_kept(bench: Bench, tmp_path: Path, segment: int) -> None:
    bench.keeper.keep(Kept("pages", "sysv", segment))
    subprocess.run(["ipcrm", "-m", str(segment)], check=True)
    assert not Keeper(bench.config, tmp_path).kept
