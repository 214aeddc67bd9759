"""The house rules that no linter knows: sizes, names, layers, and what must not be committed.

Each rule is a function from a file to the complaints about it, so that one failing test lists all
that is wrong with all files. Files are those that git tracks or would track.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES_MAX = {".py": 400, ".cc": 600, ".h": 600, ".c": 600}
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100
VAGUE_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "manager",
    "handler",
    "misc",
    "data",
    "common2",
}
# Who a C++ layer may include, itself apart.
CPP_LAYERS = {
    "base": set(),
    "placement": {"base"},
    "tier": {"base"},
    "bpf": {"base", "tier"},
    "nbd": {"base", "tier"},
    "rpc": {"base"},
    "remote": {"base", "placement", "tier", "rpc"},
    "store": {"base", "tier", "rpc"},
    "bind": {"base", "tier", "bpf", "nbd", "remote", "store"},
}
# Decisions use monotonic clocks. gRPC's deadlines and alarms follow the wall clock: the caller
# waits by its own clock, then cancels.
WALL_CLOCK = re.compile(
    r"system_clock|high_resolution_clock|CLOCK_REALTIME|gettimeofday|set_deadline\(|grpc::Alarm"
    r"|\btime\.(time|time_ns|localtime|gmtime|strftime)\(|\bdatetime\b|\bst_[acm]time|TimeStamper"
)
# Files that use it, and why.
WALL_CLOCK_USES = {
    "admin/top.py": "when an interval ended, for people",
    "common/log.py": "when a line was logged, for people",
    "native/store/served_calls.h": "an alarm that goes off at once",
    "tools/bench/programs.py": "which build is the newest",
}
# Split, so that this file does not match itself.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
DEVELOPER_PATH = re.compile(r"""(?<![\w.])/((work|root)/|home/\w)""")
INCLUDE = re.compile(r'^#include "([a-z_]+)/', re.MULTILINE)
# A function of C++ as clang-format lays it out: its body ends at a brace as deep as its first line.
CPP_FUNCTION_START = re.compile(r"^( *)(?!namespace|class|struct|enum|union|extern|\})[\w:~].*\{$")


def tracked(*suffixes: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return sorted({path for path in paths if path.suffix in suffixes and path.is_file()})


PYTHON = tracked(".py")
CPP = tracked(".cc", ".h", ".c")
WRITTEN = [
    *(PYTHON + CPP),
    *tracked(".inc", ".proto", ".md", ".toml", ".txt", ".cmake", ".service", ".swap", ".yml", ""),
]


def complain(complaints: Iterator[str]) -> None:
    found = list(complaints)
    assert not found, "\n" + "\n".join(found)


def place(path: Path, line: int | None = None) -> str:
    return f"{path.relative_to(ROOT)}" + (f":{line}" if line else "")


@pytest.fixture(autouse=True, scope="module")
def in_a_clone() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git clone to know which files are ours")


def test_files_stay_short() -> None:
    def too_long() -> Iterator[str]:
        for path in PYTHON + CPP:
            lines = len(path.read_text().splitlines())
            if lines > LINES_MAX[path.suffix]:
                yield f"{place(path)}: {lines} lines, at most {LINES_MAX[path.suffix]}"

    complain(too_long())


def test_lines_fit_in_the_columns() -> None:
    def too_wide() -> Iterator[str]:
        for path in tracked(".py", ".cc", ".h", ".c", ".inc", ".proto", ".toml", ".cmake"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if len(line) > COLUMNS_MAX:
                    yield f"{place(path, number)}: {len(line)} columns"

    complain(too_wide())


def test_python_functions_stay_short() -> None:
    def too_long() -> Iterator[str]:
        for path in PYTHON:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    if lines > FUNCTION_LINES_MAX:
                        yield f"{place(path, node.lineno)}: {node.name} has {lines} lines"

    complain(too_long())


def cpp_functions(text: str) -> Iterator[tuple[int, int]]:
    """Yields the first line and the length of each function, by indentation."""
    lines = text.splitlines()
    for start, line in enumerate(lines):
        opening = CPP_FUNCTION_START.match(line)
        if (
            opening is None
            or len(opening[1]) > 2
            or "(" not in "".join(lines[max(0, start - 3) : start + 1])
        ):
            continue
        end_brace = opening[1] + "}"
        for end in range(start + 1, len(lines)):
            if lines[end].rstrip(";,) ") == end_brace:
                yield start + 1, end - start + 1
                break


def test_cpp_functions_stay_short() -> None:
    def too_long() -> Iterator[str]:
        for path in CPP:
            for start, length in cpp_functions(path.read_text()):
                if length > FUNCTION_LINES_MAX:
                    yield f"{place(path, start)}: function of {length} lines"

    complain(too_long())


def test_cpp_function_lengths_are_measured() -> None:
    body = "\n".join(["  Step();"] * 80)
    assert list(cpp_functions("void Long(int x) {\n" + body + "\n}\n")) == [(1, 82)]


def test_names_say_something() -> None:
    def vague() -> Iterator[str]:
        for path in PYTHON + CPP:
            for part in path.relative_to(ROOT).parts:
                if VAGUE_NAMES & set(re.split(r"[_.]", part.lower())):
                    yield f"{place(path)}: {part} says nothing"

    complain(vague())


def test_nothing_is_left_for_later() -> None:
    def unfinished() -> Iterator[str]:
        for path in WRITTEN:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if UNFINISHED.search(line):
                    yield f"{place(path, number)}: {line.strip()}"

    complain(unfinished())


def test_python_modules_open_with_their_theory() -> None:
    def silent() -> Iterator[str]:
        for path in PYTHON:
            if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text())):
                yield f"{place(path)}: no module docstring"

    complain(silent())


def test_cpp_files_open_with_their_theory() -> None:
    def silent() -> Iterator[str]:
        for path in CPP:
            explained_by_header = path.suffix == ".cc" and path.with_suffix(".h").exists()
            if not explained_by_header and not path.read_text().startswith("//"):
                yield f"{place(path)}: no comment at its head, nor a header that has one"

    complain(silent())


def test_cpp_layers_include_downwards_only() -> None:
    def upwards() -> Iterator[str]:
        for path in CPP:
            relative = path.relative_to(ROOT).parts
            layer = relative[1] if relative[0] == "native" else ""
            if layer not in CPP_LAYERS:
                continue
            for included in INCLUDE.findall(path.read_text()):
                if included in CPP_LAYERS and included not in CPP_LAYERS[layer] | {layer}:
                    yield f"{place(path)}: {layer} includes {included}"

    complain(upwards())


def test_tables_of_the_kernel_have_one_parser() -> None:
    """What splits text at white space or line ends of Unicode breaks on the name of some file."""

    def splitting() -> Iterator[str]:
        for path in PYTHON:
            splits = r"/(swaps|mounts|mountinfo|maps|cgroup)\"\)\.read_text"
            if path.relative_to(ROOT).parts[0] == "client_nbd":
                splits += r"|\bsplitlines\(|\bsplit\(\)"
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if re.search(splits, line):
                    yield f"{place(path, number)}: use kernel/tables.py"

    complain(splitting())


def test_one_file_changes_the_records_of_slots() -> None:
    def changing() -> Iterator[str]:
        for path in (ROOT / "native/tier").glob("*.cc"):
            if path.name != "pages.cc" and re.search(r"\btable_?(->|\.)Set\(", path.read_text()):
                yield f"{place(path)}: calls SlotTable::Set, which is for pages.cc"

    complain(changing())


def test_only_bind_uses_python() -> None:
    def knowing() -> Iterator[str]:
        for path in CPP:
            # Modules that only tests load are named so.
            if path.parent.name == "tests" and path.stem.endswith("_module"):
                continue
            if "bind" not in path.parts and re.search(
                r"#include <(nanobind|Python)", path.read_text()
            ):
                yield f"{place(path)}: includes Python"

    complain(knowing())


def test_nothing_is_decided_by_the_wall_clock() -> None:
    def deciding() -> Iterator[str]:
        for path in PYTHON + CPP:
            name = str(path.relative_to(ROOT))
            if name.startswith(("tests/", "native/tests/")) or name in WALL_CLOCK_USES:
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if WALL_CLOCK.search(line):
                    yield f"{place(path, number)}: {line.strip()}"

    complain(deciding())


def test_no_path_of_a_developer_is_committed() -> None:
    def absolute() -> Iterator[str]:
        for path in WRITTEN:
            if path == Path(__file__):
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if DEVELOPER_PATH.search(line):
                    yield f"{place(path, number)}: {line.strip()}"

    complain(absolute())
