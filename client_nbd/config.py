"""Keys of host.toml, with type, default and range."""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from farswap.common import config as common_config
from farswap.common import config_sections, label
from farswap.common.address import HOST_ADMIN, Address
from farswap.common.compressor import Compressor, Recompressor
from farswap.common.config import Section, Within
from farswap.common.config_sections import KEEPALIVE_DEFAULT, Keepalive
from farswap.common.errors import ConfigError
from farswap.common.label import LabelName
from farswap.common.units import PAGE_BYTES, ByteSize, Milliseconds

# kSlotsMax of native/tier/page.h: 8 TiB.
SLOTS_MAX = 1 << 31
# Of native/tier/pool.cc, which has room for slightly more.
POOL_BYTES_MIN = ByteSize.parse("4MiB")
# Of native/tier/slot_table.h.
_SLOT_RECORD_BYTES = 16
# Of the page protocol: host id and device name are 1 to 128 bytes.
NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

NBD_PATTERN = "^/dev/nbd[0-9]{1,5}$"

DEFAULT_CONFIG = Path("/etc/farswap/host.toml")
MACHINE_ID = Path("/etc/machine-id")


class DeviceSize(ByteSize):
    """Whole pages, and no more than the slot table can count."""

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError with the operator's message."""
        size = super().parse(text)
        if size == 0 or size % PAGE_BYTES:
            raise ValueError(f"{size} is not a positive multiple of {PAGE_BYTES} bytes")
        if size // PAGE_BYTES > SLOTS_MAX:
            raise ValueError(f"{size} is more than the {SLOTS_MAX} pages that a device can have")
        return size


class Replicas(int):
    """How many servers keep each page."""

    @classmethod
    def parse(cls, number: object) -> Self:
        """Raises ValueError with the operator's message."""
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 3:
            raise ValueError(f"{number} is not 1 to 3 replicas")
        return cls(number)


class DeviceSection(Section, frozen=True):
    """[device]: the swap device; with the host id it names the volume on the memory servers.

    `kernel` is attached at the start, as a swap area.
    """

    name: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
    size: DeviceSize
    host_id: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)] | None = None
    kernel: Annotated[str, msgspec.Meta(pattern=NBD_PATTERN)] | None = None


class NbdSection(Section, frozen=True):
    """[nbd]: listen addresses for NBD clients; if empty, only the kernel device is served."""

    listen: list[Address]
    allow_remote: bool = False
    connections_max: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    keepalive: Keepalive = KEEPALIVE_DEFAULT
    handshake_timeout: Annotated[Milliseconds, Within("100ms", "1h")] = Milliseconds(10_000)


class TierSection(Section, frozen=True):
    """[tier]: the compressed pool."""

    pool_limit: Annotated[ByteSize, Within(str(POOL_BYTES_MIN), "64GiB")]
    accept_threshold_percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 90
    compressor: Compressor = Compressor("lz4")
    recompress: Recompressor = Recompressor("zstd:1")
    pack: bool = False
    state: Literal["auto", "off", "required"] = "auto"
    store_wait: Annotated[Milliseconds, Within("0ms", "1h")] = Milliseconds(2_000)


class ClusterSection(config_sections.ClusterSection, frozen=True):
    """[cluster]: the memory servers: `servers`, and those that etcd lists.

    Without any, pages stay in the pool. The replicas of a page differ in the label `spread`.
    """

    servers: list[Address] = msgspec.field(default_factory=list)
    replicas: Replicas = Replicas(1)
    spread: LabelName = LabelName(label.DEFAULT)
    repair_after: Annotated[Milliseconds, Within("1s", "7d")] = Milliseconds(300_000)
    rebalance_every: Annotated[Milliseconds, Within("1s", "7d")] = Milliseconds(600_000)
    fetch_wait: Annotated[Milliseconds, Within("100ms", "1d")] = Milliseconds(60_000)


class CgroupsSection(Section, frozen=True):
    """[cgroups]: mount point of the cgroup tree; detected without `root`."""

    root: Annotated[str, msgspec.Meta(pattern="^/")] | None = None
    watch: bool = True


class ShrinkerSection(Section, frozen=True):
    """[shrinker]: what is written back proactively, by pressure and by age (0: not by age).

    The tier knows in seconds when a page was stored.
    """

    proactive: bool = True
    older_than: Annotated[Milliseconds, Within("1s", "366d", zero="never")] = Milliseconds(0)


class AttributionSection(Section, frozen=True):
    """[attribution]: sources besides the attached kernel device."""

    device: Annotated[str, msgspec.Meta(pattern="^/dev/")] | None = None
    cgroup: Annotated[str, msgspec.Meta(pattern="^/.")] | None = None
    free_notifications: bool = True
    pin_directory: Annotated[str, msgspec.Meta(pattern="^(/.|$)")] = "/sys/fs/bpf/farswap"


class AdminSection(Section, frozen=True):
    """[admin]: address for farswapctl."""

    listen: Address = HOST_ADMIN
    keepalive: Keepalive = KEEPALIVE_DEFAULT


class MetricsSection(config_sections.MetricsSection, frozen=True):
    """[metrics]: address, and number of cgroups with series."""

    cgroups_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class ReclaimSection(Section, frozen=True):
    """[reclaim]: `protect = false` is for machines on which nothing swaps to this daemon."""

    protect: bool = True


class HostConfig(Section, frozen=True):
    """All of host.toml."""

    device: DeviceSection
    nbd: NbdSection
    tier: TierSection
    cluster: ClusterSection
    cgroups: CgroupsSection
    shrinker: ShrinkerSection
    attribution: AttributionSection
    admin: AdminSection
    metrics: MetricsSection
    reclaim: ReclaimSection
    log: config_sections.LogSection

    @property
    def slots(self) -> int:
        """Size of the device in pages."""
        return self.device.size // PAGE_BYTES

    @property
    def locked_bytes(self) -> int:
        """Memory of pool and slot table, allocated at start."""
        return self.tier.pool_limit + self.slots * _SLOT_RECORD_BYTES

    @property
    def host_id(self) -> str:
        """From the configuration or the machine; load() checks that there is one."""
        if self.device.host_id is None:
            raise AssertionError("load() fills in the host id")
        return self.device.host_id


def load(
    path: Path, overrides: Sequence[str] = (), machine_id_path: Path = MACHINE_ID
) -> HostConfig:
    """Raises ConfigError with all problems."""
    return parse(common_config.read(path), path.name, overrides, machine_id_path)


def parse(
    text: str, source: str, overrides: Sequence[str] = (), machine_id_path: Path = MACHINE_ID
) -> HostConfig:
    """Like load(), of text. `source` is the file's name in messages."""
    config = common_config.parse(HostConfig, text, source, overrides, check)
    if config.device.host_id is not None:
        return config
    device = msgspec.structs.replace(config.device, host_id=_machine_id(source, machine_id_path))
    return msgspec.structs.replace(config, device=device)


def check(config: HostConfig) -> list[tuple[str, str]]:
    """Problems across keys, as (key, message)."""
    problems: list[tuple[str, str]] = []
    listen = [address for address in config.nbd.listen if address.is_fixed]
    problems += config_sections.unusable_addresses("nbd.listen", listen)
    problems += config_sections.unusable_addresses("cluster.servers", config.cluster.servers)
    problems += config_sections.unusable_addresses("cluster.etcd", config.cluster.etcd)
    problems += [
        ("nbd.listen", f"{address} is not a loopback address, and nbd.allow_remote is false")
        for address in config.nbd.listen
        if not (address.is_local or config.nbd.allow_remote)
    ]
    services = [
        *(("nbd.listen", address) for address in dict.fromkeys(config.nbd.listen)),
        ("admin.listen", config.admin.listen),
        ("metrics.listen", config.metrics.listen),
    ]
    return problems + config_sections.shared_addresses(services)


def _machine_id(source: str, machine_id_path: Path) -> str:
    try:
        text = machine_id_path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text or text == "uninitialized":
        problem = (
            f"{source}: device.host_id: is missing, and this machine has no "
            f"{machine_id_path}: give the host a name of its own"
        )
        raise ConfigError([problem])
    return text
