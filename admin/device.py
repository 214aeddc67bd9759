"""`farswapctl device show`: the swap device of a host and its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from farswap.admin import commands, output

if TYPE_CHECKING:
    from farswap.admin.session import Session
    from farswap.v1 import host_admin_pb2 as pb
    from rich.console import Console


@click.group()
def command() -> None:
    """The swap device of a host."""


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
