"""What an operator reads about memory servers: findings, the alarm, the log."""

from __future__ import annotations

import pytest
from fake_engine import FakeEngine, memory_server
from farswap.client_nbd.checks import server as server_checks
from farswap.client_nbd.checks.watch import ServerWatch
from structlog.testing import capture_logs

OWNER = {"owner_name": "web2", "owner_address": "10.0.0.12"}


def away(state: str = "away", **changed: object) -> dict[str, object]:
    return {"connected": False, "state": state, **changed}


@pytest.mark.parametrize(
    ("changed", "level", "word"),
    [
        ({}, "ok", "connected"),
        ({"used_bytes": 95}, "warning", "95 % full"),
        ({"at_quota": True}, "warning", "the quota of this device there is reached"),
        (away(disconnected_ms=5000), "error", "no answer from 10.0.0.7:7070 for 5 s"),
        (away(shards=2, last_shards=1, last_error="refused"), "error", "refused; 1 shard unread"),
        (away(shards=2, last_error="refused"), "warning", "refused; its pages are read from other"),
        (away("fenced", shards=1, **OWNER), "error", "host web2 (10.0.0.12) took over the volume"),
        (away("fenced", shards=1), "error", "pages that are only there are lost"),
        (away("already_open", **OWNER), "error", "host web2 (10.0.0.12) has this volume"),
        (away("already_open"), "error", "another server names an owner"),
        (away("waiting", **OWNER), "warning", "not used yet: host web2 (10.0.0.12)"),
        (away("duplicate", last_error="is b:1"), "error", "10.0.0.7:7070 is not used: is b:1"),
        (away("clone", last_error="is b:1"), "error", "10.0.0.7:7070 is not used: is b:1"),
        (away("removed", last_error="is gone"), "error", "10.0.0.7:7070 is not used: is gone"),
    ],
)
def test_each_state_of_a_server_has_its_finding(changed: dict, level: str, word: str) -> None:
    (found,) = server_checks.servers([memory_server(**changed)])
    assert found.level == level
    assert word in found.message
    assert level == "ok" or found.remedy


@pytest.mark.parametrize("state", ["fenced", "already_open"])
def test_another_owner_is_reported_with_the_way_to_take_the_volume_over(state: str) -> None:
    (found,) = server_checks.servers([memory_server(**away(state, **OWNER))])
    assert "--take-over" in found.remedy
    assert "loses its pages" in found.remedy


def test_what_a_server_lost_is_reported_also_while_it_is_connected() -> None:
    lost = memory_server(lost_shards=3, unclean_restarts=1)
    connected, replaced, unclean = server_checks.servers([lost])
    assert connected.level == "ok"
    assert (replaced.level, unclean.level) == ("error", "warning")
    assert "had the last replica of 3 shards; pages there are lost" in replaced.message
    assert "may be missing" in unclean.message


def test_a_host_that_has_its_volume_to_itself_raises_no_alarm() -> None:
    assert server_checks.alarm([]) == ""
    quiet = ("active", "away", "waiting", "duplicate", "clone")
    assert server_checks.alarm([memory_server(state=state) for state in quiet]) == ""


def test_the_alarm_names_the_owner_and_every_server_that_it_concerns() -> None:
    known = [
        memory_server(address="a:1", state="already_open"),
        memory_server(address="b:1", state="already_open", **OWNER),
    ]
    assert server_checks.alarm(known) == (
        "ALREADY OPEN: host web2 (10.0.0.12) has this volume; this daemon does not use a:1, b:1"
    )
    fenced = [*known, memory_server(address="c:1", state="fenced")]
    assert server_checks.alarm(fenced) == (
        "FENCED: another host took over this volume, or an operator deleted it; "
        "pages only on c:1 are lost"
    )


def test_a_change_is_logged_when_it_is_seen_and_once() -> None:
    engine = FakeEngine()
    watch = ServerWatch(engine)

    def logged() -> list[tuple[str, str]]:
        with capture_logs() as lines:
            watch.look()
        return [(line["log_level"], line["event"]) for line in lines]

    engine.server_list = [memory_server(state="connecting", connected=False)]
    assert not logged()
    engine.server_list = [memory_server()]
    assert logged() == [("info", "10.0.0.7:7070 is connected")]
    engine.server_list = [memory_server(**away("fenced", **OWNER))]
    assert logged() == [("error", "host web2 (10.0.0.12) took over the volume on 10.0.0.7:7070")]
    assert not logged()
    engine.server_list = [memory_server(lost_shards=2)]
    assert [level for level, _ in logged()] == ["info", "error"]
    engine.server_list = []
    text = "10.0.0.7:7070 is not used any more: removed, or no longer listed"
    assert logged() == [("info", text)]
    assert not logged()
