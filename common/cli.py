"""What the command lines share: their options and how they end.

Exit codes: 0, 1 (failed), 2 (usage or configuration). Errors go to stderr, one line each, after
the program's name. Imports neither grpc nor the native core.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from farswap.common.address import Address
from farswap.common.errors import EXIT_FAILED, ConfigError, FarswapError, exit_code

Command = TypeVar("Command", bound=Callable[..., Any])


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
            help="Use VALUE instead of what the file says. May be given several times.",
        ),
        click.option("--check-config", is_flag=True, help="Check the configuration and exit."),
        click.option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="The configuration, TOML.",
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
    """Runs a click command to the end of the process, every error a clear line."""
    # gRPC's own lines on stderr repeat, in other words, what our errors say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        command.main(args=args, prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        print(help_wanted.format_message(), file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        say_error(program, error.format_message())
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say_error(program, "interrupted")
        sys.exit(EXIT_FAILED)
    except OSError as error:
        # Who read our output has enough, or there is no room for it. What is left goes nowhere,
        # also at the interpreter's end.
        if not isinstance(error, BrokenPipeError):
            say_error(program, str(error))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except ConfigError as error:
        for problem in error.problems:
            say_error(program, problem)
        sys.exit(exit_code(error))
    except FarswapError as error:
        say_error(program, str(error))
        sys.exit(exit_code(error))
    sys.exit(0)


def say_error(program: str, message: str) -> None:
    """One line on stderr."""
    print(f"{program}: {message}", file=sys.stderr)
