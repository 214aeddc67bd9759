"""How our programs end: every error is one clear line, and output that fails is no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from farswap.common import cli
from farswap.common.errors import NotFoundError

# A program whose only command does what its argument says.
PROGRAM = """
import sys
import click
from farswap.common import cli
from farswap.common.errors import NotFoundError

@click.command()
@click.argument("code")
def command(code):
    exec(code)

cli.run("prog", command)
"""


def run(code: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirect}', "bash", sys.executable, "-c", PROGRAM, code],
        env=os.environ | {"PYTHONUNBUFFERED": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_bug_is_one_line_with_the_way_to_see_more() -> None:
    ended = run("raise ValueError('two\\nlines')")
    assert ended.returncode == 1
    assert ended.stderr == (
        "prog: internal error: ValueError: two lines; set FARSWAP_TRACEBACK=1 to see where\n"
    )


def test_a_bug_shows_its_traceback_on_request() -> None:
    ended = run("raise ValueError('a bug')", FARSWAP_TRACEBACK="1")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert ended.stderr.endswith("ValueError: a bug\n")
    assert "Traceback" not in run("raise NotFoundError('it')", FARSWAP_TRACEBACK="1").stderr


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_what_the_encoding_does_not_have_is_escaped(environment: dict[str, str]) -> None:
    code = "print('caf\\xe9'); print('\\udcff', file=sys.stderr); raise NotFoundError('caf\\xe9')"
    ended = run(code, **environment)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout in ("caf\\xe9\n", "café\n")
    assert "\\udcff" in ended.stderr


def test_names_are_utf8_whatever_the_locale_is() -> None:
    code = "import os; print(ascii(sys.argv[1][-3:])); print(os.fsencode('\xe9'))#\xe9'#"
    ended = run(code, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert ended.stdout.splitlines() == ['"\\xe9\'#"', r"b'\xc3\xa9'"]


def test_a_reader_that_is_gone_is_no_traceback() -> None:
    code = "print('x' * 100_000)"
    ended = run(code, "> >(exec >&-; true)")
    assert ended.stderr == ""
    failing = run("print('x'); raise NotFoundError('it')", ">/dev/full")
    assert failing.stderr == "prog: it\n"
    assert failing.returncode == 1


def test_an_error_that_cannot_be_written_keeps_the_exit_code() -> None:
    assert run("raise NotFoundError('it')", "2>/dev/full").returncode == 1
    assert run("raise click.UsageError('it')", "2>/dev/full").returncode == 2
    assert run("raise NotFoundError('it')", "2>&-").returncode == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_are_dev_null(closed: str) -> None:
    code = (
        "import os; opened = os.open('/', os.O_RDONLY); assert opened > 2; print('x'); "
        "print('y', file=sys.stderr); assert sys.stdin is not None; raise SystemExit(7)"
    )
    assert run(code, closed).returncode == 7


def test_errors_of_the_world_are_not_bugs(capfd: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise NotFoundError("no such thing")

    with pytest.raises(SystemExit) as ended:
        cli.run("prog", command, [])
    assert ended.value.code == 1
    assert capfd.readouterr().err == "prog: no such thing\n"
