"""The sockets that speak HTTP: each is counted from when it is accepted, and nothing that it waits for lasts.

A socket leaves when it closes, or when it becomes a line's. Until then it counts for its address and for the
process. It is closed if no request comes for REQUEST_SECONDS, or if an answer is not made and taken in ANSWER_SECONDS,
besides the time that a poll may wait. Where the process has no room for a newcomer, the one that has been quiet for
longest gives way; one that waits is not quiet.
What is not plain, or not for the API, goes on to Tornado, and so does all that follows it on its connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from time import monotonic

from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerConnectionDelegate

from tornado_chat.live.limits import Limits
from tornado_chat.metrics import Metrics
from tornado_chat.web.http_connection import HttpConnection, HttpFront
from tornado_chat.web.request_turns import RequestTurns
from tornado_chat.web.tornado_requests import TornadoStream
from tornado_chat.wire.request import MAX_HEAD_BYTES

QUIET_SECONDS = 1.0
"""Where there is no room, a connection that did nothing for this long gives way to a newcomer."""

RESERVED = 64
"""HTTP connections for which there is room even where WebSockets take all: health and metrics are asked over HTTP."""

SWEEP_SECONDS = 1.0

MAX_BODY_BYTES = 2 * 1024 * 1024
"""What Tornado reads; `Exchange` refuses less, in the words of the protocol."""


class HttpConnections(HTTPServerConnectionDelegate):
    """Those of one server."""

    def __init__(
        self,
        front: HttpFront,
        limits: Limits,
        metrics: Metrics,
        account: Callable[[str], str | None],
        room: Callable[[], int],
    ) -> None:
        """`account(peer)` is the address that a peer counts for, or None; `room()`: how many sockets there may be."""
        self.front = front
        self.limits = limits
        self.account = account
        self.room = room
        self.loop = asyncio.get_running_loop()
        self.turns = RequestTurns(self.loop, metrics)
        self._entered = 0
        self.by_address: Counter[str] = Counter()
        # With Tornado's connection, once there is one; the quietest is the first.
        self._serving: dict[HttpConnection, HTTP1ServerConnection | None] = {}
        # Those whose request waits by its own wish are in here instead.
        self._waiting: dict[HttpConnection, HTTP1ServerConnection | None] = {}
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
                self.cut_off(connection)
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
        self.cut_off(quietest)
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
        """Read and answer its requests."""
        self._serving[connection] = None
        connection.start()

    def serves(self, connection: HttpConnection) -> bool:
        """Whether it is still here, and was not set aside."""
        return connection in self._serving

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

    def make_latest(self, connection: HttpConnection) -> None:
        """Of all connections it has been quiet for the shortest time."""
        if connection in self._serving:  # else it is not quiet, or was cut off and Tornado does not know yet
            self._serving[connection] = self._serving.pop(connection)

    def let_go(self, connection: HttpConnection) -> None:
        """Its socket is somebody else's."""
        if self._remove(connection):
            connection.stop()

    def cut_off(self, connection: HttpConnection) -> None:
        """Close it, if it is still here."""
        if self._remove(connection):
            connection.abort()

    def _remove(self, connection: HttpConnection) -> bool:
        """Whether it was here."""
        served = self._serving if connection in self._serving else self._waiting
        if connection not in served:
            return False
        del served[connection]
        self._entered -= 1
        if connection.held_bytes:
            connection.release()
        account = connection.account
        if account is not None:
            self.by_address[account] -= 1
            if not self.by_address[account]:
                del self.by_address[account]
        return True

    def _sweep(self) -> None:
        """Close those whose time is up."""
        now = monotonic()
        for connection in [*self._serving, *self._waiting]:
            if connection.due < now:
                self.cut_off(connection)
        self._timer = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    # Tornado's

    def hand_on(self, connection: HttpConnection, said: bytes) -> None:
        """Let Tornado read and answer its requests, `said` first."""
        sock = connection.sock
        tornados = socket.socket(sock.family, sock.type, sock.proto, sock.detach())
        connection.stream = TornadoStream(tornados, said, self.turns)
        serving = self._serving[connection] = HTTP1ServerConnection(connection.stream, self._parameters, connection)
        serving.start_serving(self)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        connection = _connection_of(server_conn)
        if connection in self._serving:  # else it was cut off, and Tornado does not know yet
            if connection.asked:  # else the first request has been waited for since it was accepted
                connection.expect_request()
            self.make_latest(connection)
        return self.front.start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._remove(_connection_of(server_conn))


def _connection_of(server_conn: object) -> HttpConnection:
    assert isinstance(server_conn, HTTP1ServerConnection)
    assert isinstance(server_conn.context, HttpConnection)
    return server_conn.context
