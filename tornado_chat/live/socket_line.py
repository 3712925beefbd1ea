"""A socket's outbox and close: the line under a WebSocket. No Task, no Future, no handler.

A line is *open* until either side begins to close; then `closing` is true, writes are dropped, and `Listener.on_closed`
is called, once. The socket lives on, without its listener, until what was said has been sent and the peer has hung up
too, for `close_timeout` at most.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import select
import socket
import struct
import sys
import termios
from collections import Counter, deque
from itertools import islice

from tornado_chat.errors import CloseCode
from tornado_chat.live.fanout import FAILED, Direct
from tornado_chat.live.line import Listener
from tornado_chat.wire.frames import ABNORMAL

_log = logging.getLogger(__name__)

_BUFFERS = 64  # byte strings handed to one sendmsg
_BY_LISTENER, _BY_OUTBOX = 1, 2  # why reading is paused
_BYTES_ACKED = slice(120, 128)  # tcpi_bytes_acked in the kernel's struct tcp_info
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)  # the latter on macOS
_SENT_BYTES = 65536  # of a byte string may be kept with its rest; more of them only while the rest is as much
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: drop what is unsent

ANSWERS_BYTES = 4096
"""With more answers waiting than these, a client has to take ANSWERS_RATE during `write_timeout`."""

ANSWERS_RATE = 1024
"""Bytes a second. A client that asks for more than it reads costs memory for as long as it goes on."""


class Lines:
    """The lines of a server and what they share: event loop, bounds, counters. Times are in seconds."""

    __slots__ = (
        "_emptied",
        "bytes_in",
        "close_timeout",
        "closes",
        "direct",
        "high_water_mark",
        "loop",
        "max_frame_bytes",
        "messages_in",
        "open",
        "outbox_bytes",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, max_frame_bytes: int, high_water_mark: int, close_timeout: float = 5.0
    ) -> None:
        self.loop = loop
        self.max_frame_bytes = max_frame_bytes
        self.high_water_mark = high_water_mark
        self.close_timeout = close_timeout
        self.direct = Direct()
        self.open: set[SocketLine] = set()  # those whose socket is not closed yet
        self.outbox_bytes = 0  # what waits for all of them; bytes that several share are counted for each
        self.bytes_in = 0
        self.messages_in = 0
        self.closes: Counter[int] = Counter()  # by the code that on_closed got
        self._emptied = asyncio.Event()

    def remove(self, line: SocketLine) -> None:
        self.open.remove(line)
        if not self.open:
            self._emptied.set()

    async def wait_empty(self) -> None:
        """Wait until every socket is closed: `close_timeout` at most after the last `close`."""
        while self.open:
            self._emptied.clear()
            await self._emptied.wait()


class Patience:
    """How long a line is waited for, in sweeps of the keepalive: see Keepalive."""

    __slots__ = ("dead_after", "lifetime", "ping_after", "seconds", "stuck_after")

    def __init__(
        self, *, ping_after: float, dead_after: float, stuck_after: int, lifetime: float, seconds: float
    ) -> None:
        self.ping_after = ping_after
        self.dead_after = dead_after
        self.stuck_after = stuck_after
        self.lifetime = lifetime  # of a stream
        self.seconds = seconds  # what `stuck_after` sweeps take


class SocketLine:
    """The server's end of one socket: `Line`, for a subclass that knows what is read and how to say good-bye."""

    __slots__ = (
        "_asked_sweeps",
        "_blocked",
        "_corked",
        "_fd",
        "_finished",
        "_handed",
        "_lines",
        "_offset",
        "_outbox",
        "_pauses",
        "_reading",
        "_sock",
        "_taken",
        "_taken_before",
        "_timer",
        "_wants_drained",
        "asked_bytes",
        "closing",
        "expires_at",
        "idle",
        "jti",
        "key",
        "listener",
        "outbox_bytes",
        "stuck",
    )

    def __init__(self, lines: Lines, sock: socket.SocketType, listener: Listener) -> None:
        """Take over `sock` (not blocking), best of the plain kind: 60 bytes, and 200 with what socket.socket adds."""
        self._lines = lines
        self._sock = sock
        self._fd = sock.fileno()
        self.key = lines.direct.new_key(self._fd)
        self.listener: Listener | None = listener
        self.closing = False
        self.jti: str | None = None  # of the session that signed in
        self.expires_at = math.inf  # unix seconds; the sweep closes the line then
        self.outbox_bytes = 0
        self.asked_bytes = 0
        self._outbox: deque[bytes] | None = None  # byte strings shared with other lines; None: all was sent
        self._offset = 0  # how much of the first of them was sent
        self._blocked = False  # write() must not go to the socket: something older waits, or we are closing; not direct
        self._corked = False  # writes gather in the outbox, of which nobody is to be told
        self._wants_drained = False
        self._reading = False  # our reader is registered with the loop
        self._pauses = 0
        self._finished = False  # what the peer still says does not matter
        self._timer: asyncio.TimerHandle | None = None  # only while closing
        self.idle = 0  # sweeps since something came
        self.stuck = 0  # sweeps since the socket took something out of the outbox
        self._taken = 0  # what still_taking found
        self._asked_sweeps = 0  # sweeps since answers began to wait
        self._taken_before = 0  # what the peer had taken then
        self._handed = 0  # bytes that the kernel took out of the outbox
        lines.open.add(self)

    # Writing

    def write(self, data: bytes) -> None:
        """As `Line.write` says."""
        if self._blocked:
            self._enqueue(data)
            return
        try:
            taken = self._sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            taken = FAILED
        if taken != len(data):
            self.sent(data, taken)

    def sent(self, data: bytes, taken: int) -> None:
        """As `Line.sent` says."""
        if taken == FAILED:
            self._lose()
            return
        self._block()
        self._outbox = deque((data,))
        self._offset = taken
        self.outbox_bytes = len(data) - taken
        if taken > _SENT_BYTES:
            self._let_go(self._outbox)
        self._lines.outbox_bytes += self.outbox_bytes
        self.stuck = 0
        self._lines.loop.add_writer(self._fd, self._writable)
        self._check_mark()

    def _block(self) -> None:
        self._blocked = True
        keys = self._lines.direct.keys
        if keys[self._fd] == self.key:
            keys[self._fd] = 0

    def _unblock(self) -> None:
        if not self.closing:
            self._blocked = False
            self._lines.direct.keys[self._fd] = self.key

    def _enqueue(self, data: bytes) -> None:
        if self._outbox is not None and not self.closing:
            self._outbox.append(data)
            self.outbox_bytes += len(data)
            self._lines.outbox_bytes += len(data)
            self._check_mark()

    def cork(self) -> None:
        """As `Line.cork` says."""
        if not self._blocked:
            self._block()
            self._corked = True
            self._outbox = deque()

    def uncork(self) -> None:
        """As `Line.uncork` says."""
        outbox = self._outbox
        if not self._corked or outbox is None:
            return
        self._corked = False
        try:
            few = outbox if len(outbox) <= _BUFFERS else list(islice(outbox, _BUFFERS))
            sent = self._sock.sendmsg(few) if few else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            return
        self.outbox_bytes -= sent
        self._lines.outbox_bytes -= sent
        if not self.outbox_bytes:
            self._outbox = None
            self.asked_bytes = 0
            self._unblock()
            if self._finished:
                self._hang_up()
            elif self._wants_drained or self._pauses & _BY_OUTBOX:
                self._lines.loop.call_soon(self._check_drained)
            return
        while sent >= len(outbox[0]):
            sent -= len(outbox.popleft())
        self._offset = sent
        if sent > _SENT_BYTES:
            self._let_go(outbox)
        self.stuck = 0
        self._lines.loop.add_writer(self._fd, self._writable)

    def _check_mark(self) -> None:
        if self.outbox_bytes > self._lines.high_water_mark and not self.closing:
            self._pause(_BY_OUTBOX)

    def want_drained(self) -> None:
        """As `Line.want_drained` says."""
        self._wants_drained = True
        if self.outbox_bytes <= self._lines.high_water_mark // 2:
            self._lines.loop.call_soon(self._check_drained)

    def _check_drained(self) -> None:
        if self.closing or self.outbox_bytes > self._lines.high_water_mark // 2:
            return
        if self._pauses & _BY_OUTBOX:
            self._resume(_BY_OUTBOX)
        if self._wants_drained and self.listener is not None:
            self._wants_drained = False
            try:
                self.listener.on_drained()
            except Exception:
                self._listener_failed()

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
        self._handed += sent
        self.outbox_bytes -= sent
        self._lines.outbox_bytes -= sent
        sent += self._offset
        while outbox and sent >= len(outbox[0]):
            sent -= len(outbox.popleft())
        self._offset = sent
        if sent > _SENT_BYTES:
            self._let_go(outbox)
        if not outbox:
            self._outbox = None
            self.asked_bytes = self._asked_sweeps = 0
            self._unblock()
            self._lines.loop.remove_writer(self._fd)
            if self._finished:
                self._hang_up()
        self._check_drained()

    def _let_go(self, outbox: deque[bytes]) -> None:
        """Forget what was sent of the first byte string, an answer of up to a mebibyte, if the rest is less."""
        if self._offset > len(outbox[0]) // 2:
            outbox[0] = outbox[0][self._offset :]
            self._offset = 0

    # Reading

    def start(self, early: bytes = b"") -> None:
        """Begin to read, `early` first: the bytes that came together with the request."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """As `Line.pause_reading` says."""
        self._pause(_BY_LISTENER)

    def resume_reading(self) -> None:
        self._resume(_BY_LISTENER)

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
                self.idle = 0
                self._read_on()
                self._go_on()

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._lines.loop.add_reader(self._fd, self.read_ready)

    def read_ready(self) -> None:
        """The socket has something to read, or may have."""
        raise NotImplementedError

    def _go_on(self) -> None:
        """Handle what was read before the pause, soon."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Let go of what was read."""
        raise NotImplementedError

    # The keepalive's sweep

    def sweep(self, now: float, patience: Patience) -> None:
        """Ping a silent peer, end a dead, stuck or expired one; `now` in Unix seconds."""
        if self.closing:
            return
        self.idle += 1
        if now >= self.expires_at:
            self.close(CloseCode.TOKEN_EXPIRED, "token expired")
        elif self.outbox_bytes:
            self._sweep_outbox(patience)
        elif self.reading_paused:
            if self.idle > patience.dead_after and self._hung_up():
                self._lose()  # else it would hold its place for as long as it is not read
        elif self.idle == 1:
            self.read_ready()  # it has just fallen silent: did it end unnoticed?
        elif self.idle == patience.ping_after:
            self.still_taking()
            self._ping()
        elif self.idle > patience.ping_after:
            if self.still_taking():
                self.idle = int(patience.ping_after)  # the ping is on its way, behind something older
            elif self.idle > patience.dead_after:
                self.close(CloseCode.INTERNAL_ERROR, "ping timeout")

    def _hung_up(self) -> bool:
        """Whether the peer has closed its side, although what it sent before was not read."""
        poll = select.poll()
        poll.register(self._fd, _HUNG_UP)
        return bool(poll.poll(0))

    def _sweep_outbox(self, patience: Patience) -> None:
        self.stuck += 1
        if self.stuck == 1:
            self.still_taking()  # the kernel's queue hides for long that the peer takes something
        elif self.stuck > patience.stuck_after and self.still_taking():
            self.stuck = 0
        if self.stuck > patience.stuck_after:
            self.abort(CloseCode.WRITE_TIMEOUT, "write timeout")
        elif self._takes_too_little(patience):
            self.abort(CloseCode.WRITE_TIMEOUT, "answers were asked for and hardly read")
        elif self.idle >= patience.ping_after:
            self.idle = int(patience.ping_after) - 1  # a ping would wait behind the outbox

    def _takes_too_little(self, patience: Patience) -> bool:
        """Whether answers have waited for the whole of `write_timeout`, and hardly anything was taken meanwhile."""
        if self.asked_bytes < ANSWERS_BYTES:
            self._asked_sweeps = 0
            return False
        self._asked_sweeps += 1
        taken = self._handed - self._unsent_bytes()  # while the outbox holds something, all goes through it
        if self._asked_sweeps == 1:
            self._taken_before = taken
        elif self._asked_sweeps > patience.stuck_after:
            self._asked_sweeps = 0
            return taken - self._taken_before < ANSWERS_RATE * patience.seconds
        return False

    def _ping(self) -> None:
        """Say something that the peer must answer."""
        raise NotImplementedError

    def still_taking(self) -> bool:
        """Whether the kernel holds bytes for the peer, and the peer took some since this was last asked."""
        unsent = taken = self._unsent_bytes()
        if self._sock.family != socket.AF_UNIX:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
            taken = int.from_bytes(info[_BYTES_ACKED], sys.byteorder)  # the queue alone also changes as we write
        before, self._taken = self._taken, taken
        return unsent > 0 and taken != before

    def _unsent_bytes(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)  # SIOCOUTQ

    def _listener_failed(self) -> None:
        _log.exception("connection closed: its listener failed")
        self.close(CloseCode.INTERNAL_ERROR)

    # Closing

    def close(self, code: int, reason: str = "") -> None:
        """As `Line.close` says."""
        raise NotImplementedError

    def abort(self, code: int, reason: str = "") -> None:
        """Be gone at once, without a good-bye, and forget what is unsent."""
        if not self.closing:
            self._end(code, reason)
        self._reset()

    def _finish(self) -> None:
        """Nothing that the peer says from here on matters: hang up as soon as all is sent."""
        self._forget()
        self._finished = True
        if self._outbox is None:
            self._hang_up()

    def _hang_up(self) -> None:
        """End our side, then wait for the peer's end.

        A socket closed while bytes lie unread makes the kernel send a reset, which can overtake our good-bye; so what
        still comes is read and thrown away.
        """
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._gone()

    def _lose(self) -> None:
        """The socket failed in a write, or its peer hung up."""
        if not self.closing:
            self._end(ABNORMAL, "")
        self._block()
        self._lines.loop.call_soon(self._gone)

    def _end(self, code: int, reason: str) -> None:
        self.closing = True
        self._block()
        self._lines.closes[code] += 1
        self._lines.loop.call_soon(self._report, code, reason)

    def _report(self, code: int, reason: str) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            try:
                listener.on_closed(code, reason)
            except Exception:
                _log.exception("the listener of a closed connection failed")

    def _reset(self) -> None:
        """Be gone without waiting for the kernel to send what it still holds."""
        if self in self._lines.open:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._gone()

    def _gone(self) -> None:
        """Let go of the socket. May be called again."""
        if self not in self._lines.open:
            return
        self._lines.remove(self)
        self._block()  # before the descriptor is closed: who still has our key then sends to nobody
        loop = self._lines.loop
        loop.remove_reader(self._fd)
        loop.remove_writer(self._fd)
        self._sock.close()
        self._outbox = None
        self._lines.outbox_bytes -= self.outbox_bytes
        self.outbox_bytes = 0
        self.asked_bytes = 0
        self._forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
