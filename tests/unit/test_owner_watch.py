"""The log of a memory server about owners of its volumes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from farswap.server.owner_watch import OwnerWatch
from structlog.testing import capture_logs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DAY_MS = 86_400_000
FIRST = SimpleNamespace(host_name="first.example", address="10.0.0.7")
SECOND = SimpleNamespace(host_name="second.example", address="10.0.0.8")


class Pages:
    """Answers as the native server does."""

    def __init__(self) -> None:
        self.events: list[SimpleNamespace] = []
        self.volume = SimpleNamespace(
            volume_id=1,
            host_id="host",
            device="swap0",
            owner=FIRST,
            garbage=False,
            silent_ms=0,
            expires_in_ms=7 * _DAY_MS,
        )
        self.watch = OwnerWatch(self)

    def volumes(self) -> list[SimpleNamespace]:
        return [self.volume]

    def watch_owners(self) -> list[SimpleNamespace]:
        events, self.events = self.events, []
        return events

    def silent_for(self, ms: int) -> Sequence[Mapping[str, Any]]:
        """What is logged when its host was silent for so long, of seven days."""
        self.volume.silent_ms = ms
        self.volume.expires_in_ms = 7 * _DAY_MS - ms
        return self.logged()

    def logged(self) -> Sequence[Mapping[str, Any]]:
        with capture_logs() as lines:
            self.watch.look()
        return lines


@pytest.fixture
def pages() -> Pages:
    return Pages()


def test_a_volume_is_named_once_a_day_before_it_is_deleted(pages: Pages) -> None:
    assert pages.silent_for(6 * _DAY_MS - 1) == []
    (line,) = pages.silent_for(6 * _DAY_MS)
    assert line["log_level"] == "warning"
    assert "will expire" in line["event"]
    assert (line["volume"], line["deleted_in"]) == ("host/swap0", "1d")
    assert line["owner"] == "first.example (10.0.0.7)"
    assert pages.silent_for(6 * _DAY_MS + 5000) == []


def test_a_host_that_comes_back_and_falls_silent_again_is_named_again(pages: Pages) -> None:
    assert len(pages.silent_for(6 * _DAY_MS)) == 1
    assert pages.silent_for(0) == []
    assert len(pages.silent_for(6 * _DAY_MS)) == 1


def test_a_short_time_is_warned_of_when_half_of_it_is_left(pages: Pages) -> None:
    pages.volume.silent_ms, pages.volume.expires_in_ms = 1_700_000, 1_900_000
    assert pages.logged() == []
    pages.volume.silent_ms, pages.volume.expires_in_ms = 1_800_000, 1_800_000
    assert len(pages.logged()) == 1


def test_volumes_that_never_end_and_garbage_are_not_warned_of(pages: Pages) -> None:
    pages.volume.garbage = True
    assert pages.silent_for(6 * _DAY_MS) == []
    pages.volume.garbage, pages.volume.expires_in_ms = False, None
    assert pages.logged() == []


@pytest.mark.parametrize(
    ("kind", "level", "event"),
    [
        ("displaced", "warning", "take-over displaced a live owner"),
        ("succeeded", "info", "volume has a new owner"),
        ("expired", "warning", "deleting volume: its host was silent for volumes.expire_after"),
    ],
)
def test_changes_of_an_owner_are_logged_with_its_name(
    pages: Pages, kind: str, level: str, event: str
) -> None:
    pages.events = [
        SimpleNamespace(kind=kind, host_id="host", device="swap0", before=FIRST, after=SECOND)
    ]
    (line,) = pages.logged()
    assert (line["log_level"], line["event"], line["volume"]) == (level, event, "host/swap0")
    assert "first.example (10.0.0.7)" in line.values()
    assert pages.logged() == []
