"""Accepting connections, and letting in no more handshakes than the loop has time for.

Handshakes are begun in the order of arrival, some in each loop turn, so that those who are here already are not made
to wait. When the one at the front has waited for too long, newcomers are refused at once, whatever they ask for: they
come back later, and whoever stands in the queue still gets in before giving up.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from time import monotonic

from tornado_chat.errors import ChatError
from tornado_chat.metrics import Metrics
from tornado_chat.processes.turned_away import TurnedAway
from tornado_chat.web import shedding
from tornado_chat.web.gate import UNIX_PEER
from tornado_chat.web.http_connection import HttpConnection
from tornado_chat.web.http_connections import HttpConnections
from tornado_chat.wire.refusals import Unread

logger = logging.getLogger(__name__)

ACCEPTS = 256
"""Connections accepted in one loop turn: about 2 ms."""

HANDSHAKES = 16
"""Handshakes begun in one loop turn: they take some 1.5 ms, for which everybody else waits."""


class Acceptor:
    """Accepts from `listeners` once started, until `pause`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, http: HttpConnections, metrics: Metrics) -> None:
        self.loop = loop
        self.http = http
        self.metrics = metrics
        self.listeners: list[socket.socket] = []
        self.waiting: deque[HttpConnection] = deque()
        self.turned_away = TurnedAway(loop)
        self._turn_due = False

    def start(self, listeners: list[socket.socket]) -> None:
        self.listeners = listeners
        for listener in listeners:
            if listener.family != socket.AF_UNIX:  # those accepted have it from their listener
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.loop.add_reader(listener, self._accept, listener)

    def pause(self) -> None:
        """Accept no more; what waits in the kernel's queue stays there for whoever has the same socket."""
        for listener in self.listeners:
            self.loop.remove_reader(listener)
        self.listeners = []

    def close(self) -> None:
        """Accept no more, and let the HTTP server answer all who were accepted."""
        self.pause()
        while self.waiting:
            self._begin()
        self.turned_away.close()

    def _accept(self, listener: socket.socket) -> None:
        family = listener.family
        for _ in range(ACCEPTS):
            try:
                descriptor, address = listener._accept()  # type: ignore[attr-defined]  # of the C class; `accept` makes more of it
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # The listener stays readable: without a pause the loop would do nothing else.
                logger.error("cannot accept for a second reason=%s", error.strerror)
                self.loop.remove_reader(listener)
                self.loop.call_later(1.0, self._accept_again, listener)
                return
            sock = socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor)
            late = self.waiting and monotonic() - self.waiting[0].since > shedding.WAIT_SECONDS
            if late or not self.http.has_room():
                self._turn_away(sock, 503, shedding.overloaded())
                continue
            try:
                peer = address[0] if type(address) is tuple else UNIX_PEER
                connection = self.http.enter(sock, peer)
            except ChatError as error:
                self._turn_away(sock, 429, Unread(429, error.code, error.message, error.retry_after))
                continue
            self.waiting.append(connection)
            if not self._turn_due:
                self._turn_due = True
                self.loop.call_soon(self._turn)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self.listeners:
            self.loop.add_reader(listener, self._accept, listener)

    def _turn(self) -> None:
        """Begin the next handshakes; the rest in turns to come."""
        try:
            for _ in range(min(HANDSHAKES, len(self.waiting))):
                self._begin()
        finally:
            self._turn_due = bool(self.waiting)
            if self._turn_due:
                self.loop.call_soon(self._turn)

    def _begin(self) -> None:
        self.http.begin(self.waiting.popleft())

    def _turn_away(self, sock: socket.SocketType, status: int, refusal: Unread) -> None:
        self.metrics.refusals[status] += 1
        self.turned_away.add(sock, refusal, self.http.room() - len(self.http))
