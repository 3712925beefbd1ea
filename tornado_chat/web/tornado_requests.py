"""Requests that Tornado reads: what comes in pieces, wants more than an answer, or asks for a page."""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus

from tornado.concurrent import (
    Future,
    future_add_done_callback,
    future_set_exception_unless_cancelled,
    future_set_result_unless_cancelled,
)
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from tornado_chat.errors import ErrorCode
from tornado_chat.web.handover import take_over
from tornado_chat.web.request_turns import RequestTurns
from tornado_chat.wire.refusals import refusal
from tornado_chat.wire.request import MAX_HEAD_BYTES, MAX_HEADERS, has_bare_breaks

_HEAD_TOO_LARGE = refusal(
    431,
    ErrorCode.TOO_LARGE,
    f"the head of a request may have {MAX_HEAD_BYTES:,} bytes and {MAX_HEADERS} headers: send fewer",
)
_BARE_BREAKS = refusal(
    400, ErrorCode.BAD_REQUEST, "each line of a request's head should end with CR LF, and have neither inside"
)


class TornadoRequest:
    """What an Exchange answers on: as `HttpConnection`, for a request that Tornado has read."""

    def __init__(self, request: HTTP1Connection) -> None:
        self._request = request

    def answer(
        self, status: int, headers: Mapping[str, str], body: bytes | None, *, close: bool
    ) -> Future[None] | None:
        written = self._write(status, headers, body, close=close)
        self._request.finish()
        return None if written.done() else written

    def answer_early(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer in the middle of the body, whose rest is read until `end`: else the answer might be lost with it."""
        self._write(status, headers, body, close=True)

    def end(self) -> None:
        """Nothing follows what was answered early."""
        self._request.finish()

    def _write(self, status: int, headers: Mapping[str, str], body: bytes | None, *, close: bool) -> Future[None]:
        if close:
            headers = {**headers, "Connection": "close"}
            self._request.no_keep_alive = True
        start = ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
        return self._request.write_headers(start, HTTPHeaders(headers), body)

    def detach(self) -> tuple[socket.SocketType, bytes]:
        return take_over(self._request.detach())


_POURED = re.compile(rb"\r\ncontent-type:[ \t]*text/plain", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,5}\r\n")
_CHUNK_END = re.compile(rb"\r\n")


class TornadoStream(IOStream):
    """Begins with `said`, which was read already; looks at each head before Tornado does, and lets the request wait.

    Tornado gathers small chunks of a body as long as it need not wait for more, and forgets them where the next read
    fails at once, or brings what ends the request. Such a read takes a moment here: what came is passed on before it.
    """

    def __init__(self, sock: socket.socket, said: bytes, turns: RequestTurns) -> None:
        super().__init__(sock)
        self._said = said
        self._turns = turns
        self._first = True  # what it begins with has had its turn, and is not turned away any more

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

    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> Future[bytes]:
        return _in_a_moment(partial(super().read_until, delimiter, max_bytes), _CHUNK_SIZE)

    def read_bytes(self, num_bytes: int, partial: bool = False) -> Future[bytes]:
        read = super().read_bytes
        return _in_a_moment(lambda: read(num_bytes, partial), None if partial else _CHUNK_END)

    def _check(self, checked: Future[bytes], read: Future[bytes]) -> None:
        error = read.exception()
        if error is None:
            head = read.result()
            if head.count(b"\n") > MAX_HEADERS + 2:  # and the first line, and the empty one
                error = self._refuse(_HEAD_TOO_LARGE)
            elif has_bare_breaks(head):
                error = self._refuse(_BARE_BREAKS)
            elif not self._first:
                answer = self._turns.turn_away(head)
                if answer is not None:
                    error = self._refuse(answer)
        if error is not None:
            future_set_exception_unless_cancelled(checked, error)
        else:
            self._turns.wait(partial(self._hand_over, checked, head), None if self._first else head)
            self._first = False

    def _hand_over(self, checked: Future[bytes], head: bytes) -> None:
        if self.closed() and not _POURED.search(head):  # Tornado would still answer what it has read, to nobody
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


def _in_a_moment(read: Callable[[], Awaitable[bytes]], sound: re.Pattern[bytes] | None) -> Future[bytes]:
    """What `read` returns; if that is an error, or not `sound`, it is not done before the next round of the loop."""
    try:
        found = read()
        assert isinstance(found, Future)
    except StreamClosedError as error:
        found = Future()
        found.set_exception(error)
    if not found.done() or (found.exception() is None and (sound is None or sound.fullmatch(found.result()))):
        return found
    late: Future[bytes] = Future()
    found.add_done_callback(partial(_pass_on, late))
    return late


def _pass_on(late: Future[bytes], found: Future[bytes]) -> None:
    error = found.exception()
    if error is None:
        future_set_result_unless_cancelled(late, found.result())
    elif not late.cancelled():
        late.set_exception(error)
        late.exception()  # nobody may ask any more
