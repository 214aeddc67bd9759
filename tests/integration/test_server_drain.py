"""A drain of a real farswap-server: what hosts and operators see of it, and how it lasts."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from farswap.v1 import page_store_pb2 as pb
from hang_guard import HANG_GUARD_S, until
from page_client import PageClient, make_object

if TYPE_CHECKING:
    from conftest import MakeServer
    from daemons import MemoryServer

# One in each of two shards.
SLOTS = (5, 4096 + 5)


def put_pages(host: PageClient) -> None:
    host.open()
    host.beat()
    answer = host.put([make_object(slot, 1) for slot in SLOTS])
    assert list(answer.results) == [pb.OBJECT_STATUS_OK] * len(SLOTS)


def audited(server: MemoryServer) -> list[str]:
    return [line for line in server.log().splitlines() if "administration" in line]


def test_a_drain_of_an_empty_server_ends_at_once_and_is_audited(
    memory_server: MakeServer,
) -> None:
    server = memory_server()
    done = server.ctl("server", "drain", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "drained: no shard is left, 0 B moved\n"
    (line,) = audited(server)
    assert "call=Drain" in line
    assert "result=done" in line
    assert "127.0.0.1" in line


def test_hosts_see_a_drain_and_its_end_and_it_outlasts_a_restart(
    memory_server: MakeServer,
) -> None:
    server = memory_server()
    with PageClient(server.pages) as host:
        put_pages(host)
        dry = server.ask("server", "drain", "--dry-run")
        assert (dry["draining"], dry["shards"]) == (False, 2)
        assert host.beat().state == pb.SERVER_STATE_ACTIVE
        server.ask("server", "drain")
        assert host.beat().state == pb.SERVER_STATE_DRAINING
        assert host.put([make_object(SLOTS[0], 2)]).results[0] == pb.OBJECT_STATUS_OK
    server.restart()
    with PageClient(server.pages) as host:
        assert host.open().state == pb.SERVER_STATE_DRAINING
        status = server.ask("server", "show")
        assert (status["state"], status["draining"]) == ("draining", True)
        assert status["volumes"][0]["shards"] == 2
        server.ask("server", "undrain")
        assert host.beat().state == pb.SERVER_STATE_ACTIVE
    assert ["call=Drain" in line for line in audited(server)] == [True, False]


def waiting(server: MemoryServer) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "farswap.admin.main", "--server", server.admin]
    return subprocess.Popen(
        [*program, "server", "drain", "--wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stderr_of(process: subprocess.Popen[str], word: str) -> str:
    """The next line with `word`."""
    assert process.stderr is not None
    return next(line for line in process.stderr if word in line)


def test_a_wait_names_volumes_outlasts_a_kill_and_ends_without_shards(
    memory_server: MakeServer,
) -> None:
    server = memory_server(server={"owner_lease": "1s"})
    with PageClient(server.pages) as host:
        put_pages(host)
        until(lambda: not server.ask("server", "show")["volumes"][0]["owner_live"])
        with waiting(server) as process:
            line = stderr_of(process, "waits for tester/swap0: 2 shards")
            assert "tester.example is silent" in line
            server.kill()
            stderr_of(process, "waits for the server")
            server.start()
            stderr_of(process, "waits for tester/swap0: 2 shards")
            with PageClient(server.pages) as again:
                again.open()
                assert again.discard([(slot, 1) for slot in SLOTS]).discarded == len(SLOTS)
            out, _ = process.communicate(timeout=HANG_GUARD_S)
            assert process.returncode == 0
    assert out.startswith("drained: no shard is left")


def test_a_live_host_without_shards_is_waited_for_until_it_has_heard_of_the_drain(
    memory_server: MakeServer,
) -> None:
    server = memory_server(server={"owner_lease": "5m"})
    with PageClient(server.pages) as host:
        host.open()
        with waiting(server) as process:
            stderr_of(process, "waits for heartbeats of hosts")
            assert process.poll() is None
            until(lambda: host.beat() and process.poll() is not None)
            assert process.returncode == 0
