"""What pip installed: all parts of the one package, and nothing else."""

import importlib.metadata
import re
from pathlib import PurePosixPath

import pytest

PARTS = {"admin", "client_nbd", "common", "server", "v1"}
EXTENSION = re.compile(r"native\.[\w.-]+\.so")
TOP_FILES = {"__init__.py", "native.pyi", "py.typed"}


@pytest.fixture(scope="module")
def installed() -> list[PurePosixPath]:
    try:
        files = importlib.metadata.files("farswap")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs farswap installed: make setup")
    assert files, "the package lists no files"
    return [path for path in files if "__pycache__" not in path.parts]


def test_every_part_is_installed(installed: list[PurePosixPath]) -> None:
    inside = [path.parts[1:] for path in installed if path.parts[0] == "farswap"]
    assert {parts[0] for parts in inside if len(parts) > 1} == PARTS
    top = {parts[0] for parts in inside if len(parts) == 1}
    extensions = {name for name in top if EXTENSION.fullmatch(name)}
    assert len(extensions) == 1
    assert top - extensions == TOP_FILES


def test_only_python_is_installed_in_the_parts(installed: list[PurePosixPath]) -> None:
    parts = [path for path in installed if path.parts[0] == "farswap" and len(path.parts) > 2]
    assert {path.suffix for path in parts} <= {".py", ".pyi"}


def test_nothing_lands_beside_the_package(installed: list[PurePosixPath]) -> None:
    outside = [path for path in installed if path.parts[0] != "farswap"]
    strays = [
        str(path)
        for path in outside
        if not path.parts[0].endswith(".dist-info") and path.parts[-2] != "bin"
    ]
    assert not strays


def test_commands_are_installed(installed: list[PurePosixPath]) -> None:
    assert installed
    points = importlib.metadata.entry_points(group="console_scripts")
    ours = {point.name for point in points if point.value.startswith("farswap.")}
    assert ours == {"farswap-host", "farswap-server", "farswapctl"}
