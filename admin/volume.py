"""`farswapctl volume`: the volumes of hosts' devices on a memory server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import click
from farswap.admin import commands, completion, output
from farswap.common.errors import NotFoundError
from farswap.v1 import server_admin_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from farswap.admin.session import Session
    from rich.console import Console


@click.group()
def command() -> None:
    """Volumes of hosts' devices on a memory server.

    A volume is what one server keeps of a host's device. A device whose pages are on several
    servers has a volume on each; --server names the one that a command is for.
    """


@commands.verb(command, "list")
def list_(session: Session, output_format: str) -> None:
    """Show size, quota, owner and expiry of each volume.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 volume list
      farswapctl volume list -o json | jq '.volumes[] | select(.owner_live | not) | .host_id'
    """
    with session.server() as server:
        volumes = server.status(count_shards=True).volumes
    if output_format == "json":
        output.print_json({"volumes": [output.plain(volume) for volume in volumes]})
    elif volumes:
        print_table(output.console(), volumes)
    else:
        output.print_lines(output.console(), "no volumes")


@commands.verb(command)
@click.argument("volume", type=commands.VOLUME, shell_complete=completion.volumes)
def show(session: Session, volume: commands.VolumeName, output_format: str) -> None:
    """Show one volume.

    \b
    Example:
      farswapctl --server 10.0.0.7:7071 volume show web1/swap0
    """
    with session.server() as server:
        found = _find(server.status(count_shards=True), volume)
    output.print_answer(found, output_format, _print)


@commands.verb(command)
@click.argument("volume", type=commands.VOLUME, shell_complete=completion.volumes)
@click.option("--force", is_flag=True, help="Delete it although its host is live.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete(
    session: Session, volume: commands.VolumeName, *, force: bool, yes: bool, output_format: str
) -> None:
    """Delete all pages of a volume from this server.

    For a host that never returns. Where a page has no replica on another server, its host can no
    longer read it. A host that comes back is refused until its device starts empty. The disk space
    is freed in the background; `server show` shows it as garbage until then.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 volume delete web1/swap0
      farswapctl --server 10.0.0.7:7071 volume delete web1/swap0 --yes
    """
    request = pb.DeleteVolumeRequest(host_id=volume.host_id, device=volume.device, force=force)
    with session.server() as server:
        found = _find(server.status(), volume)
        if not yes:
            _confirm(found)
        deleted = server.client.call(server.stub.DeleteVolume, request)
    output.print_answer(deleted, output_format, lambda out, it: _print_deleted(out, volume, it))


@commands.verb(command, "set-quota")
@click.argument("volume", type=commands.VOLUME, shell_complete=completion.volumes)
@click.argument("quota", type=commands.QUOTA)
def set_quota(
    session: Session, volume: commands.VolumeName, quota: object, output_format: str
) -> None:
    """Limit the compressed size of a device's pages on this server.

    QUOTA is a size of 1MiB or more, `off`, or `default`: the server's volumes.quota_default. The
    server keeps it, also over restarts and for later incarnations of the device. Below what the
    volume has, it refuses more bytes and deletes none. The host keeps the refused pages in its
    pool or places them on other servers.

    \b
    Examples:
      farswapctl volume set-quota web1/swap0 4GiB
      farswapctl --server 10.0.0.7:7071 volume set-quota web1/swap0 default
    """
    request = pb.SetQuotaRequest(host_id=volume.host_id, device=volume.device)
    if quota is commands.DEFAULT:
        request.use_default = True
    elif quota == commands.NO_LIMIT:
        request.off = True
    else:
        request.bytes = cast("int", quota)
    with session.server() as server:
        server.status()
        server.client.call(server.stub.SetQuota, request)
        found = [it for it in server.status().volumes if _is(it, volume)]
    if output_format == "json":
        output.print_json(output.plain(found[0]) if found else {})
    else:
        text = quota_text(found[0]) if found else "set; the device has no volume now"
        output.print_lines(output.console(), f"{volume}: quota {text}")


def print_table(out: Console, volumes: Iterable[pb.VolumeStatus]) -> None:
    """One line per volume; also used by `server show`."""
    columns = (
        "host/device",
        ">epoch",
        ">pages",
        ">shards",
        ">size",
        ">quota",
        "state",
        "owner",
        "deleted in",
        "incarnation",
    )
    rows = [
        (
            f"{volume.host_id}/{volume.device}",
            str(volume.epoch),
            str(volume.pages),
            str(volume.shards) if volume.HasField("shards") else "",
            output.size(volume.bytes),
            output.bad(quota_text(volume)) if volume.at_quota else quota_text(volume),
            _state(volume),
            _owner(volume),
            _expiry(volume),
            volume.incarnation,
        )
        for volume in volumes
    ]
    spare = ("incarnation", "epoch", "owner", "pages")
    output.print_table(out, "volumes", columns, rows, spare=spare)


def quota_text(volume: pb.VolumeStatus) -> str:
    """`4.0 GiB`, or `off`."""
    return output.size(volume.quota_bytes) if volume.HasField("quota_bytes") else "off"


def _print(out: Console, volume: pb.VolumeStatus) -> None:
    quota = quota_text(volume)
    rows: list[output.Row] = [
        ("volume", f"{volume.host_id}/{volume.device}"),
        ("state", _state(volume)),
        ("owner", _owner(volume)),
        ("pages", str(volume.pages)),
        ("shards", str(volume.shards)),
        ("size", output.size(volume.bytes)),
        ("quota", output.bad(f"{quota}, reached: refuses pages") if volume.at_quota else quota),
        ("deleted in", _expiry(volume) or "not: its host is live"),
        ("epoch", str(volume.epoch)),
        ("incarnation", volume.incarnation),
    ]
    output.print_rows(out, "volume", rows)


def _print_deleted(out: Console, volume: object, deleted: pb.DeleteVolumeResponse) -> None:
    size = output.size(deleted.bytes)
    output.print_lines(out, f"deleted {volume}: {deleted.pages} pages, {size}")


def _find(status: pb.ServerStatus, volume: commands.VolumeName) -> pb.VolumeStatus:
    """Raises NotFoundError."""
    for found in status.volumes:
        if _is(found, volume):
            return found
    raise NotFoundError(f"{status.advertise} has no volume {volume}; see `volume list`")


def _is(volume: pb.VolumeStatus, name: commands.VolumeName) -> bool:
    return not volume.garbage and (volume.host_id, volume.device) == (name.host_id, name.device)


def _confirm(volume: pb.VolumeStatus) -> None:
    """Raises click's Abort if the operator declines."""
    if not sys.stdin.isatty():
        raise click.UsageError("without a terminal to confirm at, give --yes")
    size = output.size(volume.bytes)
    name = output.printable(f"{volume.host_id}/{volume.device}")
    click.confirm(
        f"{name} has {volume.pages} pages, {size}; {_state(volume)}. Delete them?",
        abort=True,
        err=True,
    )


def _owner(volume: pb.VolumeStatus) -> str:
    return f"{volume.owner_name} {volume.owner_address}".strip()


def _state(volume: pb.VolumeStatus) -> str:
    if volume.garbage:
        return "garbage, being deleted"
    state = "live" if volume.owner_live else f"silent for {output.span(volume.silent_ms)}"
    return state if volume.intact else f"{state}, pages may be missing"


def _expiry(volume: pb.VolumeStatus) -> str:
    if volume.garbage or volume.owner_live:
        return ""
    return output.span(volume.expires_in_ms) if volume.HasField("expires_in_ms") else "never"
