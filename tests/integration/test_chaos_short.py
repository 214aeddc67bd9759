"""Two replicas on three servers while servers die, freeze, lose their stores and are drained.

The next fault begins when the last is healed and every shard has its replicas again. No read fails,
no byte is wrong, and nothing is lost.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from bench.load_generator import LoadSession, phase
from bench.programs import MissingProgramError, native_program
from hang_guard import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon, MemoryServer

FAULTS = 8
NEVER_COUNTED = ("fail_checksum", "decompress_fail", "fetch_missing", "fetch_unavailable")


def _until_missed(host: HostDaemon, server: MemoryServer) -> None:
    """The host does without the server: it has no replica there, or counts those as missing."""

    def missed() -> bool:
        status = host.ask("status")
        (its,) = (each for each in status["servers"] if each["address"] == server.pages)
        debt = status["placement"]["replication_debt_shards"]
        return not its["connected"] and (debt > 0 or its["shards"] == 0)

    until(missed)


def _killed(host: HostDaemon, server: MemoryServer) -> None:
    server.kill()
    _until_missed(host, server)
    server.start()


def _frozen(host: HostDaemon, server: MemoryServer) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    _until_missed(host, server)
    os.kill(server.pid, signal.SIGCONT)


def _wiped(_host: HostDaemon, server: MemoryServer) -> None:
    server.kill()
    shutil.rmtree(server.store_path)
    server.start()


def _drained(_host: HostDaemon, server: MemoryServer) -> None:
    done = server.ctl("server", "drain", "--wait")
    assert done.returncode == 0, done.stderr
    done = server.ctl("server", "undrain")
    assert done.returncode == 0, done.stderr


ALL_FAULTS = (_killed, _frozen, _wiped, _drained)


def _await_no_debt(host: HostDaemon) -> None:
    def paid() -> bool:
        status = host.ask("status")
        placement = status["placement"]
        connected = all(server["connected"] for server in status["servers"])
        return connected and not (
            placement["replication_debt_shards"] or placement["replica_copies"]
        )

    until(paid)


def test_no_page_is_lost_whichever_server_fails_next(
    memory_server: MakeServer, host_daemon: MakeHost
) -> None:
    try:
        native_program("farswap-loadgen")
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    servers = [memory_server() for _ in range(3)]
    host = host_daemon(
        *servers,
        tier={"pool_limit": "16MiB", "store_wait": "20s"},
        device={"size": "64MiB"},
        cluster={"replicas": 2},
    )
    choice = random.Random(9)
    done: list[Callable[[HostDaemon, MemoryServer], None]] = []

    def progressed(name: str, page_ops: int) -> None:
        if name != "load" or len(done) == FAULTS or page_ops < 20_000 * len(done):
            return
        fault = ALL_FAULTS[len(done) % len(ALL_FAULTS)]
        fault(host, choice.choice(servers))
        done.append(fault)
        _await_no_debt(host)

    phases = [
        phase("blank", mix="zero", order="once", size="256k"),
        phase("load", mix="read:50/write:40/trim:10", size="4k-64k", depth=8, ops=600_000),
        phase("check", mix="read", order="once-random", size="16k", depth=8),
    ]
    with LoadSession(
        f"unix:{host.nbd_path}",
        phases,
        export=host.export,
        connections=4,
        options=["--stall-ms", "60000"],
        on_progress=progressed,
    ) as session:
        reports = [session.run(name) for name in ("blank", "load", "check")]
        session.finish()
    assert len(done) == FAULTS
    assert [report.errors for report in reports] == [{}, {}, {}]
    counters = {name: int(n) for name, n in host.ask("status")["tier"]["counters"].items()}
    assert {name: counters[name] for name in NEVER_COUNTED} == dict.fromkeys(NEVER_COUNTED, 0)
    assert counters["loads_remote"] > 0
    assert host.ask("status")["placement"]["lost_shards"] == 0
