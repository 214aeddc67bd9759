"""What a log call does with values, failures and other writers of stderr: nothing to its caller."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING

import pytest
from farswap.common import log
from hang_guard import HANG_GUARD_S
from log_faults import configured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Stderr:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, descriptor: int, data: memoryview) -> int:
        assert descriptor == 2
        self.text += bytes(data)
        return len(data)

    def lines(self) -> list[str]:
        assert log._writer is not None
        assert log._writer.flush(HANG_GUARD_S)
        return self.text.decode().splitlines()


@pytest.fixture
def stderr() -> Iterator[Callable[[log.LogFormat], Stderr]]:
    with contextlib.ExitStack() as undo:

        def configure(log_format: log.LogFormat) -> Stderr:
            made = Stderr()
            undo.enter_context(configured(made.write, log_format))
            return made

        yield configure


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_values_that_have_no_text_raise_nothing(stderr, log_format: log.LogFormat) -> None:
    written = stderr(log_format)
    log.logger("test").info("odd", a=Unprintable(), b="caf\udce9", c="\x1b[2J\rx", d=b"\xff", e="é")
    (line,) = written.lines()
    assert "<Unprintable: RuntimeError>" in line
    assert r"\udce9" in line
    assert "\x1b" not in line
    assert log.lines_lost() == 0


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_without_text_is_logged_too(stderr, log_format: log.LogFormat) -> None:
    written = stderr(log_format)
    log.logger("test").error("failed", exc_info=ValueError(Unprintable()))
    assert "ValueError" in written.lines()[0]


def test_a_line_that_cannot_be_made_is_counted(stderr, monkeypatch: pytest.MonkeyPatch) -> None:
    written = stderr("text")
    with monkeypatch.context() as patch:
        patch.setattr(log, "_plain", lambda _: 1 / 0)
        log.logger("test").info("one")
    assert log.lines_lost() == 1
    log.logger("test").info("two")
    lost, line = written.lines()
    assert 'event="log lines were lost" part=log lines=1' in lost
    assert "event=two" in line


def test_other_writers_of_stderr_go_the_same_way(stderr) -> None:
    written = stderr("json")
    logging.getLogger("asyncio").error("task %s", "failed", exc_info=ValueError("why"))
    logging.getLogger("asyncio").error("task %d", "failed")
    warnings.warn("old", stacklevel=1)

    def fail() -> None:
        raise ValueError("in a thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    finalized = type("Finalized", (), {"__del__": lambda _: fail()})
    finalized()
    lines = [json.loads(line) for line in written.lines()]
    assert [line["part"] for line in lines] == [
        "asyncio",
        "asyncio",
        "py.warnings",
        "python",
        "python",
    ]
    assert "ValueError: why" in lines[0]["exception"]
    assert lines[1]["event"] == "task %d"
    assert "ValueError: in a thread" in lines[3]["exception"]
    assert "ValueError: in a thread" in lines[4]["exception"]
    print("caf\udce9", file=sys.stderr)
    assert written.lines()[-1] == r"caf\udce9"
