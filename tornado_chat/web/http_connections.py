"""The sockets that speak HTTP: each is counted from when it is accepted, and nothing that it waits for lasts.

What a socket says first is read here. A plain handshake, or request for a stream, needs no more, let in or not;
anything else goes on to Tornado, with the bytes that were read.
A socket leaves when it closes, or when it becomes a line's. Until then it counts for its address and for the
process. It is closed if no request comes for REQUEST_SECONDS, or if an answer is not made and taken in ANSWER_SECONDS,
besides the time that a poll may wait. Where the process has no room for a newcomer, the one that has been quiet for
longest gives way; one that waits is not quiet.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic

from tornado.concurrent import (
    Future,
    future_add_done_callback,
    future_set_exception_unless_cancelled,
    future_set_result_unless_cancelled,
)
from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerConnectionDelegate
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from tornado_chat.errors import ErrorCode
from tornado_chat.live.limits import Limits
from tornado_chat.metrics import Metrics
from tornado_chat.web import shedding
from tornado_chat.web.refusals import Refused
from tornado_chat.wire.refusals import refusal
from tornado_chat.wire.request import MAX_HEAD_BYTES, MAX_HEADERS, has_bare_breaks

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 20.0
"""A connection on which no whole head of a request comes for this long is closed: it holds an open file."""

ANSWER_SECONDS = 30.0
"""From a request's head until its body is read, the answer made, and all of it taken by the client."""

QUIET_SECONDS = 1.0
"""Where there is no room, a connection that did nothing for this long gives way to a newcomer."""

RESERVED = 64
"""HTTP connections for which there is room even where WebSockets take all: health and metrics are asked over HTTP."""

SWEEP_SECONDS = 1.0

MAX_BODY_BYTES = 2 * 1024 * 1024
"""What Tornado reads; `Exchange` refuses less, in the words of the protocol."""

UNSENT_BYTES = 65536
"""What the kernel holds of answers that a client does not take, besides what is on its way. By itself it would hold
megabytes: a client that pipelines and reads nothing would have a hundred answers made before one of them waits."""

FIRST_REQUESTS, MORE_REQUESTS = 16, 2
"""Requests that are begun in one loop turn: those that are the first of their connection, as a handshake mostly is, and
others, half of them polls if there are such. They take 4 ms together, for which everybody else waits."""

_POLL = b"POST /v1/poll "

_HEAD_TOO_LARGE = refusal(
    431,
    ErrorCode.TOO_LARGE,
    f"the head of a request may have {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} headers: send fewer",
)
_BARE_BREAKS = refusal(
    400, ErrorCode.BAD_REQUEST, "each line of a request's head should end with CR LF, and have neither inside"
)


class HttpConnection:
    """One socket. Tornado has it as the `context` of its requests, and reads `remote_ip` and `protocol`."""

    __slots__ = (
        "account",
        "answered",
        "due",
        "held_bytes",
        "home",
        "protocol",
        "remote_ip",
        "said",
        "since",
        "sock",
        "stream",
    )

    def __init__(self, home: HttpConnections, sock: socket.SocketType, peer: str, account: str | None) -> None:
        self.home = home
        self.remote_ip = peer
        self.protocol = "http"
        self.sock = sock
        self.held_bytes = 0  # of a long body, or of a long answer that the client has not taken
        self.account = account  # the address that it counts for; None: a proxy's
        self.since = self.due = 0.0  # when it got on last, and when it must have got on again
        self.answered = False  # a head of a request has come to Tornado
        self.said = b""  # what it said first, until it is this one's turn
        self.stream: IOStream | None = None  # once Tornado has it
        self.expect_request()

    def __str__(self) -> str:
        return self.remote_ip

    def hold(self, size: int) -> None:
        """So many bytes more of a body, or of an answer, are kept, until `release`."""
        self.held_bytes += size
        self.home.limits.http_bytes += size

    def release(self) -> None:
        self.home.limits.http_bytes -= self.held_bytes
        self.held_bytes = 0

    def expect_request(self) -> None:
        self.since = monotonic()
        self.due = self.since + REQUEST_SECONDS

    def expect_answer(self, seconds: float = ANSWER_SECONDS) -> None:
        """The head of a request is here, and so long it may take until the client has the answer."""
        self.answered = True
        self.since = monotonic()
        self.due = self.since + seconds

    def wait(self, seconds: float) -> None:
        """The answer may take so long: it is not quiet meanwhile."""
        self.expect_answer(seconds + ANSWER_SECONDS)
        self.home.set_aside(self)

    def go_on(self) -> None:
        """The answer has been made, if it has waited for it."""
        if self.home.take_back(self):
            self.expect_answer()


class HttpConnections(HTTPServerConnectionDelegate):
    """Those of one server."""

    def __init__(
        self,
        front: HTTPServerConnectionDelegate,
        let_in: Callable[[HttpConnection, bytes], Callable[[], None] | None],
        limits: Limits,
        metrics: Metrics,
        account: Callable[[str], str | None],
        room: Callable[[], int],
    ) -> None:
        """`front` answers Tornado's requests.

        `let_in(connection, data)`: what makes it a line, if that is what it asks for in a plain way, or Refused.
        `account(peer)` is the address that a peer counts for, or None; `room()`: how many sockets there may be.
        """
        self.front = front
        self.let_in = let_in
        self.limits = limits
        self._metrics = metrics
        self.account = account
        self.room = room
        self._loop = asyncio.get_running_loop()
        self._entered = 0
        self.by_address: Counter[str] = Counter()
        # With Tornado's connection, once there is one; the quietest is the first.
        self._serving: dict[HttpConnection, HTTP1ServerConnection | None] = {}
        # Those whose request waits by its own wish are in here instead.
        self._waiting: dict[HttpConnection, HTTP1ServerConnection | None] = {}
        # What begins a request, and since when it waits.
        self._first: deque[tuple[float, Callable[[], None]]] = deque()
        self._more: deque[tuple[float, Callable[[], None]]] = deque()
        self._polls: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        # Tornado's own time limits would cost each handshake a timer.
        self._parameters = HTTP1ConnectionParameters(max_header_size=MAX_HEAD_BYTES, max_body_size=MAX_BODY_BYTES)

    def __len__(self) -> int:
        return self._entered

    def start(self) -> None:
        self._sweep()

    async def close(self) -> None:
        """Close all, whatever they wait for."""
        if self._timer is not None:
            self._timer.cancel()
        while served := self._serving or self._waiting:
            connection, serving = next(iter(served.items()))
            if serving is None:
                self._cut_off(connection)
            else:
                await serving.close()

    def has_room(self) -> bool:
        """Whether one more may be accepted; one that has been quiet may have to go for it."""
        waiting = len(self._waiting)  # the gate has found room for each beside the WebSockets
        if self._entered - waiting < max(self.room() - waiting, RESERVED):
            return True
        quietest = next(iter(self._serving), None)
        if quietest is None or quietest.since > monotonic() - QUIET_SECONDS:
            return False
        self._cut_off(quietest)
        return True

    def enter(self, sock: socket.SocketType, peer: str) -> HttpConnection:
        """Count a socket that was accepted; ChatError (rate_limited) if its address has too many."""
        account = self.account(peer)
        if account is not None:
            self.limits.check_address(account, self.by_address[account])
            self.by_address[account] += 1
        self._entered += 1
        return HttpConnection(self, sock, peer, account)

    def begin(self, connection: HttpConnection) -> None:
        """Read and answer its requests. The first has come already, as a rule: then nothing has to be waited for."""
        connection.sock.setblocking(False)
        connection.expect_request()
        self._serving[connection] = None
        if self._hear(connection):
            self._answer_first(connection)
        elif connection in self._serving:
            self._loop.add_reader(connection.sock.fileno(), self._on_readable, connection)

    def _hear(self, connection: HttpConnection) -> bool:
        """Whether it says something; if it has hung up, it goes."""
        try:
            connection.said = connection.sock.recv(MAX_HEAD_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            pass
        if not connection.said:
            self._cut_off(connection)
        return bool(connection.said)

    def _on_readable(self, connection: HttpConnection) -> None:
        if self._hear(connection):
            # uvloop closes a poll whose socket was reset after data, once, and is not to be asked for it again then.
            self._loop.remove_reader(connection.sock.fileno())
            self.wait_for_turn(partial(self._answer_first, connection))

    def _answer_first(self, connection: HttpConnection) -> None:
        if connection not in self._serving:  # it was cut off meanwhile
            return
        said, connection.said = connection.said, b""
        try:
            become_socket = self.let_in(connection, said)
            if become_socket is not None:
                become_socket()
        except Refused as refused:
            with suppress(OSError):  # it has gone already
                connection.sock.send(refused.answer)
                connection.sock.recv(MAX_HEAD_BYTES * 4)  # what is unread would make the kernel take the answer back
            self._cut_off(connection)
            return
        except Exception:  # it ends with whom it concerns
            logger.exception("handshake failed")
            self._cut_off(connection)
            return
        if become_socket is None:
            self._hand_on(connection, said)
        else:
            del self._serving[connection]
            self._leave(connection)

    def _hand_on(self, connection: HttpConnection, said: bytes) -> None:
        """Let Tornado read and answer its requests, `said` first."""
        sock = connection.sock
        self._loop.remove_reader(sock.fileno())
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        tornados = socket.socket(sock.family, sock.type, sock.proto, sock.detach())
        connection.stream = _Stream(tornados, said, self)
        serving = self._serving[connection] = HTTP1ServerConnection(connection.stream, self._parameters, connection)
        serving.start_serving(self)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        connection = _connection_of(server_conn)
        serving = self._serving.pop(connection, None)
        if serving is not None:  # None: it was cut off, and Tornado does not know yet
            if connection.answered:  # else the first request has been waited for since it was accepted
                connection.expect_request()
            self._serving[connection] = serving
        return self.front.start_request(server_conn, request_conn)

    def set_aside(self, connection: HttpConnection) -> None:
        """Its request may wait for long: until `take_back` it is not quiet."""
        if connection in self._serving:
            self._waiting[connection] = self._serving.pop(connection)

    def take_back(self, connection: HttpConnection) -> bool:
        """Whether it was set aside."""
        aside = connection in self._waiting
        if aside:
            self._serving[connection] = self._waiting.pop(connection)
        return aside

    def on_close(self, server_conn: object) -> None:
        connection = _connection_of(server_conn)
        if self._serving.pop(connection, None) or self._waiting.pop(connection, None):
            self._leave(connection)

    def _leave(self, connection: HttpConnection) -> None:
        self._entered -= 1
        connection.release()
        account = connection.account
        if account is not None:
            self.by_address[account] -= 1
            if not self.by_address[account]:
                del self.by_address[account]

    def _cut_off(self, connection: HttpConnection) -> None:
        if self._waiting.pop(connection, None) is None:
            del self._serving[connection]
        self._leave(connection)
        if connection.stream is None:
            self._loop.remove_reader(connection.sock.fileno())
            connection.sock.close()
        else:
            connection.stream.close()

    def _sweep(self) -> None:
        """Close those whose time is up."""
        now = monotonic()
        for connection in [*self._serving, *self._waiting]:
            if connection.due < now:
                self._cut_off(connection)
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def turn_away(self, head: bytes) -> bytes | None:
        """What is answered to a request that is not the first of its connection, if there is no time for it now."""
        waiting = self._lane(head)
        if not waiting or monotonic() - waiting[0][0] <= shedding.WAIT_SECONDS:
            return None
        self._metrics.refusals[503] += 1
        return shedding.overloaded().answer(head)

    def wait_for_turn(self, begin: Callable[[], None], head: bytes | None = None) -> None:
        """A request is begun when it is its turn; `head`: of one that is not the first of its connection."""
        if not self._first and not self._more and not self._polls:
            self._loop.call_soon(self._turn)
        (self._first if head is None else self._lane(head)).append((monotonic(), begin))

    def _lane(self, head: bytes) -> deque[tuple[float, Callable[[], None]]]:
        """Polls have their own: those who poll a busy room come back all at once, and nobody else is to wait for it."""
        return self._polls if head.startswith(_POLL) or b"wait=" in head[: head.find(b"\r")] else self._more

    def _turn(self) -> None:
        try:
            for _ in range(min(FIRST_REQUESTS, len(self._first))):
                _, begin = self._first.popleft()
                begin()
            for number in range(MORE_REQUESTS):
                lanes = (self._more, self._polls) if number % 2 else (self._polls, self._more)
                requests = lanes[0] or lanes[1]
                if requests:
                    _, begin = requests.popleft()
                    begin()
        finally:
            if self._first or self._more or self._polls:
                self._loop.call_soon(self._turn)


def _connection_of(server_conn: object) -> HttpConnection:
    assert isinstance(server_conn, HTTP1ServerConnection)
    assert isinstance(server_conn.context, HttpConnection)
    return server_conn.context


class _Stream(IOStream):
    """Begins with what was read already; looks at the head of a request before Tornado does, and lets it wait."""

    def __init__(self, sock: socket.socket, said: bytes, home: HttpConnections) -> None:
        super().__init__(sock)
        self._said = said
        self._home = home
        self._first = True

    def set_nodelay(self, value: bool) -> None:
        """It is on, as the listener has it: Tornado would switch it for each answer, which is one write anyway."""

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        if not self._said:
            try:
                return super().read_from_fd(buf)
            finally:
                del buf  # 64 KiB, which the traceback of a reset would keep
        size = min(len(buf), len(self._said))
        buf[:size] = self._said[:size]
        self._said = self._said[size:]
        return size

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Future[bytes]:
        checked: Future[bytes] = Future()
        read = super().read_until_regex(regex, max_bytes)
        assert isinstance(read, Future)
        future_add_done_callback(read, partial(self._check, checked))
        return checked

    def _check(self, checked: Future[bytes], read: Future[bytes]) -> None:
        error = read.exception()
        if error is None:
            head = read.result()
            if head.count(b"\n") > MAX_HEADERS + 2:  # and the first line, and the empty one
                error = self._refuse(_HEAD_TOO_LARGE)
            elif has_bare_breaks(head):
                error = self._refuse(_BARE_BREAKS)
            elif not self._first:
                answer = self._home.turn_away(head)
                if answer is not None:
                    error = self._refuse(answer)
        if error is not None:
            future_set_exception_unless_cancelled(checked, error)
        else:
            self._home.wait_for_turn(partial(self._hand_over, checked, head), None if self._first else head)
            self._first = False

    def _hand_over(self, checked: Future[bytes], head: bytes) -> None:
        if self.closed():  # Tornado would still answer what it has read, to nobody
            future_set_exception_unless_cancelled(checked, StreamClosedError(self.error))
        else:
            future_set_result_unless_cancelled(checked, head)

    def _refuse(self, answer: bytes) -> StreamClosedError:
        if not self.closed():
            with suppress(OSError):
                self.socket.send(answer)
                self.socket.recv(MAX_HEAD_BYTES * 4)  # what is unread would make the kernel take the answer back
            super().close()
        return StreamClosedError()

    def close(self, exc_info: object = False) -> None:
        """Answer 431 first, if no end of the head of a request has come in MAX_HEAD_BYTES."""
        if isinstance(exc_info, UnsatisfiableReadError):
            self._refuse(_HEAD_TOO_LARGE)
        super().close(exc_info)  # type: ignore[arg-type]  # what Tornado has given us
