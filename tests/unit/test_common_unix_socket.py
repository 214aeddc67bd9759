"""Unix sockets that appear complete, replace stale ones, and leave others alone."""

import socket
import stat
from pathlib import Path

import pytest
from farswap.common import unix_socket
from farswap.common.errors import BindError
from hang_guard import HANG_GUARD_S


def test_only_the_owner_may_connect(short_path: Path) -> None:
    path = short_path / "s"
    with unix_socket.listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [entry.name for entry in short_path.iterdir()] == ["s"]


def test_a_missing_directory_is_made(short_path: Path) -> None:
    with unix_socket.listen(short_path / "run" / "farswap" / "s"):
        assert (short_path / "run" / "farswap" / "s").is_socket()


def test_the_socket_of_a_dead_process_is_replaced(short_path: Path) -> None:
    path = short_path / "s"
    unix_socket.listen(path).close()
    assert path.is_socket()
    with unix_socket.listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_served_socket_is_left_alone(short_path: Path) -> None:
    path = short_path / "s"
    with unix_socket.listen(path) as first:
        with pytest.raises(BindError, match="another process serves it"):
            unix_socket.listen(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            first.settimeout(HANG_GUARD_S)
            first.accept()[0].close()


def test_a_file_is_left_alone(short_path: Path) -> None:
    path = short_path / "s"
    path.write_text("precious")
    with pytest.raises(BindError, match="exists and is not a socket"):
        unix_socket.listen(path)
    assert path.read_text() == "precious"


def test_a_path_below_a_file_is_reported_with_the_reason(short_path: Path) -> None:
    (short_path / "file").touch()
    with pytest.raises(BindError, match="Not a directory"):
        unix_socket.listen(short_path / "file" / "s")


def test_a_directory_too_long_for_a_socket_is_reported(short_path: Path) -> None:
    # The path itself fits, the private one beside it does not.
    path = short_path / ("d" * (104 - len(str(short_path)))) / "s"
    with pytest.raises(BindError, match="too long"):
        unix_socket.listen(path)
    assert not path.exists()


def test_a_failed_bind_leaves_nothing_behind(short_path: Path) -> None:
    def fail() -> None:
        with unix_socket.published(short_path / "s"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(short_path.iterdir()) == []
