"""`farswapctl slot explain`: place and integrity of one slot's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from farswap.admin import commands, output
from farswap.v1 import host_admin_pb2 as pb

if TYPE_CHECKING:
    from farswap.admin.session import Session
    from rich.console import Console

_SLOT_MAX = (1 << 64) - 1


@click.group()
def command() -> None:
    """Single slots (4 KiB pages) of a host's device.

    \b
    Example:
      farswapctl slot explain 1234
    """


@commands.verb(command)
@click.argument("number", metavar="N", type=click.IntRange(0, _SLOT_MAX))
def explain(session: Session, number: int, output_format: str) -> None:
    """Show state, version, size and age of slot N's page.

    Reads the page, also from a memory server, to verify its checksum. Slot N starts at byte
    N * 4096 of the device.

    \b
    Example:
      farswapctl slot explain 1234
    """
    with session.host() as host:
        found = host.client.call(host.stub.ExplainSlot, pb.ExplainSlotRequest(slot=number))
    output.print_answer(found, output_format, _print)


def _print(out: Console, found: pb.SlotExplanation) -> None:
    output.print_rows(out, f"slot {found.slot}", _rows(found))


def _rows(found: pb.SlotExplanation) -> list[output.Row]:
    rows: list[output.Row] = [("state", found.state), ("version", str(found.version))]
    if found.state == "empty":
        return rows
    if found.state == "same_filled":
        rows.append(("filled with", f"{found.fill:#018x}"))
    else:
        rows.append(("size", f"{found.size_bytes} bytes"))
        rows.append(("codec", output.enum_name(found, "codec")))
    rows.append(("age", output.span(found.age_ms) if found.age_known else "unknown"))
    rows.append(("referenced", "yes" if found.referenced else "no"))
    replicas = [f"{replica.address} ({replica.state})" for replica in found.replicas]
    rows.append(("replicas", ", ".join(replicas) or "none"))
    intact = output.good("yes") if found.verified else output.bad(f"not verified: {found.problem}")
    rows.append(("intact", intact))
    return rows
