"""`farswapctl server`: memory servers, their volumes and counters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from farswap.admin import cluster, commands, drain_command, members, output, remove_command, volume
from farswap.admin import drain as drains

if TYPE_CHECKING:
    from farswap.admin.session import Session
    from farswap.common.address import Address
    from farswap.v1 import server_admin_pb2 as pb
    from rich.console import Console


@click.group()
def command() -> None:
    """A memory server."""


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


command.add_command(drain_command.drain)
command.add_command(drain_command.undrain)
command.add_command(remove_command.remove)


def _print(out: Console, status: pb.ServerStatus) -> None:
    output.print_program(out, status.info)
    output.print_rows(out, "store", _rows(status))
    if status.volumes:
        volume.print_table(out, status.volumes)
    output.print_counters(out, status.counters)


def _server_state(status: pb.ServerStatus) -> str:
    state = output.enum_name(status, "state").replace("_", " ")
    return f"{state}, {drains.amount(drains.Left.of(status))} left" if status.draining else state


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
        ("failure domain", status.failure_domain or "of its own"),
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
        *([("etcd", output.bad(status.etcd_problem))] if status.etcd_problem else []),
        (
            "writes",
            output.bad("stopped: compaction is behind") if stopped else output.good("accepted"),
        ),
    ]
