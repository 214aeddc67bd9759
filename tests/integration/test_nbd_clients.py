"""Other people's NBD clients against a real host daemon and memory server.

The device holds several times what the pool does, so that most of what the clients write travels
to the server and back.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hang_guard import HANG_GUARD_S

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeHost, MakeServer
    from daemons import HostDaemon

DEVICE_BYTES = 64 << 20
# nbdsh runs the first python3 in PATH, and its module is the system's.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def host(memory_server: MakeServer, host_daemon: MakeHost) -> HostDaemon:
    return host_daemon(memory_server())


def run(package: str, *command: str, fails: bool = False) -> str:
    """The program's output, stdout alone if it succeeds. Skips if the machine lacks it."""
    if shutil.which(command[0], path=SYSTEM_PATH) is None:
        pytest.skip(f"needs {command[0]}: package {package}")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        check=False,
        env=os.environ | {"PATH": SYSTEM_PATH},
    )
    output = f"{done.stdout}{done.stderr}"
    assert (done.returncode != 0) == fails, f"{command}: {output}"
    return output if fails else done.stdout


def tcp_uri(host: HostDaemon) -> str:
    address, port = host.nbd_tcp
    return f"nbd://{address}:{port}/{host.export}"


def assert_pages_travelled(host: HostDaemon) -> None:
    seen = host.ask("tier", "show")["counters"]
    assert seen["written_back_pages"] > 0
    assert seen["loads_remote"] > 0
    assert seen["fail_checksum"] == seen["decompress_fail"] == 0


def make_image(path: Path, seed: int) -> Path:
    """Zeros, one repeated word, text and noise, in runs that keep to no page boundary."""
    source = random.Random(seed)
    with path.open("wb") as image:
        while image.tell() < DEVICE_BYTES:
            length = min(source.randrange(1, 300_000), DEVICE_BYTES - image.tell())
            kinds = (
                bytes,
                lambda n: b"\xa5" * n,
                lambda n: (f"line {source.random()}\n".encode() * (n // 8))[:n],
                source.randbytes,
            )
            image.write(source.choice(kinds)(length).ljust(length, b"x"))
    return path


def test_nbdinfo_shows_the_export(host: HostDaemon) -> None:
    for uri in (host.nbd_uri, tcp_uri(host)):
        assert run("libnbd-bin", "nbdinfo", "--size", uri).strip() == str(DEVICE_BYTES)
    (export,) = json.loads(run("libnbd-bin", "nbdinfo", "--json", host.nbd_uri))["exports"]
    assert export["export-name"] == "swap0"
    assert export["export-size"] == DEVICE_BYTES
    for feature in ("can_cache", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn"):
        assert export[feature], feature
    assert export["can_trim"]
    assert export["can_zero"]
    assert not export["is_read_only"]
    sizes = [export[f"block_size_{which}"] for which in ("minimum", "preferred", "maximum")]
    assert sizes == [4096, 4096, 2 << 20]


def test_nbdinfo_lists_the_export(host: HostDaemon) -> None:
    listed = json.loads(run("libnbd-bin", "nbdinfo", "--list", "--json", host.nbd_uri))
    assert [export["export-name"] for export in listed["exports"]] == ["swap0"]


@pytest.mark.parametrize("options", [["--connections=1", "--requests=1"], ["--connections=4"]])
def test_nbdcopy_copies_both_ways(host: HostDaemon, tmp_path: Path, options: list[str]) -> None:
    image = make_image(tmp_path / "image", seed=1)
    back = tmp_path / "back"
    run("libnbd-bin", "nbdcopy", *options, str(image), host.nbd_uri)
    run("libnbd-bin", "nbdcopy", *options, host.nbd_uri, str(back))
    assert back.read_bytes() == image.read_bytes()
    assert_pages_travelled(host)


def test_nbdcopy_of_half_a_page_fails_with_a_reason(host: HostDaemon, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"page" * 1024 + b"half" * 512)
    output = run("libnbd-bin", "nbdcopy", str(image), host.nbd_uri, fails=True)
    assert "Invalid argument" in output, output


def test_nbdsh_commands_and_errors(host: HostDaemon) -> None:
    script = """
import errno
h.set_strict_mode(0)
data = bytes(range(256)) * 1024
h.pwrite(data, 8192)
assert h.pread(len(data), 8192) == data
h.zero(4096, 16384)
assert h.pread(4096, 16384) == bytes(4096)
assert h.pread(4096, 20480) == data[20480 - 8192:24576 - 8192]
h.trim(65536, 65536)
assert h.pread(65536, 65536) == bytes(65536)
h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
page = b"x" * 4096
h.pwrite(page, 0, nbd.CMD_FLAG_FUA)
h.flush()
h.cache(4096, 0)
big = (bytes(range(1, 252)) * 8_400)[:2 << 20]
h.pwrite(big, 4096)
assert h.pread(2 << 20, 4096) == big

def refused(expected, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errnum == expected, error
    else:
        raise AssertionError((call, args))

size = h.get_size()
refused(errno.EINVAL, h.pread, 4096, size)
refused(errno.EINVAL, h.pread, 0, 0)
refused(errno.EINVAL, h.pread, (2 << 20) + 4096, 0)
refused(errno.EINVAL, h.pwrite, bytes((2 << 20) + 4096), 0)
refused(errno.ENOSPC, h.pwrite, page, size)
refused(errno.ENOSPC, h.zero, 8192, size - 4096)
refused(errno.EINVAL, h.trim, 8192, size - 4096)
refused(errno.EINVAL, h.trim, 4096, 0, nbd.CMD_FLAG_REQ_ONE)
for offset, length in ((1, 4096), (0, 512), (512, 4096), (0, 4097)):
    refused(errno.EINVAL, h.pread, length, offset)
    refused(errno.EINVAL, h.pwrite, bytes(length), offset)
    refused(errno.EINVAL, h.trim, length, offset)
    refused(errno.EINVAL, h.zero, length, offset)
assert h.pread(4096, 0) == page
h.shutdown()
"""
    run("python3-libnbd", "nbdsh", "-u", host.nbd_uri, "-c", script)


def test_qemu_io_reads_modifies_and_writes_pages_itself(host: HostDaemon) -> None:
    commands = [
        "write -P 0x5a 1234 70000",
        "read -P 0x5a 1234 70000",
        "write -z 5000 1000",
        "read -P 0 5000 1000",
        "read -P 0x5a 6000 65000",
        "aio_write -P 0x11 1M 2M",
        "aio_write -P 0x22 4M 512",
        "aio_flush",
        "read -P 0x11 1M 2M",
        "read -P 0x22 4M 512",
        "discard 1M 1M",
        "read -P 0x11 2M 1M",
        "flush",
    ]
    words = [word for command in commands for word in ("-c", command)]
    output = run("qemu-utils", "qemu-io", "-f", "raw", *words, host.nbd_uri)
    assert "failed" not in output, output


def test_qemu_img_converts_both_ways(host: HostDaemon, tmp_path: Path) -> None:
    image = str(make_image(tmp_path / "image", seed=2))
    back = str(tmp_path / "back.qcow2")
    to_device = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, host.nbd_uri]
    run("qemu-utils", *to_device)
    run("qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "raw", image, host.nbd_uri)
    run("qemu-utils", "qemu-img", "convert", "-f", "raw", "-O", "qcow2", host.nbd_uri, back)
    run("qemu-utils", "qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, back)
    assert_pages_travelled(host)


@pytest.mark.parametrize("block", ["4k", "4k-128k"])
def test_fio_verifies_what_it_wrote(host: HostDaemon, tmp_path: Path, block: str) -> None:
    if "nbd" not in run("fio", "fio", "--enghelp"):
        pytest.skip("needs fio with the nbd engine: package fio")
    minimum = block.split("-", maxsplit=1)[0]
    run(
        "fio",
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={host.nbd_uri}",
        "--rw=randrw",
        f"--bsrange={block}" if "-" in block else f"--bs={block}",
        f"--blockalign={minimum}",
        "--size=48m",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--randseed=7",
        "--buffer_compress_percentage=40",
        f"--aux-path={tmp_path}",
    )
    assert_pages_travelled(host)
