"""An HTTP answer that refuses: its body, and the whole of it for a socket that no HTTP server has. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from http import HTTPStatus

import orjson

from tornado_chat.errors import ErrorCode
from tornado_chat.wire import event_stream

CONTENT_TYPE = "application/json"


class RequestError(Exception):
    """The request is refused with HTTP `status` and `headers`; `message` says what it should have been."""

    def __init__(self, message: str, *, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = ErrorCode.BAD_REQUEST
        self.message = message
        self.headers = dict(headers or {})


def refusal_body(code: str, message: str, retry_after: float | None = None) -> bytes:
    """The JSON object that says why: `code` is an ErrorCode, `retry_after` is in seconds."""
    error: dict[str, object] = {"code": code, "message": message}
    if retry_after is not None:
        error["retry_after"] = retry_after
    return orjson.dumps({"error": error})


def refusal(
    status: int, code: str, message: str, retry_after: float | None = None, more: Mapping[str, str] | None = None
) -> bytes:
    """The whole answer, with `more` headers besides its own, after which the connection is closed."""
    headers = {"Content-Type": CONTENT_TYPE, **(more or {})}
    if retry_after is not None:
        headers["Retry-After"] = str(math.ceil(retry_after))
    return last_answer(status, headers, refusal_body(code, message, retry_after))


class Unread:
    """What is answered to a request that nobody carries out, made beforehand: it is to be tried again.

    An EventSource, which would give up on a status like 503, gets a stream that ends at once. All get the same, so that
    any page may read it.
    """

    __slots__ = ("_plain", "_terms")

    def __init__(self, status: int, code: str, message: str, retry_after: float | None) -> None:
        """`retry_after` is in seconds."""
        self._plain = refusal(status, code, message, retry_after)
        self._terms = status, code, message, retry_after

    def answer(self, said: bytes, later: int = 0) -> bytes:
        """The whole answer to who said so, as far as it has come; an EventSource is to come `later` ms later."""
        origin = _ORIGIN.search(said)
        readable = {}
        if origin:
            readable["Access-Control-Allow-Origin"] = origin[1].decode("ascii")
            readable["Access-Control-Allow-Credentials"] = "true"
            readable["Access-Control-Expose-Headers"] = "Retry-After"
        status, code, message, retry_after = self._terms
        if not _WANTS_STREAM.search(said):
            return refusal(status, code, message, retry_after, readable) if readable else self._plain
        headers = event_stream.HEADERS | readable
        seconds = retry_after if retry_after is not None else event_stream.RETRY_SECONDS
        return last_answer(
            200, headers, event_stream.refused(code, message, retry_after, round(seconds * 1000) + later)
        )


_WANTS_STREAM = re.compile(rb"\r\nAccept:[^\r\n]*\btext/event-stream\b", re.IGNORECASE)
_ORIGIN = re.compile(rb"\r\nOrigin:[ \t]*([!-~]{1,300})[ \t]*\r\n", re.IGNORECASE)


def last_answer(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """An answer with these headers and those that end a connection."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Connection: close",
        f"Content-Length: {len(body)}",
    ]
    return "".join(line + "\r\n" for line in (*lines, "")).encode() + body
