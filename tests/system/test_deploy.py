"""What deploy/ ships is right: the examples are good and complete, systemd accepts the units."""

import importlib
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
EXAMPLES = [
    ("host.toml", "farswap.client_nbd.config", "HostConfig"),
    ("server.toml", "farswap.server.config", "ServerConfig"),
]


def keys_of(text: str) -> set[str]:
    """Returns each `section.key` that a line gives a value, commented out or not."""
    section, found = "", set()
    for line in text.splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = heading[1]
        elif key := re.match(r"(?:# )?(\w+) = \S", line):
            found.add(f"{section}.{key[1]}")
    return found


@pytest.mark.parametrize(("name", "module", "model"), EXAMPLES)
def test_example_configuration_is_good(name: str, module: str, model: str) -> None:
    importlib.import_module(module).load(DEPLOY / "examples" / name)


@pytest.mark.parametrize(("name", "module", "model"), EXAMPLES)
def test_example_shows_every_key_and_no_other(name: str, module: str, model: str) -> None:
    sections = msgspec.structs.fields(getattr(importlib.import_module(module), model))
    known = {
        f"{section.name}.{key.name}"
        for section in sections
        for key in msgspec.structs.fields(section.type)
    }
    assert keys_of((DEPLOY / "examples" / name).read_text()) == known


@pytest.mark.parametrize(("name", "module", "model"), EXAMPLES)
def test_example_explains_every_key(name: str, module: str, model: str) -> None:
    lines = (DEPLOY / "examples" / name).read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"(?:# )?\w+ = \S", line):
            assert before.startswith("# "), f"{line} has no explanation"


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for unit in UNITS:
        # The programs need not be installed where the units look for them.
        text = re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir())]
    done = subprocess.run(verify, capture_output=True, text=True, check=False, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


def test_swap_stops_before_the_host_daemon() -> None:
    unit = (DEPLOY / "systemd" / "dev-nbd0.swap").read_text()
    assert "After=farswap-host.service" in unit
    assert "Wants=farswap-host.service" in unit
    assert "Requires=" not in unit.replace("Not Requires=", "")


def test_every_package_is_listed_once() -> None:
    lines = (DEPLOY / "apt-packages.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert len(packages) == len(set(packages))
