"""One socket that speaks HTTP: what it says is read here, and a plain request to the API is answered here too.

One at a time: what a client pipelines waits in its socket. Through Tornado a post costs more than twice as much
(docs/performance.md).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import Protocol

from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.iostream import IOStream

from tornado_chat.live.limits import Limits
from tornado_chat.web.refusals import Refused
from tornado_chat.web.request_turns import RequestTurns
from tornado_chat.wire.request import MAX_HEAD_BYTES, Request, parse

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 20.0
"""A connection on which no whole head of a request comes for this long is closed: it holds an open file."""

ANSWER_SECONDS = 30.0
"""From a request's head until its body is read, the answer made, and all of it taken by the client."""

UNSENT_BYTES = 65536
"""What the kernel holds of answers that a client does not take, besides what is on its way. By itself it would hold
megabytes: a client that pipelines and reads nothing would have a hundred answers made before one of them waits."""

_PHRASES = {int(status): status.phrase for status in HTTPStatus}


class Answering(Protocol):
    """What takes one request as it comes and answers it: Exchange, which knows connections and is not known to them."""

    def begin(self, method: str, target: str, version: str, headers: Mapping[str, str]) -> None:
        """The head is here."""

    def data_received(self, chunk: bytes) -> object:
        """A piece of the body is here."""

    def finish(self) -> None:
        """All of it is here."""

    def on_connection_close(self) -> None:
        """The client has gone."""


class HttpFront(Protocol):
    """Where requests come in (app.py: Front)."""

    def let_in(self, connection: HttpConnection, request: Request) -> Callable[[], None] | None:
        """What makes the connection a line, if that is what the plain `request` asks for; Refused if it may not."""

    def read(self, connection: HttpConnection, request: Request) -> Answering | None:
        """What reads and answers a plain `request`; None: Tornado does."""

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """What answers a request that Tornado reads."""


class HttpConnectionOwner(Protocol):
    """What has the connections (HttpConnections)."""

    front: HttpFront
    limits: Limits
    loop: asyncio.AbstractEventLoop
    turns: RequestTurns

    def serves(self, connection: HttpConnection) -> bool:
        """Whether it is still here, and was not set aside."""

    def set_aside(self, connection: HttpConnection) -> None:
        """Its request may wait for long: until `take_back` it is not quiet."""

    def take_back(self, connection: HttpConnection) -> bool:
        """Whether it was set aside."""

    def make_latest(self, connection: HttpConnection) -> None:
        """Of all connections it has been quiet for the shortest time."""

    def let_go(self, connection: HttpConnection) -> None:
        """Its socket is somebody else's."""

    def cut_off(self, connection: HttpConnection) -> None:
        """Close it, if it is still here."""

    def hand_on(self, connection: HttpConnection, said: bytes) -> None:
        """Let Tornado read and answer its requests, `said` first."""


class _UnderWay:
    """A request that is read and answered here."""

    __slots__ = ("exchange", "lacking", "last", "taken", "unsent")

    def __init__(self, exchange: Answering, lacking: int, *, last: bool) -> None:
        self.exchange = exchange
        self.lacking = lacking  # bytes of its body; some, if it is answered: they are dropped
        self.last = last  # the connection ends with its answer
        self.unsent = memoryview(b"")  # of its answer
        self.taken: asyncio.Future[None] | None = None  # once all of that is in the kernel


class HttpConnection:
    """One socket. Tornado has it as the `context` of its requests, and reads `remote_ip` and `protocol`."""

    __slots__ = (
        "_listening",
        "_said",
        "_under_way",
        "account",
        "asked",
        "due",
        "held_bytes",
        "owner",
        "remote_ip",
        "since",
        "sock",
        "stream",
    )

    protocol = "http"

    def __init__(self, owner: HttpConnectionOwner, sock: socket.SocketType, peer: str, account: str | None) -> None:
        self.owner = owner
        self.remote_ip = peer
        self.sock = sock
        self.account = account  # the address that it counts for; None: a proxy's
        self.since = self.due = 0.0  # when it got on last, and when it must have got on again
        self.asked = False  # a head of a request has come
        self.held_bytes = 0  # of a long body, or of a long answer that the client has not taken
        self.stream: IOStream | None = None  # once Tornado has it
        self._listening = False  # it is read as soon as something comes
        self._said = b""  # what has come and was not taken yet: MAX_HEAD_BYTES at most
        self._under_way: _UnderWay | None = None
        self.expect_request()

    def __str__(self) -> str:
        return self.remote_ip

    def hold(self, size: int) -> None:
        """So many bytes more of a body, or of an answer, are kept, until `release`."""
        self.held_bytes += size
        self.owner.limits.http_bytes += size

    def release(self, size: int | None = None) -> None:
        """So many bytes of them are not kept any more; all of them, without `size`."""
        size = self.held_bytes if size is None else min(size, self.held_bytes)
        self.held_bytes -= size
        self.owner.limits.http_bytes -= size

    # Time

    def expect_request(self) -> None:
        self.since = monotonic()
        self.due = self.since + REQUEST_SECONDS

    def expect_answer(self, seconds: float = ANSWER_SECONDS) -> None:
        """The head of a request is here, and so long it may take until the client has the answer."""
        self.asked = True
        self.since = monotonic()
        self.due = self.since + seconds
        self.owner.make_latest(self)

    def wait(self, seconds: float) -> None:
        """The answer may take so long: it is not quiet meanwhile."""
        self.expect_answer(seconds + ANSWER_SECONDS)
        self.owner.set_aside(self)
        if self.stream is None:
            self.owner.loop.call_soon(self._look_again)

    def go_on(self) -> None:
        """The answer has been made, if it has waited for it."""
        if self.owner.take_back(self):
            self.expect_answer()

    # Reading

    def start(self) -> None:
        """Read its requests. The first has come already, as a rule: then nothing has to be waited for."""
        self.sock.setblocking(False)
        self.expect_request()
        if self._hear():
            self._answer_next()
        elif self.owner.serves(self):
            self._listen()

    def stop(self) -> None:
        """Nothing of it is read or written here any more."""
        if self._listening:
            self._unlisten()
        request, self._under_way = self._under_way, None
        if request is not None and request.unsent:
            self.owner.loop.remove_writer(self.sock.fileno())

    def abort(self) -> None:
        """Close it, whatever is under way."""
        if self.stream is not None:
            self.stream.close()
            return
        request = self._under_way
        self.stop()
        self.sock.close()
        if request is not None:
            if request.taken is not None:
                request.taken.cancel()
            request.exchange.on_connection_close()

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self.owner.loop.add_reader(self.sock.fileno(), self._on_readable)

    def _unlisten(self) -> None:
        self._listening = False
        self.owner.loop.remove_reader(self.sock.fileno())

    def _hear(self) -> bool:
        """Whether it says something; if it has hung up, it goes."""
        try:
            said = self.sock.recv(MAX_HEAD_BYTES - len(self._said))
        except BlockingIOError:
            return False
        except OSError:
            said = b""
        if not said:
            self.owner.cut_off(self)
            return False
        self._said = self._said + said if self._said else said
        return True

    def _on_readable(self) -> None:
        said, request = self._said, self._under_way
        if len(said) == MAX_HEAD_BYTES:
            self._unlisten()  # it is read on when something of that has been taken
        elif not self._hear():
            return
        elif request is not None:
            if request.lacking:
                self._read_on(request)
            self.owner.loop.call_soon(self._look_again)
        elif not said:  # else that waits for its turn already
            if not self.asked:
                # uvloop closes a poll whose socket was reset after data, and is not to be asked for another then.
                self._unlisten()
            self._wait_for_turn()

    def _look_again(self) -> None:
        """A reset that came together with the last bytes is not told again."""
        if self._under_way is not None:
            self._on_readable()

    def _wait_for_turn(self) -> None:
        turns, head = self.owner.turns, self._said if self.asked else None
        answer = turns.turn_away(head) if head is not None else None
        if answer is not None:
            self._refuse(answer)
            return
        turns.wait(self._answer_next, head)

    def _answer_next(self) -> None:
        if not self.owner.serves(self):  # it was cut off meanwhile
            return
        said, self._said = self._said, b""
        try:
            taken = self._take(said)
        except Refused as refused:
            self._refuse(refused.answer)
        except Exception:  # it ends with whom it concerns
            logger.exception("request failed")
            self.owner.cut_off(self)
        else:
            if not taken:
                if self._listening:
                    self._unlisten()
                limit_unsent(self.sock, UNSENT_BYTES)
                self.owner.hand_on(self, said)

    def _take(self, said: bytes) -> bool:
        """Whether the request that `said` begins with is answered here."""
        request = parse(said)
        if request is None:
            return False
        front = self.owner.front
        become_line = None if self.asked else front.let_in(self, request)
        if become_line is not None:
            become_line()
            self.owner.let_go(self)
            return True
        size = request.body_bytes()
        exchange = None if size is None else front.read(self, request)
        if size is None or exchange is None:
            return False
        if not self.asked:
            limit_unsent(self.sock, UNSENT_BYTES)
        self.expect_answer()
        under_way = self._under_way = _UnderWay(exchange, size, last=request.is_last)
        self._said = request.rest
        exchange.begin(request.method, request.target, "HTTP/1.1", request.headers)
        if self._under_way is under_way:
            self._read_on(under_way)
        if self._under_way is under_way:
            self._listen()
            if under_way.lacking:
                self.owner.loop.call_soon(self._look_again)
        return True

    def _read_on(self, request: _UnderWay) -> None:
        """Give the exchange what has come of the body."""
        said = self._said
        body, self._said = said[: request.lacking], said[request.lacking :]
        request.lacking -= len(body)
        if body:
            request.exchange.data_received(body)
        if not request.lacking and self._under_way is request:
            request.exchange.finish()

    def detach(self) -> tuple[socket.SocketType, bytes]:
        """The socket, which is the caller's from here on, and what came behind the request."""
        self.owner.let_go(self)
        limit_unsent(self.sock, 0)  # as the system has it, not as HTTP had it
        return self.sock, self._said

    # Answering

    def answer(
        self, status: int, headers: Mapping[str, str], body: bytes | None, *, close: bool
    ) -> asyncio.Future[None] | None:
        """Answer the request that was read here, and `close` after it; None for `body`: the headers only.

        The Future: when the client has taken it, if that takes a while.
        """
        request = self._under_way
        assert request is not None
        request.last |= close
        if request.last:
            headers = {**headers, "Connection": "close"}
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        answer = f"HTTP/1.1 {status} {_PHRASES[status]}\r\n{lines}\r\n".encode("latin-1") + (body or b"")
        try:
            sent = self.sock.send(answer)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.owner.cut_off(self)
            return None
        if sent == len(answer):
            self._answered(request)
            return None
        request.unsent = memoryview(answer)[sent:]
        request.taken = self.owner.loop.create_future()
        self.owner.loop.add_writer(self.sock.fileno(), self._on_writable, request)
        return request.taken

    def answer_early(self, status: int, headers: Mapping[str, str], body: bytes | None) -> None:
        """Answer before the end of the body, whose rest is read until `end`: else the answer might be lost with it."""
        self.answer(status, headers, body, close=True)

    def end(self) -> None:
        """Nothing follows what was answered early."""
        request = self._under_way
        assert request is not None
        request.lacking = 0
        if not request.unsent:
            self._answered(request)

    def _on_writable(self, request: _UnderWay) -> None:
        try:
            sent = self.sock.send(request.unsent)
        except BlockingIOError:
            return
        except OSError:
            self.owner.cut_off(self)
            return
        request.unsent = request.unsent[sent:]
        if not request.unsent:
            self.owner.loop.remove_writer(self.sock.fileno())
            assert request.taken is not None
            request.taken.set_result(None)
            self._answered(request)

    def _answered(self, request: _UnderWay) -> None:
        """The client has the answer: the next request may come, when all of this one is here."""
        if request.lacking:
            return
        self._under_way = None
        if request.last:
            self._hang_up()
            return
        self.owner.make_latest(self)
        self.expect_request()
        if self._said:
            self._wait_for_turn()
        if self.owner.serves(self):
            self._listen()

    def _refuse(self, answer: bytes) -> None:
        with suppress(OSError):  # it has gone already
            self.sock.send(answer)
        self._hang_up()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.sock.recv(MAX_HEAD_BYTES * 4)  # what is unread would make the kernel take the answer back
        self.owner.cut_off(self)


def limit_unsent(sock: socket.SocketType, size: int) -> None:
    """Let the kernel hold no more than `size` bytes that are not on their way; 0: as it likes."""
    with suppress(OSError):  # a Unix socket has no such option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)
