"""`farswapctl status`: device, tier, servers, replicas and health of a host on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.admin import commands, device, latency, output, placement, tier
from farswap.common.errors import RemoteError
from farswap.common.text import count
from rich.text import Text

if TYPE_CHECKING:
    from farswap.admin.session import Session
    from farswap.v1 import host_admin_pb2 as pb
    from rich.console import Console


@commands.verb()
def command(session: Session, output_format: str) -> None:
    """Show device, tier, servers and health of a host on one screen.

    If another host has this host's volume, the first line says so, and the exit code is 1.

    \b
    Examples:
      farswapctl status
      farswapctl --host 127.0.0.1:7072 status -o json | jq .tier.remote_pages
      farswapctl status -o json | jq .placement.replication_debt_shards
    """
    with session.host() as host:
        status = host.status
    output.print_answer(status, output_format, _print)
    if status.alarm:
        raise RemoteError("another host has this host's volume")


def _print(out: Console, status: pb.HostStatus) -> None:
    if status.alarm:
        out.print(output.bad(status.alarm))
    output.print_program(out, status.info)
    output.print_rows(out, "device", device.rows(status.device))
    output.print_rows(out, "tier", tier.rows(status.tier))
    output.print_rows(out, "survival", _survival_rows(status.survival))
    output.print_rows(out, "attribution", _attribution_rows(status.attribution))
    _print_servers(out, status)
    if status.HasField("membership"):
        output.print_rows(out, "etcd", _membership_rows(status.membership))
    if status.servers:
        placement.print_rows(out, status.placement)
    _print_health(out, status)


def _survival_rows(survival: pb.SurvivalStatus) -> list[output.Row]:
    """What happens to the pages when the daemon dies."""
    private = survival.memory == "private"
    kept = output.bad("lost with the daemon") if private else f"in memory of kind {survival.memory}"
    rows: list[output.Row] = [("pages", kept)]
    if not private:
        waits = output.good("waits") if survival.standby else output.bad("none")
        rows.append(("standby", waits))
    if survival.HasField("last_takeover"):
        last = survival.last_takeover
        stall = f", stall {output.span(round(last.stall_ms))}" if last.HasField("stall_ms") else ""
        rows.append(
            ("takeovers", f"{survival.takeovers}, the last one of {count(last.pages, 'page')}")
        )
        rows.append(("predecessor", f"{last.predecessor}{stall}"))
    return rows


def _attribution_rows(attribution: pb.AttributionStatus) -> list[output.Row]:
    """Source of attribution, and its limitation."""
    rows: list[output.Row] = [("source", Text(attribution.source))]
    if attribution.device:
        rows.append(("device", Text(attribution.device)))
        pages = f"{attribution.pages}, {attribution.unattributed} of unknown cgroups"
        rows.append(("pages swapped out", Text(pages)))
        rows.append(("free notifications", Text(attribution.free_hook or "TRIM only")))
    if attribution.problem:
        rows.append(("limitation", Text(attribution.problem, style="yellow")))
    return rows


def _print_servers(out: Console, status: pb.HostStatus) -> None:
    rows = [
        (
            server.address,
            _state(server),
            f"{output.size(server.used_bytes)} of {output.size(server.capacity_bytes)}",
            str(server.shards),
            latency.text(server.fetch_p99_us or None),
            str(server.hedged_fetches),
            str(server.reconnects),
            server.last_error,
        )
        for server in status.servers
    ]
    columns = (
        "address",
        "state",
        ">used",
        ">shards",
        ">fetch p99",
        ">hedged",
        ">reconnects",
        "last error",
    )
    if rows:
        spare = ("last error", "reconnects", "hedged", "fetch p99", "shards")
        output.print_table(out, "servers", columns, rows, spare)


def _membership_rows(etcd: pb.MembershipStatus) -> list[output.Row]:
    away = etcd.HasField("away_ms")
    state = (
        output.bad(f"no answer for {output.span(etcd.away_ms)}") if away else output.good("answers")
    )
    rows: list[output.Row] = [
        ("endpoints", etcd.endpoints),
        ("state", state),
        ("listed", count(etcd.listed, "server")),
    ]
    return [*rows, ("problem", etcd.problem)] if etcd.problem else rows


def _state(server: pb.MemoryServerStatus) -> Text:
    if server.connected:
        return output.bad("quota reached") if server.at_quota else output.good("connected")
    if server.state in ("connecting", "away"):
        return output.bad(f"unreachable for {output.span(server.disconnected_ms)}")
    owner = f", host {server.owner_name} ({server.owner_address})" if server.owner_name else ""
    return output.bad(server.state.replace("_", " ") + owner)


def _print_health(out: Console, status: pb.HostStatus) -> None:
    rows: list[output.Row] = []
    for finding in status.findings:
        level = output.enum_name(finding, "level")
        rows.append((level, output.level_text(level, f"{finding.subject}: {finding.message}")))
    output.print_rows(out, "health", rows or [("ok", output.good("no problems"))])
