"""The NBD wire format of the handshake, and the one place that spells it in Python.

Source: "The NBD protocol", https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md,
sections "Fixed newstyle negotiation" and "Values". All integers are big endian. The transmission
phase is native: native/nbd/wire.h.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

NBD_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9  # not ASCII

GREETING = struct.Struct(">QQH")  # NBD_MAGIC, OPTION_MAGIC, handshake flags
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")  # OPTION_MAGIC, option, length of its data
OPTION_REPLY = struct.Struct(">QIII")  # OPTION_REPLY_MAGIC, option, reply type, length of its data
EXPORT_NAME_REPLY = struct.Struct(">QH")  # export size, transmission flags
EXPORT_NAME_ZEROES = 124  # bytes behind it, unless the client declined them

INFO_EXPORT = struct.Struct(">HQH")  # Info.EXPORT, export size, transmission flags
INFO_BLOCK_SIZE = struct.Struct(">HIII")  # Info.BLOCK_SIZE, minimum, preferred, maximum payload
INFO_TYPE = struct.Struct(">H")
LENGTH = struct.Struct(">I")

NAME_BYTES_MAX = 4096  # "Conventions": strings must be no longer


class HandshakeFlag(IntFlag):
    """NBD_FLAG_*: what the server offers; the client's flags have the same bits."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class TransmissionFlag(IntFlag):
    """NBD_FLAG_*: what the export can do."""

    HAS_FLAGS = 1 << 0
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    CAN_MULTI_CONN = 1 << 8
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11


class Option(IntEnum):
    """NBD_OPT_*: the options that we serve; all others are refused."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7


class Reply(IntEnum):
    """NBD_REP_*: types of option replies."""

    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = (1 << 31) + 1
    ERR_INVALID = (1 << 31) + 3
    ERR_UNKNOWN = (1 << 31) + 6
    ERR_TOO_BIG = (1 << 31) + 9


class Info(IntEnum):
    """NBD_INFO_*: pieces of information about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3
