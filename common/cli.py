"""Options and exit codes that all command lines share.

Exit codes: 0, 1 (failed), 2 (usage or configuration). Errors go to stderr, one line each, after
the program's name. Imports neither grpc nor the native core.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import click
from farswap.common import startup
from farswap.common.address import Address
from farswap.common.errors import EXIT_FAILED, ConfigError, FarswapError

Command = TypeVar("Command", bound=Callable[..., Any])

# If set, an internal error shows its traceback.
_TRACEBACK_VARIABLE = "FARSWAP_TRACEBACK"
_EXPECTED = (
    click.ClickException,
    click.exceptions.Exit,
    click.Abort,
    KeyboardInterrupt,
    OSError,
    FarswapError,
)


def _show_version(context: click.Context, _: click.Parameter, *, wanted: bool) -> None:
    if not wanted:
        return
    from farswap.common.version import release  # noqa: PLC0415 - loads protobuf

    click.echo(f"{context.find_root().info_name} {release()}")
    context.exit()


version_option = click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda context, option, value: _show_version(context, option, wanted=value),
    help="Show the version and exit.",
)


def daemon_options(command: Command) -> Command:
    """--config, --check-config, --set, --version; the command gets the first three."""
    for option in (
        version_option,
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Override of a key of the file. May be repeated.",
        ),
        click.option("--check-config", is_flag=True, help="Check the configuration and exit."),
        click.option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Configuration file, TOML.",
        ),
    ):
        command = option(command)
    return command


def address_option(option: str | None, variable: str, default: Address) -> Address:
    """The option's value, else the environment variable's, else the default."""
    text = option or os.environ.get(variable)
    try:
        return Address.parse(text) if text else default
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def run(program: str, command: click.Command, args: list[str] | None = None) -> NoReturn:
    """Runs a click command and exits. Prints each error as one line."""
    startup.use_utf8()
    startup.open_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Escape characters that the locale's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    # gRPC's lines on stderr only repeat our errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    code = 0
    try:
        command.main(args=args, prog_name=program, standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, _EXPECTED) and os.environ.get(_TRACEBACK_VARIABLE):
            raise
        code = explain(program, error)
    sys.exit(_end_output(program, code))


def explain(program: str, error: BaseException) -> int:
    """Prints the error, and returns its exit code."""
    code = EXIT_FAILED
    match error:
        case click.exceptions.Exit():
            code = error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            print(error.format_message(), file=sys.stderr)
            code = error.exit_code
        case click.ClickException():
            say_error(program, error.format_message())
            code = error.exit_code
        case click.Abort() | KeyboardInterrupt():
            say_error(program, "interrupted")
        case BrokenPipeError():
            pass  # the reader of our output has closed it
        case OSError():
            say_error(program, str(error))
        case ConfigError():
            for problem in error.problems:
                say_error(program, problem)
            code = error.exit_code
        case FarswapError():
            say_error(program, str(error))
            code = error.exit_code
        case _:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            say_error(program, f"internal error: {what}; set {_TRACEBACK_VARIABLE}=1 to see where")
    return code


def _end_output(program: str, code: int) -> int:
    """The exit code; that of a failure if the rest of the output cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _give_up(sys.stdout)
        return code or explain(program, error)
    return code


def say_error(program: str, message: str) -> None:
    """One line on stderr, if that can be written."""
    say(f"{program}: {message}")


def say(line: str) -> None:
    """One line on stderr, if that can be written; progress does not depend on its reader."""
    try:
        print(line, file=sys.stderr)
    except OSError:
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Discards what `stream` could not write, also at the interpreter's exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
