"""`farswapctl status`: one screen about a host: device, tier, servers, health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.admin import commands, device, output, tier
from rich.text import Text

if TYPE_CHECKING:
    from farswap.admin.session import Session
    from farswap.v1 import host_admin_pb2 as pb
    from rich.console import Console


@commands.verb()
def command(session: Session, output_format: str) -> None:
    """Device, tier, servers and health of a host on one screen.

    \b
    Examples:
      farswapctl status
      farswapctl --host 127.0.0.1:7072 status -o json | jq .tier.pages_remote
    """
    with session.host() as host:
        status = host.status
    if output_format == "json":
        output.print_json(status)
        return
    out = output.console()
    output.print_program(out, status.info)
    output.print_rows(out, "device", device.rows(status.device))
    output.print_rows(out, "tier", tier.rows(status.tier))
    _print_servers(out, status)
    _print_health(out, status)


def _print_servers(out: Console, status: pb.HostStatus) -> None:
    rows = [
        (
            server.address,
            output.good("connected")
            if server.connected
            else output.bad(f"away for {output.span(server.disconnected_ms)}"),
            f"{output.size(server.used_bytes)} of {output.size(server.capacity_bytes)}",
            str(server.shards),
            str(server.reconnects),
            server.last_error,
        )
        for server in status.servers
    ]
    columns = ("address", "state", ">used", ">shards", ">reconnects", "last error")
    if rows:
        output.print_table(out, "servers", columns, rows)


def _print_health(out: Console, status: pb.HostStatus) -> None:
    rows: list[output.Row] = []
    for finding in status.findings:
        level = output.enum_name(finding, "level")
        style = output.level_style(level)
        rows.append((level, Text(f"{finding.subject}: {finding.message}", style=style)))
    output.print_rows(out, "health", rows or [("good", output.good("nothing to report"))])
