"""Who owns a volume of a real farswap-server: live owners stay, silent ones make room."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from farswap.v1 import page_store_pb2 as pb
from hang_guard import until
from page_client import PageClient

if TYPE_CHECKING:
    from conftest import MakeServer
    from daemons import MemoryServer


def another_run(server: MemoryServer) -> PageClient:
    """Of the same host."""
    return PageClient(server.pages, incarnation=b"j" * 16)


def test_a_live_owner_is_named_and_is_displaced_by_an_operator_alone(
    memory_server: MakeServer,
) -> None:
    server = memory_server(server={"owner_lease": "1m"})
    with PageClient(server.pages) as owner, another_run(server) as clone:
        owner.open(host_name="first.example")
        assert owner.beat(7).sequence == 7
        refused = clone.open()
        assert refused.status == pb.OPEN_STATUS_ALREADY_OPEN
        assert refused.owner.host_name == "first.example"
        assert refused.owner.address == "127.0.0.1"
        server.restart()
        assert clone.open().status == pb.OPEN_STATUS_ALREADY_OPEN, "heard when the server starts"
    (volume,) = server.ask("server", "show")["volumes"]
    assert (volume["owner_name"], volume["owner_live"]) == ("first.example", True)
    assert 6 * 86_400_000 < volume["expires_in_ms"] <= 7 * 86_400_000
    with PageClient(server.pages, incarnation=b"k" * 16) as other:
        assert other.open(host_name="k.example", take_over=True).status == pb.OPEN_STATUS_OK
    until(lambda: "take-over displaced a live owner" in server.log())
    assert 'owner="first.example (127.0.0.1)" by="k.example (127.0.0.1)"' in server.log()


def test_a_server_that_was_frozen_empties_no_lease(memory_server: MakeServer) -> None:
    server = memory_server(server={"owner_lease": "2s"})
    with PageClient(server.pages) as owner, another_run(server) as clone:
        owner.open()
        owner.beat()
        os.kill(server.pid, signal.SIGSTOP)
        time.sleep(4)  # what is claimed is about real time
        os.kill(server.pid, signal.SIGCONT)
        assert clone.open().status == pb.OPEN_STATUS_ALREADY_OPEN


def test_a_silent_owner_makes_room_after_its_lease(memory_server: MakeServer) -> None:
    server = memory_server(server={"owner_lease": "500ms"})
    with PageClient(server.pages) as owner, another_run(server) as next_:
        owner.open()
        assert next_.open().status == pb.OPEN_STATUS_ALREADY_OPEN
        until(lambda: next_.open().status == pb.OPEN_STATUS_OK)
        assert owner.beat().status != pb.CALL_STATUS_OK
        assert owner.open().status == pb.OPEN_STATUS_FENCED
