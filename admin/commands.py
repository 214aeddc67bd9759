"""Declaration of commands: their common options, and the types of their values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click
from farswap.common.compressor import Compressor, Recompressor
from farswap.common.units import PAGE_BYTES, ByteSize, Milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Value of limits in the protocol.
NO_LIMIT = (1 << 64) - 1

_CGROUP_MOUNT = "/sys/fs/cgroup"


def verb(
    noun: click.Group | None = None, name: str | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Declares a command of `noun`, or a top-level one.

    The function gets the session, its own parameters, and `output_format`: "table" or "json".
    """

    def declare(function: Callable[..., Any]) -> click.Command:
        command = click.command(name)(click.pass_obj(function))
        command.params.append(
            click.Option(
                ["-o", "--output", "output_format"],
                type=click.Choice(["table", "json"]),
                default="table",
                show_default=True,
                help="Output format.",
            )
        )
        if noun is not None:
            noun.add_command(command)
        return command

    return declare


class Seconds(click.FloatRange):
    """A range of numbers without "nan"."""

    name = "number"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Called by click with the text."""
        seconds: float = super().convert(cast("float", value), param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value} is not a number.", param, ctx)
        return seconds


class Parsed(click.ParamType["object"]):
    """Values of the form `form`, read by parse(), or one of `words`."""

    def __init__(
        self, form: str, parse: Callable[[str], object], words: dict[str, object] | None = None
    ) -> None:
        self._parse = parse
        self._words = words or {}
        self.name = "|".join([form, *self._words])

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Called by click for help pages."""
        return self.name

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


@dataclass(frozen=True, slots=True)
class VolumeName:
    """Of a host's device."""

    host_id: str
    device: str

    @classmethod
    def parse(cls, text: str) -> VolumeName:
        """Raises ValueError with the operator's message."""
        host_id, _, device = text.rpartition("/")
        if not (host_id and device):
            raise ValueError(f'"{text}" is not HOST/DEVICE as in `farswapctl volume list`')
        return cls(host_id, device)

    def __str__(self) -> str:
        return f"{self.host_id}/{self.device}"


class Default:
    """The type of DEFAULT."""


# Removes an override: the setting comes from the cgroup's files or the defaults again.
DEFAULT = Default()


def given(settings: Mapping[str, object]) -> dict[str, Any]:
    """The settings that the operator gave. Raises UsageError if there are none."""
    found = {name: value for name, value in settings.items() if value is not None}
    if not found:
        raise click.UsageError("no setting given; see --help")
    return found


def _size(text: str) -> ByteSize:
    """A size as in configuration files, or a number of bytes."""
    return ByteSize.parse(f"{text}B" if text.isascii() and text.isdigit() else text)


def _pages(text: str) -> int:
    """The number of whole pages of a size."""
    return _size(text) // PAGE_BYTES


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f'"{text}" is neither on nor off')
    return text == "on"


def _cgroup_path(text: str) -> str:
    """A path as in /proc/PID/cgroup, or the path of the cgroup's directory."""
    path = text.removeprefix(_CGROUP_MOUNT) or "/"
    if not path.startswith("/"):
        raise ValueError(f'"{text}" is not the path of a cgroup such as /system.slice/x.service')
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError("the name of the cgroup is not UTF-8") from None
    return "/" + "/".join(filter(None, path.split("/")))


_COMPRESSORS = "lz4[:ACCEL]|zstd[:LEVEL]"
_OR_DEFAULT: dict[str, object] = {"default": DEFAULT}
_LIMIT: dict[str, object] = {"none": NO_LIMIT, **_OR_DEFAULT}

SIZE = Parsed("SIZE", _size)
SIZE_LIMIT = Parsed("SIZE", _size, _LIMIT)
PAGES_LIMIT = Parsed("SIZE", _pages, _LIMIT)
DURATION = Parsed("DURATION", Milliseconds.parse)
SWITCH = Parsed("on|off", _switch)
SWITCH_OR_DEFAULT = Parsed("on|off", _switch, _OR_DEFAULT)
COMPRESSOR = Parsed(_COMPRESSORS, Compressor.parse)
COMPRESSOR_OR_DEFAULT = Parsed(_COMPRESSORS, Compressor.parse, _OR_DEFAULT)
RECOMPRESSOR = Parsed("off|zstd:LEVEL", Recompressor.parse)
CGROUP = Parsed("PATH", _cgroup_path)
VOLUME = Parsed("HOST/DEVICE", VolumeName.parse)
QUOTA = Parsed("SIZE", _size, {"off": NO_LIMIT, **_OR_DEFAULT})
