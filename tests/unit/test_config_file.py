"""TOML files into typed configuration: all problems at once, each with its key."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from farswap.common.address import Address
from farswap.common.config import Section, load, parse
from farswap.common.errors import ConfigError
from farswap.common.units import ByteSize, Milliseconds
from hypothesis import given
from hypothesis import strategies as st


class Tier(Section, frozen=True):
    pool_limit: ByteSize
    percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 90
    wait: Milliseconds = Milliseconds(2000)
    name: str = "t"
    servers: list[Address] = msgspec.field(default_factory=list)
    protect: bool = True


class Log(Section, frozen=True):
    format: str = "text"


class Config(Section, frozen=True):
    tier: Tier
    log: Log


NO_ADDRESS = "is not an address such as unix:/run/farswap/host.sock or 127.0.0.1:7071"
GOOD = '[tier]\npool_limit = "64MiB"\n'


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(Config, text, "host.toml", overrides)
    return refused.value.problems


def test_missing_keys_take_their_defaults_and_missing_sections_too() -> None:
    config = parse(Config, GOOD, "host.toml")
    assert config.tier.pool_limit == 64 << 20
    assert config.tier.percent == 90
    assert config.log.format == "text"


def test_every_problem_is_in_one_message() -> None:
    text = """
    stray = 1
    [tier]
    pool_limit = "12XB"
    percent = 0
    pool_limt = "1MiB"
    servers = ["127.0.0.1:1", "nowhere"]
    protect = "yes"
    [tire]
    x = 1
    """
    assert sorted(problems(text)) == sorted(
        [
            "host.toml: stray: unknown section",
            "host.toml: tire: unknown section; did you mean tier?",
            "host.toml: tier.pool_limt: unknown key; did you mean pool_limit?",
            'host.toml: tier.pool_limit: "12XB" is not a size such as 64MiB',
            "host.toml: tier.percent: 0: expected int >= 1",
            f'host.toml: tier.servers: "nowhere" {NO_ADDRESS}',
            'host.toml: tier.protect: "yes": expected bool, got str',
        ]
    )


def test_a_missing_required_key_is_named() -> None:
    assert problems("") == ["host.toml: tier.pool_limit: is missing"]


def test_a_key_in_the_place_of_a_section_is_refused() -> None:
    assert problems('tier = "x"') == ["host.toml: tier: must be a table: [tier]"]


def test_broken_toml_is_reported_with_its_line() -> None:
    (problem,) = problems("[tier\n")
    assert problem.startswith("host.toml: not TOML: ")
    assert "line 1" in problem


def test_overrides_win_and_may_be_toml_or_bare_text() -> None:
    config = parse(
        Config,
        GOOD,
        "host.toml",
        [
            "tier.pool_limit=1GiB",
            "tier.percent=80",
            'tier.servers=["127.0.0.1:1", "unix:/x"]',
            "tier.protect=false",
            "tier.name=7",
            'log.format="json"',
        ],
    )
    assert config.tier == Tier(
        pool_limit=ByteSize(1 << 30),
        percent=80,
        servers=[Address.parse("127.0.0.1:1"), Address.parse("unix:/x")],
        protect=False,
        name="7",
    )
    assert config.log.format == "json"


def test_problems_of_overrides_name_the_option() -> None:
    assert problems(GOOD, "tier.pool_limit=12XB", "tier.percent=200", "what", "tier.x=1") == [
        "--set what: expected section.key=value",
        "--set: tier.x: unknown key",
        '--set: tier.pool_limit: "12XB" is not a size such as 64MiB',
        "--set: tier.percent: 200: expected int <= 100",
    ]


def test_checks_across_keys_run_when_each_key_is_good() -> None:
    def check(config: Config) -> list[tuple[str, str]]:
        return [("tier.percent", "is odd"), ("tier.pool_limit", "is small")]

    with pytest.raises(ConfigError) as refused:
        parse(Config, GOOD, "host.toml", ["tier.percent=81"], check)
    assert refused.value.problems == [
        "--set: tier.percent: is odd",
        "host.toml: tier.pool_limit: is small",
    ]
    with pytest.raises(ConfigError) as refused:
        parse(Config, f"{GOOD}\n[teir]\n", "host.toml", (), check)
    assert refused.value.problems[0].startswith("host.toml: teir: unknown section")
    assert len(refused.value.problems) == 3


def test_an_unreadable_file_is_reported_with_the_system_reason(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    with pytest.raises(ConfigError, match="No such file or directory"):
        load(Config, path)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load(Config, path)


KEYS = st.sampled_from(["pool_limit", "percent", "wait", "name", "servers", "protect", "other"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.lists(st.builds("{}.{}={}".format, st.sampled_from(["tier", "log"]), KEYS, VALUES)))
def test_any_override_is_taken_or_a_config_error(overrides: list[str]) -> None:
    try:
        config = parse(Config, GOOD, "host.toml", overrides)
    except ConfigError:
        return
    assert 1 <= config.tier.percent <= 100


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(Config, path) == parse(Config, GOOD, "host.toml")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "host.toml"
    path.write_bytes(f"\ufeff{GOOD}".encode(encoding))
    with pytest.raises(ConfigError, match="is UTF-16 text; save it as UTF-8"):
        load(Config, path)
