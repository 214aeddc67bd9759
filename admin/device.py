"""`farswapctl device`: the swap device of a host, its connections, and its pages' replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from farswap.admin import commands, output, placement
from farswap.v1 import host_admin_pb2 as pb

if TYPE_CHECKING:
    from farswap.admin.session import Session
    from rich.console import Console


@click.group()
def command() -> None:
    """The swap device of a host.

    \b
    Example:
      farswapctl device show
    """


@commands.verb(command)
def show(session: Session, output_format: str) -> None:
    """Show size, addresses, kernel device and connections.

    \b
    Example:
      farswapctl device show -o json | jq -r .attached
    """
    with session.host() as host:
        device = host.status.device
    output.print_answer(device, output_format, _print)


@commands.verb(command, "set")
@click.option("--replicas", metavar="1|2|3", type=click.IntRange(1, 3), help="Of each page.")
@click.option(
    "--spread", metavar="LABEL", help="In which label of memory servers the replicas differ."
)
def set_(session: Session, *, output_format: str, **settings: object) -> None:
    """Change on how many memory servers each page is kept, and which are kept apart.

    Two replicas of a page are not on servers with the same value of the label, as of `rack` in
    server.toml's `labels`; `host` keeps them on different servers.

    Pages are copied, or dropped, in the background; `farswapctl status` shows what is left. The
    change lasts until the daemon stops; to keep it, edit cluster.replicas and cluster.spread in
    host.toml.

    \b
    Examples:
      farswapctl device set --replicas 2
      farswapctl device set --spread rack
    """
    request = pb.SetPlacementRequest(**commands.given(settings))
    with session.host() as host:
        changed = host.client.call(host.stub.SetPlacement, request)
    output.print_answer(changed, output_format, placement.print_rows)


def _print(out: Console, device: pb.DeviceStatus) -> None:
    identity = [("host id", device.host_id), ("incarnation", device.incarnation)]
    output.print_rows(out, "device", [*rows(device), *identity])
    connections = [
        (str(connection.id), connection.peer, str(connection.requests), str(connection.errors))
        for connection in device.connections
    ]
    if connections:
        columns = ("id", "peer", ">requests", ">errors")
        output.print_table(out, "connections", columns, connections)


def rows(device: pb.DeviceStatus) -> list[output.Row]:
    """Also used by `status`."""
    if device.swap_active:
        used = output.size(device.swap_used_bytes)
        areas = ", ".join(device.swap_areas)
        state: output.Row = ("swap", output.good(f"on {areas}, {used} used"))
    else:
        state = ("swap", "not on a known device")
    return [
        ("name", device.name),
        ("size", output.size(device.size_bytes)),
        ("kernel device", device.attached or "none attached"),
        state,
        *([("stacked on it", ", ".join(device.stacked))] if device.stacked else []),
        ("listens", ", ".join(device.listen) or "none"),
        ("connections", str(len(device.connections))),
    ]
