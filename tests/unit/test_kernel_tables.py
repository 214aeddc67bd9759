"""Tables of the kernel with any name that a file can have, written as the kernel writes them."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd.kernel import tables
from farswap.client_nbd.kernel.tables import Mount, SwapArea
from farswap.common import text
from hypothesis import example, given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Sequence

ODD = [
    "swap file",
    "no\xa0break",
    "line\u2028separator",
    "form\ffeed",
    "new\nline",
    "tab\tt",
    " - ",
]
ODD += ["\\040", "\\", "\x1c", "\x85", "\r", "#"]


def file_names(*more: bytes) -> st.SearchStrategy[bytes]:
    odd = [name.encode() for name in ODD] + [b"latin\xe9", b"\xff\xfe", *more]
    return st.one_of(st.sampled_from(odd), st.binary(min_size=1)).map(
        lambda name: b"/" + name.replace(b"\0", b"")
    )


def written(name: bytes) -> bytes:
    """As seq_path() does, fs/seq_file.c."""
    return re.sub(rb"[ \t\n\\]", lambda match: b"\\%03o" % match[0][0], name)


def swaps(names: Sequence[bytes]) -> bytes:
    lines = [b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"]
    lines += [written(name).ljust(39) + b" file\t\t4\t\t0\t\t-2" for name in names]
    return b"".join(line + b"\n" for line in lines)


@given(st.lists(file_names(b"/deep (deleted)"), max_size=4))
def test_any_name_of_a_swap_file_is_read_as_it_is(names: list[bytes]) -> None:
    areas = tables.swap_areas(swaps(names))
    assert [os.fsencode(area.path) for area in areas] == names
    for area in areas:
        area.name.encode()
        assert area == SwapArea(area.path, 4 << 10, 0, -2, is_file=True)


@given(file_names(), file_names(), st.sampled_from([b"", b"shared:1 ", b"shared:1 master:2 "]))
@example(b"/-", b"/-", b"")
def test_any_mount_point_is_read_as_it_is(point: bytes, root: bytes, optional: bytes) -> None:
    line = b"36 35 98:0 %s %s rw,noatime %s- cgroup  rw,memory\n"
    table = line % (written(root), written(point), optional) * 2
    mount = Mount((98, 0), os.fsdecode(point), "cgroup", frozenset([b"rw", b"memory"]))
    assert tables.mounts(table) == [mount, mount]


@given(st.binary())
def test_bytes_at_random_are_rows_or_a_value_error(table: bytes) -> None:
    list(tables.rows(table))
    for parse in (tables.swap_areas, tables.mounts):
        with contextlib.suppress(ValueError):
            parse(table)


@pytest.mark.parametrize(
    "line", [b"/dev/nbd0 partition 4", b"/dev/nbd0 partition x 0 -2", b"/a b file 4 0 -2"]
)
def test_a_line_that_is_not_understood_is_an_error_not_no_area(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        tables.swap_areas(swaps([]) + line + b"\n")


@given(st.binary())
def test_any_name_can_be_shown(name: bytes) -> None:
    shown = text.utf8(os.fsdecode(name))
    shown.encode()
    try:
        assert shown == name.decode()
    except UnicodeDecodeError:
        assert "\\x" in shown


def test_pressure_file_is_read() -> None:
    full = b"full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n"
    some = b"some avg10=12.50 avg60=3.00 avg300=0.70 total=4711\n"
    assert tables.stall_us(some + full) == 4711
    assert tables.stall_us(full) is None
    assert tables.stall_us(b"") is None
