"""Real pages of ordinary programs, taken while they run.

Starts an interpreter with data, a compiler at work and a database, stops them where their memory is
worth taking, and copies resident private pages out of /proc/PID/mem into a file of 4 KiB pages. A
fixed share of the file is zero pages, spread over it; the programs' own zero pages are left out, so
that the share is what it says. A dump of memory can hold secrets: the file is readable by its owner
alone, and its creator deletes it.

    with RealPages(directory, bytes_wanted=256 << 20) as pages:
        use(pages.path)
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

from farswap.client_nbd.kernel import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    class Shield(Protocol):
        """Returns the same context, guarded in some way."""

        def __call__(
            self, context: AbstractContextManager[subprocess.Popen[bytes]], /
        ) -> AbstractContextManager[subprocess.Popen[bytes]]: ...


PAGE_BYTES = 4096
ZERO_PAGE = bytes(PAGE_BYTES)
ZERO_PERCENT = 15
MIB = 1 << 20
PAGEMAP_PRESENT = 1 << 63
# The programs are made as large as what is wanted of them needs; these are for this much.
SIZED_FOR_BYTES = 256 * MIB
INTERPRETER_ROWS = 60_000
COMPILER_PRIVATE_BYTES = 84 * MIB
COMPILER_PRIVATE_BYTES_MIN = 8 * MIB
DATABASE_ROWS = 620_000
START_DEADLINE_S = 60
COPY_PAGES_MAX = 256

INTERPRETER = """
import ast, json, pathlib, random, sys, sysconfig
rng = random.Random(5)
library = pathlib.Path(sysconfig.get_paths()["stdlib"])
words = ["page", "slot", "entry", "shard", "replica", "epoch", "version", "volume", "pool"]
count, trees, texts, rows = int(sys.argv[1]), [], [], []
for source in sorted(library.glob("*.py"))[: count // 800]:
    texts.append(source.read_text(errors="replace"))
    trees.append(ast.parse(texts[-1]))
for i in range(count):
    rows.append({"id": i, "name": rng.choice(words) + str(i), "value": rng.random(),
                 "tags": [rng.choice(words) for _ in range(4)], "seen": rng.randrange(10**9)})
document = json.loads(json.dumps(rows[: count // 2]))
index = {row["name"]: row for row in rows}
print("loaded", flush=True)
sys.stdin.read()
"""

COMPILED = """
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <random>
#include <regex>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>
"""
COMPILED_UNIT = """
namespace unit_%(n)d {
struct Record { std::string name; std::vector<std::map<std::string, int>> rows; };
using Cell = std::variant<int, double, std::string, std::vector<Record>>;
struct Table { std::unordered_map<std::string, Cell> cells; std::function<void(Cell&)> visit; };
int Parse(const std::string& text, Table* table) {
  static const std::regex line("([a-z]+)_%(n)d=([0-9]+)(;.*)?");
  std::smatch match;
  if (!std::regex_match(text, match, line)) return %(n)d;
  std::map<int, std::vector<Record>> sorted;
  sorted[std::stoi(match[2])].push_back(Record{match[1], {{{match[3], %(n)d}}}});
  for (auto& [key, records] : sorted) {
    std::sort(records.begin(), records.end(),
              [](const Record& a, const Record& b) { return a.name < b.name; });
    table->cells[std::to_string(key)] = records;
  }
  std::mt19937_64 random(%(n)d);
  std::shuffle(sorted[0].begin(), sorted[0].end(), random);
  for (auto& [name, cell] : table->cells) table->visit(cell);
  return static_cast<int>(sorted.size());
}
}
"""
COMPILED_UNITS = 60

DATABASE = """
CREATE TABLE event(id INTEGER PRIMARY KEY, host TEXT, at REAL, size INTEGER, body TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $rows)
INSERT INTO event SELECT i, 'host-' || (i * 7919 % 997), i * 0.37, abs(random()) % 100000,
  'request ' || i || ' for /volume/' || (i * 31 % 4099) || '/object/' || hex(randomblob(6))
  || ' took ' || (abs(random()) % 9000) || ' us' FROM n;
CREATE INDEX event_host ON event(host, at);
CREATE INDEX event_size ON event(size);
.print loaded
"""


class CorpusError(Exception):
    """Not enough pages; the message is the reason."""


@dataclass
class RealPages:
    """A file of real pages, made on entry and deleted on exit."""

    directory: Path
    bytes_wanted: int = 256 * MIB
    report: Callable[[str], None] = field(default=lambda _message: None)
    # Put around the start and the end of each program: where an interrupt may not come between.
    shield: Shield = field(default=lambda context: context)
    pages_by_program: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file: pages one after the other."""
        return self.directory / "pages"

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.path.unlink(missing_ok=True)

    def _make(self) -> None:
        wanted = self.bytes_wanted // PAGE_BYTES
        zeros = wanted * ZERO_PERCENT // 100
        zero_at = set(random.Random(15).sample(range(wanted), zeros))
        others_at = (index for index in range(wanted) if index not in zero_at)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.truncate(self.bytes_wanted)
            self._copy_programs(out, others_at, wanted - zeros)

    def _copy_programs(self, out: BinaryIO, positions: Iterator[int], wanted: int) -> None:
        """Writes exactly `wanted` non-zero pages, a like share from each program."""
        programs = (
            ("python interpreter", _interpreter),
            ("c++ compiler", _compiler),
            ("sqlite database", _database),
        )
        for left, (name, start) in zip((3, 2, 1), programs, strict=True):
            share = (wanted - sum(self.pages_by_program.values())) // left
            self.report(f"starting a {name}")
            program = start(self.directory, self.bytes_wanted / SIZED_FOR_BYTES)
            with self.shield(_running(program)) as process:
                program.wait(process)
                self.report(f"taking {share * PAGE_BYTES >> 20} MiB of a {name}")
                pages = list(itertools.islice(_resident_pages(process.pid), share))
            self.pages_by_program[name] = len(pages)
            for page in pages:
                out.seek(next(positions) * PAGE_BYTES)
                out.write(page)
        if sum(self.pages_by_program.values()) < wanted:
            raise CorpusError(f"found less than {wanted} pages: {self.pages_by_program}")


@dataclass(frozen=True)
class _Program:
    """Command, input, and a wait until its memory is of use."""

    command: list[str]
    wait: Callable[[subprocess.Popen[bytes]], None]
    script: bytes = b""


@contextlib.contextmanager
def _running(program: _Program) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        program.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdin is not None
        process.stdin.write(program.script)
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.communicate()


def _interpreter(_directory: Path, scale: float) -> _Program:
    rows = str(int(INTERPRETER_ROWS * scale))
    return _Program([sys.executable, "-c", INTERPRETER, rows], _wait_for_loaded)


def _database(_directory: Path, scale: float) -> _Program:
    script = DATABASE.replace("$rows", str(int(DATABASE_ROWS * scale)))
    return _Program(["sqlite3", ":memory:"], _wait_for_loaded, script.encode())


def _compiler(directory: Path, scale: float) -> _Program:
    """A compiler stopped in the middle of its work, as soon as it is large enough."""
    source = directory / "unit.cc"
    source.write_text(COMPILED + "".join(COMPILED_UNIT % {"n": n} for n in range(COMPILED_UNITS)))
    preprocessed = directory / "unit.ii"
    flags = ["-std=c++20", "-O2", "-g"]
    subprocess.run(["g++", *flags, "-E", source, "-o", preprocessed], check=True)
    # The compiler proper, not its driver: that one would only wait for it.
    proper = subprocess.run(
        ["g++", "-print-prog-name=cc1plus"], check=True, capture_output=True, text=True
    ).stdout.strip()
    enough_bytes = max(COMPILER_PRIVATE_BYTES_MIN, int(COMPILER_PRIVATE_BYTES * scale))

    def wait(process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while _private_bytes(process.pid, proper) < enough_bytes:
            if process.poll() is not None or time.monotonic() > deadline:
                raise CorpusError("the compiler was through before it was large enough")
            time.sleep(0.02)
        process.send_signal(signal.SIGSTOP)

    command = [proper, "-quiet", "-fpreprocessed", *flags, str(preprocessed), "-o", "/dev/null"]
    return _Program(command, wait)


def _wait_for_loaded(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.readline().strip() != b"loaded":
        raise CorpusError(f"{process.args!r} ended before its data was loaded")


def _private_bytes(pid: int, program: str) -> int:
    """Resident memory that is no file's; 0 while the process is still what it was forked from."""
    try:
        if Path(f"/proc/{pid}/exe").resolve() != Path(program).resolve():
            return 0
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * PAGE_BYTES


def _resident_pages(pid: int) -> Iterator[bytes]:
    """Yields the non-zero resident pages of the private writable mappings, by address."""
    with (
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
        Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap,
    ):
        for first, end in _private_writable(pid):
            for page in range(first, end, COPY_PAGES_MAX):
                count = min(COPY_PAGES_MAX, end - page)
                entries = os.pread(pagemap.fileno(), 8 * count, 8 * page)
                present = struct.unpack(f"{len(entries) // 8}Q", entries)
                if not any(entry & PAGEMAP_PRESENT for entry in present):
                    continue
                data = os.pread(memory.fileno(), count * PAGE_BYTES, page * PAGE_BYTES)
                for index, entry in enumerate(present):
                    content = data[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
                    whole = len(content) == PAGE_BYTES and content != ZERO_PAGE
                    if entry & PAGEMAP_PRESENT and whole:
                        yield content


def _private_writable(pid: int) -> Iterator[tuple[int, int]]:
    for addresses, protection, *_ in tables.rows(Path(f"/proc/{pid}/maps").read_bytes()):
        if protection == b"rw-p":
            first, end = (int(number, 16) // PAGE_BYTES for number in addresses.split(b"-"))
            yield first, end
