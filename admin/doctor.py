"""`farswapctl doctor`: problems of a host's swap, and their remedies."""

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
    """Check a host for problems that make swapping slow, wasteful or unsafe.

    Checks the kernel's zswap, swap areas and nbd device, the daemon's protection (such as locked
    memory), its memory servers, and that every page is accounted for, in total and by cgroup.
    Prints one line per check, with a remedy unless it is ok. Changes nothing. Exit code 1 if a
    check found an error.

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
