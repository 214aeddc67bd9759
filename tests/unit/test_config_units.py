"""Sizes, durations and addresses as operators write them."""

import pytest
from farswap.common.address import Address
from farswap.common.units import BYTES_MAX, ByteSize, Milliseconds, format_size
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0B", 0),
        ("4096B", 4096),
        ("64KiB", 65536),
        ("64MiB", 64 << 20),
        ("1GiB", 1 << 30),
        ("8388607TiB", 8388607 << 40),
    ],
)
def test_sizes_are_read_exactly(text: str, value: int) -> None:
    assert ByteSize.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "12XB",
        "64 MiB",
        "64mib",
        "-1MiB",
        "1.5GiB",
        "MiB",
        "64MB",
        "0x10B",
        "\uff11MiB",
        "1B\n",
    ],
)
def test_what_is_no_size_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size such as 64MiB") as refused:
        ByteSize.parse(text)
    assert str(refused.value) == f'"{text}" is not a size such as 64MiB'


@pytest.mark.parametrize("value", [4096, 1.5, True, None, ["64MiB"]])
def test_a_size_is_text(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size such as 64MiB"):
        ByteSize.parse(value)


@pytest.mark.parametrize("text", ["8388608TiB", "9" * 5000 + "B"])
def test_sizes_beyond_63_bits_are_too_large(text: str) -> None:
    with pytest.raises(ValueError, match="is too large a size"):
        ByteSize.parse(text)


@given(st.integers(0, BYTES_MAX))
def test_a_formatted_size_reads_back_as_itself(value: int) -> None:
    assert ByteSize.parse(format_size(value)) == value


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        size = ByteSize.parse(text)
    except ValueError:
        return
    assert 0 <= size <= BYTES_MAX


@pytest.mark.parametrize(
    ("text", "ms"), [("500ms", 500), ("2s", 2000), ("5m", 300_000), ("1h", 3_600_000)]
)
def test_durations_are_milliseconds(text: str, ms: int) -> None:
    assert Milliseconds.parse(text) == ms
    assert str(Milliseconds(ms)) == text


@pytest.mark.parametrize("text", ["2", "2 s", "1.5s", "forever", "367d", ""])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        Milliseconds.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "unix:/run/farswap/host.sock",
        "unix:/with blank/100%25#?\\x2d/ünï",
        "127.0.0.1:7071",
        "localhost:0",
        "[::1]:7071",
        "[fe80::1%eth0]:7071",
        "[fe80::1%br-lan.100]:0",
        "[fe80::1%7]:1",
        "a-b.c:65535",
    ],
)
def test_addresses_read_back_as_written(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("path", ["/a\0b", "/a\nb", "/caf\udce9", "/\x1b[2J"])
def test_a_path_that_no_terminal_shows_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"unprintable") as refused:
        Address.parse(f"unix:{path}")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:7071", "127.0.0.1:7071"),
        ("[::1]:7071", "[::1]:7071"),
        ("[fe80::1%eth0]:7071", "[fe80::1%25eth0]:7071"),
        ("unix:/run/a b#c?d%20e", "unix:/run/a%20b%23c%3Fd%2520e"),
        ("unix:/ü", "unix:/%C3%BC"),
    ],
)
def test_grpc_gets_addresses_as_uris(text: str, target: str) -> None:
    assert Address.parse(text).grpc_target == target


def test_tcp_is_the_other_form_of_an_nbd_address() -> None:
    address = Address.parse("tcp:127.0.0.1:10809")
    assert address == Address.parse("127.0.0.1:10809")
    assert address.with_scheme == "tcp:127.0.0.1:10809"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7071",
        ":7071",
        "host:",
        "host:65536",
        "unix:",
        "unix:relative",
        "unix:/dir/",
        "unix:/com,ma",
        "unix:/" + "x" * 107,
        "http://host:80",
        "a b:1",
        "::1:80",
        "[:::]:80",
        "[fe80::1%]:80",
        "[fe80::1%a b]:80",
        "[fe80::1%a/b]:80",
        "[127.0.0.1]:80",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'^"'):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("unix:/x", True),
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("[fe80::1%eth0]:1", False),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.evil.org:1", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_local(text: str, *, local: bool) -> None:
    assert Address.parse(text).is_local is local
