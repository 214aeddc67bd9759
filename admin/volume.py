"""`farswapctl volume`: the volumes of hosts' devices on a memory server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import click
from farswap.admin import commands, completion, members, output
from farswap.common.errors import NotFoundError, RemoteError
from farswap.common.text import count
from farswap.v1 import server_admin_pb2 as pb
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from farswap.admin.members import Member, Outcome
    from farswap.admin.session import ServerClient, Session
    from farswap.common.address import Address
    from rich.console import Console


@click.group()
def command() -> None:
    """Volumes of hosts' devices on a memory server.

    A volume is what one server keeps of a host's device. A device whose pages are on several
    servers has a volume on each; --server names the one that a command is for. `delete` and
    `set-quota` also work on all servers at once, which --servers or --etcd name.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 volume list
      farswapctl volume set-quota web1/swap0 4GiB --etcd 10.0.0.2:2379
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
@members.option
def delete(
    session: Session,
    volume: commands.VolumeName,
    *,
    force: bool,
    yes: bool,
    named: list[Address],
    output_format: str,
) -> None:
    """Delete all pages of a volume from this server, or from all.

    For a host that never returns. Where a page has no replica on another server, its host can no
    longer read it. A host that comes back is refused until its device starts empty. The disk space
    is freed in the background; `server show` shows it as garbage until then.

    With --servers or --etcd and without --server, deletes it from all these servers. Exit code 1 if
    one of them does not answer or refuses; repeat the command then.

    \b
    Examples:
      farswapctl --server 10.0.0.7:7071 volume delete web1/swap0
      farswapctl volume delete web1/swap0 --etcd 10.0.0.2:2379
    """
    request = pb.DeleteVolumeRequest(host_id=volume.host_id, device=volume.device, force=force)

    def call(server: ServerClient) -> pb.DeleteVolumeResponse:
        answer: pb.DeleteVolumeResponse = server.client.call(server.stub.DeleteVolume, request)
        return answer

    if named and session.server_option is None:
        looked = members.describe_all(named, session.timeout_s)
        having = [one for one in looked if one.problem or _sizes(one, volume)]
        if not any(_sizes(one, volume) for one in having):
            raise NotFoundError(f"no server that answers has a volume {volume}{_silent(looked)}")
        if not yes:
            sizes = [size for one in having for size in _sizes(one, volume)]
            _confirm(f"{volume} has {output.size(sum(sizes))} on {count(len(sizes), 'server')}")
        _on_all(session, having, call, output_format, _deleted_text)
        return
    with session.server() as server:
        found = _find(server.status(), volume)
        if not yes:
            size = output.size(found.bytes)
            _confirm(f"{volume} has {count(found.pages, 'page')}, {size}; {_state(found)}")
        deleted = call(server)
    output.print_answer(deleted, output_format, lambda out, it: _print_deleted(out, volume, it))


@commands.verb(command, "set-quota")
@click.argument("volume", type=commands.VOLUME, shell_complete=completion.volumes)
@click.argument("quota", type=commands.QUOTA)
@members.option
def set_quota(
    session: Session,
    volume: commands.VolumeName,
    *,
    quota: object,
    named: list[Address],
    output_format: str,
) -> None:
    """Limit the compressed size of a device's pages on this server, or on each.

    QUOTA is a size of 1MiB or more, `off`, or `default`: the server's volumes.quota_default. The
    server keeps it, also over restarts and for later incarnations of the device. Below what the
    volume has, it refuses more bytes and deletes none. The host keeps the refused pages in its
    pool or places them on other servers.

    With --servers or --etcd and without --server, sets it on each of these servers. Exit code 1 if
    one of them does not answer or refuses; repeat the command then.

    \b
    Examples:
      farswapctl volume set-quota web1/swap0 4GiB --etcd 10.0.0.2:2379
      farswapctl --server 10.0.0.7:7071 volume set-quota web1/swap0 default
    """
    request = pb.SetQuotaRequest(host_id=volume.host_id, device=volume.device)
    if quota is commands.DEFAULT:
        request.use_default = True
    elif quota == commands.NO_LIMIT:
        request.off = True
    else:
        request.bytes = cast("int", quota)

    def call(server: ServerClient) -> pb.VolumeStatus | None:
        server.client.call(server.stub.SetQuota, request)
        return next((it for it in server.status().volumes if _is(it, volume)), None)

    if named and session.server_option is None:
        looked = members.describe_all(named, session.timeout_s)
        _on_all(session, looked, call, output_format, _quota_set_text)
        return
    with session.server() as server:
        server.status()
        found = call(server)
    if output_format == "json":
        output.print_json(output.plain(found) if found else {})
    else:
        output.print_lines(output.console(), f"{volume}: {_quota_set_text(found)}")


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
    output.print_lines(out, f"deleted {volume}: {_amount_text(deleted)}")


def _amount_text(deleted: pb.DeleteVolumeResponse) -> str:
    return f"{count(deleted.pages, 'page')}, {output.size(deleted.bytes)}"


def _deleted_text(deleted: pb.DeleteVolumeResponse) -> str:
    return f"deleted {_amount_text(deleted)}"


def _quota_set_text(found: pb.VolumeStatus | None) -> str:
    return f"quota {quota_text(found) if found else 'set; the device has no volume now'}"


def _on_all(
    session: Session,
    called: Sequence[Member],
    call: Callable[[ServerClient], Any],
    output_format: str,
    text: Callable[[Any], str],
) -> None:
    """Prints what each server answered. Raises RemoteError if one did not, or refused."""
    outcomes = members.call_each(session, called, call)
    if output_format == "json":
        output.print_json({"servers": [_outcome_document(one) for one in outcomes]})
    else:
        lines = [f"{one.member.address}: {one.problem or text(one.answer)}" for one in outcomes]
        output.print_lines(output.console(), Text("\n".join(lines)))
    if failed := sum(bool(one.problem) for one in outcomes):
        raise RemoteError(f"not done on {failed} of {count(len(outcomes), 'server')}: repeat it")


def _outcome_document(outcome: Outcome) -> dict[str, object]:
    answer = outcome.answer
    done = {} if answer is None else output.plain(answer)
    return {"address": outcome.member.address, "problem": outcome.problem} | done


def _sizes(server: Member, name: commands.VolumeName) -> list[int]:
    """In bytes: of its volume of that name; empty if it has none."""
    return [
        volume.bytes
        for volume in server.answer.volumes
        if (volume.host_id, volume.device) == (name.host_id, name.device)
    ]


def _silent(looked: Sequence[Member]) -> str:
    silent = [one.address for one in looked if one.problem]
    return f"; no answer: {', '.join(silent)}" if silent else ""


def _find(status: pb.ServerStatus, volume: commands.VolumeName) -> pb.VolumeStatus:
    """Raises NotFoundError."""
    for found in status.volumes:
        if _is(found, volume):
            return found
    raise NotFoundError(f"{status.advertise} has no volume {volume}; see `volume list`")


def _is(volume: pb.VolumeStatus, name: commands.VolumeName) -> bool:
    return not volume.garbage and (volume.host_id, volume.device) == (name.host_id, name.device)


def _confirm(what: str) -> None:
    """Raises click's Abort if the operator declines."""
    if not sys.stdin.isatty():
        raise click.UsageError("without a terminal to confirm at, give --yes")
    click.confirm(f"{output.printable(what)}. Delete them?", abort=True, err=True)


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
