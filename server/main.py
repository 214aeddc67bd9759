"""The command line of farswap-server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from farswap.common import cli, startup
from farswap.server import config as server_config

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "farswap-server"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@cli.daemon_options
def command(config: Path | None, check_config: bool, overrides: tuple[str, ...]) -> None:
    """Run a memory server: keep cold pages of other hosts in memory and on disk.

    \b
    Examples:
      farswap-server --config /etc/farswap/server.toml
      farswap-server --config server.toml --check-config --set store.capacity=64GiB
    """
    path = config or server_config.DEFAULT_CONFIG
    loaded = server_config.load(path, overrides)
    if check_config:
        click.echo(f"{path}: good")
        return
    startup.become_daemon()
    # Imported late: it loads grpc, which a configuration check does not need.
    from farswap.server import daemon  # noqa: PLC0415

    daemon.run(loaded)


def main() -> None:
    """The console script."""
    cli.run(PROGRAM, command)


if __name__ == "__main__":
    main()
