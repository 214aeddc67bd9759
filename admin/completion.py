"""Completion of arguments by a shell, with names of cgroups, memory servers and volumes.

A shell runs farswapctl for each completion; names come from the daemon that the command line
selects. Without an answer there are none: a completion has nowhere to print an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete
from farswap.admin.session import Session
from farswap.common.errors import FarswapError

if TYPE_CHECKING:
    from collections.abc import Callable

    Completer = Callable[[click.Context, click.Parameter, str], list[str]]

_TIMEOUT_S = 1.0
_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
_VARIABLE = "_FARSWAPCTL_COMPLETE"
# bash would complete the port of an address alone.
_BASH_WHOLE_ADDRESSES = "COMP_WORDBREAKS=${COMP_WORDBREAKS//:}"


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def command(shell: str) -> None:
    """Print a script that completes farswapctl's arguments in a shell.

    \b
    Examples:
      eval "$(farswapctl completion bash)"
      farswapctl completion fish > ~/.config/fish/completions/farswapctl.fish
    """
    click.echo(_SHELLS[shell](click.Group(), {}, "farswapctl", _VARIABLE).source())
    if shell == "bash":
        click.echo(_BASH_WHOLE_ADDRESSES)


def _completer(names: Callable[[Session], list[str]]) -> Completer:
    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        options = context.find_root().params
        session = Session(options.get("host"), options.get("server_address"), _TIMEOUT_S)
        try:
            found = names(session)
        except (FarswapError, click.ClickException):
            return []
        return sorted(name for name in found if name.startswith(incomplete))

    return complete


def _cgroups(session: Session) -> list[str]:
    with session.host() as host:
        return [cgroup.path for cgroup in host.cgroups() if cgroup.path]


def _servers(session: Session) -> list[str]:
    with session.host() as host:
        return [server.address for server in host.status.servers]


def _volumes(session: Session) -> list[str]:
    with session.server() as server:
        return [f"{volume.host_id}/{volume.device}" for volume in server.status().volumes]


cgroups = _completer(_cgroups)
servers = _completer(_servers)
volumes = _completer(_volumes)
