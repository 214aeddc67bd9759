"""Keys of server.toml, with type, default and range."""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

import msgspec
from farswap.common import config as common_config
from farswap.common import config_sections
from farswap.common.address import SERVER_ADMIN, Address
from farswap.common.config import Section, Within
from farswap.common.config_sections import KEEPALIVE_DEFAULT, Keepalive
from farswap.common.label import LabelName, is_short_text
from farswap.common.units import ByteSize, Milliseconds

DEFAULT_CONFIG = Path("/etc/farswap/server.toml")
# An empty store has room for a full batch: 256 incompressible pages.
_Capacity = Annotated[ByteSize, Within("2MiB", "1048576TiB")]
_BlockCache = Annotated[ByteSize, Within("1MiB", "1024TiB")]
# Hosts send a heartbeat each fifth of it; the server's clock ticks every 100 ms.
_OwnerLease = Annotated[Milliseconds, Within("500ms", "10m")]
# Silence, and the scrub's progress, are saved each minute.
MINUTE_MS = 60_000
# A batch of pages.
QUOTA_BYTES_MIN = 1 << 20
_RESERVE_PERCENT_MAX = 50
_PEERS_MAX = 256
_LABELS_MAX = 16


class _Minutes(Milliseconds):
    """At least a minute, or 0, written "off"."""

    _OFF: ClassVar[str]  # what "off" does

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        if text == "off":
            return cls(0)
        span = super().parse(text)
        if span < MINUTE_MS:
            raise ValueError(f'{span} is less than {Milliseconds(MINUTE_MS)}; "off" {cls._OFF}')
        return span


class ExpireAfter(_Minutes):
    """Silence after which a volume is deleted."""

    _OFF = "keeps volumes"


class ScrubInterval(_Minutes):
    """Time between the beginnings of two passes."""

    _OFF = "scrubs only on request"


class Labels(dict[str, str]):
    """Names and values of 1 to 128 bytes of printable text, at most 16."""

    @classmethod
    def parse(cls, table: object) -> Self:
        """Raises ValueError with the operator's message."""
        if not isinstance(table, dict):
            raise ValueError(f'{table!a} is not a table such as {{ rack = "r7" }}')  # noqa: TRY004
        if len(table) > _LABELS_MAX:
            raise ValueError(f"has more than {_LABELS_MAX} labels")
        for name, value in table.items():
            LabelName.parse(name)
            if not is_short_text(value):
                raise ValueError(f"{name}: {value!a} is not text of 1 to 128 bytes such as r7")
        return cls(table)


class Quota(ByteSize):
    """At least 1 MiB, or 0, written "off"."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        if text == "off":
            return cls(0)
        size = super().parse(text)
        if size < QUOTA_BYTES_MIN:
            raise ValueError(f'{size} is less than {ByteSize(QUOTA_BYTES_MIN)}; "off" is no quota')
        return size


class RepairReserve(int):
    """A share of the capacity, written as `2%`."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        digits = text[:-1] if isinstance(text, str) and text.endswith("%") else ""
        if not (digits.isascii() and digits.isdigit()) or int(digits[:3]) > _RESERVE_PERCENT_MAX:
            raise ValueError(f"{text} is not 0% to {_RESERVE_PERCENT_MAX}%")
        return cls(digits)

    def __str__(self) -> str:
        return f"{int(self)}%"


class ServerSection(Section, frozen=True):
    """[server]: the page protocol. Hosts use `advertise`; default: `listen`.

    `labels` say where it is, as in which rack: hosts keep the replicas of a page apart by one.
    """

    listen: Address
    advertise: Address | None = None
    labels: Labels = msgspec.field(default_factory=Labels)
    keepalive: Keepalive = KEEPALIVE_DEFAULT
    owner_lease: _OwnerLease = Milliseconds(10_000)


class StoreSection(Section, frozen=True):
    """[store]: the pages. `capacity` is for live compressed pages; files need more room.

    Its last part, `repair_reserve`, takes copies of shards from other servers only. All pages are
    read and verified once in `scrub_interval`.
    """

    path: str
    capacity: _Capacity
    repair_reserve: RepairReserve = RepairReserve(2)
    block_cache: _BlockCache = ByteSize(1 << 30)
    scrub_interval: ScrubInterval = ScrubInterval(7 * 86_400_000)


class VolumesSection(Section, frozen=True):
    """[volumes]: expiry of silent hosts' volumes, and limits of each."""

    expire_after: ExpireAfter = ExpireAfter(7 * 86_400_000)
    quota_default: Quota = Quota(0)


class ClusterSection(config_sections.ClusterSection, frozen=True):
    """[cluster]: etcd, and `peers`: admin addresses of other servers, for farswapctl."""

    peers: Annotated[list[Address], msgspec.Meta(max_length=_PEERS_MAX)] = msgspec.field(
        default_factory=list
    )


class AdminSection(Section, frozen=True):
    """[admin]: address for farswapctl and health checks."""

    listen: Address = SERVER_ADMIN
    keepalive: Keepalive = KEEPALIVE_DEFAULT


class ServerConfig(Section, frozen=True):
    """All of server.toml."""

    server: ServerSection
    store: StoreSection
    volumes: VolumesSection
    cluster: ClusterSection
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
    problems += config_sections.unusable_addresses("cluster.etcd", config.cluster.etcd)
    problems += config_sections.unusable_addresses("cluster.peers", config.cluster.peers)
    problems += [
        ("cluster.peers", f"{address} is a unix socket; peers are on other machines")
        for address in config.cluster.peers
        if address.is_unix
    ]
    services = [
        ("server.listen", server.listen),
        ("admin.listen", config.admin.listen),
        ("metrics.listen", config.metrics.listen),
    ]
    return problems + config_sections.shared_addresses(services)
