"""The sweep: who is pinged, who is dead, stuck or expired, and who must not be taken for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.connections import Pair, new_lines, until
from tests.support.raw_websocket import Frame
from tornado_chat.live import keepalive as module
from tornado_chat.live.keepalive import Keepalive
from tornado_chat.live.socket_line import Lines
from tornado_chat.wire.frames import CLOSE, PING, PONG, TEXT, frame

SMALL = 16384
NEVER = 1000.0


@contextmanager
def keepalive(
    lines: Lines, *, ping_interval: float = 0, ping_timeout: float = NEVER, write_timeout: float = NEVER
) -> Iterator[Keepalive]:
    made = Keepalive(lines, ping_interval=ping_interval, ping_timeout=ping_timeout, write_timeout=write_timeout)
    made.start()
    yield made
    made.stop()


async def test_a_silent_peer_is_pinged_and_then_closed() -> None:
    async with Pair() as pair:
        with keepalive(pair.lines, ping_interval=0.1, ping_timeout=0.1):
            assert await pair.read() == Frame(PING, b"")
            assert not pair.connection.closing
            assert await pair.read() == Frame(CLOSE, b"\x03\xf3ping timeout")
            assert pair.listener.closed == [(1011, "ping timeout")]


async def test_a_peer_that_answers_stays() -> None:
    async with Pair() as pair:
        with keepalive(pair.lines, ping_interval=0.05, ping_timeout=0.1):
            begin = time.monotonic()
            pings = 0
            while time.monotonic() - begin < 0.6:
                assert await pair.read() == Frame(PING, b"")
                await pair.say(PONG)
                pings += 1
            assert pings <= 15  # one for each interval, not one for each sweep


async def test_whoever_talks_is_not_pinged() -> None:
    async with Pair() as pair:
        with keepalive(pair.lines, ping_interval=0.4, ping_timeout=0.4):
            begin = time.monotonic()
            while time.monotonic() - begin < 1.0:
                await pair.say(TEXT, b"x")
                await asyncio.sleep(0.01)
            with pytest.raises(BlockingIOError):
                pair.sock.recv(1)


async def test_an_interval_of_zero_switches_pings_off() -> None:
    async with Pair() as pair:
        with keepalive(pair.lines, ping_timeout=0.01):
            await until(lambda: pair.connection.idle > 20)
            with pytest.raises(BlockingIOError):
                pair.sock.recv(1)


async def test_a_socket_that_takes_nothing_is_cut_off() -> None:
    async with Pair(buffers=SMALL) as pair:
        with keepalive(pair.lines, ping_interval=0.05, ping_timeout=0.05, write_timeout=0.3):
            pair.stall()
            begin = time.monotonic()
            await until(lambda: pair.listener.closed)
            assert time.monotonic() - begin > 0.25  # not by ping_timeout, which does not count while bytes wait
            assert pair.listener.closed == [(4003, "write timeout")]
            assert not pair.lines.open


async def test_a_socket_that_takes_little_is_not() -> None:
    async with Pair(buffers=SMALL) as pair:
        with keepalive(pair.lines, ping_interval=0.1, ping_timeout=0.1, write_timeout=0.4):
            pair.stall()
            pair.connection.write(bytes(1_000_000))
            begin = time.monotonic()
            while time.monotonic() - begin < 1.5:
                assert await pair.receive(8192)
                await asyncio.sleep(0.02)
            assert pair.connection.outbox_bytes
            assert not pair.connection.closing


async def test_who_was_slow_is_pinged_before_it_is_given_up() -> None:
    async with Pair(buffers=SMALL) as pair:
        with keepalive(pair.lines, ping_interval=0.08, ping_timeout=0.08):
            count = pair.stall()
            await until(lambda: pair.connection.stuck > 20)  # sweeps; ping and answer together get 8
            await pair.read_exactly(8192 * count)
            assert await pair.read() == Frame(PING, b"")
            await pair.say(PONG)
            assert await pair.read() == Frame(PING, b"")


async def test_a_ping_behind_what_the_kernel_still_sends_has_time() -> None:
    """The outbox is empty, but the peer reads what came before the ping only slowly."""
    async with Pair(buffers=SMALL) as pair:
        pair.connection._sock.setsockopt(1, 7, 2_000_000)  # SOL_SOCKET, SO_SNDBUF
        size = 400_000
        pair.connection.write(bytes(size))
        assert pair.connection.outbox_bytes == 0
        with keepalive(pair.lines, ping_interval=0.1, ping_timeout=0.2):
            while size > 0:
                data = await pair.receive(4096)
                size -= len(data)
                await asyncio.sleep(0.01)
            assert not pair.connection.closing
            await pair.say(PONG)


async def test_a_ping_behind_what_the_kernel_cannot_send_times_out() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.connection._sock.setsockopt(1, 7, 2_000_000)  # SOL_SOCKET, SO_SNDBUF
        pair.connection.write(bytes(400_000))
        assert pair.connection.outbox_bytes == 0
        with keepalive(pair.lines, ping_interval=0.1, ping_timeout=0.2):
            for _ in range(1000):  # the room goes on: the kernel's queue grows, which is no sign of life
                if pair.listener.closed:
                    break
                pair.connection.write(frame(TEXT, b"x"))
                await asyncio.sleep(0.01)
            assert pair.listener.closed == [(1011, "ping timeout")]


async def test_silence_counts_for_nothing_while_we_do_not_read() -> None:
    async with Pair() as pair:
        pair.connection.pause_reading()
        with keepalive(pair.lines, ping_interval=0.02, ping_timeout=0.02):
            sweeps = 0

            def swept() -> None:
                nonlocal sweeps
                sweeps += 1
                pair.lines.loop.call_later(0.005, swept)

            swept()
            await until(lambda: sweeps > 40)
            assert not pair.connection.closing
            pair.connection.resume_reading()
            assert await pair.read() == Frame(PING, b"")


async def test_a_loop_that_stood_still_finds_nobody_dead() -> None:
    async with Pair() as pair:
        with keepalive(pair.lines, ping_interval=0.1, ping_timeout=0.2):
            assert await pair.read() == Frame(PING, b"")
            time.sleep(0.6)  # noqa: ASYNC251  # the machine sleeps
            await pair.say(PONG)
            assert await pair.read() == Frame(PING, b"")


async def test_a_reset_that_came_together_with_data_is_noticed() -> None:
    """uvloop reports such a socket once; the data is read then, and the end only because the sweep looks again."""
    async with Pair() as pair:
        with keepalive(pair.lines, write_timeout=0.2):
            await pair.say(TEXT, b"last words")
            pair.connection.write(frame(TEXT, b"never read"))
            pair.sock.close()  # with something unread: the kernel sends a reset
            await until(lambda: pair.listener.closed)
            assert pair.listener.closed == [(1006, "")]
            assert pair.listener.messages == [(TEXT, b"last words")]


async def test_an_expired_token_closes() -> None:
    async with Pair() as pair, Pair(pair.lines) as other:
        other.connection.expires_at = time.time() + 1000
        pair.connection.expires_at = time.time() + 0.1
        with keepalive(pair.lines, write_timeout=0.1):
            assert await pair.read() == Frame(CLOSE, b"\x0f\xa1token expired")
            assert time.time() >= pair.connection.expires_at
            assert pair.listener.closed == [(4001, "token expired")]
            assert not other.connection.closing


async def test_slices_reach_everyone_and_stop_ends_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SLICE", 2)
    lines = new_lines()
    pairs = [Pair(lines) for _ in range(5)]
    for pair in pairs:
        pair.connection.start()
    with keepalive(lines, ping_interval=0.05):
        for pair in pairs:
            assert await pair.read() == Frame(PING, b"")
        made = Keepalive(lines, ping_interval=0.05, ping_timeout=1, write_timeout=1)
        made._sweep()  # its second slice is scheduled
        made.stop()
    before = [pair.connection.idle for pair in pairs]
    await asyncio.sleep(0.05)
    assert [pair.connection.idle for pair in pairs] == before
    for pair in pairs:
        async with pair:
            pass
