"""The client of etcd's API, on a real etcd."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import hang_guard
import pytest
from etcd_server import EtcdServer
from farswap.common import members
from farswap.common.address import Address
from farswap.common.errors import TimedOutError, UnreachableError
from farswap.common.etcd import Etcd
from hang_guard import HANG_GUARD_S
from structlog.testing import capture_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    Records = Mapping[str, bytes]

# More than etcd and both sockets keep for a watch that does not read.
_KEPT_FOR_A_WATCH = 4000
_PUT_BYTES = 8000

UUID = "0123456789abcdef" * 2
NOWHERE = Address.parse("127.0.0.1:1")


@asynccontextmanager
async def client(*servers: EtcdServer | Address, timeout_s: float = 3.0) -> AsyncIterator[Etcd]:
    endpoints = [
        Address.parse(server.address) if isinstance(server, EtcdServer) else server
        for server in servers
    ]
    async with asyncio.timeout(2 * HANG_GUARD_S), Etcd(endpoints, timeout_s) as etcd:
        yield etcd


async def until(watch: AsyncIterator[Records], wanted: Callable[[Records], bool]) -> Records:
    async for records in watch:
        if wanted(records):
            return records
    raise AssertionError("a watch ended")


async def watch_until(etcd: Etcd, wanted: Callable[[Records], bool]) -> Records:
    async with aclosing(etcd.watch_prefix("p/")) as watch:
        return await until(watch, wanted)


async def test_keys_are_put_and_read(etcd_server: EtcdServer) -> None:
    async with client(etcd_server) as etcd:
        await etcd.put("farswap/servers/a", b"1")
        await etcd.put("farswap/servers0", b"beyond the prefix")
        assert await etcd.get("farswap/servers/a") == b"1"
        assert await etcd.get("farswap/servers/b") is None
        assert await etcd.list_prefix("farswap/servers/") == {"farswap/servers/a": b"1"}


async def test_a_key_ends_with_its_lease(etcd_server: EtcdServer) -> None:
    async with client(etcd_server) as etcd:
        lease = await etcd.grant_lease(60)
        await etcd.put("p/key", b"1", lease)
        assert await etcd.keep_alive(lease)
        await etcd.revoke_lease(lease)
        assert await etcd.get("p/key") is None
        assert not await etcd.keep_alive(lease)


async def test_a_lease_that_is_not_kept_alive_ends(etcd_server: EtcdServer) -> None:
    async with client(etcd_server) as etcd:
        await etcd.put("p/key", b"1", await etcd.grant_lease(1))
        assert not await watch_until(etcd, lambda records: not records)


async def test_a_watch_yields_the_records_then_each_change(etcd_server: EtcdServer) -> None:
    async with client(etcd_server) as etcd, aclosing(etcd.watch_prefix("p/")) as watch:
        await etcd.put("p/a", b"1")
        assert await anext(watch) == {"p/a": b"1"}
        lease = await etcd.grant_lease(60)
        await etcd.put("p/b", b"2", lease)
        assert await anext(watch) == {"p/a": b"1", "p/b": b"2"}
        await etcd.put("q/c", b"3")
        await etcd.revoke_lease(lease)
        assert await anext(watch) == {"p/a": b"1"}


async def test_the_next_endpoint_answers_for_one_that_is_gone(etcd_server: EtcdServer) -> None:
    async with client(NOWHERE, etcd_server) as etcd, aclosing(etcd.watch_prefix("p/")) as watch:
        with capture_logs() as lines:
            await etcd.put("p/a", b"1")
            assert await anext(watch) == {"p/a": b"1"}
        assert etcd.away_s is None
        assert lines == []


async def test_an_etcd_that_is_away_is_named_once(etcd_server: EtcdServer) -> None:
    etcd_server.stop()
    async with client(etcd_server) as etcd:
        assert etcd.away_s is not None
        with capture_logs() as lines:
            for _ in range(2):
                with pytest.raises(UnreachableError, match="connection refused"):
                    await etcd.get("p/a")
        assert [line["event"] for line in lines] == ["etcd does not answer"]
        assert etcd_server.address in etcd.problem
        etcd_server.start()
        with capture_logs() as lines:
            assert await watch_until(etcd, lambda _: True) == {}
        assert [line["event"] for line in lines][-1:] == ["etcd answers"]
        assert (etcd.away_s, etcd.problem) == (None, "")


async def test_a_watch_waits_for_an_etcd_that_is_not_there_yet(etcd_server: EtcdServer) -> None:
    etcd_server.stop()
    async with client(NOWHERE, etcd_server) as etcd:
        records = asyncio.ensure_future(watch_until(etcd, lambda _: True))
        await asyncio.to_thread(hang_guard.until, lambda: etcd.problem)
        assert "127.0.0.1:1" in etcd.problem
        assert etcd_server.address in etcd.problem
        etcd_server.start()
        assert await records == {}


async def test_an_etcd_that_is_silent_is_given_up_after_the_deadline(
    etcd_server: EtcdServer,
) -> None:
    async with client(etcd_server, timeout_s=0.2) as etcd:
        etcd_server.pause()
        with pytest.raises(TimedOutError):
            await etcd.get("p/a")
        with pytest.raises(TimedOutError):
            await etcd.keep_alive(1)
        etcd_server.resume()


async def test_a_watch_survives_a_restart_and_misses_no_change(etcd_server: EtcdServer) -> None:
    async with (
        client(etcd_server) as etcd,
        client(etcd_server) as other,
        aclosing(etcd.watch_prefix("p/")) as watch,
    ):
        await other.put("p/a", b"1")
        assert await anext(watch) == {"p/a": b"1"}
        etcd_server.stop()
        etcd_server.start()
        await other.put("p/b", b"2")
        etcd_server.compact()
        await until(watch, lambda records: records == {"p/a": b"1", "p/b": b"2"})
        await other.put("p/c", b"3")
        await until(watch, lambda records: "p/c" in records)


async def test_a_watch_whose_changes_were_compacted_lists_again(etcd_server: EtcdServer) -> None:
    """It reads so late that etcd keeps changes back; compaction drops them."""
    async with (
        client(etcd_server) as etcd,
        client(etcd_server) as other,
        aclosing(etcd.watch_prefix("p/")) as watch,
    ):
        assert await anext(watch) == {}
        await other.put("p/a", b"first")
        assert (await anext(watch)).keys() == {"p/a"}
        for _ in range(_KEPT_FOR_A_WATCH // 100):
            puts = (other.put("p/a", bytes(_PUT_BYTES)) for _ in range(100))
            await asyncio.gather(*puts)
        await other.put("p/b", b"last")
        etcd_server.compact()
        listings = etcd_server.calls("Range")
        assert await until(watch, lambda records: "p/b" in records)
        assert etcd_server.calls("Range") == listings + 1


async def test_a_watch_follows_an_etcd_that_comes_back_empty(etcd_server: EtcdServer) -> None:
    async with (
        client(etcd_server) as etcd,
        client(etcd_server) as other,
        aclosing(etcd.watch_prefix("p/")) as watch,
    ):
        for i in range(20):
            await other.put(f"p/{i}", b"1")
        assert len(await anext(watch)) == 20
        etcd_server.stop()
        etcd_server.wipe()
        etcd_server.start()
        assert await until(watch, lambda records: len(records) < 20) == {}
        await etcd.put("p/new", b"2")
        assert await until(watch, bool) == {"p/new": b"2"}


# --- Members


async def test_members_are_listed_by_uuid(etcd_server: EtcdServer) -> None:
    first = members.Member("0" * 32, "10.0.0.1:7070", "0.1.0")
    second = members.Member("f" * 32, "10.0.0.2:7070", "0.1.0")
    async with client(etcd_server) as etcd:
        for member in (second, first):
            key = members.prefix_of("farswap/") + member.uuid
            await etcd.put(key, members.to_record(member))
        assert await members.fetch_members(etcd, "farswap/") == [first, second]
    endpoints = [NOWHERE, Address.parse(etcd_server.address)]
    listed = await asyncio.to_thread(members.list_members, endpoints, "farswap/", HANG_GUARD_S)
    assert listed == [first, second]


def test_keys_of_later_releases_are_ignored() -> None:
    records = {f"x/servers/{UUID}": b'{"address": "[::1]:7070", "later": 1}'}
    assert members.of_records(records, "x/") == [members.Member(UUID, "[::1]:7070", "")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"x/servers/{UUID}", b"not json"),
        (f"x/servers/{UUID}", b"[]"),
        (f"x/servers/{UUID}", b'{"version": "0.1.0"}'),
        (f"x/servers/{UUID}", b'{"address": "10.0.0.1:0"}'),
        (f"x/servers/{UUID}", b'{"address": "unix:/run/x"}'),
        (f"x/servers/{UUID[1:]}", b'{"address": "10.0.0.1:7070"}'),
        (f"x/servers/{UUID}/more", b'{"address": "10.0.0.1:7070"}'),
    ],
)
def test_records_of_others_are_skipped_and_logged(key: str, value: bytes) -> None:
    with capture_logs() as lines:
        assert members.of_records({key: value}, "x/") == []
    assert [line["key"] for line in lines] == [key]
