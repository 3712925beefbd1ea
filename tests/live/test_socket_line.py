"""A socket's outbox and what is judged by it. How it is written to, paused and closed is tried in test_websocket.py."""

from __future__ import annotations

import asyncio
import math
import socket
import struct

import pytest

from tests.support.connections import Pair, new_lines, until
from tornado_chat.live.socket_line import ANSWERS_BYTES, ANSWERS_RATE, Patience

SMALL = 16384
SWEEPS = 4
NOW = 0.0


def patience(seconds: float) -> Patience:
    """`seconds` is what SWEEPS sweeps are said to take; nobody is pinged."""
    return Patience(ping_after=math.inf, dead_after=math.inf, stuck_after=SWEEPS, lifetime=math.inf, seconds=seconds)


async def sweep_and_read(pair: Pair, seconds: float, times: int = SWEEPS + 2) -> int:
    """Sweep so often, the peer taking something between any two of them; how many bytes it has read."""
    read = 0
    for _ in range(times):
        if pair.connection.closing:
            break
        pair.connection.sweep(NOW, patience(seconds))
        before = pair.connection.outbox_bytes
        while pair.connection.outbox_bytes == before and not pair.connection.closing:
            read += len(await pair.receive(8192))
            await asyncio.sleep(0)
    return read


async def test_the_outboxes_are_counted_together_and_given_back() -> None:
    lines = new_lines()
    async with Pair(lines, buffers=SMALL) as one:
        async with Pair(lines, buffers=SMALL) as other:
            one.stall()
            count = other.stall()
            assert lines.outbox_bytes == one.connection.outbox_bytes + other.connection.outbox_bytes > 300_000
            await other.read_exactly(8192 * count)
            await until(lambda: other.connection.outbox_bytes == 0)
            assert lines.outbox_bytes == one.connection.outbox_bytes > 0
        one.connection.abort(4003)
        assert lines.outbox_bytes == 0


async def test_a_long_answer_is_not_held_for_its_last_bytes() -> None:
    """Else a thousand clients that leave a byte of it unread would cost a thousand answers, and count as little."""
    async with Pair(buffers=SMALL) as pair:
        answer = bytes(range(256)) * 4096
        pair.connection.write(answer)
        read = b""
        while len(read) < len(answer):
            waits = pair.connection.outbox_bytes
            held = sum(map(len, pair.connection._outbox or ()))
            assert waits <= held <= 2 * waits + 65536
            read += await pair.receive(8192)
            await asyncio.sleep(0)
        assert read == answer


async def test_waiting_for_the_last_socket() -> None:
    lines = new_lines(close_timeout=0.05)
    async with Pair(lines) as one, Pair(lines) as other:
        waiting = asyncio.create_task(lines.wait_empty())
        one.connection.close(1000)  # the peer does not answer: it is given up after the close_timeout
        await until(lambda: one.connection not in lines.open)
        assert not waiting.done()
        other.connection.abort(1000)
        await asyncio.wait_for(waiting, 5)


async def test_answers_that_are_hardly_taken_cut_off() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.stall()
        pair.connection.asked_bytes = ANSWERS_BYTES
        read = await sweep_and_read(pair, seconds=1000)
        assert 0 < read < ANSWERS_RATE * 1000
        assert pair.connection.closing
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(4003, "answers were asked for and hardly read")]


@pytest.mark.parametrize(
    ("asked", "seconds"), [(0, 1000), (ANSWERS_BYTES - 1, 1000), (ANSWERS_BYTES, 0.01)], ids=["none", "few", "taken"]
)
async def test_who_takes_enough_or_asked_for_little_stays(asked: int, seconds: float) -> None:
    """Twice as long as it takes to judge."""
    async with Pair(buffers=SMALL) as pair:
        pair.stall()
        pair.connection.write(bytes(1 << 20))
        pair.connection.asked_bytes = asked
        await sweep_and_read(pair, seconds, 2 * (SWEEPS + 2))
        assert pair.connection.outbox_bytes
        assert not pair.connection.closing


async def test_an_empty_outbox_forgets_what_was_asked_for() -> None:
    async with Pair(buffers=SMALL) as pair:
        count = pair.stall()
        pair.connection.asked_bytes = ANSWERS_BYTES
        await pair.read_exactly(8192 * count)
        await until(lambda: pair.connection.outbox_bytes == 0)
        assert pair.connection.asked_bytes == 0


async def test_waits_that_ended_do_not_add_up() -> None:
    """Who reads everything after some sweeps, again and again, takes enough."""
    async with Pair(buffers=SMALL) as pair:
        for _ in range(2 * SWEEPS):
            count = pair.stall()
            pair.connection.asked_bytes = ANSWERS_BYTES
            pair.connection.sweep(NOW, patience(1000))
            await pair.read_exactly(8192 * count)
            await until(lambda: pair.connection.outbox_bytes == 0)
            assert not pair.connection.closing


async def test_a_peer_that_hung_up_unread_lets_go() -> None:
    async with Pair() as pair:
        pair.connection.pause_reading()
        await pair.say(1, b"never read")
        waiting = Patience(ping_after=2, dead_after=4, stuck_after=SWEEPS, lifetime=math.inf, seconds=1000)
        for _ in range(10):
            pair.connection.sweep(NOW, waiting)
        assert not pair.connection.closing, "silence says nothing: it is not read"
        pair.sock.shutdown(socket.SHUT_WR)
        pair.connection.resume_reading()
        pair.connection.pause_reading()
        for _ in range(4):
            pair.connection.sweep(NOW, waiting)
        assert not pair.connection.closing, "it may be read soon"
        pair.connection.sweep(NOW, waiting)
        assert pair.connection.closing


async def test_reading_goes_on_when_nothing_speaks_against_it_any_more() -> None:
    async with Pair(new_lines(high_water_mark=65536), buffers=SMALL) as pair:
        count = pair.stall()
        pair.connection.pause_reading()
        await pair.say(1, b"hello")
        pair.connection.resume_reading()
        assert pair.connection.reading_paused, "the outbox is over its mark"
        pair.connection.pause_reading()
        await pair.read_exactly(8192 * count)
        await until(lambda: pair.connection.outbox_bytes == 0)
        assert pair.connection.reading_paused, "the listener does not want more"
        assert not pair.listener.messages
        pair.connection.resume_reading()
        await until(lambda: pair.listener.messages)


async def test_what_is_gathered_is_sent_when_it_is_uncorked() -> None:
    async with Pair() as pair:
        pair.connection.cork()
        pair.connection.write(b"one ")
        pair.connection.cork()
        pair.connection.write(b"two ")
        with pytest.raises(BlockingIOError):
            pair.sock.recv(1)
        pair.connection.uncork()
        assert pair.connection.outbox_bytes == pair.lines.outbox_bytes == 0
        assert pair.sock.recv(100) == b"one two "
        pair.connection.uncork()
        pair.connection.cork()
        pair.connection.uncork()
        pair.connection.write(b"three")
        assert pair.sock.recv(100) == b"three"


async def test_gathered_bytes_that_the_socket_does_not_take_wait_in_order() -> None:
    async with Pair(buffers=SMALL) as pair:
        parts = [bytes([number]) * 50_000 for number in range(6)]
        pair.connection.cork()
        for part in parts:
            pair.connection.write(part)
        pair.connection.uncork()
        assert 0 < pair.connection.outbox_bytes == pair.lines.outbox_bytes < 300_000
        pair.connection.cork()  # something older waits: nothing is gathered
        pair.connection.write(b"behind it")
        pair.connection.uncork()
        assert await pair.read_exactly(300_009) == b"".join(parts) + b"behind it"
        await until(lambda: pair.connection.outbox_bytes == 0)
        assert pair.lines.outbox_bytes == 0


async def test_gathering_past_the_mark_stops_reading_no_longer_than_it_lasts() -> None:
    async with Pair(new_lines(high_water_mark=1000)) as pair:
        pair.connection.cork()
        pair.connection.write(bytes(1500))
        assert pair.connection.reading_paused
        pair.connection.want_drained()
        pair.connection.uncork()
        assert not pair.listener.drained, "never from inside of a call"
        await until(lambda: pair.listener.drained)
        assert not pair.connection.reading_paused


async def test_a_close_while_corked_says_good_bye_last() -> None:
    async with Pair() as pair:
        pair.connection.cork()
        pair.connection.write(b"first")
        pair.connection.close(1000)
        pair.connection.uncork()
        assert pair.sock.recv(100).startswith(b"first\x88")


async def test_a_peer_that_has_gone_is_noticed_when_it_is_uncorked() -> None:
    async with Pair() as pair:
        pair.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.sock.close()
        pair.connection.cork()
        pair.connection.write(b"too late")
        pair.connection.uncork()
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(1006, "")]
        assert pair.lines.outbox_bytes == 0
