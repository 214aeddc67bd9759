"""How commands are declared: the options that all have, and the types of theirs.

A setting can be given as an option or as two words: `--compressor zstd:3`, `compressor zstd:3`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from farswap.common.compressor import Compressor, Recompressor
from farswap.common.units import ByteSize, Milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable

# Of limits in the protocol.
NO_LIMIT = (1 << 64) - 1

_CGROUP_MOUNT = "/sys/fs/cgroup"


class Settings(click.Command):
    """A command each of whose options can be given without its dashes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Called by click."""
        names = {name for parameter in self.params for name in parameter.opts}
        return super().parse_args(ctx, [f"--{a}" if f"--{a}" in names else a for a in args])


def verb(
    noun: click.Group | None = None,
    name: str | None = None,
    kind: type[click.Command] = click.Command,
) -> Callable[[Callable[..., Any]], click.Command]:
    """Declares a command, of `noun` unless it stands alone.

    The function gets the session, its own parameters, and `output_format`, "table" or "json".
    """

    def declare(function: Callable[..., Any]) -> click.Command:
        command = click.command(name, cls=kind)(click.pass_obj(function))
        command.params.append(
            click.Option(
                ["-o", "--output", "output_format"],
                type=click.Choice(["table", "json"]),
                default="table",
                show_default=True,
                help="For people, or for programs.",
            )
        )
        if noun is not None:
            noun.add_command(command)
        return command

    return declare


class Parsed(click.ParamType["object"]):
    """Values of a type that has parse(); some words may stand for something else."""

    def __init__(
        self, name: str, parse: Callable[[str], object], words: dict[str, object] | None = None
    ) -> None:
        self.name = name
        self._parse = parse
        self._words = words or {}

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Called by click with the text."""
        if not isinstance(value, str):
            return value
        if value in self._words:
            return self._words[value]
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Default:
    """The type of DEFAULT."""


# A setting that is to be again what the cgroup's files or the defaults say.
DEFAULT = Default()


def _size(text: str) -> ByteSize:
    """As in configuration files, or a plain number of bytes."""
    return ByteSize.parse(f"{text}B" if text.isascii() and text.isdigit() else text)


def _cgroup_path(text: str) -> str:
    """As in /proc/PID/cgroup; the path of its directory does as well."""
    path = text.removeprefix(_CGROUP_MOUNT).rstrip("/") or "/"
    if not path.startswith("/"):
        raise ValueError(f'"{text}" is not the path of a cgroup such as /system.slice/x.service')
    return path


SIZE = Parsed("size", _size)
LIMIT = Parsed("size", _size, {"none": NO_LIMIT, "default": DEFAULT})
DURATION = Parsed("duration", Milliseconds.parse)
COMPRESSOR = Parsed("compressor", Compressor.parse)
COMPRESSOR_OR_DEFAULT = Parsed("compressor", Compressor.parse, {"default": DEFAULT})
RECOMPRESSOR = Parsed("compressor", Recompressor.parse)
CGROUP = Parsed("cgroup", _cgroup_path)
