"""Which daemons of one machine are kept from using the same volume, and what is said of it."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest
from farswap.client_nbd import config as host_config
from farswap.client_nbd import volume_claims
from farswap.common import config as common_config
from farswap.common.errors import StartError

if TYPE_CHECKING:
    from pathlib import Path

    from farswap.client_nbd.config import HostConfig


def config(device: str, *servers: str) -> HostConfig:
    return common_config.parse(
        host_config.HostConfig,
        f"""
        [device]
        name = "{device}"
        size = "8MiB"
        host_id = "claims-{os.getpid()}"
        [nbd]
        listen = ["unix:/run/farswap/swap0.sock"]
        [tier]
        pool_limit = "64MiB"
        [cluster]
        servers = {list(servers or ["10.0.0.7:7070"])}
        """,
        "host.toml",
    )


def refused(wanted: HostConfig, directory: Path) -> str:
    with pytest.raises(StartError) as raised, volume_claims.claimed(wanted, print, directory):
        pytest.fail("it was claimed")
    return str(raised.value)


def test_a_volume_is_one_daemons_until_it_ends(tmp_path: Path) -> None:
    with volume_claims.claimed(config("a"), print, tmp_path):
        assert "another farswap-host of this machine has" in refused(config("a"), tmp_path)
        with volume_claims.claimed(config("b"), print, tmp_path):
            pass
        with volume_claims.claimed(config("a", "10.0.0.8:7070"), print, tmp_path):
            pass
    with volume_claims.claimed(config("a"), print, tmp_path):
        pass


def test_the_file_excludes_daemons_of_other_network_namespaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "bind", lambda *_: None)
    with volume_claims.claimed(config("a"), print, tmp_path):
        assert "another farswap-host of this machine has" in refused(config("a"), tmp_path)
        with volume_claims.claimed(config("b"), print, tmp_path):
            pass


def test_the_name_excludes_daemons_with_other_files(tmp_path: Path) -> None:
    with volume_claims.claimed(config("a"), print, tmp_path / "one"):
        assert "another farswap-host" in refused(config("a"), tmp_path / "other")


def test_without_the_directory_the_name_is_claimed_and_that_is_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "file" / "directory"
    (tmp_path / "file").write_text("")
    with volume_claims.claimed(config("a"), print, nowhere):
        assert "another farswap-host" in refused(config("a"), nowhere)
    logged = capsys.readouterr()
    assert "only in this network namespace" in logged.out + logged.err


def test_what_else_fails_is_not_called_another_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    monkeypatch.setattr(socket.socket, "bind", fail)
    message = refused(config("a"), tmp_path)
    assert "failed to claim the volume" in message
    assert "on 10.0.0.7:7070: No buffer space available" in message
    assert "another" not in message
