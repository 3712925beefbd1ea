"""One client's WebSocket after the handshake: reading frames, pings, the close handshake (RFC 6455).

Reading stops for three reasons, each on its own: the listener asks for it (`pause_reading`), the outbox is over its
high-water mark, or enough was done in this turn of the loop: 64 messages, 64 KiB inflated, 512 fragments, or 1 ms.
Messages that were read before then wait.
"""

from __future__ import annotations

import socket
from time import monotonic

from tornado_chat.errors import CloseCode
from tornado_chat.live.line import Listener
from tornado_chat.live.socket_line import Lines, SocketLine
from tornado_chat.wire.codec import JSON, MSGPACK, Codec
from tornado_chat.wire.encodings import opcode_of, subprotocol_of
from tornado_chat.wire.frames import (
    ABNORMAL,
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameError,
    FrameReader,
    close_frame,
    frame,
    parse_close,
    single,
)

_READ_SIZE = 65536
_TURN_SECONDS = 0.001  # no further message is handled in this turn of the loop
_EMPTY_PING = frame(PING, b"")


class WebSocket(SocketLine):
    """The server's end of one WebSocket: a `Line` that hands messages to its listener."""

    __slots__ = ("_deflate", "_opcode", "_reader", "_turn", "_waiting")

    def __init__(
        self, lines: Lines, sock: socket.SocketType, listener: Listener, codec: Codec, *, deflate: bool
    ) -> None:
        """Take over `sock` (not blocking). `deflate`: permessage-deflate was negotiated."""
        super().__init__(lines, sock, listener)
        self._opcode = opcode_of(codec)
        self._deflate = deflate
        self._reader: FrameReader | None = None  # only while there is something that is not a single message
        self._waiting: list[tuple[int, bytes]] | None = None  # read, but not handled before a pause
        self._turn = False  # _next_turn is scheduled

    def start(self, early: bytes = b"") -> None:
        """Begin to read, `early` first: the bytes that came together with the handshake."""
        if self in self._lines.open:
            self._read_on()
            if early:
                self._lines.bytes_in += len(early)
                self._feed(early)

    def read_ready(self) -> None:
        """The socket has something to read, or may have.

        uvloop calls a reader once, and then never again, when a reset comes in together with data; so whoever reads
        asks for another call where that is cheap, and the keepalive makes one when a connection falls silent.
        """
        if self._pauses:  # the reader goes only now: most pauses end before anything comes
            self._reading = False
            self._lines.loop.remove_reader(self._fd)
            return
        if self._turn and not self._finished:
            return  # what was read before comes first
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            lines = self._lines
            lines.bytes_in += len(data)
            self.idle = 0
            if not self._finished:  # else what comes in is thrown away
                payload = single(data, self._opcode, lines.max_frame_bytes) if self._reader is None else None
                if payload is None:
                    self._feed(data)
                elif not self.closing and self.listener is not None:
                    lines.messages_in += 1
                    try:
                        self.listener.on_message(payload)
                    except Exception:
                        self._listener_failed()
            if self.closing:
                self._lines.loop.call_soon(self.read_ready)
        elif self.closing:
            self._gone()
        else:
            self._end(ABNORMAL, "")
            self._gone()

    def _feed(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            reader = self._reader = FrameReader(self._lines.max_frame_bytes, self._deflate)
        self._handle(reader, reader.feed(data))

    def _handle(self, reader: FrameReader, messages: list[tuple[int, bytes]]) -> None:
        """Pass on what was read; the rest waits when reading is paused, or for the loop's next turn."""
        listener = self.listener
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
            if opcode == self._opcode:
                if not self.closing and listener is not None:
                    self._lines.messages_in += 1
                    try:
                        listener.on_message(payload)
                    except Exception:
                        self._listener_failed()
            elif opcode == CLOSE:
                self._receive_close(payload)
                return
            elif opcode == PING:
                self._answer_ping(payload)
            elif opcode <= BINARY:
                self._take_other_kind(payload)
        if reader.overhead and not self.closing and listener is not None:
            overhead, reader.overhead = reader.overhead, 0
            try:
                listener.on_overhead(overhead)
            except Exception:
                self._listener_failed()
        if reader.failure is not None:
            self._fail(reader.failure)
        elif reader.more:
            self._schedule_turn()
        elif reader.holds_nothing:
            self._reader = None

    def _answer_ping(self, payload: bytes) -> None:
        """A pong, in the place of one that waits at the outbox's end: only the newest is due (RFC 6455 section 5.5.3).

        Pongs of two bytes take 45 bytes of memory each.
        """
        outbox = self._outbox
        pong = frame(PONG, payload)
        if outbox is not None and len(outbox) > 1 and outbox[-1][:1] == pong[:1]:  # the first may be sent in part
            replaced = len(outbox.pop())
            self.outbox_bytes -= replaced
            self._lines.outbox_bytes -= replaced
        self.write(pong)

    def _take_other_kind(self, payload: bytes) -> None:
        """A message of the other codec's kind ends the connection."""
        codec, right = (JSON, "text") if self._opcode == TEXT else (MSGPACK, "binary")
        self.close(CloseCode.UNSUPPORTED_DATA, f"{subprotocol_of(codec)} takes {right} frames")

    def _schedule_turn(self) -> None:
        if not self._turn:
            self._turn = True
            self._lines.loop.call_soon(self._next_turn)

    _go_on = _schedule_turn

    def _next_turn(self) -> None:
        self._turn = False
        if self._finished or self._pauses or self not in self._lines.open:
            return
        reader, waiting = self._reader, self._waiting
        self._waiting = None
        if reader is not None:
            self._handle(reader, waiting or reader.feed(b""))
        if not self._turn:
            self._lines.loop.call_soon(self.read_ready)

    def _ping(self) -> None:
        self.write(_EMPTY_PING)

    def _forget(self) -> None:
        self._reader = None
        self._waiting = None

    # Closing

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, after what waits in the outbox; hang up when the peer has answered, or does not in time.

        The first close counts; later ones do nothing.
        """
        if not self.closing:
            self._begin_close(close_frame(code, reason), code, reason)
            self._schedule_turn()  # the peer's close frame may be among what was read already

    def _begin_close(self, goodbye: bytes, code: int, reason: str) -> None:
        """Send our close frame, and give the peer `close_timeout` to send its own and to hang up."""
        loop = self._lines.loop
        self._timer = loop.call_later(self._lines.close_timeout, self._reset)
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
