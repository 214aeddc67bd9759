"""`farswapctl server`: memory servers, their volumes and counters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from farswap.admin import cluster, commands, drain_command, members, output, remove_command, volume
from farswap.admin import drain as drains
from farswap.common.text import count
from farswap.v1 import server_admin_pb2 as pb

if TYPE_CHECKING:
    from farswap.admin.session import Session
    from farswap.common.address import Address
    from rich.console import Console
    from rich.text import Text


@click.group()
def command() -> None:
    """Memory servers: what they have, drains, removal.

    --server names the server that a command is for, by its admin address. `list` shows all.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 server list
      farswapctl --server 10.0.0.7:7071 server drain --wait
    """


@commands.verb(command)
def show(session: Session, output_format: str) -> None:
    """Show capacity, volumes and counters.

    \b
    Examples:
      farswapctl server show
      farswapctl --server 10.0.0.7:7071 server show -o json | jq .used_bytes
    """
    with session.server() as server:
        status = server.status(count_shards=True)
    output.print_answer(status, output_format, _print)


@commands.verb(command, "list")
@members.option
def list_(session: Session, named: list[Address], output_format: str) -> None:
    """List the cluster's memory servers: state, room, shards.

    Without --servers and --etcd, these are the servers of the host daemon at --host, or the memory
    server at --server and its peers.

    \b
    Examples:
      farswapctl server list
      farswapctl --server 10.0.0.7:7071 server list
      farswapctl server list --servers 10.0.0.7:7070,10.0.0.8:7070 -o json
      farswapctl server list --etcd 10.0.0.2:2379
    """
    looked = members.describe_all(members.find(session, named), session.timeout_s)
    if output_format == "json":
        print(json.dumps([cluster.server_document(one) for one in looked], indent=2))
    else:
        cluster.print_servers(output.console(), looked)


@commands.verb(command)
def scrub(session: Session, output_format: str) -> None:
    """Read and verify all pages of a memory server now.

    What is damaged is copied again from another replica. `server show` has the progress.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 server scrub
    """
    with session.server() as server:
        server.status()
        server.client.call(server.stub.Scrub, pb.ScrubRequest())
        status = server.status()
    output.print_answer(status, output_format, _print_scrub)


command.add_command(drain_command.drain)
command.add_command(drain_command.undrain)
command.add_command(remove_command.remove)


def _print(out: Console, status: pb.ServerStatus) -> None:
    output.print_program(out, status.info)
    output.print_rows(out, "store", _rows(status))
    if status.volumes:
        volume.print_table(out, status.volumes)
    output.print_counters(out, status.counters)


def _print_scrub(out: Console, status: pb.ServerStatus) -> None:
    output.print_rows(out, "store", [("scrub", _scrub(status))])


def _server_state(status: pb.ServerStatus) -> str:
    state = output.enum_name(status, "state").replace("_", " ")
    return f"{state}, {drains.amount(drains.Left.of(status))} left" if status.draining else state


def _scrub(status: pb.ServerStatus) -> str | Text:
    """Progress of the pass, the end of the last one, and damage."""
    counts = {counter.name: counter.value for counter in status.counters}
    parts = []
    if status.scrub_running:
        share = output.share(status.scrub_pass_bytes, max(status.used_bytes, 1))
        parts.append(f"{output.size(status.scrub_pass_bytes)} ({share}) read")
    if status.scrub_passes:
        parts.append(f"last pass ended {output.span(status.scrub_ended_ago_seconds * 1000)} ago")
    else:
        parts.append("no pass has ended")
    damaged, repaired = (
        counts.get("scrub_damaged_records", 0),
        counts.get("scrub_repaired_objects", 0),
    )
    parts.append(f"{count(damaged, 'damaged object')} found, {repaired} repaired")
    if shards := status.scrub_damaged_shards:
        return output.bad(f"{', '.join(parts)}, {count(shards, 'shard')} not yet compared")
    return ", ".join(parts)


def _rows(status: pb.ServerStatus) -> list[output.Row]:
    used = (
        f"{output.size(status.used_bytes)} of {output.size(status.capacity_bytes)} "
        f"({output.share(status.used_bytes, status.capacity_bytes)}), "
        f"{output.size(status.reserve_bytes)} reserved for repair"
    )
    stopped = status.writes_stopped
    problem = status.disk_problem
    return [
        ("listens", status.listen),
        ("advertises", status.advertise),
        ("store", f"{status.path}, {status.uuid}"),
        ("run", status.run_id),
        ("labels", ", ".join(f"{k}={v}" for k, v in sorted(status.labels.items())) or "none"),
        ("state", _server_state(status)),
        ("used", used),
        ("on disk", output.size(status.disk_bytes)),
        (
            "disk",
            output.bad(f"refuses pages: {problem}")
            if problem
            else output.good(f"{output.size(status.disk_free_bytes)} free"),
        ),
        ("pages", str(status.pages)),
        ("garbage", output.size(status.garbage_bytes)),
        ("scrub", _scrub(status)),
        *([("etcd", output.bad(status.etcd_problem))] if status.etcd_problem else []),
        (
            "writes",
            output.bad("stopped: compaction is behind") if stopped else output.good("accepted"),
        ),
    ]
