"""The server's end of a WebSocket, over real sockets: outbox, back-pressure, close handshake."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import socket
import struct
import time
import weakref
import zlib
from functools import partial

import pytest

from tests.support.connections import TIMEOUT, Pair, Recorder, new_lines, until
from tests.support.raw_websocket import Frame, client_frame
from tornado_chat.errors import CloseCode
from tornado_chat.live.limits import FRAME_BYTES
from tornado_chat.live.websocket import WebSocket
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.frames import BINARY, CLOSE, NO_STATUS, PING, PONG, TEXT, frame

SMALL = 16384  # buffers of the kernel, so that tests need not write megabytes to fill them


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


def reset(sock: socket.socket) -> None:
    """Close so that the other side sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# Reading


async def test_messages_pings_and_writes() -> None:
    async with Pair() as pair:
        await pair.send(client_frame(TEXT, b"one") + client_frame(BINARY, b"\xff") + client_frame(PING, b"p"))
        assert await pair.read() == Frame(PONG, b"p")
        assert pair.listener.messages == [(TEXT, b"one"), (BINARY, b"\xff")]
        pair.connection.write(frame(TEXT, b"two"))
        assert await pair.read() == Frame(TEXT, b"two")
        assert pair.lines.messages_in == 2
        assert pair.lines.bytes_in == 9 + 7 + 7
        assert pair.listener.overhead == FRAME_BYTES, "of the ping: a message is the listener's to count"
        assert pair.lines.open == {pair.connection}


async def test_a_reader_is_kept_only_while_it_holds_something() -> None:
    async with Pair() as pair:

        def taken(count: int) -> bool:
            return pair.lines.bytes_in == count

        part = client_frame(TEXT, b"first", fin=False)
        for data, kept in (
            (client_frame(TEXT, b"single"), False),
            (client_frame(TEXT, "größer".encode()), False),
            (client_frame(PING), False),
            (part[:3], True),
            (part[3:], True),
            (client_frame(0, b", last"), False),
        ):
            due = pair.lines.bytes_in + len(data)
            await pair.send(data)
            await until(partial(taken, due))
            assert (pair.connection._reader is not None) == kept
        assert [payload.decode() for _, payload in pair.listener.messages] == ["single", "größer", "first, last"]


async def test_early_bytes_come_first() -> None:
    pair = Pair()
    split = client_frame(TEXT, b"split")
    await pair.send(split[4:] + client_frame(TEXT, b"late"))
    pair.connection.start(client_frame(TEXT, b"early") + split[:4])
    async with pair:
        await until(lambda: len(pair.listener.messages) == 3)
        assert pair.listener.messages == [(TEXT, b"early"), (TEXT, b"split"), (TEXT, b"late")]


async def test_64_messages_in_one_turn_of_the_loop() -> None:
    async with Pair() as pair:
        at_turns: list[int] = []

        def count_turns(opcode: int, payload: bytes) -> None:
            if len(pair.listener.messages) == 1:
                pair.lines.loop.call_soon(lambda: at_turns.append(len(pair.listener.messages)))

        pair.listener.reaction = count_turns
        await pair.send(b"".join(client_frame(TEXT, b"%d" % i) for i in range(200)))
        await until(lambda: len(pair.listener.messages) == 200)
        assert at_turns
        assert at_turns[0] <= 64
        assert [payload for _, payload in pair.listener.messages] == [b"%d" % i for i in range(200)]


async def turns_of(pair: Pair, data: bytes, count: int) -> list[int]:
    """How many messages had come after each turn of the loop, when `data`, read at once, holds `count` of them."""
    pair.connection.start(data)
    after = [0, len(pair.listener.messages)]
    async with asyncio.timeout(TIMEOUT):
        while after[-1] < count:
            await asyncio.sleep(0)
            after.append(len(pair.listener.messages))
    return after


def deflated_frame(size: int) -> bytes:
    """A deflated message of `size` zeros."""
    compressor = zlib.compressobj(wbits=-15)
    return client_frame(BINARY, (compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4)


async def test_64_kib_inflated_in_one_turn_of_the_loop() -> None:
    pair = Pair()
    pair.connection._deflate = True
    async with pair:
        after = await turns_of(pair, deflated_frame(65536) * 20, 20)
        assert max(b - a for a, b in itertools.pairwise(after)) == 1
        assert [len(payload) for _, payload in pair.listener.messages] == [65536] * 20


async def test_little_of_what_was_inflated_waits_for_the_end_of_a_pause() -> None:
    pair = Pair()
    pair.connection._deflate = True
    pair.connection.pause_reading()
    pair.connection.start(deflated_frame(20_000) * 50)
    async with pair:
        assert pair.connection._waiting is not None
        assert sum(len(payload) for _, payload in pair.connection._waiting) <= 65536 + 20_000
        pair.connection.resume_reading()
        await until(lambda: len(pair.listener.messages) == 50)


async def test_slow_messages_are_spread_over_turns_of_the_loop() -> None:
    pair = Pair()
    pair.listener.reaction = lambda opcode, payload: time.sleep(0.001)
    data = b"".join(client_frame(TEXT, b"%d" % i) for i in range(40)) + client_frame(PING)
    async with pair:
        after = await turns_of(pair, data, 40)
        assert max(b - a for a, b in itertools.pairwise(after)) <= 5
        assert await pair.read() == Frame(PONG, b"")
        assert [payload for _, payload in pair.listener.messages] == [b"%d" % i for i in range(40)]


async def test_closing_does_not_read_ahead_of_what_it_can_handle() -> None:
    async with Pair() as pair:
        kept = [0]
        pair.connection.close(1001)
        sending = asyncio.create_task(pair.send(client_frame(TEXT) * 200_000 + client_frame(CLOSE)))

        def finished() -> bool:
            kept.append(len(pair.connection._reader._tail) if pair.connection._reader else 0)
            return pair.connection._finished

        await until(finished)
        assert max(kept) <= 2 * 65536
        await sending
        assert await pair.read_close() == (1001, "")


async def test_pause_reading_stops_between_two_messages_of_one_read() -> None:
    async with Pair() as pair:
        pair.listener.reaction = lambda opcode, payload: pair.connection.pause_reading()
        await pair.send(b"".join(client_frame(TEXT, b"%d" % i) for i in range(70)) + client_frame(PING))
        for count in range(1, 71):
            await until(lambda: pair.listener.messages)
            for _ in range(3):
                await asyncio.sleep(0)
            assert pair.listener.messages == [(TEXT, b"%d" % (count - 1))]
            pair.listener.messages.clear()
            pair.connection.resume_reading()
        assert await pair.read() == Frame(PONG, b"")


async def test_paused_before_the_start() -> None:
    pair = Pair()
    pair.connection.pause_reading()
    pair.connection.start(client_frame(TEXT, b"early"))
    await pair.say(TEXT, b"late")
    await pair.say(PING)
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert pair.listener.messages == []
    async with pair:
        pair.connection.resume_reading()
        assert await pair.read() == Frame(PONG, b"")
        assert pair.listener.messages == [(TEXT, b"early"), (TEXT, b"late")]


async def test_a_paused_connection_leaves_the_bytes_to_the_kernel() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.connection.pause_reading()
        data = client_frame(BINARY, bytes(60000)) * 100
        sending = asyncio.create_task(pair.send(data))
        await until(lambda: not pair.connection._reading)  # came, and was left alone
        assert pair.lines.bytes_in == 0
        assert not sending.done()
        pair.connection.resume_reading()
        await sending
        await until(lambda: len(pair.listener.messages) == 100)


# Writing


async def test_outbox_keeps_order_and_shares_its_byte_strings() -> None:
    async with Pair(buffers=SMALL) as pair:
        count = pair.stall()
        shared = [frame(BINARY, bytes([i]) * 3000) for i in range(100)]
        waiting = pair.connection.outbox_bytes
        for data in shared:
            pair.connection.write(data)
        assert pair.connection.outbox_bytes == waiting + 100 * 3004
        assert pair.connection._outbox
        assert all(kept is data for kept, data in zip(list(pair.connection._outbox)[-100:], shared, strict=True))
        assert await pair.read_exactly(8192 * count) == bytes(8192 * count)
        assert await pair.read_exactly(100 * 3004) == b"".join(shared)
        await until(lambda: pair.connection.outbox_bytes == 0)
        assert pair.connection._outbox is None
        pair.connection.write(frame(TEXT, b"direct again"))
        assert await pair.read() == Frame(TEXT, b"direct again")


async def test_any_pattern_of_small_writes_arrives_whole() -> None:
    async with Pair(buffers=SMALL) as pair:
        written = [b"%d," % i * (i % 97) for i in range(4000)]
        for data in written:
            pair.connection.write(data)
        assert pair.connection.outbox_bytes
        whole = b"".join(written)
        got = b""
        while len(got) < len(whole):
            got += await pair.receive(5000)
        assert got == whole


async def test_drained_once_at_half_the_mark() -> None:
    async with Pair(new_lines(high_water_mark=40000), buffers=SMALL) as pair:
        pair.stall()
        left: list[int] = []
        pair.listener.drained_reaction = lambda: left.append(pair.connection.outbox_bytes)
        pair.connection.want_drained()
        await asyncio.sleep(0)
        assert left == []
        while not left:
            await pair.receive(2000)
        assert left[0] <= 20000
        while pair.connection.outbox_bytes:
            await pair.receive(2000)
        assert len(left) == 1


async def test_drained_by_call_soon_when_nothing_waits() -> None:
    async with Pair() as pair:
        pair.connection.want_drained()
        assert pair.listener.drained == 0
        await until(lambda: pair.listener.drained)
        pair.connection.want_drained()
        pair.connection.close(1000)
        for _ in range(3):
            await asyncio.sleep(0)
        assert pair.listener.drained == 1


async def test_who_does_not_read_is_not_read_from() -> None:
    """An echo to a peer that only sends: the outbox stays at its mark, and nothing is lost in the end."""
    mark = 32768
    async with Pair(new_lines(high_water_mark=mark), buffers=SMALL) as pair:
        pair.listener.reaction = lambda opcode, payload: pair.connection.write(frame(opcode, payload))
        count, payload = 8000, bytes(100)
        sending = asyncio.create_task(pair.send(client_frame(TEXT, payload) * count))
        await until(lambda: pair.connection.reading_paused and not pair.connection._reading)
        assert mark < pair.connection.outbox_bytes <= mark + 102
        assert not sending.done()
        for _ in range(count):
            assert await pair.read() == Frame(TEXT, payload)
            assert pair.connection.outbox_bytes <= mark + 102
        await sending


async def test_of_the_pongs_that_wait_only_the_newest_is_kept() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.listener.reaction = lambda opcode, payload: pair.connection.write(frame(opcode, payload))
        count = pair.stall()
        await pair.send(b"".join(client_frame(PING, b"%04d" % i) for i in range(2000)) + client_frame(TEXT, b"between"))
        await pair.send(b"".join(client_frame(PING, b"%04d" % i) for i in range(2000, 4000)))
        await until(lambda: pair.lines.bytes_in == 4000 * 10 + 13 and not pair.connection._turn)
        outbox = pair.connection._outbox or ()
        assert [len(kept) for kept in outbox if len(kept) != 8192] == [6, 9, 6]
        assert sum(map(len, outbox)) - pair.connection._offset == pair.connection.outbox_bytes
        await pair.read_exactly(8192 * count)
        assert [await pair.read() for _ in range(3)] == [
            Frame(PONG, b"1999"),
            Frame(TEXT, b"between"),
            Frame(PONG, b"3999"),
        ]
        assert pair.connection.outbox_bytes == 0
        await pair.send(client_frame(PING, b"a") + client_frame(PING, b"b"))
        assert [await pair.read() for _ in range(2)] == [Frame(PONG, b"a"), Frame(PONG, b"b")]


# Ends


async def test_the_peer_closes() -> None:
    async with Pair() as pair:
        await pair.say(CLOSE, close_payload(4000, "bye"))
        assert await pair.read_close() == (4000, "")
        assert pair.listener.closed == [(4000, "bye")]
        pair.sock.close()
        await until(lambda: not pair.lines.open)
        assert pair.lines.closes == {4000: 1}


async def test_the_peer_closes_without_a_code() -> None:
    async with Pair() as pair:
        await pair.say(CLOSE)
        assert await pair.read() == Frame(CLOSE, b"")
        assert pair.listener.closed == [(NO_STATUS, "")]


async def test_we_close() -> None:
    async with Pair() as pair:
        pair.connection.close(1001, "going")
        assert pair.connection.closing
        assert pair.listener.closed == []  # never from inside a call
        pair.connection.close(1002, "too late")
        pair.connection.write(frame(TEXT, b"dropped"))
        assert await pair.read() == Frame(CLOSE, close_payload(1001, "going"))
        assert pair.listener.closed == [(1001, "going")]
        await pair.say(TEXT, b"ignored")
        assert pair.connection in pair.lines.open  # waits for the peer's close frame
        await pair.say(CLOSE, close_payload(1001))
        assert await pair.receive() == b""
        pair.sock.close()
        await until(lambda: not pair.lines.open)
        assert pair.listener.messages == []
        assert pair.lines.closes == {1001: 1}


async def test_the_close_frame_goes_behind_what_waits() -> None:
    async with Pair(buffers=SMALL) as pair:
        count = pair.stall()
        pair.connection.write(frame(TEXT, b"last words"))
        pair.connection.close(1012, "retry_after_ms=5")
        await until(lambda: pair.listener.closed)
        await pair.read_exactly(8192 * count)
        assert await pair.read() == Frame(TEXT, b"last words")
        assert await pair.read() == Frame(CLOSE, close_payload(1012, "retry_after_ms=5"))
        await until(lambda: pair.connection._outbox is None)
        pair.connection.write(frame(TEXT, b"dropped"))
        await pair.say(CLOSE, close_payload(1012))
        assert await pair.receive() == b""


async def test_both_close_while_the_outbox_is_full() -> None:
    async with Pair(buffers=SMALL) as pair:
        count = pair.stall()
        await pair.say(CLOSE, close_payload(1000))
        await until(lambda: pair.listener.closed)
        await pair.read_exactly(8192 * count)
        assert await pair.read_close() == (1000, "")


async def test_a_close_frame_that_was_read_before_our_close_counts() -> None:
    async with Pair() as pair:
        pair.listener.reaction = lambda opcode, payload: pair.connection.pause_reading()
        await pair.send(client_frame(TEXT, b"x") * 70 + client_frame(CLOSE, close_payload(1000)))
        await until(lambda: pair.listener.messages)
        pair.connection.close(1001)
        assert await pair.read_close() == (1001, "")
        assert len(pair.listener.messages) == 1


async def test_close_from_inside_on_message() -> None:
    async with Pair() as pair:
        pair.listener.reaction = lambda opcode, payload: pair.connection.close(1008, "enough")
        await pair.send(client_frame(TEXT, b"one") + client_frame(TEXT, b"two") + client_frame(CLOSE))
        assert await pair.read_close() == (1008, "enough")
        assert pair.listener.messages == [(TEXT, b"one")]


@pytest.mark.parametrize("full", [False, True])
async def test_a_peer_that_does_not_answer_a_close_is_waited_for_in_vain_only_so_long(full: bool) -> None:
    async with Pair(new_lines(close_timeout=0.05), buffers=SMALL) as pair:
        if full:
            pair.stall()
        pair.connection.close(1001)
        async with asyncio.timeout(TIMEOUT):
            await pair.lines.wait_empty()
        assert not pair.lines.open
        assert pair.listener.closed == [(1001, "")]


async def test_the_close_frame_survives_a_peer_in_full_flow() -> None:
    """Closing a socket with unread bytes sends a reset, which destroys what the peer has not read yet."""
    async with Pair() as pair:
        pair.connection.pause_reading()
        sending = asyncio.create_task(pair.send(client_frame(BINARY, bytes(60000)) * 200))
        await until(lambda: not pair.connection._reading)
        pair.connection.close(1001, "bye")
        await sending
        await pair.say(CLOSE, close_payload(1001))
        assert await pair.read_close() == (1001, "bye")


async def test_a_violation_fails_the_connection() -> None:
    async with Pair() as pair:
        await pair.send(client_frame(TEXT, b"good") + client_frame(3) + client_frame(TEXT, b"after"))
        await pair.send(bytes(100_000))  # may come after the close frame, and must not cost it
        assert await pair.read_close() == (1002, "reserved opcode 3")
        assert pair.listener.messages == [(TEXT, b"good")]
        assert pair.listener.closed == [(CloseCode.PROTOCOL_ERROR, "reserved opcode 3")]
        pair.sock.close()
        await until(lambda: not pair.lines.open)


async def test_end_without_a_close_frame() -> None:
    async with Pair() as pair:
        await pair.say(TEXT, b"last")
        pair.sock.shutdown(socket.SHUT_WR)
        assert await pair.receive() == b""
        assert pair.listener.messages == [(TEXT, b"last")]
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(1006, "")]
        assert not pair.lines.open


async def test_reset_by_the_peer() -> None:
    async with Pair() as pair:
        reset(pair.sock)
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(1006, "")]
        assert not pair.lines.open


@pytest.mark.parametrize("later", [False, True])
async def test_reset_together_with_data_after_our_close(later: bool) -> None:
    async with Pair() as pair:
        pair.connection.close(1000)
        if later:
            for _ in range(5):
                await asyncio.sleep(0.001)
        pair.sock.send(client_frame(TEXT, b"x"))
        pair.sock.close()  # with the close frame unread: the kernel sends a reset
        await until(lambda: not pair.lines.open)
        assert pair.listener.closed == [(1000, "")]


async def test_reset_together_with_more_than_a_turns_messages() -> None:
    async with Pair() as pair:
        pair.connection.write(frame(TEXT, b"never read"))
        await pair.send(client_frame(TEXT, b"x") * 200)
        pair.sock.close()
        await until(lambda: pair.listener.closed)
        assert len(pair.listener.messages) == 200


async def test_reset_is_seen_while_reading_is_paused_and_something_waits() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.connection.pause_reading()
        pair.stall()
        reset(pair.sock)
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(1006, "")]


async def test_a_write_that_fails_does_not_call_back() -> None:
    async with Pair() as pair:
        reset(pair.sock)
        while not pair.connection.closing:  # the loop has no turn: only the write can find out
            pair.connection.write(frame(TEXT, b"x"))
        assert pair.listener.closed == []
        assert pair.connection in pair.lines.open
        pair.connection.write(frame(TEXT, b"x"))
        pair.connection.close(1000)
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(1006, "")]
        assert not pair.lines.open


async def test_abort() -> None:
    async with Pair(buffers=SMALL) as pair:
        pair.stall()
        pair.connection.abort(4003, "write timeout")
        assert pair.listener.closed == []
        assert not pair.lines.open
        assert pair.connection.outbox_bytes == 0
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(4003, "write timeout")]
        with pytest.raises(ConnectionResetError):
            await pair.read_exactly(1 << 30)


async def test_abort_ends_the_wait_for_a_close_frame() -> None:
    async with Pair() as pair:
        pair.connection.close(1001)
        pair.connection.abort(1011)
        assert not pair.lines.open
        await until(lambda: pair.listener.closed)
        assert pair.listener.closed == [(1001, "")]


async def test_closed_before_the_start() -> None:
    pair = Pair()
    pair.connection.abort(1011)
    pair.connection.start(client_frame(TEXT, b"early"))
    async with pair:
        await until(lambda: pair.listener.closed)
        assert pair.listener.messages == []


# A listener that fails


@pytest.mark.logs("listener failed")
async def test_an_exception_in_on_message_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with Pair() as pair:
        pair.listener.reaction = lambda opcode, payload: 1 // 0
        await pair.send(client_frame(TEXT, b"one") + client_frame(TEXT, b"two"))
        assert await pair.read() == Frame(CLOSE, close_payload(1011))
        assert pair.listener.messages == [(TEXT, b"one")]
        records = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(records) == 1
        assert "ZeroDivisionError" in str(records[0].exc_text)


@pytest.mark.logs("listener failed")
async def test_an_exception_in_on_drained_closes_the_connection() -> None:
    async with Pair() as pair:
        pair.listener.drained_reaction = lambda: 1 // 0
        pair.connection.want_drained()
        assert await pair.read() == Frame(CLOSE, close_payload(1011))


@pytest.mark.logs("listener of a closed connection failed")
async def test_an_exception_in_on_closed_leaves_nothing_behind() -> None:
    async with Pair() as pair:
        pair.listener.closed_reaction = lambda: 1 // 0
        await pair.say(CLOSE)
        assert await pair.read() == Frame(CLOSE, b"")
        pair.sock.close()
        await until(lambda: not pair.lines.open)


# Memory


async def test_the_listener_is_let_go_when_the_close_begins() -> None:
    """Also without the garbage collector, and although the socket still waits for the peer."""
    lines = new_lines()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    class Session(Recorder):
        connection: WebSocket

    session = Session()
    session.connection = WebSocket(lines, ours, session, JSON, deflate=True)
    session.connection.start()
    reference = weakref.ref(session)
    gc.disable()
    try:
        session.connection.close(1001)
        del session
        await until(lambda: reference() is None)
        assert len(lines.open) == 1
        theirs.close()
        await until(lambda: not lines.open)
    finally:
        gc.enable()


async def test_nothing_of_a_thousand_connections_is_left() -> None:
    lines = new_lines()

    def live() -> int:
        gc.collect()
        return sum(isinstance(thing, WebSocket) for thing in gc.get_objects())

    before = live()
    for _ in range(20):
        pairs = [Pair(lines) for _ in range(50)]
        for pair in pairs:
            pair.connection.start()
            await pair.say(TEXT, b"x")
        for number, pair in enumerate(pairs):
            if number % 3 == 0:
                await pair.say(CLOSE)
            elif number % 3 == 1:
                pair.connection.close(1000)
            pair.sock.close()
        await until(lambda: not lines.open)
    assert sum(lines.closes.values()) == 1000
    del pairs, pair
    await asyncio.sleep(0)  # the last calls of on_closed
    assert live() == before
