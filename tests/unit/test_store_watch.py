"""The log of a memory server about a store that refuses pages: each change, once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from farswap.server.store_watch import StoreWatch
from structlog.testing import capture_logs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Store:
    """Counts as the native one does."""

    def __init__(self) -> None:
        self.values = {"puts_full": 0, "used_bytes": 0, "capacity_bytes": 1000}
        self.values |= {"scrub_damaged_records": 0, "scrub_damaged_blocks": 0}
        self.problem = ""
        self.watch = StoreWatch(self, "/var/lib/farswap")

    def stats(self) -> dict[str, int]:
        return dict(self.values)

    def disk_problem(self) -> str:
        return self.problem

    def logged(self, **grown: int) -> Sequence[Mapping[str, Any]]:
        """What is logged when the counters have grown so; a gauge is set."""
        for name, by in grown.items():
            self.values[name] = by if name == "used_bytes" else self.values[name] + by
        with capture_logs() as lines:
            self.watch.look()
        return lines


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_full_disk_is_logged_once_with_its_problem_and_so_is_its_end(store: Store) -> None:
    assert store.logged() == []
    store.problem = "3 MiB are free, 280 MiB are needed"
    (line,) = store.logged()
    assert line["log_level"] == "error"
    assert "disk is full or failing" in line["event"]
    assert (line["path"], line["problem"]) == ("/var/lib/farswap", store.problem)
    store.problem = "2 MiB are free, 280 MiB are needed"
    assert store.logged() == []
    store.problem = ""
    (line,) = store.logged()
    assert (line["log_level"], line["event"]) == ("info", "accepting pages again: the disk works")
    assert store.logged() == []
    store.problem = "the file system is mounted read-only"
    assert store.logged()[0]["log_level"] == "error"


def test_a_store_at_its_capacity_is_reported_once_until_a_part_of_it_is_free(store: Store) -> None:
    (line,) = store.logged(puts_full=1, used_bytes=990)
    assert (line["log_level"], line["capacity_bytes"]) == ("warning", 1000)
    assert "store.capacity" in line["event"]
    for _ in range(3):
        assert store.logged(used_bytes=985) == []
        assert store.logged(puts_full=1, used_bytes=990) == []
    (line,) = store.logged(used_bytes=900)
    assert line["log_level"] == "info"
    assert "accepting pages again: below store.capacity" in line["event"]
    assert store.logged(used_bytes=900) == []


def test_damage_is_logged_with_its_extent_at_most_once_a_minute(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert store.logged() == []
    (line,) = store.logged(scrub_damaged_records=5, scrub_damaged_blocks=1)
    assert line["log_level"] == "error"
    assert (line["objects"], line["blocks"], line["path"]) == (5, 1, "/var/lib/farswap")
    assert store.logged() == []
    now += 59
    assert store.logged(scrub_damaged_records=2) == []
    now += 1
    (line,) = store.logged(scrub_damaged_records=1)
    assert (line["objects"], line["blocks"]) == (3, 0)
