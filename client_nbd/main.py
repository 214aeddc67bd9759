"""The command line of farswap-host: the daemon itself, and what it is told of its device.

Import order matters: the daemon makes its process fit for the reclaim path before any thread
exists, so this module imports neither grpc nor the daemon's parts, and the branches that need
them import them once that is done.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from farswap.client_nbd import config as host_config
from farswap.common import cli, startup
from farswap.common.address import HOST_ADMIN, Address
from farswap.common.errors import StartError

if TYPE_CHECKING:
    from farswap.client_nbd.config import HostConfig
    from farswap.client_nbd.kernel.files import Discard
    from farswap.native import ReclaimProtection

PROGRAM = "farswap-host"


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@cli.daemon_options
@click.option(
    "--take-over",
    is_flag=True,
    help="Use the volume also if another host has it on the memory servers. That host loses all "
    "pages that it keeps there: its programs that need one die. For one start; do not put it "
    "into a unit file.",
)
@click.pass_context
def command(
    context: click.Context,
    *,
    take_over: bool,
    config: Path | None,
    check_config: bool,
    overrides: tuple[str, ...],
) -> None:
    """Serve a swap device over NBD, from a compressed pool and memory servers.

    \b
    Examples:
      farswap-host --config /etc/farswap/host.toml
      farswap-host --config host.toml --take-over
      farswap-host --config host.toml --check-config --set tier.pool_limit=1GiB
      farswap-host attach --device /dev/nbd0 --swapon --priority 100 --discard
      farswap-host detach --device /dev/nbd0
    """
    if context.invoked_subcommand is not None:
        if take_over:
            raise click.UsageError("--take-over is for the daemon, not for its subcommands")
        context.obj = (config, overrides)
        return
    loaded = host_config.load(config or host_config.DEFAULT_CONFIG, overrides)
    if check_config:
        click.echo(f"{config or host_config.DEFAULT_CONFIG}: good")
        return
    startup.become_daemon()
    protections = _enter_reclaim_path(loaded)
    # Only now: importing the daemon loads grpc.
    from farswap.client_nbd import daemon  # noqa: PLC0415

    daemon.run(loaded, protections, partial(daemon.native_engine, take_over=take_over))


def _enter_reclaim_path(config: HostConfig) -> list[ReclaimProtection] | None:
    try:
        from farswap import native  # noqa: PLC0415 - not for a wrong configuration
    except ImportError as error:
        raise StartError(f"the native core cannot be loaded: {error}") from error
    return native.enter_reclaim_path() if config.reclaim.protect else None


@command.command()
@click.option("--device", required=True, metavar="/dev/nbdN", help="The kernel's nbd device.")
@click.option(
    "--connections",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Sockets to the daemon. More than one loses live ones when a request is slow.",
)
@click.option("--swapon", is_flag=True, help="Make a swap area if there is none, and use it.")
@click.option("--priority", type=click.IntRange(0, 32767), help="Of the swap area; needs --swapon.")
@click.option(
    "--discard",
    type=click.Choice(["pages", "once", "both"]),
    is_flag=False,
    flag_value="pages",
    help="Tell the daemon of freed pages (pages, the default), at swapon (once), or both.",
)
@click.option("--host", metavar="ADDR", help="The daemon's admin address.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="To find it in.")
@click.pass_obj
def attach(
    parent: tuple[Path | None, tuple[str, ...]],
    *,
    device: str,
    connections: int,
    swapon: bool,
    priority: int | None,
    discard: Discard | None,
    host: str | None,
    config: Path | None,
) -> None:
    """Bind a kernel nbd device to the running daemon, and swap to it.

    The daemon does the binding; this program makes and enables the swap area. When a step fails,
    those before it are undone.

    \b
    Examples:
      farswap-host attach --device /dev/nbd0 --swapon --priority 100 --discard
      farswap-host attach --config host.toml --device /dev/nbd0
    """
    if not swapon and (priority is not None or discard is not None):
        raise click.UsageError("--priority and --discard need --swapon")
    from farswap.client_nbd.kernel import swap_commands  # noqa: PLC0415

    swap_commands.attach(
        _admin_address(parent, host, config),
        device,
        connections,
        swap_commands.SwapOptions(priority, discard) if swapon else None,
    )


@command.command()
@click.option("--device", metavar="/dev/nbdN", help="Default: the one that is attached.")
@click.option("--host", metavar="ADDR", help="The daemon's admin address.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="To find it in.")
@click.pass_obj
def detach(
    parent: tuple[Path | None, tuple[str, ...]],
    *,
    device: str | None,
    host: str | None,
    config: Path | None,
) -> None:
    """Swapoff, forget the device's pages, and unbind it.

    Ctrl-C during swapoff stops it; the device then stays in use. Refused while another device, a
    file system or a program holds the device: the error names it.

    \b
    Examples:
      farswap-host detach
      farswap-host detach --config host.toml --device /dev/nbd0
    """
    from farswap.client_nbd.kernel import swap_commands  # noqa: PLC0415

    swap_commands.detach(_admin_address(parent, host, config), device)


@command.command()
@click.option("--device", required=True, metavar="/dev/loopN", help="That the kernel swaps on.")
@click.option("--replace", is_flag=True, help="Also if that ends it for another device.")
@click.option("--host", metavar="ADDR", help="The daemon's admin address.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="To find it in.")
@click.pass_obj
def attribute(
    parent: tuple[Path | None, tuple[str, ...]],
    *,
    device: str,
    replace: bool,
    host: str | None,
    config: Path | None,
) -> None:
    """Tell the daemon which block device its export is behind.

    For a loop device over nbdfuse, or an nbd device of nbd-client, before swapon. From then on the
    daemon learns from the kernel which cgroup each page belongs to, and swaps it off before it
    stops. An attached device needs no such word. It is one device at a time: another one takes the
    place of the first with --replace alone.

    \b
    Example:
      farswap-host attribute --device /dev/loop7
    """
    from farswap.client_nbd.kernel import swap_commands  # noqa: PLC0415

    swap_commands.attribute(_admin_address(parent, host, config), device, replace=replace)


def _admin_address(
    parent: tuple[Path | None, tuple[str, ...]], host: str | None, config: Path | None
) -> Address:
    """--host, else what the configuration says, else $FARSWAP_HOST, else the default."""
    path, overrides = config or parent[0], parent[1]
    if host is None and path is not None:
        return host_config.load(path, overrides).admin.listen
    return cli.address_option(host, "FARSWAP_HOST", HOST_ADMIN)


def main() -> None:
    """The console script."""
    cli.run(PROGRAM, command)


if __name__ == "__main__":
    main()
