"""Lines for descriptors that fail, block or have no reader: no caller waits, losses count."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest
from farswap.common import line_writer
from farswap.common.line_writer import LineWriter
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._open = {self.reader, self.writer}

    def close_reader(self) -> None:
        self._open.discard(self.reader)
        os.close(self.reader)

    def reopen_reader(self) -> None:
        """The writing end, which our subject has, gets a new pipe."""
        reader, writer = os.pipe()
        os.dup2(writer, self.writer)
        os.close(writer)
        self.reader = reader
        self._open.add(reader)

    def read(self) -> bytes:
        return os.read(self.reader, 1 << 20)

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


class Disk:
    """Takes no more than `room` bytes, as write(2) on a full disk."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.written = b""

    def write(self, descriptor: int, data: memoryview) -> int:
        if data and not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(len(data), self.room)
        self.room -= taken
        self.written += bytes(data[:taken])
        return taken


def report(lost: int) -> bytes:
    return b"%d lost\n" % lost


def put(writer: LineWriter, *lines: bytes) -> None:
    """Returns when they are written or lost."""
    for line in lines:
        writer.put(line)
    assert writer.flush(HANG_GUARD_S)


def test_lines_arrive_in_order(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, report)
    put(writer, b"one", b"two\n")
    assert pipe.read() == b"one\ntwo\n"
    assert writer.lost == 0


def test_lines_without_a_reader_are_lost_and_reported_when_there_is_one(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, report)
    pipe.close_reader()
    put(writer, *[b"lost"] * 3)
    assert writer.lost == 3
    pipe.reopen_reader()
    put(writer, b"here", b"again")
    assert pipe.read() == b"3 lost\nhere\nagain\n"
    assert writer.lost == 3


def test_a_blocked_descriptor_costs_lines_beyond_the_queue_and_no_time(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, report)
    line = b"x" * 4095
    count = 3 * line_writer.LINES_MAX
    for _ in range(count):
        writer.put(line)
    assert not writer.flush(0.05), "the pipe takes 64 KiB"
    lost = writer.lost
    assert count - lost < 2 * line_writer.LINES_MAX
    text = b""
    while text.count(b"\n") < count - lost + 1:
        text += pipe.read()
    assert b"%d lost\n" % lost in text
    put(writer)
    assert writer.lost == lost


def test_a_line_cut_off_by_a_full_disk_does_not_run_into_the_next() -> None:
    disk = Disk(room=8)
    writer = LineWriter(-1, report, disk.write)
    put(writer, b"0123456789")
    assert writer.lost == 1
    disk.room = 100
    put(writer, b"next")
    assert disk.written == b"01234567\n1 lost\nnext\n"


def test_a_report_that_cannot_be_written_is_written_later() -> None:
    disk = Disk(room=0)
    writer = LineWriter(-1, report, disk.write)
    for _ in range(2):
        put(writer, b"lost")
    disk.room = 100
    put(writer)
    assert disk.written == b"2 lost\n"


def test_a_descriptor_that_another_process_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = LineWriter(pipe.writer, report)
    for _ in range(100):
        writer.put(b"x" * 4095)
    text = b""
    while len(text) < 100 * 4096:
        text += pipe.read()
    put(writer)
    assert writer.lost == 0
    assert not os.get_blocking(pipe.writer)


def test_a_bug_below_loses_a_line_and_not_the_writer() -> None:
    written: list[bytes] = []

    def write(_: int, data: memoryview) -> int:
        if bytes(data) == b"bad\n":
            raise RuntimeError("a bug")
        written.append(bytes(data))
        return len(data)

    writer = LineWriter(-1, report, write)
    put(writer, b"bad", b"good")
    assert written == [b"1 lost\n", b"good\n"]


def test_a_very_long_line_is_cut(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer, report)
    put(writer, b"x" * (2 * line_writer.LINE_BYTES_MAX))
    assert pipe.read() == b"x" * line_writer.LINE_BYTES_MAX + b"\n"


def test_close_writes_what_was_put_and_ends_the_thread(pipe: Pipe) -> None:
    earlier = set(threading.enumerate())
    writer = LineWriter(pipe.writer, report)
    (thread,) = set(threading.enumerate()) - earlier
    writer.put(b"last")
    writer.close()
    assert pipe.read() == b"last\n"
    thread.join(HANG_GUARD_S)
    assert not thread.is_alive()
