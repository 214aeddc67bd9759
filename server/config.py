"""server.toml: every key of farswap-server with its type, default and range."""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
from collections.abc import Sequence
from pathlib import Path

from farswap.common import config as common_config
from farswap.common import config_sections
from farswap.common.address import SERVER_ADMIN, Address
from farswap.common.config import Section
from farswap.common.config_sections import KEEPALIVE_DEFAULT, Keepalive
from farswap.common.units import ByteSize

DEFAULT_CONFIG = Path("/etc/farswap/server.toml")
# A full batch of the page protocol, 256 incompressible pages, always fits an empty store.
CAPACITY_BYTES_MIN = 2 << 20
BLOCK_CACHE_BYTES_MIN = 1 << 20


class ServerSection(Section, frozen=True):
    """[server]: the page protocol. `advertise` is what hosts are told; default: `listen`."""

    listen: Address
    advertise: Address | None = None
    keepalive: Keepalive = KEEPALIVE_DEFAULT


class StoreSection(Section, frozen=True):
    """[store]: the pages. `capacity` counts live compressed pages; files need more room."""

    path: str
    capacity: ByteSize
    block_cache: ByteSize = ByteSize(1 << 30)


class AdminSection(Section, frozen=True):
    """[admin]: where farswapctl and health checks connect."""

    listen: Address = SERVER_ADMIN
    keepalive: Keepalive = KEEPALIVE_DEFAULT


class ServerConfig(Section, frozen=True):
    """All of server.toml."""

    server: ServerSection
    store: StoreSection
    admin: AdminSection
    metrics: config_sections.MetricsSection
    log: config_sections.LogSection


def load(path: Path, overrides: Sequence[str] = ()) -> ServerConfig:
    """Raises ConfigError with all problems."""
    return common_config.load(ServerConfig, path, overrides, check)


def check(config: ServerConfig) -> list[tuple[str, str]]:
    """Problems across keys, as (key, message)."""
    problems: list[tuple[str, str]] = []
    server, store = config.server, config.store
    for key, address in (("server.listen", server.listen), ("server.advertise", server.advertise)):
        if address is not None and address.is_unix:
            problems.append((key, f"{address} is a unix socket; hosts connect over TCP"))
    if not Path(store.path).is_absolute():
        problems.append(("store.path", f'"{store.path}" is not absolute'))
    for key, size, bytes_min in (
        ("store.capacity", store.capacity, CAPACITY_BYTES_MIN),
        ("store.block_cache", store.block_cache, BLOCK_CACHE_BYTES_MIN),
    ):
        if size < bytes_min:
            problems.append((key, f"{size} is less than {ByteSize(bytes_min)}"))
    services = [
        ("server.listen", server.listen),
        ("admin.listen", config.admin.listen),
        ("metrics.listen", config.metrics.listen),
    ]
    return problems + config_sections.shared_addresses(services)
