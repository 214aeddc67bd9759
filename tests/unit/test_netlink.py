"""Generic netlink of the nbd driver, byte for byte, after linux/nbd-netlink.h."""

import struct
import sys

import pytest
from farswap.client_nbd.kernel import netlink
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.skipif(
    sys.byteorder != "little", reason="the expected bytes are those of a little-endian machine"
)


def test_connect_is_these_bytes() -> None:
    body = netlink.connect_body(
        index=3,
        size_bytes=1 << 30,
        block_bytes=4096,
        flags=netlink.FLAG_HAS_FLAGS | netlink.FLAG_SEND_TRIM,
        timeout_s=0,
        dead_connection_timeout_s=86400,
        backend="abc",
        descriptors=[11],
    )
    assert body.hex(" ", 4) == (
        "08000100 03000000 "  # INDEX
        "0c000200 00000040 00000000 "  # SIZE_BYTES
        "0c000300 00100000 00000000 "  # BLOCK_SIZE_BYTES
        "0c000500 21000000 00000000 "  # SERVER_FLAGS
        "0c000400 00000000 00000000 "  # TIMEOUT
        "0c000800 80510100 00000000 "  # DEAD_CONN_TIMEOUT
        "08000a00 61626300 "  # BACKEND_IDENTIFIER
        "10000780 0c000180 08000100 0b000000"  # SOCKETS { ITEM { FD } }
    )


def test_each_socket_is_an_item_of_its_own() -> None:
    body = netlink.connect_body(
        index=0,
        size_bytes=4096,
        block_bytes=4096,
        flags=0,
        timeout_s=0,
        dead_connection_timeout_s=1,
        backend="",
        descriptors=[7, 8],
    )
    sockets = dict(netlink.attributes(body))[7]
    items = [payload for kind, payload in netlink.attributes(sockets) if kind == 1]
    descriptors = [dict(netlink.attributes(item))[1] for item in items]
    assert descriptors == [struct.pack("=I", 7), struct.pack("=I", 8)]


def test_reconfigure_is_these_bytes() -> None:
    body = netlink.reconfigure_body(index=3, backend="abc", descriptor=11)
    assert body.hex(" ", 4) == (
        "08000100 03000000 "  # INDEX
        "08000a00 61626300 "  # BACKEND_IDENTIFIER
        "10000780 0c000180 08000100 0b000000"  # SOCKETS { ITEM { FD } }
    )


def test_a_request_has_both_headers_and_the_flag_for_an_acknowledgement() -> None:
    message = netlink.request(0x1C, 2, 1, 9, netlink.index_body(0))
    assert message.hex(" ", 4) == (
        "1c000000 1c000500 09000000 00000000 "  # length, type and flags, sequence, port
        "02010000 "  # command, version
        "08000100 00000000"
    )


def test_the_family_is_requested_by_its_name() -> None:
    assert netlink.get_family_body("nbd").hex(" ", 4) == "08000200 6e626400"


def test_the_family_number_is_read_among_other_attributes() -> None:
    body = netlink.attribute(2, b"nbd\0") + netlink.attribute(1, struct.pack("=H", 31))
    assert netlink.family_id(body) == 31


def test_status_lists_devices_with_a_server() -> None:
    def device(index: int, connected: int) -> bytes:
        fields = netlink.attribute(1, struct.pack("=I", index))
        return netlink.attribute(1, fields + netlink.attribute(2, bytes([connected])))

    body = netlink.attribute(9, device(0, 1) + device(2, 0))
    assert netlink.connected_by_index(body) == {0: True, 2: False}
    assert netlink.connected_by_index(b"") == {}


def test_an_error_carries_a_positive_errno_and_zero_is_an_acknowledgement() -> None:
    assert netlink.error_number(struct.pack("=i", -16) + bytes(16)) == 16
    assert netlink.error_number(struct.pack("=i", 0)) == 0


def test_messages_of_one_datagram_are_separated() -> None:
    first = netlink.request(5, 1, 1, 1, b"")
    second = netlink.request(6, 1, 1, 2, netlink.index_body(1))
    assert [(m.kind, m.sequence) for m in netlink.messages(first + second)] == [(5, 1), (6, 2)]
    assert netlink.generic_body(next(netlink.messages(second)).payload) == netlink.index_body(1)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_read_back_as_written(items: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in items)
    assert len(data) % 4 == 0
    assert list(netlink.attributes(data)) == items


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_a_value_error(data: bytes) -> None:
    for read in (netlink.attributes, netlink.messages):
        try:
            list(read(data))
        except ValueError:
            continue
