"""One client's socket after the handshake: read, write, outbox, close handshake. No Task, no Future, no handler.

A connection is *open* until either side begins to close; then `closing` is true, no message comes any more, writes are
dropped, and `Receiver.on_closed` is called, once. The socket lives on, without its receiver, until both close frames
are through and the peer has hung up too, for `close_timeout` at most.

Reading stops for three reasons, each on its own: the session asks for it (`pause_reading`), the outbox is over its
high-water mark, or enough was done in this turn of the loop: 64 messages, 64 KiB inflated, 512 fragments, or 1 ms.
Messages that were read before then wait.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import socket
import struct
import sys
import termios
from collections import Counter, deque
from itertools import islice
from time import monotonic
from typing import Protocol

from tornado_chat.errors import CloseCode
from tornado_chat.wire.frames import (
    ABNORMAL,
    BINARY,
    CLOSE,
    PING,
    PONG,
    FrameError,
    FrameReader,
    close_frame,
    frame,
    parse_close,
)

_log = logging.getLogger(__name__)

_READ_SIZE = 65536
_TURN_SECONDS = 0.001  # no further message is handled in this turn of the loop
_BUFFERS = 64  # byte strings handed to one sendmsg
_BY_SESSION, _BY_OUTBOX = 1, 2  # why reading is paused
_BYTES_ACKED = slice(120, 128)  # tcpi_bytes_acked in the kernel's struct tcp_info
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: drop what is unsent


class Receiver(Protocol):
    """Whom a connection belongs to. Calls come from the event loop; what they raise closes the connection with 1011."""

    def on_message(self, opcode: int, payload: bytes) -> None:
        """A whole TEXT or BINARY message; text is valid UTF-8."""
        ...

    def on_drained(self) -> None:
        """After `want_drained`: the outbox holds half the high-water mark or less."""
        ...

    def on_closed(self, code: int, reason: str) -> None:
        """The connection has ended or begun to close. Called once, from the loop itself, never from inside a call.

        `code` and `reason` are those of the first close frame, the peer's (1005: it had none) or ours; 1006 if the
        connection broke before either; what `abort` was given.
        """
        ...


class Transport:
    """What the connections of a server share: its event loop, its bounds, its counters. Times are in seconds."""

    __slots__ = (
        "_emptied",
        "bytes_in",
        "close_timeout",
        "closes",
        "connections",
        "high_water_mark",
        "loop",
        "max_frame_bytes",
        "messages_in",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, max_frame_bytes: int, high_water_mark: int, close_timeout: float = 5.0
    ) -> None:
        self.loop = loop
        self.max_frame_bytes = max_frame_bytes
        self.high_water_mark = high_water_mark
        self.close_timeout = close_timeout
        self.connections: set[Connection] = set()  # those whose socket is not closed yet
        self.bytes_in = 0
        self.messages_in = 0
        self.closes: Counter[int] = Counter()  # by the code that on_closed got
        self._emptied = asyncio.Event()

    def remove(self, connection: Connection) -> None:
        self.connections.remove(connection)
        if not self.connections:
            self._emptied.set()

    async def wait_empty(self) -> None:
        """Wait until every socket is closed: `close_timeout` at most after the last `Connection.close`."""
        while self.connections:
            self._emptied.clear()
            await self._emptied.wait()


class Connection:
    """The server's end of one WebSocket. All calls are made on the event loop's thread, and none of them blocks."""

    __slots__ = (
        "_blocked",
        "_fd",
        "_finished",
        "_offset",
        "_outbox",
        "_pauses",
        "_reader",
        "_reading",
        "_sock",
        "_taken",
        "_timer",
        "_transport",
        "_turn",
        "_waiting",
        "_wants_drained",
        "closing",
        "expires_at",
        "idle",
        "outbox_bytes",
        "receiver",
        "stuck",
    )

    def __init__(self, transport: Transport, sock: socket.socket, receiver: Receiver, *, deflate: bool) -> None:
        """Take over `sock` (not blocking). `deflate`: permessage-deflate was negotiated."""
        self._transport = transport
        self._sock = sock
        self._fd = sock.fileno()
        self.receiver: Receiver | None = receiver
        self.closing = False
        self.expires_at = math.inf  # unix seconds; the keepalive closes the connection then
        self.outbox_bytes = 0
        self._outbox: deque[bytes] | None = None  # byte strings shared with other connections; None: all was sent
        self._offset = 0  # how much of the first of them was sent
        self._blocked = False  # write() must not go to the socket: something older waits, or we are closing
        self._wants_drained = False
        # None: what comes in is thrown away
        self._reader: FrameReader | None = FrameReader(transport.max_frame_bytes, deflate)
        self._waiting: list[tuple[int, bytes]] | None = None  # read, but not handled before a pause
        self._reading = False  # our reader is registered with the loop
        self._pauses = 0
        self._turn = False  # _next_turn is scheduled
        self._finished = False  # nothing more matters of what the peer says
        self._timer: asyncio.TimerHandle | None = None  # only while closing
        self.idle = 0  # the keepalive's sweeps since something came
        self.stuck = 0  # its sweeps since the socket took something out of the outbox
        self._taken = 0  # what still_taking found
        transport.connections.add(self)

    def start(self, early: bytes = b"") -> None:
        """Begin to read, `early` first: the bytes that came together with the handshake."""
        if self in self._transport.connections:
            self._read_on()
            reader = self._reader
            if early and reader is not None:
                self._transport.bytes_in += len(early)
                self._handle(reader, reader.feed(early))

    # Writing

    def write(self, data: bytes) -> None:
        """Send whole encoded frames, or keep them in the outbox. Never calls back, and never refuses."""
        if self._blocked:
            self._enqueue(data)
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        if sent != len(data):
            self._blocked = True
            self._outbox = deque((data,))
            self._offset = sent
            self.outbox_bytes = len(data) - sent
            self.stuck = 0
            self._transport.loop.add_writer(self._fd, self._writable)
            self._check_mark()

    def _enqueue(self, data: bytes) -> None:
        if self._outbox is not None and not self.closing:
            self._outbox.append(data)
            self.outbox_bytes += len(data)
            self._check_mark()

    def _check_mark(self) -> None:
        if self.outbox_bytes > self._transport.high_water_mark and not self.closing:
            self._pause(_BY_OUTBOX)

    def want_drained(self) -> None:
        """Ask for one call of `Receiver.on_drained` as soon as the outbox is at half the high-water mark or below."""
        self._wants_drained = True
        if self.outbox_bytes <= self._transport.high_water_mark // 2:
            self._transport.loop.call_soon(self._check_drained)

    def _check_drained(self) -> None:
        if self.closing or self.outbox_bytes > self._transport.high_water_mark // 2:
            return
        if self._pauses & _BY_OUTBOX:
            self._resume(_BY_OUTBOX)
        if self._wants_drained and self.receiver is not None:
            self._wants_drained = False
            try:
                self.receiver.on_drained()
            except Exception:
                self._receiver_failed()

    def _writable(self) -> None:
        outbox = self._outbox
        if outbox is None:
            return
        try:
            if len(outbox) == 1:
                sent = self._sock.send(memoryview(outbox[0])[self._offset :])
            else:
                buffers: list[bytes | memoryview] = list(islice(outbox, _BUFFERS))
                buffers[0] = memoryview(outbox[0])[self._offset :]
                sent = self._sock.sendmsg(buffers)
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        self.stuck = 0
        self.outbox_bytes -= sent
        sent += self._offset
        while outbox and sent >= len(outbox[0]):
            sent -= len(outbox.popleft())
        self._offset = sent
        if not outbox:
            self._outbox = None
            self._blocked = self.closing
            self._transport.loop.remove_writer(self._fd)
            if self._finished:
                self._hang_up()
        self._check_drained()

    # Reading

    def pause_reading(self) -> None:
        """Handle no more messages until `resume_reading`, not even those that were read already."""
        self._pause(_BY_SESSION)

    def resume_reading(self) -> None:
        self._resume(_BY_SESSION)

    @property
    def reading_paused(self) -> bool:
        """Whether silence says nothing about the peer: we do not read what it sends."""
        return self._pauses != 0

    def _pause(self, why: int) -> None:
        if not self.closing:
            self._pauses |= why

    def _resume(self, why: int) -> None:
        if self._pauses & why and not self.closing:
            self._pauses &= ~why
            if not self._pauses:
                self._read_on()
                self._schedule_turn()

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.loop.add_reader(self._fd, self.read_ready)

    def read_ready(self) -> None:
        """The socket has something to read, or may have.

        uvloop calls a reader once, and then never again, when a reset comes in together with data; so whoever reads
        asks for another call where that is cheap, and the keepalive makes one when a connection falls silent.
        """
        if self._pauses:  # only now: most pauses end before anything comes
            self._reading = False
            self._transport.loop.remove_reader(self._fd)
            return
        if self._turn and self._reader is not None:
            return  # what was read before comes first
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._transport.bytes_in += len(data)
            self.idle = 0
            reader = self._reader
            if reader is not None:
                self._handle(reader, reader.feed(data))
            if self.closing:
                self._transport.loop.call_soon(self.read_ready)
        elif self.closing:
            self._gone()
        else:
            self._end(ABNORMAL, "")
            self._gone()

    def _handle(self, reader: FrameReader, messages: list[tuple[int, bytes]]) -> None:
        """Pass on what was read; the rest waits when reading is paused, or for the loop's next turn."""
        receiver = self.receiver
        until = 0.0
        for number, (opcode, payload) in enumerate(messages):
            if self._pauses:
                self._waiting = messages[number:]
                return
            if number >= 4:  # a few messages need no clock
                now = monotonic()
                if number == 4:
                    until = now + _TURN_SECONDS
                elif now >= until:
                    self._waiting = messages[number:]
                    self._schedule_turn()
                    return
            if opcode <= BINARY:
                if not self.closing and receiver is not None:
                    self._transport.messages_in += 1
                    try:
                        receiver.on_message(opcode, payload)
                    except Exception:
                        self._receiver_failed()
            elif opcode == CLOSE:
                self._receive_close(payload)
                return
            elif opcode == PING:
                self._answer_ping(payload)
        if reader.failure is not None:
            self._fail(reader.failure)
        elif reader.more:
            self._schedule_turn()

    def _answer_ping(self, payload: bytes) -> None:
        """A pong, in the place of one that waits at the outbox's end: only the newest is due (RFC 6455 section 5.5.3).

        Pongs of two bytes take 45 bytes of memory each.
        """
        outbox = self._outbox
        pong = frame(PONG, payload)
        if outbox is not None and len(outbox) > 1 and outbox[-1][:1] == pong[:1]:  # the first may be sent in part
            self.outbox_bytes -= len(outbox.pop())
        self.write(pong)

    def _schedule_turn(self) -> None:
        if not self._turn:
            self._turn = True
            self._transport.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn = False
        reader = self._reader
        if reader is None or self._pauses:
            return
        waiting, self._waiting = self._waiting, None
        self._handle(reader, waiting or reader.feed(b""))
        if not self._turn:
            self._transport.loop.call_soon(self.read_ready)

    def still_taking(self) -> bool:
        """Whether the kernel holds bytes for the peer, and the peer took some since this was last asked."""
        unsent = int.from_bytes(fcntl.ioctl(self._fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)  # SIOCOUTQ
        if self._sock.family == socket.AF_UNIX:
            taken = unsent
        else:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            taken = int.from_bytes(info[_BYTES_ACKED], sys.byteorder)  # the queue alone also changes as we write
        before, self._taken = self._taken, taken
        return unsent > 0 and taken != before

    def _receiver_failed(self) -> None:
        _log.exception("connection closed: its receiver failed")
        self.close(CloseCode.INTERNAL_ERROR)

    # Closing

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, after what waits in the outbox; hang up when the peer has answered, or does not in time.

        The first close counts; later ones do nothing.
        """
        if not self.closing:
            self._begin_close(close_frame(code, reason), code, reason)
            self._schedule_turn()  # the peer's close frame may be among what was read already

    def abort(self, code: int, reason: str = "") -> None:
        """Be gone at once, without a close frame, and forget what is unsent."""
        if not self.closing:
            self._end(code, reason)
        self._reset()

    def _begin_close(self, goodbye: bytes, code: int, reason: str) -> None:
        """Send our close frame, and give the peer `close_timeout` to send its own and to hang up."""
        loop = self._transport.loop
        self._timer = loop.call_later(self._transport.close_timeout, self._reset)
        self.write(goodbye)
        if self.closing:  # the write failed
            return
        self._pauses = 0
        self._read_on()
        self._end(code, reason)

    def _receive_close(self, payload: bytes) -> None:
        try:
            code, reason = parse_close(payload)
        except FrameError as failure:
            self._fail(failure)
            return
        if not self.closing:
            self._begin_close(close_frame(code), code, reason)
        self._finish()

    def _fail(self, failure: FrameError) -> None:
        """Fail the connection (RFC 6455 section 7.1.7): a close frame, and nothing is read after it."""
        if not self.closing:
            self._begin_close(close_frame(failure.code, failure.reason), failure.code, failure.reason)
        self._finish()

    def _finish(self) -> None:
        """Nothing that the peer says from here on matters: hang up as soon as our close frame is out."""
        self._reader = None
        self._waiting = None
        self._finished = True
        if self._outbox is None:
            self._hang_up()

    def _hang_up(self) -> None:
        """End our side, then wait for the peer's end.

        A socket closed while bytes lie unread makes the kernel send a reset, which can overtake our close frame; so
        what still comes is read and thrown away.
        """
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._gone()

    def _lose(self) -> None:
        """The socket failed in a write."""
        if not self.closing:
            self._end(ABNORMAL, "")
        self._blocked = True
        self._transport.loop.call_soon(self._gone)

    def _end(self, code: int, reason: str) -> None:
        self.closing = True
        self._blocked = True
        self._transport.closes[code] += 1
        self._transport.loop.call_soon(self._report, code, reason)

    def _report(self, code: int, reason: str) -> None:
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            try:
                receiver.on_closed(code, reason)
            except Exception:
                _log.exception("the receiver of a closed connection failed")

    def _reset(self) -> None:
        """Be gone without waiting for the kernel to send what it still holds."""
        if self in self._transport.connections:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._gone()

    def _gone(self) -> None:
        """Let go of the socket. May be called again."""
        if self not in self._transport.connections:
            return
        self._transport.remove(self)
        loop = self._transport.loop
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        self._sock.close()
        self._outbox = None
        self.outbox_bytes = 0
        self._reader = None
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
