"""server.toml: what farswap-server accepts, refuses, and fills in."""

from pathlib import Path

import pytest
from farswap.common.errors import ConfigError
from farswap.server import config as server_config

GOOD = """
[server]
listen = "127.0.0.1:7070"
advertise = "127.0.0.1:7070"
[store]
path = "/var/lib/farswap"
capacity = "8GiB"
block_cache = "1GiB"
[admin]
listen = "127.0.0.1:7071"
"""

SEVENTEEN_LABELS = f"{{{', '.join(f'l{number} = 1' for number in range(17))}}}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(GOOD)
    return path


def test_the_documented_file_is_good(path: Path) -> None:
    config = server_config.load(path)
    assert config.server.listen.port == 7070
    assert config.store.capacity == 8 << 30
    assert config.log.format == "text"


def test_what_is_left_out_has_a_default(path: Path) -> None:
    path.write_text('[server]\nlisten = "10.0.0.1:7070"\n[store]\npath = "/s"\ncapacity = "8GiB"\n')
    config = server_config.load(path)
    assert config.server.advertise is None
    assert config.store.block_cache == 1 << 30
    assert str(config.store.repair_reserve) == "2%"
    assert str(config.store.scrub_interval) == "7d"
    assert config.volumes.quota_default == 0
    assert str(config.admin.listen) == "127.0.0.1:7071"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("server.listen=unix:/run/x.sock", "server.listen: unix:/run/x.sock is a unix socket"),
        ("server.advertise=unix:/x", "server.advertise: unix:/x is a unix socket"),
        ("admin.listen=127.0.0.1:7070", "admin.listen: 127.0.0.1:7070 is taken by server.listen"),
        (
            "metrics.listen=127.0.0.1:7071",
            "metrics.listen: 127.0.0.1:7071 is taken by admin.listen",
        ),
        ("server.labels=r7", "server.labels: 'r7' is not a table such as { rack = \"r7\" }"),
        ('server.labels={rack = "a\\tb"}', "server.labels: rack: 'a\\tb' is not text of 1 to 128"),
        ("server.labels={rack = 7}", "server.labels: rack: 7 is not text of 1 to 128 bytes"),
        ('server.labels={"" = "r7"}', "server.labels: '' is not a label of 1 to 128 bytes"),
        (
            f'server.labels={{{"x" * 129} = "r7"}}',
            f"server.labels: '{'x' * 129}' is not a label of 1 to 128 bytes",
        ),
        (
            f"server.labels={SEVENTEEN_LABELS}",
            "server.labels: has more than 16 labels",
        ),
        ('cluster.etcd=["10.0.0.1:0"]', "cluster.etcd: 10.0.0.1:0 has no port"),
        ('cluster.peers=["10.0.0.1:0"]', "cluster.peers: 10.0.0.1:0 has no port"),
        ('cluster.peers=["a:1", "a:1"]', "cluster.peers: a:1 is listed twice"),
        ('cluster.peers=["unix:/x"]', "cluster.peers: unix:/x is a unix socket"),
        (f"cluster.peers={[f'a:{n}' for n in range(1, 258)]}", "cluster.peers: "),
        ("cluster.prefix=farswap", 'cluster.prefix: "farswap": '),
        ("store.path=relative", 'store.path: "relative" is not absolute'),
        ("store.capacity=1MiB", "store.capacity: 1MiB is not 2MiB to 1048576TiB"),
        ("store.block_cache=1KiB", "store.block_cache: 1KiB is not 1MiB to 1024TiB"),
        ("store.repair_reserve=51%", "store.repair_reserve: 51% is not 0% to 50%"),
        ("store.repair_reserve=2", "store.repair_reserve: 2 is not 0% to 50%"),
        ("store.repair_reserve=%", "store.repair_reserve: % is not 0% to 50%"),
        (
            "store.scrub_interval=59s",
            'store.scrub_interval: 59s is less than 1m; "off" scrubs only on request',
        ),
        ("store.scrub_interval=often", 'store.scrub_interval: "often" is not a duration'),
        (
            "volumes.expire_after=59s",
            'volumes.expire_after: 59s is less than 1m; "off" keeps volumes',
        ),
        ("volumes.quota_default=1KiB", "volumes.quota_default: 1KiB is less than 1MiB"),
        ("volumes.quota_default=none", 'volumes.quota_default: "none" is not a size'),
        ("store.capacty=1GiB", "store.capacty: unknown key; did you mean capacity?"),
    ],
)
def test_a_bad_value_is_named_with_its_key(path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        server_config.load(path, [override])
    assert f"--set: {message}" in str(caught.value)


def test_shares_and_quotas_are_read(path: Path) -> None:
    overrides = ["store.repair_reserve=50%", "volumes.quota_default=1MiB"]
    config = server_config.load(path, overrides)
    assert (config.store.repair_reserve, config.volumes.quota_default) == (50, 1 << 20)
    off = server_config.load(path, ["store.repair_reserve=0%", "volumes.quota_default=off"])
    assert (off.store.repair_reserve, off.volumes.quota_default) == (0, 0)


def test_spans_of_minutes_are_read(path: Path) -> None:
    config = server_config.load(path, ["store.scrub_interval=1m", "volumes.expire_after=1m"])
    assert (config.store.scrub_interval, config.volumes.expire_after) == (60_000, 60_000)
    off = server_config.load(path, ["store.scrub_interval=off", "volumes.expire_after=off"])
    assert (off.store.scrub_interval, off.volumes.expire_after) == (0, 0)


def test_all_problems_are_reported_at_once(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        server_config.load(path, ["store.capacity=0B", "store.block_cache=0B"])
    assert len(caught.value.problems) == 2


def test_a_socket_is_one_services(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.listen: unix:/run/x is taken by admin"):
        server_config.load(path, ["admin.listen=unix:/run/x", "metrics.listen=unix:/run/x"])


def test_port_0_may_be_given_twice(path: Path) -> None:
    config = server_config.load(path, ["server.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0"])
    assert config.admin.listen == config.server.listen
