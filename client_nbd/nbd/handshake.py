"""The server's side of the NBD handshake (fixed newstyle), sans-IO.

Theory of operation. A Handshake owns one connection's negotiation and no socket. Its user does

    while True:
        event = handshake.next_event()
        send(handshake.data_to_send())         # also before acting on the event
        if isinstance(event, NeedData): handshake.receive_data(receive())
        else: break

The last event is one of

    Negotiated(initial)  the transmission phase has begun; pass on `initial`, its first bytes, with
                         the socket
    Aborted()            the client ended the negotiation: close
    Violation(reason)    the client broke the protocol or a limit, and no answer is possible: close

The states are those of the protocol: client flags, then options, each a header and its data, until
one of them ends the negotiation. Unknown and malformed options are answered with an error and
change nothing. The constants below bound the bytes and answers per client; the user bounds the
time.

There is one export. The empty name, the protocol's default, means it too.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from farswap.client_nbd.nbd import wire
from farswap.client_nbd.nbd.wire import HandshakeFlag, Info, Option, Reply, TransmissionFlag

# Maximum data of one option. A GO with the longest name and all requests is far smaller.
OPTION_BYTES_MAX = 64 << 10
# Maximum data of one option that is skipped and answered ERR_TOO_BIG. Beyond it: Violation.
OPTION_SKIPPED_BYTES_MAX = 1 << 20
# Maximum options per client. libnbd sends about ten.
OPTIONS_MAX = 64

_OFFERED = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
_TRANSMISSION_FLAGS = (
    TransmissionFlag.HAS_FLAGS
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.SEND_FUA
    | TransmissionFlag.SEND_TRIM
    | TransmissionFlag.SEND_WRITE_ZEROES
    | TransmissionFlag.CAN_MULTI_CONN
    | TransmissionFlag.SEND_CACHE
    | TransmissionFlag.SEND_FAST_ZERO
)
# Pages: native/nbd/parser.cc refuses anything else. The maximum is kPayloadBytesMax of
# native/nbd/wire.h.
_BLOCK_BYTES = 4096
PAYLOAD_BYTES_MAX = 2 << 20


@dataclass(frozen=True)
class Export:
    """The export. `description` is for people."""

    name: str
    bytes: int
    description: str = ""


@dataclass(frozen=True)
class NeedData:
    """More bytes from the client are needed."""


@dataclass(frozen=True)
class Negotiated:
    """The client has chosen the export."""

    initial: bytes


@dataclass(frozen=True)
class Aborted:
    """The client ended the negotiation by NBD_OPT_ABORT."""


@dataclass(frozen=True)
class Violation:
    """The connection must be closed. `reason` is for the log."""

    reason: str


Event = NeedData | Negotiated | Aborted | Violation


class _State(enum.Enum):
    CLIENT_FLAGS = enum.auto()
    OPTION_HEADER = enum.auto()
    OPTION_DATA = enum.auto()
    OPTION_SKIPPED = enum.auto()
    ENDED = enum.auto()


class _OptionError(Exception):
    """An option is answered with an error reply."""

    def __init__(self, reply: Reply, message: str) -> None:
        super().__init__(message)
        self.reply = reply


class Handshake:
    """One connection's negotiation. See the module's theory of operation."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._name = export.name.encode()
        self._state = _State.CLIENT_FLAGS
        self._received = bytearray()
        self._to_send = bytearray(wire.GREETING.pack(wire.NBD_MAGIC, wire.OPTION_MAGIC, _OFFERED))
        self._client_flags = HandshakeFlag(0)
        self._options = 0
        self._option = 0
        self._option_bytes = 0
        self._last_event: Event = NeedData()

    def receive_data(self, data: bytes) -> None:
        """Adds bytes from the client. Not after the last event."""
        self._received += data

    def data_to_send(self) -> bytes:
        """Bytes to send; each is returned once."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def next_event(self) -> Event:
        """Handles received bytes. Returns the last event repeatedly."""
        while self._state is not _State.ENDED:
            event = self._advance()
            if isinstance(event, NeedData):
                return event
            if event is not None:
                self._state = _State.ENDED
                self._last_event = event
        return self._last_event

    def _advance(self) -> Event | None:
        """One step. None: call it again."""
        match self._state:
            case _State.CLIENT_FLAGS:
                return self._read_client_flags()
            case _State.OPTION_HEADER:
                return self._read_option_header()
            case _State.OPTION_DATA:
                return self._read_option_data()
            case _:
                return self._skip_option_data()

    def _take(self, count: int) -> bytes | None:
        if len(self._received) < count:
            return None
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    # --- States

    def _read_client_flags(self) -> Event | None:
        data = self._take(wire.CLIENT_FLAGS.size)
        if data is None:
            return NeedData()
        (flags,) = wire.CLIENT_FLAGS.unpack(data)
        if flags & ~int(_OFFERED):  # ~ of an IntFlag has only the bits that have names
            return Violation(f"unknown client flags 0x{flags:x}")
        self._client_flags = HandshakeFlag(flags)
        self._state = _State.OPTION_HEADER
        return None

    def _read_option_header(self) -> Event | None:
        data = self._take(wire.OPTION.size)
        if data is None:
            return NeedData()
        magic, self._option, self._option_bytes = wire.OPTION.unpack(data)
        if magic != wire.OPTION_MAGIC:
            return Violation("bad option magic")
        self._options += 1
        if self._options > OPTIONS_MAX:
            return Violation(f"more than {OPTIONS_MAX} options")
        fixed = HandshakeFlag.FIXED_NEWSTYLE in self._client_flags
        if self._option != Option.EXPORT_NAME and not fixed:
            return Violation("an option other than EXPORT_NAME without fixed newstyle")
        if self._option_bytes > OPTION_SKIPPED_BYTES_MAX:
            return Violation(f"option {self._option} with {self._option_bytes} bytes of data")
        too_big = self._option_bytes > OPTION_BYTES_MAX
        self._state = _State.OPTION_SKIPPED if too_big else _State.OPTION_DATA
        return None

    def _skip_option_data(self) -> Event | None:
        skipped = min(self._option_bytes, len(self._received))
        del self._received[:skipped]
        self._option_bytes -= skipped
        if self._option_bytes > 0:
            return NeedData()
        self._state = _State.OPTION_HEADER
        if self._option == Option.EXPORT_NAME:
            return Violation("export name is too long")
        self._answer(Reply.ERR_TOO_BIG, b"more option data than any option needs")
        return None

    def _read_option_data(self) -> Event | None:
        data = self._take(self._option_bytes)
        if data is None:
            return NeedData()
        self._state = _State.OPTION_HEADER
        try:
            match self._option:
                case Option.EXPORT_NAME:
                    return self._export_name(data)
                case Option.ABORT:
                    return self._abort()
                case Option.LIST:
                    self._list(data)
                case Option.INFO | Option.GO:
                    return self._info_or_go(data)
                case _:
                    self._answer(Reply.ERR_UNSUP, b"unsupported option")
        except _OptionError as error:
            self._answer(error.reply, str(error).encode())
        return None

    # --- Options

    def _export_name(self, name: bytes) -> Event:
        if not self._is_export(name):
            return Violation(f"unknown export {_shown(name)}")
        self._to_send += wire.EXPORT_NAME_REPLY.pack(self._export.bytes, _TRANSMISSION_FLAGS)
        if HandshakeFlag.NO_ZEROES not in self._client_flags:
            self._to_send += bytes(wire.EXPORT_NAME_ZEROES)
        return self._negotiated()

    def _abort(self) -> Event:
        self._answer(Reply.ACK)
        return Aborted()

    def _list(self, data: bytes) -> None:
        if data:
            raise _OptionError(Reply.ERR_INVALID, "LIST takes no data")
        description = self._export.description.encode()
        self._answer(Reply.SERVER, wire.LENGTH.pack(len(self._name)) + self._name + description)
        self._answer(Reply.ACK)

    def _info_or_go(self, data: bytes) -> Event | None:
        name, requested = _parse_info(data)
        if not self._is_export(name):
            raise _OptionError(Reply.ERR_UNKNOWN, f"unknown export {_shown(name)}")
        self._answer(
            Reply.INFO, wire.INFO_EXPORT.pack(Info.EXPORT, self._export.bytes, _TRANSMISSION_FLAGS)
        )
        if Info.NAME in requested:
            self._answer(Reply.INFO, wire.INFO_TYPE.pack(Info.NAME) + self._name)
        if Info.DESCRIPTION in requested and self._export.description:
            description = self._export.description.encode()
            self._answer(Reply.INFO, wire.INFO_TYPE.pack(Info.DESCRIPTION) + description)
        if Info.BLOCK_SIZE in requested:
            block_size = wire.INFO_BLOCK_SIZE.pack(
                Info.BLOCK_SIZE, _BLOCK_BYTES, _BLOCK_BYTES, PAYLOAD_BYTES_MAX
            )
            self._answer(Reply.INFO, block_size)
        self._answer(Reply.ACK)
        return self._negotiated() if self._option == Option.GO else None

    def _is_export(self, name: bytes) -> bool:
        return name in (b"", self._name)

    def _negotiated(self) -> Negotiated:
        initial = bytes(self._received)
        self._received.clear()
        return Negotiated(initial)

    def _answer(self, reply: Reply, data: bytes = b"") -> None:
        self._to_send += wire.OPTION_REPLY.pack(
            wire.OPTION_REPLY_MAGIC, self._option, reply, len(data)
        )
        self._to_send += data


def _parse_info(data: bytes) -> tuple[bytes, set[int]]:
    """Export name and requested information types of INFO and GO. Raises _OptionError."""
    if len(data) < wire.LENGTH.size + wire.INFO_TYPE.size:
        raise _OptionError(Reply.ERR_INVALID, "too short for a name and a number of requests")
    (name_bytes,) = wire.LENGTH.unpack_from(data)
    count_at = wire.LENGTH.size + name_bytes
    types_at = count_at + wire.INFO_TYPE.size
    if types_at > len(data):
        raise _OptionError(Reply.ERR_INVALID, "the name is longer than the option")
    if name_bytes > wire.NAME_BYTES_MAX:
        raise _OptionError(Reply.ERR_TOO_BIG, f"a name is at most {wire.NAME_BYTES_MAX} bytes")
    (count,) = wire.INFO_TYPE.unpack_from(data, count_at)
    if len(data) != types_at + count * wire.INFO_TYPE.size:
        raise _OptionError(Reply.ERR_INVALID, "the number of requests does not match the length")
    requested = {type_ for (type_,) in wire.INFO_TYPE.iter_unpack(data[types_at:])}
    return data[wire.LENGTH.size : count_at], requested


def _shown(name: bytes) -> str:
    return repr(name[:64].decode(errors="backslashreplace"))
