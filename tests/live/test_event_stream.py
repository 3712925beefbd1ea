"""The line of a stream, over real sockets: heartbeats, dead and slow peers, its age, its end, the cursors it tells."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.connections import TIMEOUT, Recorder, new_lines, tcp_pair, until
from tests.support.hubs import turns
from tests.support.streams import Block, Stream
from tornado_chat.errors import CloseCode
from tornado_chat.live.event_stream import IGNORED_BYTES, CursorStream, EventStream
from tornado_chat.live.fanout import NO_KEY
from tornado_chat.live.keepalive import Keepalive
from tornado_chat.live.socket_line import Lines
from tornado_chat.live.turns import TELLS, Turns
from tornado_chat.wire.event_stream import CHUNKED, StreamEncodings

SMALL = 16384
NEVER = 1000.0
ENCODING = StreamEncodings("e").get(CHUNKED, numbered=True)


class Pair:
    """`line` with its `listener`, and who reads the stream. Nothing of it is left after the block."""

    def __init__(
        self,
        lines: Lines | None = None,
        *,
        buffers: int | None = None,
        unix: bool = False,
        cursors: Callable[[], bytes] | None = None,
        shares: Turns | None = None,
    ) -> None:
        self.lines = lines or new_lines()
        self.listener = Recorder()
        client, server = socket.socketpair() if unix else tcp_pair(buffers)
        client.setblocking(False)
        server.setblocking(False)
        self.peer = Stream(client)
        self.peer.body.chunked = True
        if cursors is None:
            self.line = EventStream(self.lines, server, self.listener, ENCODING)
        else:
            soon = (shares or Turns(self.lines.loop)).tell_cursors
            self.line = CursorStream(self.lines, server, self.listener, ENCODING, cursors, soon)

    async def __aenter__(self) -> Self:
        self.line.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.peer.sock.close()
        self.line.abort(1006)
        await until(lambda: self.listener.closed)
        assert len(self.listener.closed) == 1
        assert self.line not in self.lines.open
        assert self.lines.outbox_bytes == 0

    def stall(self) -> None:
        """Write more than the kernel's buffers will take (with `buffers`)."""
        frame = ENCODING.frame({"type": "filler", "text": "x" * 8000})
        while self.line.outbox_bytes < 160_000:
            self.line.write(frame)


@contextmanager
def keepalive(lines: Lines, **limits: float) -> Iterator[None]:
    every: dict[str, float] = {"ping_interval": 0, "ping_timeout": NEVER, "write_timeout": NEVER}
    made = Keepalive(lines, **{**every, **limits})
    made.start()
    yield
    made.stop()


def closing(blocks: list[Block]) -> Any:
    """The last object, which must be a `closing`, and what `retry:` stood with it."""
    data = dict(blocks[-1].data)
    assert data.pop("type") == "closing"
    assert data.get("retry_after_ms") == blocks[-1].retry
    return data


async def test_a_heartbeat_comes_every_interval_also_when_events_flow() -> None:
    async with Pair() as pair:
        with keepalive(pair.lines, ping_interval=0.1):
            begin = time.monotonic()
            while pair.peer.pings < 5:
                pair.line.write(ENCODING.frame({"type": "event"}))
                await pair.peer.receive()
                await asyncio.sleep(0.01)
            assert time.monotonic() - begin > 0.4
        assert not pair.line.closing


async def test_an_interval_of_zero_switches_heartbeats_off() -> None:
    async with Pair() as pair:
        with keepalive(pair.lines, ping_timeout=0.01):
            await until(lambda: pair.line.idle > 20)
            with pytest.raises(BlockingIOError):
                pair.peer.sock.recv(1)


async def test_the_end_is_told_and_the_body_is_whole() -> None:
    async with Pair() as pair:
        pair.line.close(CloseCode.SERVICE_RESTART, "retry_after_ms=1234")
        pair.line.close(CloseCode.INTERNAL_ERROR)
        pair.line.write(ENCODING.frame({"type": "late"}))
        blocks, whole = await pair.peer.read_to_end()
        assert whole
        assert closing(blocks) == {"code": 1012, "retry_after_ms": 1234}
        assert pair.listener.closed == [(1012, "retry_after_ms=1234")]
        pair.peer.sock.close()
        await until(lambda: not pair.lines.open)


@pytest.mark.parametrize(
    ("code", "reason", "told"),
    [
        (4001, "token expired", {"code": 4001, "reason": "token expired"}),
        (4002, "", {"code": 4002}),
        (1008, "too many", {"code": 1008, "reason": "too many"}),
    ],
)
async def test_where_coming_back_does_not_help_no_time_is_told(code: int, reason: str, told: dict[str, Any]) -> None:
    async with Pair() as pair:
        pair.line.close(code, reason)
        blocks, whole = await pair.peer.read_to_end()
        assert whole
        assert closing(blocks) == told


async def test_after_a_fault_of_the_server_they_do_not_all_come_back_at_once() -> None:
    times = set()
    for _ in range(5):
        async with Pair() as pair:
            pair.line.close(1011, "the server failed")
            data = closing((await pair.peer.read_to_end())[0])
            assert (data["code"], data["reason"]) == (1011, "the server failed")
            times.add(data["retry_after_ms"])
    assert len(times) > 1


async def test_what_waits_in_the_outbox_comes_before_the_end() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.stall()
        pair.line.close(1012, "retry_after_ms=1")
        blocks, whole = await pair.peer.read_to_end()
        assert whole
        assert len(blocks) > 20
        assert {block.data["type"] for block in blocks[:-1]} == {"filler"}
        assert closing(blocks)["code"] == 1012


async def test_who_does_not_hang_up_after_the_end_is_let_go() -> None:
    async with Pair(new_lines(close_timeout=0.1)) as pair:
        pair.line.close(1012)
        await until(lambda: not pair.lines.open)


@pytest.mark.parametrize("how", ["close", "shutdown", "reset"])
@pytest.mark.parametrize("paused", [False, True])
async def test_who_hangs_up_is_gone_at_once(how: str, paused: bool) -> None:
    """Also where its session reads nothing more: there is nothing to read but this."""
    async with Pair() as pair:
        if paused:
            pair.line.pause_reading()
        if how == "close":
            pair.peer.sock.close()
        elif how == "shutdown":
            pair.peer.sock.shutdown(socket.SHUT_WR)
        else:
            pair.peer.reset()
        await until(lambda: not pair.lines.open)
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(1006, "")]


async def test_who_hangs_up_behind_a_full_outbox_is_gone_at_once() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.stall()
        pair.peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: not pair.lines.open)


async def test_what_is_sent_on_a_stream_is_thrown_away_up_to_a_bound() -> None:
    async with Pair() as pair:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(pair.peer.sock, b"GET / HTTP/1.1\r\n\r\n" * 100)
        await until(lambda: pair.lines.bytes_in == 1800)
        assert not pair.line.closing
        assert pair.listener.messages == []
        await loop.sock_sendall(pair.peer.sock, bytes(IGNORED_BYTES))
        blocks, _ = await pair.peer.read_to_end()
        assert closing(blocks)["code"] == 1002


async def test_what_came_with_the_request_counts_too() -> None:
    pair = Pair()
    pair.line.start(bytes(IGNORED_BYTES + 1))
    assert pair.line.closing
    async with pair:
        pass


async def test_a_stream_ends_by_its_age_and_they_do_not_all_end_at_once() -> None:
    lines = new_lines()
    pairs = [Pair(lines) for _ in range(20)]
    for pair in pairs:
        pair.line.start()
    ended: list[float] = []
    with keepalive(lines, write_timeout=0.04, stream_lifetime=1.0):  # sweeps of 10 ms
        begin = time.monotonic()
        for pair in pairs:
            pair.listener.closed_reaction = lambda: ended.append(time.monotonic() - begin)
        for pair in pairs:
            blocks, whole = await pair.peer.read_to_end()
            assert whole
            data = closing(blocks)
            assert data["code"] == 1012
            assert data["retry_after_ms"] > 0
    assert min(ended) > 0.75
    assert max(ended) - min(ended) > 0.1
    for pair in pairs:
        async with pair:
            pass


async def test_a_token_that_has_expired_ends_it() -> None:
    async with Pair() as pair:
        pair.line.expires_at = time.time()
        with keepalive(pair.lines, write_timeout=0.1):
            blocks, _ = await pair.peer.read_to_end()
        assert closing(blocks) == {"code": 4001, "reason": "token expired"}


async def test_a_socket_that_takes_nothing_is_cut_off() -> None:
    async with Pair(buffers=SMALL) as pair:
        with keepalive(pair.lines, ping_interval=0.05, write_timeout=0.3):
            pair.stall()
            begin = time.monotonic()
            await until(lambda: pair.listener.closed)
            assert time.monotonic() - begin > 0.25
            assert pair.listener.closed == [(4003, "write timeout")]


async def test_a_peer_that_reads_nothing_is_cut_off_even_if_only_heartbeats_wait() -> None:
    """They wait in the kernel, where the window is shut: nothing is in the outbox."""
    async with Pair(buffers=SMALL) as pair:
        frame = ENCODING.frame({"type": "filler", "text": "x" * 500})
        while not pair.line.outbox_bytes:
            pair.line.write(frame)
        full = 0
        while pair.line.outbox_bytes:  # take just so much that the outbox is empty, and the kernel's queue is not
            full += len(pair.peer.sock.recv(2000))
            await turns(3)
        await until(pair.line._unsent_bytes)
        with keepalive(pair.lines, ping_interval=0.1, write_timeout=0.5):
            begin = time.monotonic()
            await until(lambda: pair.listener.closed)
            assert time.monotonic() - begin > 0.45
            assert pair.listener.closed == [(4003, "write timeout")]


async def test_a_peer_that_reads_slowly_is_not() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.stall()
        with keepalive(pair.lines, ping_interval=0.1, write_timeout=1.5):
            begin = time.monotonic()
            while time.monotonic() - begin < 4.5:
                await pair.peer.receive(2000)
                await asyncio.sleep(0.05)
            assert not pair.line.closing


async def test_an_idle_peer_that_takes_its_heartbeats_is_not() -> None:
    """Nobody reads them: its kernel takes them, which is all that can be known."""
    async with Pair() as pair:
        with keepalive(pair.lines, ping_interval=0.05, ping_timeout=0.05, write_timeout=0.1):
            begin = time.monotonic()
            while time.monotonic() - begin < 1.0:
                assert not pair.line.closing
                await asyncio.sleep(0.05)


async def test_a_stream_through_a_unix_socket() -> None:
    async with Pair(unix=True) as pair:
        with keepalive(pair.lines, ping_interval=0.05, write_timeout=0.1):
            async with asyncio.timeout(TIMEOUT):
                while pair.peer.pings < 5:
                    await pair.peer.receive()
        pair.line.close(1012, "retry_after_ms=5")
        blocks, whole = await pair.peer.read_to_end()
        assert whole
        assert closing(blocks)["retry_after_ms"] == 5


async def test_cursors_are_told_behind_what_was_written_and_once() -> None:
    told = {"n": 0}

    def cursors() -> bytes:
        return b"id: e r:%d\n" % told["n"]

    async with Pair(cursors=cursors) as pair:
        assert pair.line.key == NO_KEY
        assert not any(pair.lines.direct.keys)
        for n in (1, 2):  # of two writes in a turn one is told
            pair.line.write(ENCODING.frame({"type": "event", "n": n}))
            told["n"] = n
        blocks = [await pair.peer.hear_block() for _ in range(3)]
        assert [block.data and block.data["n"] for block in blocks] == [1, 2, None]
        assert blocks[2].id == "e r:2"
        pair.line.write(ENCODING.frame({"type": "signal"}))
        await turns(3)
        assert [block.id for block in await pair.peer.receive()] == [None], "nothing new is not told again"
        pair.line.write(ENCODING.frame({"type": "event", "n": 3}))
        told["n"] = 3
        pair.line.close(1012, "retry_after_ms=1")
        blocks, _ = await pair.peer.read_to_end()
        assert [block.id for block in blocks] == [None, "e r:3"]
        assert closing(blocks)["code"] == 1012
        assert not any(pair.lines.direct.keys)


async def test_heartbeats_tell_the_cursors_too() -> None:
    """Firefox heeds no id of a block without data."""
    async with Pair(cursors=lambda: b"id: e r:7\n") as pair:
        with keepalive(pair.lines, ping_interval=0.1):
            while not pair.peer.pings:
                await pair.peer.receive()
        assert pair.peer.last_id == "e r:7"


async def test_cursors_of_many_streams_are_told_some_in_each_turn() -> None:
    """To make them takes its time: a room of many such streams makes nobody wait for all of them."""
    made: list[int] = []
    lines = new_lines()
    shares = Turns(lines.loop)

    def cursors() -> bytes:
        made.append(1)
        return b"id: e r:1\n"

    pairs = [Pair(lines, cursors=cursors, shares=shares) for _ in range(50)]
    for pair in pairs:
        pair.line.write(ENCODING.frame({"type": "event"}))
    told = 0
    while len(made) < 50:
        await turns(1)
        assert len(made) - told <= TELLS
        told = len(made)
    for pair in pairs:
        async with pair:
            assert (await pair.peer.hear_block()).data == {"type": "event"}
            assert (await pair.peer.hear_block()).id == "e r:1"


async def test_after_a_fault_no_cursor_is_told() -> None:
    async with Pair(cursors=lambda: b"id: e r:9\n") as pair:
        pair.line.write(ENCODING.frame({"type": "event"}))
        pair.line.close(1011)
        blocks, _ = await pair.peer.read_to_end()
        assert [block.id for block in blocks] == [None, None]
