"""The load generator against another NBD server: accepts right answers, finds wrong ones.

A verifier that never complains is worth nothing, so most of these make the server lie.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.load_generator import LoadError, LoadSession, phase
from bench.peers import Nbdkit, nbdkit_memory
from bench.programs import MissingProgramError, native_program

PAGE_BYTES = 4096
DEVICE_BYTES = 8 << 20
DEVICE_PAGES = DEVICE_BYTES // PAGE_BYTES
FILL = phase("fill", mix="write", order="once", size="64k")
CHECK = phase("check", mix="read", order="once-random")


@pytest.fixture(autouse=True)
def needs_programs() -> None:
    for program in ("nbdkit", "nbdcopy", "qemu-io"):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}: make setup")
    try:
        native_program("farswap-loadgen")
    except MissingProgramError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def server() -> Iterator[Nbdkit]:
    with nbdkit_memory(DEVICE_BYTES) as running:
        yield running


@contextmanager
def load(server: Nbdkit, *phases: str, options: tuple[str, ...] = ()) -> Iterator[LoadSession]:
    with LoadSession(server.connect, phases, connections=2, options=options) as session:
        yield session


def uri_of(server: Nbdkit) -> str:
    return "nbd+unix:///?socket=" + server.connect.removeprefix("unix:")


def behind_its_back(server: Nbdkit, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-f", "raw", *words, uri_of(server)], check=True, capture_output=True
    )


@pytest.mark.parametrize(
    ("options", "keys"),
    [((), {}), (("--shared",), {"count": 256})],
    ids=["own slots", "same slots"],
)
def test_right_server_passes_under_every_kind_of_load(
    server: Nbdkit, options: tuple[str, ...], keys: dict[str, str | int]
) -> None:
    mix = "read:40/write:40/trim:10/zero:9/flush:1"
    mixed = phase("mixed", mix=mix, size="4k-128k", depth=16, ops=60_000, **keys)
    with load(server, mixed, CHECK, options=options) as session:
        report = session.run("mixed")
        check = session.run("check")
        session.finish()
    assert report.page_ops >= 60_000
    assert report.verified_pages > 0
    assert check.verified_pages == DEVICE_PAGES
    assert not report.errors


@pytest.mark.parametrize("options", [(), ("--shared",)], ids=["own slots", "same slots"])
def test_one_wrong_byte_is_found_and_named(server: Nbdkit, options: tuple[str, ...]) -> None:
    with load(server, FILL, CHECK, options=options) as session:
        session.run("fill")
        behind_its_back(server, f"write -P 0xa5 {77 * PAGE_BYTES + 4000} 1")
        with pytest.raises(LoadError, match=r"1 wrong pages\n.*slot 77"):
            session.run("check")


def test_page_of_another_slot_is_found_by_its_stamp(server: Nbdkit, tmp_path: Path) -> None:
    with load(server, FILL, CHECK) as session:
        session.run("fill")
        exchange_two_stamped_pages(server, tmp_path / "image")
        with pytest.raises(LoadError, match=r"2 wrong pages\n.*got stamp of slot"):
            session.run("check")


def exchange_two_stamped_pages(server: Nbdkit, image: Path) -> None:
    uri = uri_of(server)
    subprocess.run(["nbdcopy", uri, image], check=True)
    pages = bytearray(image.read_bytes())
    stamped = [
        slice(at, at + PAGE_BYTES)
        for at in range(0, len(pages), PAGE_BYTES)
        if pages[at : at + PAGE_BYTES - 8] != pages[at + 8 : at + PAGE_BYTES]
    ]
    first, second = stamped[:2]
    pages[first], pages[second] = pages[second], pages[first]
    image.write_bytes(pages)
    subprocess.run(["nbdcopy", image, uri], check=True)


def test_old_bytes_after_a_refused_write_are_wrong() -> None:
    # nbdkit's error filter leaves the old bytes; a swap device must not bring them back.
    settings = {"error_pwrite_rate": "20%", "error": "ENOSPC"}
    rewrite = phase("rewrite", mix="write", ops=2_000)
    with (
        nbdkit_memory(DEVICE_BYTES, "sparse", ("error",), **settings) as server,
        load(server, rewrite, rewrite.replace("rewrite", "again"), CHECK) as session,
    ):
        assert session.run("rewrite").errors["write ENOSPC"] > 0
        session.run("again")
        with pytest.raises(LoadError, match="wrong pages"):
            session.run("check")


def test_zeros_after_a_refused_write_are_accepted_and_counted() -> None:
    settings = {"error_pwrite_rate": "20%", "error": "ENOSPC"}
    with (
        nbdkit_memory(DEVICE_BYTES, "sparse", ("error",), **settings) as server,
        load(server, FILL, CHECK) as session,
    ):
        fill = session.run("fill")
        check = session.run("check")
        session.finish()
    assert fill.errors["write ENOSPC"] > 0
    assert check.zeros_after_failure > 0
    assert check.zeros_after_failure + check.verified_pages == DEVICE_PAGES


def test_server_that_stops_answering_is_a_stall_with_what_was_outstanding() -> None:
    with (
        nbdkit_memory(DEVICE_BYTES, "sparse", ("delay",), rdelay="30") as server,
        load(server, CHECK, options=("--stall-ms", "600")) as session,
        pytest.raises(LoadError, match=r"no reply for \d+ ms; in flight: read of 4096 at slot"),
    ):
        session.run("check")


def test_lost_connection_is_a_failure(server: Nbdkit) -> None:
    with load(server, FILL, CHECK) as session:
        session.run("fill")
        subprocess.run(["kill", "-KILL", str(server.pid)], check=True)
        with pytest.raises(LoadError, match="connection"):
            session.run("check")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--connect", "unix:/none"], "--connect and at least one --phase are needed"),
        (["--phase", "x:mix=read"], "needs ops or milliseconds"),
        (["--phase", "x:mix=read,ops=1,size=5000"], "multiples of 4096"),
        (["--phase", "x:mix=jump,ops=1"], "unknown operation in mix: jump"),
        (["--phase", "x:colour=red"], "unknown key of a phase: colour|not a number: red"),
        (["--shared", "--pure"], "needed"),
    ],
)
def test_bad_command_line_is_refused_in_one_line(arguments: list[str], complaint: str) -> None:
    done = subprocess.run(
        [native_program("farswap-loadgen"), *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert any(part in last for part in complaint.split("|")), last
