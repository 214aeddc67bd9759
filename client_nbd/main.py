"""The command line of farswap-host: the daemon, and commands for its kernel device.

Import order matters: the daemon makes its process fit for the reclaim path before any thread
exists, so this module imports neither grpc nor the daemon's parts, and the branches that need
them import them once that is done.
"""

from __future__ import annotations

import importlib
import threading
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click
from farswap.client_nbd import config as host_config
from farswap.client_nbd import volume_claims
from farswap.client_nbd.survival import process
from farswap.client_nbd.survival.keeper import Keeper
from farswap.client_nbd.survival.supervisor import WORKER_OPTION, Supervisor, end_like
from farswap.common import cli, startup
from farswap.common import config as common_config
from farswap.common.address import HOST_ADMIN
from farswap.common.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable

    from farswap.client_nbd.config import HostConfig
    from farswap.client_nbd.kernel.files import Discard
    from farswap.common.address import Address
    from farswap.native import ReclaimProtection

PROGRAM = "farswap-host"


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@cli.daemon_options
@click.option(
    "--take-over",
    is_flag=True,
    help="Take the volume from another host that has it on the memory servers. That host loses its "
    "pages there, and its programs that read them die. For one start only, not for unit files.",
)
@click.option(WORKER_OPTION, type=int, hidden=True, help="Of the supervisor: link to it.")
@click.pass_context
def command(
    context: click.Context,
    *,
    take_over: bool,
    worker: int | None,
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
    path = config or host_config.DEFAULT_CONFIG
    if worker is not None:
        _work(worker, path, overrides, take_over=take_over)
        return
    text = common_config.read(path)
    loaded = host_config.parse(text, path.name, overrides)
    if check_config:
        click.echo(f"{path}: good")
        return
    startup.become_daemon()
    if loaded.reclaim.protect:
        process.enter_reclaim_path()
    with volume_claims.claimed(loaded, partial(cli.say_error, PROGRAM)):
        end_like(Supervisor(text, Keeper(loaded)).run())


def _work(descriptor: int, path: Path, overrides: tuple[str, ...], *, take_over: bool) -> None:
    """Everything that the daemon does, in a process that may be replaced."""
    from farswap.client_nbd.kernel.files import KernelFiles  # noqa: PLC0415
    from farswap.client_nbd.survival import engine as engines  # noqa: PLC0415
    from farswap.client_nbd.survival.connections import Connections  # noqa: PLC0415
    from farswap.client_nbd.survival.worker import WorkerLink, end_at_once  # noqa: PLC0415

    link = WorkerLink(descriptor)
    try:
        loaded = host_config.parse(link.orders.config, path.name, overrides)
        startup.become_daemon()
        protections = _enter_reclaim_path(loaded)
        if link.orders.standby:
            # Beside the wait: once programs wait for this worker, the processor is for their pages.
            threading.Thread(target=_load_daemon, name="load", daemon=True).start()
        state = engines.state_of_worker(loaded, link, KernelFiles())
        engine = engines.native_engine(
            loaded, state, link.orders.rings, take_over=take_over and not link.adopts
        )
        connections = Connections(engine, link)
        if connections.adopt():
            link.answers(engine)
        # Only now: importing the daemon loads grpc.
        from farswap.client_nbd import daemon  # noqa: PLC0415

        daemon.run(loaded, protections, connections)
    except Exception as error:  # noqa: BLE001 - every one, so that none closes the volume
        end_at_once(cli.explain(PROGRAM, error))


def _load_daemon() -> None:
    importlib.import_module("farswap.client_nbd.daemon")


def _enter_reclaim_path(config: HostConfig) -> list[ReclaimProtection] | None:
    try:
        from farswap import native  # noqa: PLC0415 - not for a wrong configuration
    except ImportError as error:
        raise StartError(f"failed to load the native core: {error}") from error
    return native.enter_reclaim_path() if config.reclaim.protect else None


def _with_address(operate: Callable[..., None]) -> Callable[..., None]:
    """Adds --host and --config; `operate` gets the daemon's admin address.

    That is --host, else the configuration's, else $FARSWAP_HOST, else the default.
    """

    @click.option("--host", metavar="ADDR", help="Admin address of the daemon.")
    @click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Config file with the admin address.",
    )
    @click.pass_obj
    @wraps(operate)
    def with_address(
        parent: tuple[Path | None, tuple[str, ...]],
        /,
        host: str | None,
        config: Path | None,
        **options: object,
    ) -> None:
        path, overrides = config or parent[0], parent[1]
        if host is None and path is not None:
            address = host_config.load(path, overrides).admin.listen
        else:
            address = cli.address_option(host, "FARSWAP_HOST", HOST_ADMIN)
        operate(address, **options)

    return with_address


@command.command()
@click.option("--device", required=True, metavar="/dev/nbdN", help="Kernel nbd device.")
@click.option(
    "--connections",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Number of sockets to the daemon. With more than one, a slow request disconnects some.",
)
@click.option(
    "--swapon", is_flag=True, help="Whether to swap on the device; makes a swap area if missing."
)
@click.option(
    "--priority", type=click.IntRange(0, 32767), help="Priority of the swap area; needs --swapon."
)
@click.option(
    "--discard",
    type=click.Choice(["pages", "once", "both"]),
    is_flag=False,
    flag_value="pages",
    help="When to discard: freed pages (pages, the default), at swapon (once), or both.",
)
@_with_address
def attach(
    address: Address,
    *,
    device: str,
    connections: int,
    swapon: bool,
    priority: int | None,
    discard: Discard | None,
) -> None:
    """Attach a kernel nbd device to the running daemon, and swap to it.

    The daemon attaches it; this program makes and enables the swap area. If a step fails, earlier
    ones are undone.

    \b
    Examples:
      farswap-host attach --device /dev/nbd0 --swapon --priority 100 --discard
      farswap-host attach --config host.toml --device /dev/nbd0
    """
    if not swapon and (priority is not None or discard is not None):
        raise click.UsageError("--priority and --discard need --swapon")
    from farswap.client_nbd.kernel import swap_commands  # noqa: PLC0415

    swap = swap_commands.SwapOptions(priority, discard) if swapon else None
    swap_commands.attach(address, device, connections, swap)


@command.command()
@click.option("--device", metavar="/dev/nbdN", help="Kernel nbd device. Default: the attached one.")
@_with_address
def detach(address: Address, *, device: str | None) -> None:
    """Swap off, drop the device's pages, and detach it.

    Ctrl-C stops swapoff; the device then stays in use. Fails while another device, a file system or
    a program uses the device, and names it.

    \b
    Examples:
      farswap-host detach
      farswap-host detach --config host.toml --device /dev/nbd0
    """
    from farswap.client_nbd.kernel import swap_commands  # noqa: PLC0415

    swap_commands.detach(address, device)


@command.command()
@click.option(
    "--device", required=True, metavar="/dev/loopN", help="Block device the kernel swaps to."
)
@click.option("--replace", is_flag=True, help="Whether to replace the current device.")
@_with_address
def attribute(address: Address, *, device: str, replace: bool) -> None:
    """Name the block device that is backed by the daemon's export.

    For a loop device over nbdfuse, or an nbd device of nbd-client, before swapon. The daemon then
    attributes its pages to cgroups, and swaps it off before it stops. Attached devices need no
    name. One device at a time; --replace changes it.

    \b
    Example:
      farswap-host attribute --device /dev/loop7
    """
    from farswap.client_nbd.kernel import swap_commands  # noqa: PLC0415

    swap_commands.attribute(address, device, replace=replace)


@command.group()
def state() -> None:
    """Show or discard memory with pages that a daemon has left behind.

    A start with the same device adopts it, or refuses it if it has other sizes. Only System V
    segments (Linux before 6.4) are left behind: other memory is held by the daemon's supervisor, or
    by systemd until the unit is stopped.
    """


@state.command("show")
@click.option(
    "--output", "-o", type=click.Choice(["table", "json"]), default="table", help="Output format."
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Config file.")
@click.pass_obj
def show_state(
    parent: tuple[Path | None, tuple[str, ...]], /, output: str, config: Path | None
) -> None:
    """Show its sizes, and whether the next start adopts it.

    \b
    Example:
      farswap-host state show --config /etc/farswap/host.toml
    """
    from farswap.client_nbd.survival import state_commands  # noqa: PLC0415

    state_commands.show(_configuration(parent, config), output)


@state.command("discard")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Config file.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def discard_state(
    parent: tuple[Path | None, tuple[str, ...]], /, config: Path | None, *, yes: bool
) -> None:
    """Free it. Programs that swapped to the device lose their pages.

    \b
    Example:
      farswap-host state discard --yes
    """
    from farswap.client_nbd.survival import state_commands  # noqa: PLC0415

    loaded = _configuration(parent, config)
    if not yes:
        click.confirm(f"Discard all pages of {loaded.device.name}?", abort=True)
    state_commands.discard(loaded)


def _configuration(parent: tuple[Path | None, tuple[str, ...]], config: Path | None) -> HostConfig:
    path = config or parent[0] or host_config.DEFAULT_CONFIG
    return host_config.load(path, parent[1])


def main() -> None:
    """The console script."""
    cli.run(PROGRAM, command)


if __name__ == "__main__":
    main()
