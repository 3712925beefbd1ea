"""The proxy that does harm: it must do this harm and no other, or what is tested with it means nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from tests.support.connections import until
from tornado_chat.verify.proxy import Proxy, Sieve

MESSAGE = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$7\r\nhe\r\nllo\r\n"
OTHERS = [
    b"+OK\r\n",
    b":5\r\n",
    b"-ERR no\r\n",
    b"$5\r\nhello\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"_\r\n",
    b"*2\r\n$1\r\na\r\n:1\r\n",
    b"*0\r\n",
    b"%1\r\n+server\r\n*1\r\n+redis\r\n",
    b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
    b"=7\r\ntxt:abc\r\n",
]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_sieve_takes_messages_out_however_they_are_cut(size: int) -> None:
    smessage = b">3\r\n$8\r\nsmessage\r\n$1\r\nb\r\n$1\r\nx\r\n"
    old = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$0\r\n\r\n"
    said = b"".join(part + MESSAGE for part in OTHERS) + smessage + old
    seen: list[tuple[bytes, bytes]] = []

    def drops(channel: bytes, payload: bytes) -> bool:
        seen.append((channel, payload))
        return channel != b"b"

    sieve = Sieve()
    passed = b"".join(sieve.pass_on(said[at : at + size], drops) for at in range(0, len(said), size))
    assert passed == b"".join(OTHERS) + smessage
    assert seen == [(b"a", b"he\r\nllo")] * len(OTHERS) + [(b"b", b"x"), (b"c", b"")]
    assert sieve.dropped == len(OTHERS) + 1
    assert not sieve.holds


@asynccontextmanager
async def through_a_proxy() -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """The client's end of a connection to a server that sends back what it gets."""
    servings: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        servings.add(task)
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionResetError:
            pass  # as a test wants it
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        async with Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            try:
                yield proxy, reader, writer
            finally:
                writer.transport.abort()
    finally:
        server.close()
        await asyncio.wait(servings, timeout=5)


async def test_what_is_stalled_comes_later_in_order() -> None:
    async with through_a_proxy() as (proxy, reader, writer):
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        proxy.stall()
        writer.write(b"b" * 1_000_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        proxy.flow()
        writer.write(b"c")
        assert await reader.readexactly(1_000_001) == b"b" * 1_000_000 + b"c"


async def test_a_delay_holds_each_chunk_and_keeps_their_order() -> None:
    async with through_a_proxy() as (proxy, reader, writer):
        proxy.delay(0.1)
        began = monotonic()
        writer.write(b"a")
        await asyncio.sleep(0.02)
        proxy.delay(0)
        writer.write(b"b")
        assert await reader.readexactly(2) == b"ab"
        assert monotonic() - began > 0.09


async def test_a_cut_resets_and_new_connections_are_taken_or_not() -> None:
    async with through_a_proxy() as (proxy, reader, _):
        await until(lambda: proxy.links == 1)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        proxy.accept()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        writer.transport.abort()
        await until(lambda: proxy.links == 0)


async def test_dropping_may_begin_in_the_middle_of_a_message() -> None:
    async with through_a_proxy() as (proxy, reader, writer):
        big = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$100000\r\n" + b"x" * 100_000 + b"\r\n"
        writer.write(big[:50_000])
        assert await reader.readexactly(50_000) == big[:50_000]
        proxy.drop(1.0)
        writer.write(big[50_000:])
        assert await reader.readexactly(len(big) - 50_000) == big[50_000:]
        writer.write(MESSAGE + b"+OK\r\n" + MESSAGE[:10])
        assert await reader.readexactly(5) == b"+OK\r\n"
        writer.write(MESSAGE[10:])
        await until(lambda: proxy.dropped == 2)
        proxy.drop(0)
        writer.write(MESSAGE)
        assert await reader.readexactly(len(MESSAGE)) == MESSAGE


async def test_what_is_held_comes_once_it_is_much_or_late() -> None:
    async with through_a_proxy() as (proxy, before, unheld):
        unheld.write(b"a")
        assert await before.readexactly(1) == b"a"
        proxy.hold(1.0, 10, 60.0)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"12345")
        await asyncio.sleep(0.02)
        unheld.write(b"b")
        assert await before.readexactly(1) == b"b", "what is connected already is not held"
        writer.write(b"67890x")
        async with asyncio.timeout(30.0):  # it was enough
            assert await reader.readexactly(11) == b"1234567890x"
        proxy.hold(1.0, 10, 0.2)
        late_reader, late_writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        began = monotonic()
        late_writer.write(b"y")
        assert await late_reader.readexactly(1) == b"y"
        assert monotonic() - began > 0.15
        writer.transport.abort()
        late_writer.transport.abort()
        await until(lambda: proxy.links == 1)
