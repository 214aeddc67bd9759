"""Memory servers as etcd lists them: each writes one record, `<prefix>servers/<uuid>`.

A record is a JSON object. A program reads records of other releases: it ignores keys that it does
not know, and skips what it cannot read.
"""

# The decoder reads the annotations at run time: no `from __future__ import annotations` here.
import asyncio
import re
from collections.abc import Mapping, Sequence

import msgspec
from farswap.common import log
from farswap.common.address import Address
from farswap.common.etcd import Etcd

_log = log.logger("members")

UUID = re.compile("[0-9a-f]{32}")


class _Record(msgspec.Struct, frozen=True):
    address: str
    version: str = ""


class Member(msgspec.Struct, frozen=True, order=True):
    """One server."""

    uuid: str  # of its store, hexadecimal
    address: str  # host:port for hosts
    version: str  # of its program


def prefix_of(prefix: str) -> str:
    """Start of the keys of all servers."""
    return f"{prefix}servers/"


def to_record(member: Member) -> bytes:
    """Value of the server's key."""
    return msgspec.json.encode(_Record(address=member.address, version=member.version))


def of_records(records: Mapping[str, bytes], prefix: str) -> list[Member]:
    """By uuid. Logs and skips records that are not a server's."""
    members: list[Member] = []
    for key, value in sorted(records.items()):
        uuid = key.removeprefix(prefix_of(prefix))
        try:
            if not UUID.fullmatch(uuid):
                raise ValueError("the key does not end with a uuid")  # noqa: TRY301
            record = msgspec.json.decode(value, type=_Record)
            address = Address.parse(record.address)
            if address.is_unix or not address.is_fixed:
                raise ValueError("the address has no port")  # noqa: TRY301
        except ValueError as error:
            _log.warning("etcd has a record that is not a server's", key=key, error=str(error))
            continue
        members.append(Member(uuid, record.address, record.version))
    return members


async def fetch_members(etcd: Etcd, prefix: str) -> list[Member]:
    """Raises an error of farswap's tree if etcd does not answer."""
    return of_records(await etcd.list_prefix(prefix_of(prefix)), prefix)


def list_members(endpoints: Sequence[Address], prefix: str, timeout_s: float) -> list[Member]:
    """For programs without an event loop; as fetch_members(). The time is of each endpoint."""

    async def fetch() -> list[Member]:
        async with Etcd(endpoints, timeout_s) as etcd:
            return await fetch_members(etcd, prefix)

    return asyncio.run(fetch())
