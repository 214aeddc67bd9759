"""Output of answers: tables for people, JSON for programs.

In a pipe tables have no colours and no frames, and are complete. On a terminal each row is one
line; table() omits columns to fit. JSON has every field of the message under its protocol name:
numbers as numbers, enumerations as lower-case names, counters as one object of name to value, null
if absent.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Literal, TypeVar

from google.protobuf.message import Message
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from farswap.v1 import types_pb2
    from rich.console import RenderableType

# Wide enough for any row; a pipe has no width.
_PIPE_COLUMNS = 10_000
# In tables: the indent, the gap between columns, and the width of names that is worth dropping a
# column for, or that must stay.
_INDENT = "  "
_GAP = 2
_NAME_CELLS = 24
_NAME_CELLS_MIN = 8

Row = tuple[str, str | Text]
Answer = TypeVar("Answer", bound=Message)

_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}


def console() -> Console:
    """A console on the current stdout."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, color_system=None, width=_PIPE_COLUMNS)


def print_answer(
    answer: Answer, output_format: str, print_table: Callable[[Console, Answer], None]
) -> None:
    """Prints `answer` in the given format."""
    if output_format == "json":
        print_json(answer)
    else:
        print_table(console(), answer)


def print_json(answer: Message | dict[str, object]) -> None:
    """One JSON document."""
    print(json.dumps(plain(answer) if isinstance(answer, Message) else answer, indent=2))


def plain(message: Message) -> dict[str, object]:
    """All fields, including those at their defaults, as JSON types."""
    return {field.name: _plain_field(message, field.name) for field in message.DESCRIPTOR.fields}


def _plain_field(message: Message, name: str) -> object:
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.enum_type is not None:
        return enum_name(message, name)
    if not field.is_repeated:
        if isinstance(value, Message):
            return plain(value)
        if isinstance(value, bytes):
            return value.hex()
        return value if not field.has_presence or message.HasField(name) else None
    if field.message_type is not None and field.message_type.name == "Counter":
        return {counter.name: counter.value for counter in value}
    return [plain(item) if isinstance(item, Message) else item for item in value]


def enum_name(message: Message, name: str) -> str:
    """`lz4` for CODEC_LZ4, `disk_full` for SERVER_STATE_DISK_FULL; the number if unknown."""
    number = getattr(message, name)
    kind = message.DESCRIPTOR.fields_by_name[name].enum_type
    value = kind.values_by_number.get(number) if kind is not None else None
    if kind is None or value is None:
        return str(number)
    prefix = re.sub("(?<=.)(?=[A-Z])", "_", kind.name).upper() + "_"
    return value.name.removeprefix(prefix).lower()


def print_counters(out: Console, counters: Iterable[types_pb2.Counter]) -> None:
    """One counter per line."""
    rows: list[Row] = [(counter.name, f"{counter.value:>12}") for counter in counters]
    if rows:
        print_rows(out, "counters", rows)


def print_program(out: Console, info: types_pb2.ServerInfo) -> None:
    """One line about the daemon that answered."""
    text = f"{info.program} {info.version}, pid {info.pid}, up {span(info.uptime_ms)}"
    out.print(text, markup=False)
    if info.log_lines_lost:
        out.print(bad(f"{info.log_lines_lost} log lines lost: writing to stderr fails or blocks"))


def print_rows(out: Console, title: str, rows: Iterable[Row]) -> None:
    """A title and lines of key and value."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in rows:
        grid.add_row(_text(_INDENT + key), _text(value))
    out.print(_text(title), style="bold")
    print_lines(out, grid)


def print_table(
    out: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    spare: Sequence[str] = (),
) -> None:
    """A title and a table()."""
    out.print(Text(title, style="bold"))
    print_lines(out, table(columns, rows, out.width, spare))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    width: int,
    spare: Sequence[str] = (),
) -> Table:
    """Headings and rows. A heading that starts with ">" aligns its column to the right.

    To fit `width`, columns are omitted in the order of `spare`, which the last line lists; then the
    names in the first column are cut at their start.
    """
    names = [column.removeprefix(">") for column in columns]
    lines = [[_text(cell) for cell in row] for row in rows]
    cells = [
        max((cell_len(name), *(line[at].cell_len for line in lines)))
        for at, name in enumerate(names)
    ]
    shown = list(range(len(columns)))
    left_out: list[str] = []

    def room_for_names() -> int:
        return width - len(_INDENT) - sum(_GAP + cells[at] for at in shown[1:])

    for name in spare:
        if room_for_names() >= min(cells[0], _NAME_CELLS):
            break
        shown.remove(names.index(name))
        left_out.append(name)
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for at in shown:
        justify: Literal["left", "right"] = "right" if columns[at].startswith(">") else "left"
        made.add_column(names[at] if at else _INDENT + names[at], justify=justify, no_wrap=True)
    room = max(room_for_names(), _NAME_CELLS_MIN)
    for line in lines:
        made.add_row(Text(_INDENT + _end_of(line[0].plain, room)), *(line[at] for at in shown[1:]))
    if left_out:
        made.caption = Text(
            f"{_INDENT}no room for: {', '.join(left_out)}", no_wrap=True, overflow="ellipsis"
        )
        made.caption_justify = "left"
    return made


def _end_of(name: str, cells: int) -> str:
    """The end of `name` that fits: paths differ at their ends."""
    if cell_len(name) > cells:
        while cell_len(name) >= cells:
            name = name[1:]
        name = f"\N{HORIZONTAL ELLIPSIS}{name}"
    return name


def _text(value: str | Text) -> Text:
    """Just as it is: it may hold what terminals or rich would take for commands."""
    return value if isinstance(value, Text) else Text(printable(value))


def printable(text: str) -> str:
    """Without control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_lines(out: Console, shown: RenderableType) -> None:
    """Without the blanks that fill up lines, where they would end up in a file."""
    if out.is_terminal:
        out.print(shown)
        return
    with out.capture() as captured:
        out.print(shown)
    for line in captured.get().splitlines():
        out.out(line.rstrip(), highlight=False)


def size(value: int) -> str:
    """`1.5 GiB`, for reading."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{value} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def share(part: int, whole: int) -> str:
    """`37 %`."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


def span(ms: int) -> str:
    """`12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`."""
    seconds = ms // 1000
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3600} h"


def level_style(level: str) -> str:
    """Of `ok`, `warning` and `error`."""
    return _LEVEL_STYLES.get(level, "")


def level_text(level: str, text: str) -> Text:
    """In the style of the level."""
    return Text(printable(text), style=level_style(level))


def good(text: str) -> Text:
    """As it should be."""
    return Text(text, style="green")


def bad(text: str) -> Text:
    """As it should not be."""
    return Text(text, style="red")
