"""host.toml: what farswap-host accepts, refuses, and fills in."""

from pathlib import Path

import pytest
from farswap.client_nbd import config as host_config
from farswap.common.errors import ConfigError

GOOD = """
[device]
name = "swap0"
size = "1GiB"
[nbd]
listen = ["unix:/run/farswap/swap0.sock"]
[tier]
pool_limit = "256MiB"
accept_threshold_percent = 90
compressor = "lz4"
[cluster]
servers = ["127.0.0.1:7070"]
replicas = 1
[admin]
listen = "unix:/run/farswap/host.sock"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "host.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def machine_id(tmp_path: Path) -> Path:
    path = tmp_path / "machine-id"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    return path


def test_the_documented_file_is_good(path: Path, machine_id: Path) -> None:
    config = host_config.load(path, (), machine_id)
    assert config.slots == 262144
    assert config.host_id == "0123456789abcdef0123456789abcdef"
    assert config.tier.store_wait == 2000
    assert config.cluster.fetch_wait == 60_000
    assert (config.cluster.replicas, config.cluster.repair_after) == (1, 300_000)
    assert config.reclaim.protect
    assert config.metrics.listen is None
    assert (config.tier.compressor, config.tier.recompress) == ("lz4", "zstd:1")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("device.size=4097B", "device.size: 4097B is not a positive multiple of 4096 bytes"),
        ("device.size=0B", "device.size: 0B is not a positive multiple of 4096 bytes"),
        (
            "device.size=16TiB",
            "device.size: 16TiB is more than the 2147483648 pages that a device can have",
        ),
        ("tier.pool_limit=4095KiB", "tier.pool_limit: 4095KiB is not 4MiB to 64GiB"),
        ("tier.pool_limit=65GiB", "tier.pool_limit: 65GiB is not 4MiB to 64GiB"),
        (
            "tier.compressor=gzip",
            'tier.compressor: "gzip" is not a compressor such as lz4, lz4:8 or zstd:3',
        ),
        (
            "tier.recompress=lz4",
            'tier.recompress: "lz4" is neither off nor a level of zstd such as zstd:3',
        ),
        (
            "metrics.listen=unix:/run/farswap/host.sock",
            "metrics.listen: unix:/run/farswap/host.sock is taken by admin.listen",
        ),
        ("tier.state=on", "tier.state: \"on\": invalid enum value 'on'"),
        ('cluster.etcd=["10.0.0.1:0"]', "cluster.etcd: 10.0.0.1:0 has no port"),
        (
            'cluster.etcd=["10.0.0.1:2379", "10.0.0.1:2379"]',
            "cluster.etcd: 10.0.0.1:2379 is listed twice",
        ),
        ("cluster.rebalance_every=999ms", "cluster.rebalance_every: 999ms is not 1s to 7d"),
        ("cluster.replicas=0", "cluster.replicas: 0 is not 1 to 3 replicas"),
        ("cluster.replicas=4", "cluster.replicas: 4 is not 1 to 3 replicas"),
        ("cluster.replicas=true", "cluster.replicas: True is not 1 to 3 replicas"),
        ('cluster.replicas="2"', "cluster.replicas: 2 is not 1 to 3 replicas"),
        ("cluster.repair_after=999ms", "cluster.repair_after: 999ms is not 1s to 7d"),
        ("cluster.repair_after=8d", "cluster.repair_after: 8d is not 1s to 7d"),
        ('cluster.servers=["a:1", "b:2", "a:1"]', "cluster.servers: a:1 is listed twice"),
        ('cluster.servers=["a:0"]', "cluster.servers: a:0 has no port"),
        (
            'nbd.listen=["tcp:0.0.0.0:10809"]',
            "nbd.listen: 0.0.0.0:10809 is not a loopback address, and nbd.allow_remote is false",
        ),
        ("nbd.keepalive=2s", "nbd.keepalive: 2s is not 3s to 1d"),
        ("admin.keepalive=2d", "admin.keepalive: 2d is not 3s to 1d"),
        (
            "shrinker.older_than=999ms",
            "shrinker.older_than: 999ms is not 1s to 366d, or 0 for never",
        ),
        ("nbd.handshake_timeout=0s", "nbd.handshake_timeout: 0ms is not 100ms to 1h"),
        ("nbd.handshake_timeout=2h", "nbd.handshake_timeout: 2h is not 100ms to 1h"),
        ("cluster.fetch_wait=0s", "cluster.fetch_wait: 0ms is not 100ms to 1d"),
        ("tier.store_wait=100d", "tier.store_wait: 100d is not 0ms to 1h"),
        (
            "admin.listen=unix:/run/farswap/swap0.sock",
            "admin.listen: unix:/run/farswap/swap0.sock is taken by nbd.listen",
        ),
        ('nbd.listen=["unix:/a", "unix:/a"]', "nbd.listen: unix:/a is listed twice"),
    ],
)
def test_keys_are_checked_against_what_this_version_can_do(
    path: Path, machine_id: Path, override: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        host_config.load(path, [override], machine_id)
    assert refused.value.problems in ([f"--set: {problem}"], [f"host.toml: {problem}"])


def test_what_is_proactive_by_default(path: Path, machine_id: Path) -> None:
    config = host_config.load(path, (), machine_id)
    assert (config.cgroups.root, config.cgroups.watch) == (None, True)
    assert (config.shrinker.proactive, config.shrinker.older_than) == (True, 0)
    changed = host_config.load(
        path, ["shrinker.older_than=10m", "cgroups.root=/sys/fs/cgroup"], machine_id
    )
    assert changed.shrinker.older_than == 600_000
    assert changed.cgroups.root == "/sys/fs/cgroup"
    with pytest.raises(ConfigError, match=r"cgroups\.root"):
        host_config.load(path, ["cgroups.root=cgroup"], machine_id)


def test_a_page_has_up_to_three_replicas(path: Path, machine_id: Path) -> None:
    overrides = ["cluster.replicas=3", "cluster.repair_after=1h"]
    cluster = host_config.load(path, overrides, machine_id).cluster
    assert (cluster.replicas, cluster.repair_after) == (3, 3_600_000)


def test_remote_nbd_clients_are_allowed_by_configuration(path: Path, machine_id: Path) -> None:
    overrides = ['nbd.listen=["tcp:0.0.0.0:10809"]', "nbd.allow_remote=true"]
    assert not host_config.load(path, overrides, machine_id).nbd.listen[0].is_local


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-x", "x" * 129, "ä"])
def test_device_names_go_into_protocols_and_paths(path: Path, machine_id: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"device\.name"):
        host_config.load(path, [f'device.name="{name}"'], machine_id)


@pytest.mark.parametrize("text", [None, "", "uninitialized\n"])
def test_a_machine_without_id_has_to_be_given_a_name(
    path: Path, tmp_path: Path, text: str | None
) -> None:
    machine_id = tmp_path / "machine-id"
    if text is not None:
        machine_id.write_text(text)
    with pytest.raises(ConfigError, match=r"host\.toml: device\.host_id: is missing"):
        host_config.load(path, (), machine_id)
    assert host_config.load(path, ["device.host_id=h1"], machine_id).host_id == "h1"
