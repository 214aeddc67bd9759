"""`farswapctl doctor`: what is wrong with a host's swap, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farswap.admin import commands, output
from farswap.common.errors import RemoteError
from farswap.v1 import host_admin_pb2 as pb
from rich.text import Text

if TYPE_CHECKING:
    from farswap.admin.session import Session
    from rich.console import Console


@commands.verb()
def command(session: Session, output_format: str) -> None:
    """Check a host for what makes swapping slow, wasteful or unsafe.

    Looks at the kernel's zswap, swap areas and nbd device, at what the daemon could not get of
    locked memory and the like, at its memory servers, and whether every page that came in is
    accounted for, in total and for each cgroup. A line for each check, with what to do where it
    is not ok. Changes nothing. Exit code 1 when a check found an error.

    \b
    Examples:
      farswapctl doctor
      farswapctl doctor -o json | jq -r '.checks[] | select(.level != "ok") | .remedy'
    """
    with session.host() as host:
        report = host.client.call(host.stub.Doctor, pb.DoctorRequest())
    output.print_answer(report, output_format, _print)
    errors = [check.subject for check in report.checks if check.level == pb.Finding.LEVEL_ERROR]
    if errors:
        raise RemoteError(f"errors found: {', '.join(dict.fromkeys(errors))}")


def _print(out: Console, report: pb.DoctorReport) -> None:
    rows: list[output.Row] = []
    for check in report.checks:
        level = output.enum_name(check, "level")
        text = Text(level, style=output.level_style(level))
        rows.append((check.subject, Text(": ").join([text, Text(check.message)])))
        if check.remedy:
            rows.append(("", Text(f"  do: {check.remedy}")))
    output.print_rows(out, "checks", rows)
