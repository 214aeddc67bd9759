"""The command line of farswapctl: global options and nouns.

Exit codes: 0, 1 (failed), 2 (usage). Errors are one line on stderr.
"""

from __future__ import annotations

import click
from farswap.admin import (
    cgroup,
    cluster,
    commands,
    completion,
    device,
    doctor,
    server,
    shard,
    slot,
    status,
    tier,
    top,
    volume,
)
from farswap.admin.session import Session
from farswap.common import cli
from farswap.common.address import HOST_ADMIN, SERVER_ADMIN

PROGRAM = "farswapctl"

_TIMEOUT_S = 10.0
_TIMEOUT_S_MAX = 3600.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--host",
    metavar="ADDR",
    help=f"Admin address of a host daemon. Default: $FARSWAP_HOST, or {HOST_ADMIN}.",
)
@click.option(
    "--server",
    "server_address",
    metavar="ADDR",
    help=f"Admin address of a memory server. Default: $FARSWAP_SERVER, or {SERVER_ADMIN}.",
)
@click.option(
    "--timeout",
    metavar="S",
    type=commands.Seconds(0, _TIMEOUT_S_MAX, min_open=True),
    default=_TIMEOUT_S,
    show_default=True,
    help="Timeout of an answer in seconds.",
)
@cli.version_option
@click.pass_context
def command(
    context: click.Context, host: str | None, server_address: str | None, timeout: float
) -> None:
    """Operate farswap host daemons and memory servers.

    \b
    Examples:
      farswapctl status                             the local host on one screen
      farswapctl --host 10.0.0.5:7072 tier show     another host's pool and counters
      farswapctl cluster status                     all memory servers and their volumes
      farswapctl doctor                             problems and their remedies
      farswapctl top                                rates and load times, live
      farswapctl tier writeback --bytes 256MiB      move cold pages out now
      farswapctl slot explain 1234                  one page: place, version, size, age
      farswapctl --server 10.0.0.7:7071 server show -o json
      farswapctl --server 10.0.0.7:7071 volume list
    """
    if host is not None and server_address is not None:
        raise click.UsageError("--host and --server exclude each other")
    context.obj = Session(host, server_address, timeout)


command.add_command(status.command, "status")
command.add_command(top.command, "top")
command.add_command(doctor.command, "doctor")
command.add_command(device.command, "device")
command.add_command(tier.command, "tier")
command.add_command(cgroup.command, "cgroup")
command.add_command(cluster.command, "cluster")
command.add_command(server.command, "server")
command.add_command(volume.command, "volume")
command.add_command(shard.command, "shard")
command.add_command(slot.command, "slot")
command.add_command(completion.command, "completion")


def main() -> None:
    """The console script."""
    cli.run(PROGRAM, command)


if __name__ == "__main__":
    main()
