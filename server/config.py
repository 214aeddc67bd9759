"""server.toml: every key of farswap-server with its type, default and range."""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from farswap.common import config as common_config
from farswap.common.address import Address
from farswap.common.config import Section
from farswap.common.units import ByteSize

DEFAULT_CONFIG = Path("/etc/farswap/server.toml")
DEFAULT_ADMIN = Address.parse("127.0.0.1:7071")
# A full batch of the page protocol, 256 incompressible pages, always fits an empty store.
CAPACITY_BYTES_MIN = 2 << 20
BLOCK_CACHE_BYTES_MIN = 1 << 20


class ServerSection(Section, frozen=True):
    """[server]: the page protocol. `advertise` is what hosts are told; default: `listen`."""

    listen: Address
    advertise: Address | None = None


class StoreSection(Section, frozen=True):
    """[store]: the pages. `capacity` counts live compressed pages; files need more room."""

    path: str
    capacity: ByteSize
    block_cache: ByteSize = ByteSize(1 << 30)


class AdminSection(Section, frozen=True):
    """[admin]: where farswapctl and health checks connect."""

    listen: Address = DEFAULT_ADMIN


class MetricsSection(Section, frozen=True):
    """[metrics]: `/metrics` for Prometheus; without `listen` there is none."""

    listen: Address | None = None


class LogSection(Section, frozen=True):
    """[log]: lines on stderr."""

    format: Literal["text", "json"] = "text"


class ServerConfig(Section, frozen=True):
    """All of server.toml."""

    server: ServerSection
    store: StoreSection
    admin: AdminSection
    metrics: MetricsSection
    log: LogSection


def load(path: Path, overrides: Sequence[str] = ()) -> ServerConfig:
    """Raises ConfigError with all problems."""
    return common_config.load(ServerConfig, path, overrides, check)


def check(config: ServerConfig) -> list[tuple[str, str]]:
    """Problems across keys, as (key, message)."""
    problems: list[tuple[str, str]] = []

    def require(key: str, message: str, *, holds: bool) -> None:
        if not holds:
            problems.append((key, message))

    server, store, admin = config.server, config.store, config.admin
    require(
        "server.listen",
        f"{server.listen} is a unix socket; hosts connect over TCP",
        holds=not server.listen.is_unix,
    )
    if server.advertise is not None:
        require(
            "server.advertise",
            f"{server.advertise} is a unix socket; hosts connect over TCP",
            holds=not server.advertise.is_unix,
        )
    require(
        "admin.listen",
        f"{admin.listen} is where pages are served",
        holds=admin.listen != server.listen or (not admin.listen.is_unix and not admin.listen.port),
    )
    metrics = config.metrics.listen
    require(
        "metrics.listen",
        f"{metrics} is another service's address already",
        holds=metrics is None or not metrics.port or metrics not in (server.listen, admin.listen),
    )
    require("store.path", f'"{store.path}" is not absolute', holds=Path(store.path).is_absolute())
    require(
        "store.capacity",
        f"{store.capacity} is less than {ByteSize(CAPACITY_BYTES_MIN)}",
        holds=store.capacity >= CAPACITY_BYTES_MIN,
    )
    require(
        "store.block_cache",
        f"{store.block_cache} is less than {ByteSize(BLOCK_CACHE_BYTES_MIN)}",
        holds=store.block_cache >= BLOCK_CACHE_BYTES_MIN,
    )
    return problems
