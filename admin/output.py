"""How answers look: tables for people, JSON for programs.

Tables are readable when piped: no colour, no frame, nothing cut at 80 columns. JSON is the whole
answer: every field of the message under its protocol name, numbers as numbers, enumerations as
lower-case names, counters as one object of name to value.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Wide enough for any of our rows; a pipe has no width of its own.
_PIPE_COLUMNS = 1000

Command = TypeVar("Command", bound="Callable[..., Any]")

Row = tuple[str, str | Text]


def output_option(command: Command) -> Command:
    """-o table|json; the command gets it as `output_format`."""
    option = click.option(
        "-o",
        "--output",
        "output_format",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="For people, or for programs.",
    )
    return option(command)


def console() -> Console:
    """Stdout as it is now."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, color_system=None, width=_PIPE_COLUMNS)


def print_json(message: Message) -> None:
    """The message as one JSON document."""
    print(json.dumps(plain(message), indent=2))


def plain(message: Message) -> dict[str, object]:
    """Every field, also those at their defaults, as JSON types."""
    return {field.name: _plain_field(message, field.name) for field in message.DESCRIPTOR.fields}


def _plain_field(message: Message, name: str) -> object:
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.enum_type is not None:
        return enum_name(message, name)
    if not field.is_repeated:
        return plain(value) if isinstance(value, Message) else value
    if field.message_type is not None and field.message_type.name == "Counter":
        return {counter.name: counter.value for counter in value}
    return [plain(item) if isinstance(item, Message) else item for item in value]


def enum_name(message: Message, name: str) -> str:
    """The field's value: `lz4` of CODEC_LZ4, `warning` of LEVEL_WARNING; a newer one's number."""
    number = getattr(message, name)
    kind = message.DESCRIPTOR.fields_by_name[name].enum_type
    value = kind.values_by_number.get(number) if kind is not None else None
    return value.name.partition("_")[2].lower() if value is not None else str(number)


def print_rows(out: Console, title: str, rows: Iterable[Row]) -> None:
    """A title and key-value lines below it."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in rows:
        grid.add_row(f"  {key}", value)
    out.print(Text(title, style="bold"))
    _print_table(out, grid)


def print_table(
    out: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]
) -> None:
    """A title, headings and lines. Columns whose headings begin with ">" go to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for position, column in enumerate(columns):
        name = column.removeprefix(">")
        table.add_column(
            name if position else f"  {name}",
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
        )
    for first, *others in rows:
        table.add_row(Text("  ").append(first), *others)
    out.print(Text(title, style="bold"))
    _print_table(out, table)


def _print_table(out: Console, table: Table) -> None:
    """Without the blanks that fill up lines, where they would end up in a file."""
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        out.print(line.rstrip(), markup=False)


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


def good(text: str) -> Text:
    """As it should be."""
    return Text(text, style="green")


def bad(text: str) -> Text:
    """As it should not be."""
    return Text(text, style="red")
