"""What a shell gets when it completes arguments of farswapctl."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fake_fleet import fleet, run, shared_fleet

if TYPE_CHECKING:
    from fake_fleet import Fleet

__all__ = ["fleet", "shared_fleet"]

PROGRAM = "from farswap.admin.main import command; command(prog_name='farswapctl')"


def complete(*words: str) -> list[str]:
    """As bash asks: the values offered for the last word."""
    environment = {
        "_FARSWAPCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("farswapctl", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_calls_farswapctl(capfd: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, err = run(capfd, "completion", shell)
    assert (code, err) == (0, "")
    assert "_FARSWAPCTL_COMPLETE" in out


@pytest.mark.usefixtures("fleet")
def test_cgroups_and_servers_of_the_host_are_offered() -> None:
    assert complete("cgroup", "show", "/b") == ["/build"]
    assert complete("shard", "list", "--on", "10") == ["10.0.0.7:7070"]


def test_volumes_of_the_server_are_offered(fleet: Fleet) -> None:
    assert complete("volume", "show", "h") == [f"{'h' * 90}/swap0"]


def test_without_an_answer_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARSWAP_HOST", "unix:/nowhere")
    assert complete("cgroup", "show", "/") == []


def test_the_daemon_that_the_command_line_names_is_asked(fleet: Fleet) -> None:
    assert complete("--host", "unix:/nowhere", "cgroup", "show", "/") == []
    assert complete("--host", fleet.host_address, "cgroup", "show", "/b") == ["/build"]
