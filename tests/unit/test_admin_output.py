"""What farswapctl shows on terminals of any size, of any names."""

from __future__ import annotations

import io

import pytest
from farswap.admin import output, top
from farswap.admin.activity import Look
from farswap.v1 import host_admin_pb2 as pb
from farswap.v1 import types_pb2
from rich.console import Console

COLUMNS = ("cgroup", ">pool", ">limit", "compressor")
PATH = "/system.slice/a-service-with-a-long-name.service/worker"
SPARE = ("compressor", "limit")


def shown(width: int, *paths: str) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    rows = [(path, "63.3 MiB", "128.0 MiB", "zstd:3") for path in paths]
    output.print_table(out, "cgroups", COLUMNS, rows, SPARE)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def test_a_terminal_that_is_wide_enough_has_all() -> None:
    title, headings, line = shown(100, PATH)
    assert (title, headings.split()) == ("cgroups", ["cgroup", "pool", "limit", "compressor"])
    assert line.split() == [PATH, "63.3", "MiB", "128.0", "MiB", "zstd:3"]


@pytest.mark.parametrize(
    ("width", "left_out"),
    [(60, ""), (50, "compressor"), (40, "compressor, limit"), (24, "compressor, limit")],
)
def test_a_line_stays_one_and_what_there_is_no_room_for_is_named(width: int, left_out: str) -> None:
    _, headings, first, second, *last = shown(width, PATH, "/b")
    assert all(len(line) <= width for line in (headings, first, second, *last))
    assert first.split()[0].endswith("/worker")
    assert first.split()[0].startswith("\N{HORIZONTAL ELLIPSIS}")
    assert second.split()[:3] == ["/b", "63.3", "MiB"]
    said = f"  no room for: {left_out}"
    # Of what is too long for the terminal too, the beginning.
    assert [line.rstrip("\N{HORIZONTAL ELLIPSIS}") for line in last] == (
        [said[: width - 1] if len(said) > width else said] if left_out else []
    )


@pytest.mark.parametrize("name", ["/[red]a[/red]", "/a[/b]", "/:smile:"])
def test_names_are_no_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(100, name)[2].split()[0] == name
    output.print_rows(output.console(), name, [(name, name)])
    assert capsys.readouterr().out.split() == [name] * 3


def test_names_give_the_terminal_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(100, "/a\x1b[31mb")[2].split()[0] == "/a\N{REPLACEMENT CHARACTER}[31mb"
    output.print_rows(output.console(), "\x1b[2J", [("\x07", "\x1bc\r")])
    assert not {"\x1b", "\x07", "\r"} & set(capsys.readouterr().out)


def look(at_s: float, stores: int) -> Look:
    counters = [types_pb2.Counter(name="stores", value=stores)]
    status = pb.TierStatus(local_pages=1, writing_pages=10, clean_pages=100, counters=counters)
    cgroups = {
        id_: pb.CgroupStatus(id=id_, path=f"{PATH}-{id_:05}", local_pages=id_)
        for id_ in range(1000)
    }
    return Look(at_s, status, cgroups)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12), (200, 50)])
def test_top_fills_the_screen_and_no_more(width: int, height: int) -> None:
    out = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    out.print(top.screen(look(1, 0), look(2, 50), out, height))
    lines = out.file.getvalue().splitlines()
    assert height - 1 <= len(lines) <= height
    assert sum("worker-" in line for line in lines) > height // 4


def test_the_pages_of_sixteen_gigabytes_stay_on_one_line_of_top() -> None:
    status = pb.TierStatus(same_filled_pages=1 << 19, local_pages=1 << 20, remote_pages=5 << 19)
    out = Console(file=io.StringIO(), width=80)
    out.print(top.screen(Look(1, status, {}), Look(2, status, {}), out, None))
    lines = out.file.getvalue().splitlines()
    assert lines[1].startswith("pages: ")
    assert lines[1].endswith("2621440 remote")
    assert lines[2].startswith("overwritten")


def test_top_counts_pages_that_servers_have_too_as_in_the_pool() -> None:
    out = Console(file=io.StringIO(), width=200)
    out.print(top.screen(look(1, 0), look(2, 50), out, None))
    lines = out.file.getvalue().splitlines()
    assert "1 local, 10 writing, 100 clean" in lines[1]
    assert lines[4].split()[:5] == ["all", "111", "0", "0", "50"]
