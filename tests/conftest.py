"""Fixtures of all suites: real daemons, with small sizes, in a directory of the test's own.

`memory_server` and `host_daemon` are factories; what they made is killed when the test ends, and
its log is shown when the test failed. Everything runs from the installed package, and from
nowhere else.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from daemons import Daemon, HostDaemon, MemoryServer, Sections
from etcd_server import EtcdServer
from requirements import require_etcd, require_native
from swap.real_swap import missing_requirement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class MakeServer(Protocol):
    def __call__(
        self, *, by: Sequence[str] = (), **sections: dict[str, object]
    ) -> MemoryServer: ...


class MakeHost(Protocol):
    def __call__(
        self, *servers: MemoryServer, by: Sequence[str] = (), **sections: dict[str, object]
    ) -> HostDaemon: ...


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what is marked `kernel` where the running kernel cannot swap on loop over FUSE."""
    missing = missing_requirement() if item.get_closest_marker("kernel") else None
    if missing:
        pytest.skip(missing)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for socket names, which tmp_path's may not."""
    path = Path(tempfile.mkdtemp(prefix="farswap-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def etcd_server(tmp_path: Path) -> Iterator[EtcdServer]:
    """A running etcd."""
    require_etcd()
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.clean_up()


@pytest.fixture
def daemons() -> Iterator[list[Daemon]]:
    """What the factories made; cleaned up last first."""
    made: list[Daemon] = []
    yield made
    for daemon in reversed(made):
        daemon.clean_up()


@pytest.fixture
def memory_server(tmp_path: Path, daemons: list[Daemon]) -> MakeServer:
    """memory_server(store={"capacity": "16MiB"}): a running farswap-server.

    `by` is a program that starts it.
    """
    require_native()

    def make(*, by: Sequence[str] = (), **sections: dict[str, object]) -> MemoryServer:
        name = f"server{len(daemons)}"
        defaults: Sections = {
            "server": {
                "listen": "127.0.0.1:0",
                "advertise": "127.0.0.1:0",
                "owner_lease": "1s",  # a host that is started again waits for it
            },
            "store": {
                "path": str(tmp_path / f"{name}.store"),
                "capacity": "256MiB",
                "block_cache": "8MiB",
            },
            "admin": {"listen": "127.0.0.1:0"},
        }
        server = MemoryServer(name, tmp_path, _merged(defaults, sections))
        server.by = by
        daemons.append(server)
        server.start()
        return server

    return make


@pytest.fixture
def host_daemon(tmp_path: Path, short_path: Path, daemons: list[Daemon]) -> MakeHost:
    """host_daemon(server, tier={"pool_limit": "4MiB"}): a running farswap-host.

    Its process is not protected against reclaim, as tests never swap to it unless they say so.
    """
    require_native()

    def make(
        *servers: MemoryServer, by: Sequence[str] = (), **sections: dict[str, object]
    ) -> HostDaemon:
        name = f"host{len(daemons)}"
        defaults: Sections = {
            "device": {"name": "swap0", "size": "64MiB", "host_id": name},
            "nbd": {"listen": [f"unix:{short_path}/{name}.nbd", "tcp:127.0.0.1:0"]},
            "tier": {"pool_limit": "8MiB"},
            "cluster": {"servers": [server.pages for server in servers], "fetch_wait": "10s"},
            "admin": {"listen": f"unix:{short_path}/{name}.admin"},
            "reclaim": {"protect": False},
        }
        host = HostDaemon(name, tmp_path, _merged(defaults, sections))
        host.by = by
        daemons.append(host)
        host.start()
        return host

    return make


def _merged(defaults: Sections, sections: Sections) -> Sections:
    unknown = sections.keys() - defaults.keys()
    return {section: keys | sections.get(section, {}) for section, keys in defaults.items()} | {
        section: sections[section] for section in unknown
    }
