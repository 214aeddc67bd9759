"""The handshake without a socket: every option, in any pieces, and any garbage."""

from __future__ import annotations

import struct

import pytest
from farswap.client_nbd.nbd import handshake as hs
from farswap.client_nbd.nbd import wire
from farswap.client_nbd.nbd.handshake import (
    Aborted,
    Export,
    Handshake,
    NeedData,
    Negotiated,
    Violation,
)
from farswap.client_nbd.nbd.wire import Info, Option, Reply, TransmissionFlag
from hypothesis import given
from hypothesis import strategies as st
from nbd_client import FIXED, NO_ZEROES, client_flags, go, info_data, option, parse_option_replies

EXPORT = Export("swap0", 1 << 30, "a swap device")
GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
EVERY_FLAG = 0b1101_0110_1101
STRUCTURED_REPLY, STARTTLS, EXTENDED_HEADERS = 8, 5, 11


def converse(data: bytes, pieces: int | None = None) -> tuple[hs.Event, bytes]:
    """The last event, and all that was sent behind the greeting."""
    handshake = Handshake(EXPORT)
    event = handshake.next_event()
    sent = handshake.data_to_send()
    step = pieces or max(1, len(data))
    for at in range(0, len(data), step):
        if not isinstance(event, NeedData):
            break
        handshake.receive_data(data[at : at + step])
        event = handshake.next_event()
        sent += handshake.data_to_send()
    assert sent.startswith(GREETING)
    assert handshake.data_to_send() == b""
    return event, sent[len(GREETING) :]


def answers(*options: bytes) -> list[tuple[int, int, bytes]]:
    """Replies to options that do not end the haggling."""
    event, sent = converse(client_flags() + b"".join(options))
    assert event == NeedData()
    return parse_option_replies(sent)


def test_greets_before_anything_is_received() -> None:
    handshake = Handshake(EXPORT)
    assert handshake.next_event() == NeedData()
    assert handshake.data_to_send() == GREETING
    assert handshake.data_to_send() == b""


def test_transmission_flags_are_what_native_serves() -> None:
    _, sent = converse(client_flags() + option(Option.EXPORT_NAME))
    assert sent == struct.pack(">QH", 1 << 30, EVERY_FLAG)
    assert TransmissionFlag(EVERY_FLAG) == sum(TransmissionFlag)


@pytest.mark.parametrize("name", [b"swap0", b""])
def test_export_name_starts_transmission(name: bytes) -> None:
    data = client_flags(FIXED) + option(Option.EXPORT_NAME, name) + b"initial"
    event, sent = converse(data)
    assert event == Negotiated(b"initial")
    assert sent == struct.pack(">QH", 1 << 30, EVERY_FLAG) + bytes(124)


def test_export_name_works_without_fixed_newstyle() -> None:
    event, sent = converse(client_flags(NO_ZEROES) + option(Option.EXPORT_NAME))
    assert event == Negotiated(b"")
    assert len(sent) == 10


def test_other_options_need_fixed_newstyle() -> None:
    event, sent = converse(client_flags(0) + option(Option.LIST))
    assert isinstance(event, Violation)
    assert sent == b""


def test_unknown_export_name_disconnects() -> None:
    event, sent = converse(client_flags() + option(Option.EXPORT_NAME, b"swap1"))
    assert event == Violation("unknown export 'swap1'")
    assert sent == b""


@pytest.mark.parametrize("name", [b"swap0", b""])
def test_go_starts_transmission(name: bytes) -> None:
    event, sent = converse(client_flags() + go(name) + b"initial")
    assert event == Negotiated(b"initial")
    export = struct.pack(">HQH", 0, 1 << 30, EVERY_FLAG)
    assert parse_option_replies(sent) == [(7, Reply.INFO, export), (7, Reply.ACK, b"")]


def test_info_answers_what_is_requested_and_goes_on() -> None:
    asked = [Info.BLOCK_SIZE, Info.NAME, Info.DESCRIPTION, 999, Info.NAME]
    replies = answers(option(Option.INFO, info_data(b"", *asked)))
    assert [kind for _, kind, _ in replies] == [Reply.INFO] * 4 + [Reply.ACK]
    assert [data for _, _, data in replies[1:4]] == [
        b"\0\1swap0",
        b"\0\2a swap device",
        struct.pack(">HIII", 3, 4096, 4096, 2 << 20),
    ]


def test_list_names_the_export() -> None:
    assert answers(option(Option.LIST)) == [
        (3, Reply.SERVER, b"\0\0\0\5swap0a swap device"),
        (3, Reply.ACK, b""),
    ]


def test_abort_is_acknowledged() -> None:
    event, sent = converse(client_flags() + option(Option.ABORT) + b"ignored")
    assert event == Aborted()
    assert parse_option_replies(sent) == [(2, Reply.ACK, b"")]


@pytest.mark.parametrize("number", [0, 4, STARTTLS, STRUCTURED_REPLY, 9, 10, EXTENDED_HEADERS, 999])
def test_unknown_options_are_refused_and_skipped(number: int) -> None:
    replies = answers(option(number, b"some data"), option(Option.LIST))
    assert replies[0][:2] == (number, Reply.ERR_UNSUP)
    assert replies[-1][:2] == (Option.LIST, Reply.ACK)


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"", Reply.ERR_INVALID),
        (b"\0\0\0\0\0", Reply.ERR_INVALID),
        (info_data(b"swap0")[:-1], Reply.ERR_INVALID),
        (info_data(b"swap0") + b"\0", Reply.ERR_INVALID),
        (info_data(b"swap0", 1, 2)[:-2], Reply.ERR_INVALID),
        (b"\xff\xff\xff\xff\0\0", Reply.ERR_INVALID),
        (info_data(b"x" * 4097), Reply.ERR_TOO_BIG),
        (info_data(b"x" * 4096), Reply.ERR_UNKNOWN),
        (info_data(b"\xff\0"), Reply.ERR_UNKNOWN),
        (info_data(b"swap0\0"), Reply.ERR_UNKNOWN),
        (bytes(hs.OPTION_BYTES_MAX + 1), Reply.ERR_TOO_BIG),
    ],
)
@pytest.mark.parametrize("number", [Option.GO, Option.INFO])
def test_malformed_info_and_go_are_refused(number: int, data: bytes, reply: Reply) -> None:
    replies = answers(option(number, data), option(Option.LIST))
    assert replies[0][:2] == (number, reply)
    assert replies[-1][:2] == (Option.LIST, Reply.ACK)


def test_list_with_data_is_refused() -> None:
    assert answers(option(Option.LIST, b"x"))[0][1] == Reply.ERR_INVALID


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (client_flags(4), "client flags"),
        (client_flags(0xFFFFFFFF), "client flags"),
        (client_flags() + b"HAVEOPTI" + bytes(8), "option magic"),
        (client_flags() + option(Option.GO, length=(1 << 20) + 1), "bytes of data"),
        (client_flags() + option(Option.EXPORT_NAME, bytes(70_000)), "too long"),
        (client_flags() + option(Option.LIST) * 65, "more than 64 options"),
    ],
)
def test_what_cannot_be_answered_ends_the_handshake(data: bytes, reason: str) -> None:
    event, _ = converse(data)
    assert isinstance(event, Violation)
    assert reason in event.reason


def test_sixty_four_options_are_answered() -> None:
    assert len(answers(option(Option.LIST) * 64)) == 128


def test_last_event_stays() -> None:
    handshake = Handshake(EXPORT)
    handshake.receive_data(client_flags() + go())
    assert handshake.next_event() == handshake.next_event() == Negotiated(b"")


CONVERSATIONS = [
    client_flags() + option(8) + option(Option.LIST) + option(Option.INFO, info_data()) + go(),
    client_flags(0) + option(Option.EXPORT_NAME, b"swap0"),
    client_flags() + option(Option.GO, bytes(66_000)) + option(Option.ABORT),
    client_flags() + option(Option.GO, info_data(b"nobody")) + b"garbage of sixteen bytes",
]


@pytest.mark.parametrize("data", CONVERSATIONS)
@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 16, 1000])
def test_pieces_do_not_matter(data: bytes, pieces: int) -> None:
    assert converse(data, pieces) == converse(data)


OPTIONS = st.builds(
    lambda number, data, lie: option(number, data, length=lie),
    st.integers(0, 12) | st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=64) | st.builds(info_data, st.sampled_from([b"", b"swap0", b"other"])),
    st.none() | st.integers(0, 100) | st.integers(0, 0xFFFFFFFF),
)


@given(
    flags=st.integers(0, 3) | st.integers(0, 0xFFFFFFFF),
    parts=st.lists(OPTIONS | st.binary(max_size=100), max_size=100),
    pieces=st.integers(1, 5000),
)
def test_any_bytes_end_in_an_event_and_bounded_output(
    flags: int, parts: list[bytes], pieces: int
) -> None:
    event, sent = converse(client_flags(flags) + b"".join(parts), pieces)
    assert isinstance(event, NeedData | Negotiated | Aborted | Violation)
    assert len(sent) <= hs.OPTIONS_MAX * 256 + 200


@given(st.binary(max_size=4000))
def test_garbage_is_kept_in_bounds(data: bytes) -> None:
    event, sent = converse(data)
    assert isinstance(event, NeedData | Violation)
    assert len(sent) <= wire.OPTION_REPLY.size
