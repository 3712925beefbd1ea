"""The sockets that speak HTTP: each is counted from when it is accepted, and nothing that it waits for lasts.

A socket leaves when it closes, or when it becomes a WebSocket's. Until then it counts for its address and for the
process. It is closed if no request comes for REQUEST_SECONDS, or if an answer is not made and taken in ANSWER_SECONDS.
Where the process has no room for a newcomer, the one that has been quiet for longest gives way.
"""

from __future__ import annotations

import asyncio
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
from tornado_chat.wire.refusals import refusal

REQUEST_SECONDS = 20.0
"""A connection on which no whole head of a request comes for this long is closed: it holds an open file."""

ANSWER_SECONDS = 30.0
"""From a request's head until its body is read, the answer made, and all of it taken by the client."""

QUIET_SECONDS = 1.0
"""Where there is no room, a connection that did nothing for this long gives way to a newcomer."""

RESERVED = 64
"""HTTP connections for which there is room even where WebSockets take all: health and metrics are asked over HTTP."""

SWEEP_SECONDS = 1.0

MAX_HEAD_BYTES, MAX_HEADERS = 16 * 1024, 100
"""Of one request. To take 15,000 headers apart costs 100 ms, for which everybody else waits."""

MAX_BODY_BYTES = 64 * 1024

FIRST_REQUESTS, MORE_REQUESTS = 16, 2
"""Requests that are begun in one loop turn: those that are the first of their connection, as a handshake mostly is, and
others. They take 4 ms together, for which everybody else waits."""

_HEAD_TOO_LARGE = refusal(
    431,
    ErrorCode.TOO_LARGE,
    f"the head of a request may have {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} headers: send fewer",
)


class HttpConnection:
    """One socket. Tornado has it as the `context` of its requests, and reads `remote_ip` and `protocol`."""

    __slots__ = ("account", "due", "protocol", "remote_ip", "since", "sock", "stream")

    def __init__(self, sock: socket.socket, peer: str, account: str | None) -> None:
        self.remote_ip = peer
        self.protocol = "http"
        self.sock = sock
        self.account = account  # the address that it counts for; None: a proxy's
        self.since = self.due = 0.0  # when it got on last, and when it must have got on again
        self.stream: IOStream | None = None
        self.expect_request()

    def __str__(self) -> str:
        return self.remote_ip

    def expect_request(self) -> None:
        self.since = monotonic()
        self.due = self.since + REQUEST_SECONDS

    def expect_answer(self) -> None:
        """The head of a request is here."""
        self.since = monotonic()
        self.due = self.since + ANSWER_SECONDS


class HttpConnections(HTTPServerConnectionDelegate):
    """Those of one server."""

    def __init__(
        self,
        front: HTTPServerConnectionDelegate,
        limits: Limits,
        account: Callable[[str], str | None],
        room: Callable[[], int],
    ) -> None:
        """`account(peer)` is the address that a peer counts for, or None; `room()`: how many sockets there may be."""
        self.front = front
        self.limits = limits
        self.account = account
        self.room = room
        self._entered = 0
        self.by_address: Counter[str] = Counter()
        self._serving: dict[object, HttpConnection] = {}  # by Tornado's connection; the quietest is the first
        self._first: deque[Callable[[], None]] = deque()
        self._more: deque[Callable[[], None]] = deque()
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
        while self._serving:
            connection = next(iter(self._serving))
            assert isinstance(connection, HTTP1ServerConnection)
            await connection.close()

    def has_room(self) -> bool:
        """Whether one more may be accepted; one that has been quiet may have to go for it."""
        if self._entered < max(self.room(), RESERVED):
            return True
        quietest = next(iter(self._serving.items()), None)
        if quietest is None or quietest[1].since > monotonic() - QUIET_SECONDS:
            return False
        self._cut_off(*quietest)
        return True

    def enter(self, sock: socket.socket, peer: str) -> HttpConnection:
        """Count a socket that was accepted; ChatError (rate_limited) if its address has too many."""
        account = self.account(peer)
        if account is not None:
            self.limits.check_address(account, self.by_address[account])
            self.by_address[account] += 1
        self._entered += 1
        return HttpConnection(sock, peer, account)

    def begin(self, connection: HttpConnection) -> None:
        """Read and answer its requests."""
        connection.stream = _Stream(connection.sock, self._on_head)
        connection.expect_request()
        serving = HTTP1ServerConnection(connection.stream, self._parameters, connection)
        self._serving[serving] = connection
        serving.start_serving(self)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        connection = self._serving.pop(server_conn, None)
        if connection is not None:  # None: it was cut off, and Tornado does not know yet
            connection.expect_request()
            self._serving[server_conn] = connection
        return self.front.start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        connection = self._serving.pop(server_conn, None)
        if connection is not None:
            self._leave(connection)

    def _leave(self, connection: HttpConnection) -> None:
        self._entered -= 1
        account = connection.account
        if account is not None:
            self.by_address[account] -= 1
            if not self.by_address[account]:
                del self.by_address[account]

    def _cut_off(self, server_conn: object, connection: HttpConnection) -> None:
        del self._serving[server_conn]
        self._leave(connection)
        assert connection.stream is not None
        connection.stream.close()

    def _sweep(self) -> None:
        """Close those whose time is up."""
        now = monotonic()
        for server_conn, connection in list(self._serving.items()):
            if connection.due < now:
                self._cut_off(server_conn, connection)
        self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _on_head(self, begin: Callable[[], None], first: bool) -> None:
        """The head of a request has come, and waits for its turn."""
        if not self._first and not self._more:
            asyncio.get_running_loop().call_soon(self._turn)
        (self._first if first else self._more).append(begin)

    def _turn(self) -> None:
        try:
            for requests, most in ((self._first, FIRST_REQUESTS), (self._more, MORE_REQUESTS)):
                for _ in range(min(most, len(requests))):
                    requests.popleft()()
        finally:
            if self._first or self._more:
                asyncio.get_running_loop().call_soon(self._turn)


class _Stream(IOStream):
    """Counts the headers of a request before Tornado takes them apart, and lets the request wait for its turn."""

    def __init__(self, sock: socket.socket, on_head: Callable[[Callable[[], None], bool], None]) -> None:
        super().__init__(sock)
        self._on_head = on_head
        self._first = True

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Future[bytes]:
        checked: Future[bytes] = Future()
        read = super().read_until_regex(regex, max_bytes)
        assert isinstance(read, Future)
        future_add_done_callback(read, partial(self._check, checked))
        return checked

    def _check(self, checked: Future[bytes], read: Future[bytes]) -> None:
        error = read.exception()
        if error is None and read.result().count(b"\n") > MAX_HEADERS + 2:  # and the first line, and the empty one
            error = UnsatisfiableReadError("too many headers")
            self.close(error)
        if error is not None:
            future_set_exception_unless_cancelled(checked, error)
        else:
            self._on_head(partial(self._hand_over, checked, read.result()), self._first)
            self._first = False

    def _hand_over(self, checked: Future[bytes], head: bytes) -> None:
        if self.closed():  # Tornado would still answer what it has read, to nobody
            future_set_exception_unless_cancelled(checked, StreamClosedError(self.error))
        else:
            future_set_result_unless_cancelled(checked, head)

    def close(self, exc_info: object = False) -> None:
        """Answer 431 first, if the head of a request is too large."""
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed():
            with suppress(OSError):
                self.socket.send(_HEAD_TOO_LARGE)
        super().close(exc_info)  # type: ignore[arg-type]  # what Tornado has given us
