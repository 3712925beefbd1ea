"""One client's event stream (server-sent events): a heartbeat, rotation, and an end; nothing is read but that.

Nobody answers a heartbeat. So a client is dead when its kernel takes nothing for `write_timeout`: neither out of the
outbox, nor of what our kernel holds, where the heartbeats are. (TCP_USER_TIMEOUT counts from when the window shut: set
to 3 s it cut off readers that took 18 KB a second.) Behind a proxy its kernel answers for it; therefore streams end
after some minutes, and who is there comes back.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from tornado_chat.errors import CloseCode, retry_after, retry_reason
from tornado_chat.live.fanout import NO_KEY
from tornado_chat.live.line import Listener
from tornado_chat.live.socket_line import Lines, Patience, SocketLine
from tornado_chat.wire.event_stream import PING, StreamEncoding, block, retry
from tornado_chat.wire.frames import ABNORMAL
from tornado_chat.wire.replies import Closing

IGNORED_BYTES = 65536
"""A client has nothing to say after its request: who says more than this is cut off."""

_READ_SIZE = 16384
_SPREAD = 0.2  # of the lifetime, more or less
_ROTATED_MS = 250, 1500  # those whose stream ends by its age come back then: they are few at a time
_FAILED_MS = 1000, 5000  # those who were cut off, perhaps all at once


def random_retry() -> int:
    """Milliseconds after which an EventSource comes back whose stream broke off."""
    return random.randint(*_FAILED_MS)


class EventStream(SocketLine):
    """The server's end of one stream: a `Line` whose listener hears no message."""

    __slots__ = ("_encoding", "_ignored", "_left")

    def __init__(self, lines: Lines, sock: socket.SocketType, listener: Listener, encoding: StreamEncoding) -> None:
        """Take over `sock` (not blocking)."""
        super().__init__(lines, sock, listener)
        self._encoding = encoding
        self._ignored = 0  # bytes that came
        self._left = 0.0  # sweeps until the stream ends by its age; 0.0: not decided yet

    def start(self, early: bytes = b"") -> None:
        """Begin to look for the end; `early` came together with the request."""
        if self in self._lines.open:
            self._read_on()
            self._ignore(len(early))

    def read_ready(self) -> None:
        """The socket has something to read, or may have: most likely the end. Pauses do not matter for that."""
        try:
            data = self._sock.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._ignore(len(data))
            if self.closing:
                self._lines.loop.call_soon(self.read_ready)  # see WebSocket.read_ready
        elif self.closing:
            self._gone()
        else:
            self._end(ABNORMAL, "")
            self._gone()

    def _ignore(self, size: int) -> None:
        self._lines.bytes_in += size
        self._ignored += size
        if self._ignored > IGNORED_BYTES:
            self.close(CloseCode.PROTOCOL_ERROR, "nothing can be said on a stream: use a request")

    def _go_on(self) -> None:
        """Nothing was read before a pause."""

    def _forget(self) -> None:
        """Nothing is kept of what was read."""

    # The keepalive's sweep

    def sweep(self, now: float, patience: Patience) -> None:
        """As `SocketLine.sweep` says; `idle` counts the sweeps since the last heartbeat."""
        if self.closing:
            return
        if not self._left:
            self._left = patience.lifetime * random.uniform(1 - _SPREAD, 1 + _SPREAD)
        self._left -= 1
        self.idle += 1
        if now >= self.expires_at:
            self.close(CloseCode.TOKEN_EXPIRED, "token expired")
        elif self._left <= 0:
            self.close(CloseCode.SERVICE_RESTART, retry_reason(random.randint(*_ROTATED_MS)))
        elif self.outbox_bytes:
            self._sweep_outbox(patience)
        elif self.idle >= patience.ping_after:
            self._beat(patience)

    def _beat(self, patience: Patience) -> None:
        self.read_ready()  # did it end unnoticed? See WebSocket.read_ready
        if self.closing:
            return
        if self.still_taking() or not self._unsent_bytes():
            self.stuck = 0
        else:
            self.stuck += self.idle
        if self.stuck > patience.stuck_after:
            self.abort(CloseCode.WRITE_TIMEOUT, "write timeout")
            return
        self.idle = 0
        self._ping()

    def _ping(self) -> None:
        self.write(self._encoding.ping)

    def _cursor_line(self) -> bytes:
        """What tells the client where it is, in front of the last words; in a stream of one room each event does."""
        return b""

    # Closing

    def close(self, code: int, reason: str = "") -> None:
        """Say why, after what waits in the outbox, and hang up; wait `close_timeout` for the peer to do so, too."""
        if self.closing:
            return
        lines = self._lines
        self._timer = lines.loop.call_later(lines.close_timeout, self._reset)
        self.write(self._goodbye(code, reason))
        if self.closing:  # the write failed
            return
        self._end(code, reason)
        self._finish()

    def _goodbye(self, code: int, reason: str) -> bytes:
        encoding = self._encoding
        seconds = retry_after(reason)
        milliseconds = round(seconds * 1000) if seconds is not None else None
        if code == CloseCode.INTERNAL_ERROR:
            milliseconds = random_retry()
        closing = Closing(code=int(code), reason=(reason or None) if seconds is None else None)
        closing.retry_after_ms = milliseconds
        said = block(encoding.codec.encode(closing))
        if milliseconds is not None:
            said = retry(milliseconds) + said
        if code != CloseCode.INTERNAL_ERROR:  # what a fault left unwritten is not known
            said = self._cursor_line() + said
        return encoding.framing.part(said) + encoding.framing.end


class CursorStream(EventStream):
    """A stream of several rooms that tells an EventSource all cursors, in a block behind what was written.

    Firefox does not heed an id without data (153): so a heartbeat and the last words have the cursors, too.
    It is never direct: what moves a cursor goes through `write`.
    """

    __slots__ = ("_cursors", "_due", "_soon", "_told")

    def __init__(
        self,
        lines: Lines,
        sock: socket.SocketType,
        listener: Listener,
        encoding: StreamEncoding,
        cursors: Callable[[], bytes],
        soon: Callable[[Callable[[CursorStream], None], CursorStream], None],
    ) -> None:
        """`cursors` makes the line of what has been written so far, `soon` calls in a loop turn to come."""
        super().__init__(lines, sock, listener, encoding)
        lines.direct.keys[self._fd] = self.key = NO_KEY
        self._cursors = cursors
        self._soon = soon
        self._due = False
        self._told = b""

    def write(self, data: bytes) -> None:
        super().write(data)
        if not self._due and not self.closing:
            self._due = True
            self._soon(CursorStream._tell, self)

    def _tell(self) -> None:
        if self.closing or not self._due:
            return
        self._due = False
        told = self._cursors()
        if told != self._told:
            self._told = told
            super().write(self._encoding.framing.part(told + b"\n"))

    def _ping(self) -> None:
        super().write(self._encoding.framing.part(self._cursors() + PING))

    def _cursor_line(self) -> bytes:
        return self._cursors()
