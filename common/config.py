"""TOML files into typed, immutable configuration, with all problems reported at once.

A configuration is a `Section` of `Section`s: the outer one's fields are the TOML tables, the
inner ones' fields their keys. `load()` checks the file key by key, and raises one ConfigError with
a line for each problem:

    host.toml: tier.pool_limit: "12XB" is not a size such as 64MiB
    host.toml: tier.pool_limt: unknown key; did you mean pool_limit?

`--set section.key=value` overrides are applied first, and named `--set` in messages. The caller's
checks across keys (`load(..., check=...)`) run only if every key is good.
"""

from __future__ import annotations

import codecs
import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, get_type_hints

import msgspec
from farswap.common.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from farswap.common.units import ByteSize, Milliseconds


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of configuration tables. A field without a default is a required key.

    Subclasses repeat `frozen=True` for type checkers. Their modules do not postpone annotations
    (`from __future__`), since the decoder reads them at run time.
    """


C = TypeVar("C", bound=Section)

# A check across keys: problems as (key, message), e.g. ("device.size", "is not ...").
Check = Callable[[C], Sequence[tuple[str, str]]]


class _Parsed(Protocol):
    """A type of values, e.g. ByteSize or Address."""

    def parse(self, text: object, /) -> object:
        """The class method. Raises ValueError with the operator's message."""


class Within:
    """Range of a size or duration: `Annotated[Milliseconds, Within("1s", "1d")]`.

    `zero` is the meaning of 0, if 0 is also allowed.
    """

    def __init__(self, least: str, most: str, *, zero: str = "") -> None:
        self._least = least
        self._most = most
        self._zero = zero

    def check(self, value: int, kind: type[ByteSize | Milliseconds]) -> None:
        """Raises ValueError with the operator's message."""
        least, most = kind.parse(self._least), kind.parse(self._most)
        if least <= value <= most or (self._zero and value == 0):
            return
        or_zero = f", or 0 for {self._zero}" if self._zero else ""
        raise ValueError(f"{value} is not {self._least} to {self._most}{or_zero}")


class _Override(str):
    """A value from --set: a TOML value, or a string without quotes."""


def read(path: Path) -> str:
    """Text of a configuration file. Raises ConfigError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError([f"{path}: is UTF-16 text; save it as UTF-8"])
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text: byte {error.start}"]) from error


def load(
    model: type[C], path: Path, overrides: Sequence[str] = (), check: Check[C] | None = None
) -> C:
    """Reads `path` as a `model`. Raises ConfigError with all problems."""
    return parse(model, read(path), path.name, overrides, check)


def parse(
    model: type[C],
    text: str,
    source: str,
    overrides: Sequence[str] = (),
    check: Check[C] | None = None,
) -> C:
    """Like load(), of text. `source` is the file's name in messages."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{source}: not TOML: {error}"]) from error
    walk = _Walk(source)
    walk.override(document, overrides)
    config = walk.decode(model, document)
    if config is not None and check is not None:
        for key, message in check(config):
            walk.problem(key, message)
    if config is None or walk.problems:
        raise ConfigError(walk.problems)
    return config


class _Walk:
    """One pass over a document. Collects problems, and the keys that --set overrides."""

    def __init__(self, source: str) -> None:
        self.problems: list[str] = []
        self._source = source
        self._overridden: set[str] = set()

    def override(self, document: dict[str, Any], overrides: Sequence[str]) -> None:
        for text in overrides:
            key, equals, value = text.partition("=")
            section, dot, name = key.strip().partition(".")
            if not (equals and dot and section and name):
                self.problems.append(f"--set {text}: expected section.key=value")
                continue
            table = document.setdefault(section, {})
            if isinstance(table, dict):
                table[name] = _Override(value.strip())
                self._overridden.add(f"{section}.{name}")

    def decode(self, model: type[C], document: Mapping[str, Any]) -> C | None:
        hints = get_type_hints(model)
        fields = {field.name: field for field in msgspec.structs.fields(model)}
        self._refuse_unknown(document, list(fields), "")
        sections: dict[str, Any] = {}
        for name in fields:
            table = document.get(name, {})
            if not isinstance(table, Mapping):
                self.problem(name, f"must be a table: [{name}]")
                sections[name] = None
                continue
            sections[name] = self._decode_section(name, hints[name], table)
        return None if None in sections.values() else model(**sections)

    def _decode_section(
        self, section: str, model: type[Section], table: Mapping[str, Any]
    ) -> Section | None:
        """None if a value is missing or wrong. Unknown keys are only reported."""
        hints = get_type_hints(model, include_extras=True)
        fields = msgspec.structs.fields(model)
        self._refuse_unknown(table, [field.name for field in fields], f"{section}.")
        problems_before = len(self.problems)
        values: dict[str, Any] = {}
        for field in fields:
            key = f"{section}.{field.name}"
            if field.name not in table:
                if field.required:
                    self.problem(key, "is missing")
                continue
            try:
                values[field.name] = _convert(table[field.name], hints[field.name])
            except ValueError as error:
                self.problem(key, str(error))
        return None if len(self.problems) > problems_before else model(**values)

    def _refuse_unknown(self, table: Mapping[str, Any], known: list[str], prefix: str) -> None:
        for name in table:
            if name in known:
                continue
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            kind = "key" if prefix else "section"
            self.problem(f"{prefix}{name}", f"unknown {kind}{hint}")

    def problem(self, key: str, message: str) -> None:
        source = "--set" if key in self._overridden else self._source
        self.problems.append(f"{source}: {key}: {message}")


def _convert(value: object, wanted: type) -> object:
    """The value as the field's type; raises ValueError with the operator's message."""
    if not isinstance(value, _Override):
        return _convert_plain(value, wanted)
    # A --set value is parsed as TOML, then as a string without quotes.
    try:
        return _convert_plain(tomllib.loads(f"value = {value}")["value"], wanted)
    except (ValueError, KeyError) as error:
        try:
            return _convert_plain(str(value), wanted)
        except ValueError as plain:
            is_toml = not isinstance(error, tomllib.TOMLDecodeError | KeyError)
            raise (error if is_toml else plain) from None


def _convert_plain(value: object, wanted: type) -> object:
    try:
        made: object = msgspec.convert(value, wanted, dec_hook=_decode_custom)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ValueError):
            raise ValueError(str(error.__cause__)) from None  # noqa: TRY004 - as our parsers raise
        reason = str(error).replace("`", "").replace(" - at $", " at ")
        raise ValueError(f"{_shown(value)}: {reason[0].lower()}{reason[1:]}") from None
    for rule in getattr(wanted, "__metadata__", ()):
        if isinstance(rule, Within):
            rule.check(cast("int", made), cast("Any", wanted).__origin__)
    return made


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _decode_custom(wanted: type, value: object) -> object:
    return cast("_Parsed", wanted).parse(value)
