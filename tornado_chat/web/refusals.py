"""How HTTP requests are refused: with the protocol's JSON object, or as a small page for a person at a browser.

An EventSource gives up for ever on any status but 200 (HTML standard section 9.2.3). So what passes is told to it in a
stream of one block that ends at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from html import escape
from http import HTTPStatus
from typing import Any

from tornado.httputil import HTTPConnection, HTTPHeaders, ResponseStartLine
from tornado.web import RequestHandler

from tornado_chat.errors import TRANSIENT_ERRORS, TRANSIENT_STATUSES, ChatError, ErrorCode
from tornado_chat.metrics import Metrics
from tornado_chat.wire import event_stream
from tornado_chat.wire.refusals import CONTENT_TYPE, RequestError, last_answer, refusal_body

STATUS = {
    ErrorCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Of a refused request."""


def terms(metrics: Metrics, error: RequestError | ChatError) -> tuple[int, dict[str, str], float | None]:
    """How a refusal is told, and counted here: the status, headers besides the usual, seconds to wait."""
    if isinstance(error, RequestError):
        status, headers, retry_after = error.status, error.headers, None
    else:
        status, headers, retry_after = int(STATUS[error.code]), dict[str, str](), error.retry_after
        if retry_after is None and error.code in TRANSIENT_ERRORS:
            retry_after = event_stream.RETRY_SECONDS
        if error.code is ErrorCode.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if retry_after is not None:
            headers["Retry-After"] = str(math.ceil(retry_after))
    metrics.refusals[status] += 1
    return status, headers, retry_after


class Refused(Exception):
    """What was asked is refused with `answer`, a whole one, after which the connection is closed."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.answer = answer


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<h1>{title}</h1>
<p>{message}</p>
<p><a href="/">To the chat</a></p>
</html>
"""

_MESSAGES = {
    404: "there is nothing at this address",
    405: "this address is only read (GET, HEAD)",
}


def answer(
    accept: str, status: int, code: str, message: str, retry_after: float | None = None
) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the body of a refusal, for a client that sent `accept` as its header Accept."""
    if status in TRANSIENT_STATUSES and event_stream.is_wanted(accept):
        return 200, event_stream.HEADERS, event_stream.refused(code, message, retry_after, _spread_retry(retry_after))
    if "text/html" not in accept:
        return status, {"Content-Type": CONTENT_TYPE}, refusal_body(code, message, retry_after)
    title = f"{status} {HTTPStatus(status).phrase}"
    page = _PAGE.format(title=title, message=escape(message[0].upper() + message[1:] + "."))
    headers = {"Content-Type": "text/html; charset=UTF-8", "Content-Security-Policy": "default-src 'none'"}
    return status, headers, page.encode()


def _spread_retry(retry_after: float | None) -> int:
    """Milliseconds that an EventSource waits: those who are refused at once do not come back at once."""
    return round(1000 * ((retry_after or event_stream.RETRY_SECONDS) + random.random()))


def refused(metrics: Metrics, error: RequestError | ChatError, accept: str) -> Refused:
    """The refusal of a plain request with this header Accept."""
    status, headers, retry_after = terms(metrics, error)
    status, found, body = answer(accept, status, error.code, error.message, retry_after)
    return Refused(last_answer(status, headers | found, body))


def refuse(
    request: HTTPConnection,
    asked: HTTPHeaders,
    status: int,
    code: str,
    message: str,
    *,
    head: bool,
    extra: Mapping[str, str] | None = None,
    retry_after: float | None = None,
) -> None:
    """Answer `request`, whose headers are `asked`, and read no more from its connection. `head`: without the body."""
    status, found, body = answer(asked.get("Accept", ""), status, code, message, retry_after)
    headers = HTTPHeaders({**(extra or {}), **found})
    headers["Connection"] = "close"
    headers["Content-Length"] = str(len(body))
    start = ResponseStartLine("HTTP/1.1", int(status), HTTPStatus(status).phrase)
    request.write_headers(start, headers, None if head else body)
    request.finish()


class Handler(RequestHandler):
    """What Tornado's handlers here have in common: how they refuse, and that they send no header Server."""

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        code = {403: ErrorCode.FORBIDDEN, 404: ErrorCode.NOT_FOUND}.get(status_code, ErrorCode.BAD_REQUEST)
        if status_code >= 500:
            code = ErrorCode.UNAVAILABLE
        message = _MESSAGES.get(status_code, HTTPStatus(status_code).description.lower() or "this cannot be done")
        _, headers, body = answer(self.request.headers.get("Accept", ""), status_code, code, message)
        for name, value in headers.items():
            self.set_header(name, value)
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", "GET, HEAD")
        self.finish(body)


class NothingHandler(Handler):
    """Every address that is none."""

    def prepare(self) -> None:
        self.send_error(404)
