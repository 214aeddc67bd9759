"""server.toml: every key of farswap-server with its type, default and range."""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from farswap.common import config as common_config
from farswap.common import config_sections
from farswap.common.address import SERVER_ADMIN, Address
from farswap.common.config import Section
from farswap.common.config_sections import KEEPALIVE_DEFAULT, Keepalive
from farswap.common.units import ByteSize, Milliseconds

DEFAULT_CONFIG = Path("/etc/farswap/server.toml")
# A full batch of the page protocol, 256 incompressible pages, always fits an empty store.
CAPACITY_BYTES_MIN = 2 << 20
BLOCK_CACHE_BYTES_MIN = 1 << 20
OWNER_LEASE_MS_MIN = 500
OWNER_LEASE_MS_MAX = 600_000
# Silence is saved by the minute.
EXPIRE_AFTER_MS_MIN = 60_000


class OwnerLease(Milliseconds):
    """Hosts send a sign of life each fifth of it; the server's clock ticks each 100 ms."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        lease = super().parse(text)
        if not OWNER_LEASE_MS_MIN <= lease <= OWNER_LEASE_MS_MAX:
            least, most = Milliseconds(OWNER_LEASE_MS_MIN), Milliseconds(OWNER_LEASE_MS_MAX)
            raise ValueError(f"{lease} is not {least} to {most}")
        return lease


class ExpireAfter(Milliseconds):
    """A time span of a minute at least, or 0, which is written "off": never."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        if text == "off":
            return cls(0)
        span = super().parse(text)
        if span < EXPIRE_AFTER_MS_MIN:
            raise ValueError(
                f'{span} is less than {Milliseconds(EXPIRE_AFTER_MS_MIN)}; "off" keeps volumes'
            )
        return span


class ServerSection(Section, frozen=True):
    """[server]: the page protocol. `advertise` is what hosts are told; default: `listen`."""

    listen: Address
    advertise: Address | None = None
    keepalive: Keepalive = KEEPALIVE_DEFAULT
    owner_lease: OwnerLease = OwnerLease(10_000)


class StoreSection(Section, frozen=True):
    """[store]: the pages. `capacity` counts live compressed pages; files need more room."""

    path: str
    capacity: ByteSize
    block_cache: ByteSize = ByteSize(1 << 30)


class VolumesSection(Section, frozen=True):
    """[volumes]: what becomes of the volumes of hosts that are silent."""

    expire_after: ExpireAfter = ExpireAfter(7 * 86_400_000)


class AdminSection(Section, frozen=True):
    """[admin]: where farswapctl and health checks connect."""

    listen: Address = SERVER_ADMIN
    keepalive: Keepalive = KEEPALIVE_DEFAULT


class ServerConfig(Section, frozen=True):
    """All of server.toml."""

    server: ServerSection
    store: StoreSection
    volumes: VolumesSection
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
