"""One request under `/v1` and its answer: read as it comes, carried out by an `Endpoint`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from socket import SocketType
from typing import Any

from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.live.body import NO_TEXT
from tornado_chat.live.limits import rate_limited
from tornado_chat.live.questions import check_unread
from tornado_chat.live.request import REQUEST_BYTES
from tornado_chat.web.endpoint import FORM_TYPE, JSON_TYPE, TEXT_TYPE, BodyReader, Endpoint
from tornado_chat.web.gate import Arguments, Gate, bearer, client_address, cookie
from tornado_chat.web.http_connection import HttpConnection
from tornado_chat.web.refusals import answer, terms
from tornado_chat.web.tornado_requests import TornadoRequest
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.handshake import check_host
from tornado_chat.wire.refusals import RequestError
from tornado_chat.wire.request import content_length

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
"""Of one request."""

LONG_BYTES = 64 * 1024
"""Longer bodies, and answers, count with what waits for clients. Where a request is refused by its head, it is answered
before a longer body comes, and that is dropped."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110 section 9.2.1)."""

WRONG = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE})
"""What a body is refused for that was read in vain."""

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    "Access-Control-Max-Age": "7200",
}

LINGER_SECONDS, LINGER_BYTES = 5.0, 4 * 1024 * 1024
"""Of a body that was answered before its end, so much more is read for so long, and dropped: what comes to a closed
socket would make the client's kernel forget the answer (RFC 9112 section 9.6)."""

_CHARSETS = ("", "utf-8", "utf8", "us-ascii")
"""Of a text; the third is no name that IANA knows, but one that browsers take (WHATWG Encoding section 4.2)."""

Find = Callable[[str, str, str], tuple[Endpoint, dict[str, str]]]
"""Of a method, a path and a header Accept: the endpoint, and what stands in the path for its names."""


class Exchange(HTTPMessageDelegate):
    """One request. When `endpoint` is called, all of it is here: `path` by name, `arguments`, `headers`, `body`.

    A delegate and not a RequestHandler: those cost some 60 us more for each request. A body of `text/plain`, where the
    endpoint takes one, is read by that as it comes (`Endpoint.reads_text`), and by Tornado, which waits with the rest.
    """

    def __init__(
        self, gate: Gate, find: Find, connection: HttpConnection, request: TornadoRequest | None = None
    ) -> None:
        """`request`: Tornado's, if it reads this one."""
        self.gate = gate
        self.method = ""
        self.path: dict[str, str] = {}
        self.arguments = Arguments("")
        self.headers: Mapping[str, str] = {}
        self.version = "HTTP/1.1"
        self.connection = connection
        self.peer = self.connection.remote_ip
        self.address = self.peer
        self.gone = False
        """The client has hung up: nobody reads an answer."""
        self.on_gone: Callable[[], None] | None = None
        """Called once, if the client hangs up before it was answered."""
        self._find = find
        self._request = request if request is not None else connection
        self._endpoint: Endpoint | None = None
        self._reader: BodyReader | None = None  # of a body that is not kept here
        self._refusal: RequestError | ChatError | None = None
        self._answered = False
        self._whole = False  # all of it has been read
        self._early = False  # it was answered before that, and not ended
        self._dropped = 0  # bytes of the body that came then
        self._body: bytes | bytearray = b""  # a bytearray, if it came in pieces
        self._size = 0  # of it, so far as it is counted
        self._cors: dict[str, str] = {}

    # HTTPMessageDelegate

    def headers_received(  # type: ignore[override]  # Tornado's is also for clients, which get a ResponseStartLine
        self, start_line: RequestStartLine, headers: HTTPHeaders
    ) -> None:
        if "expect" in headers:
            _expect(headers, start_line.version)
        self.begin(start_line.method, start_line.path, start_line.version, headers)
        if self._answered:
            headers.pop("Expect", None)  # Tornado would still tell to go on

    def begin(self, method: str, target: str, version: str, headers: Mapping[str, str]) -> None:
        """The head is here; `headers` has names in lower case, or ignores case."""
        self.method, self.headers, self.version = method, headers, version
        path, _, query = target.partition("?")
        try:
            self._let_in(query, headers)
            if self.method != "OPTIONS":
                self._endpoint, self.path = self._find(self.method, path, headers.get("accept", ""))
            if self._endpoint is not None and self._endpoint.reads_text is not None and is_text(headers):
                self._begin_text(self._endpoint.reads_text)
            else:
                self._make_room(content_length(headers) or 0)
        except (RequestError, ChatError) as error:
            self._refusal = error  # told when the body was read: an answer before that is the connection's last
            if "expect" in headers or _is_long(headers):
                self.refuse(error)

    def _begin_text(self, reads_text: Callable[[Exchange], BodyReader]) -> None:
        """Raise ChatError or RequestError if no text is read."""
        size = content_length(self.headers)
        if size is not None and size > MAX_BODY_BYTES:
            raise _too_long()
        if "transfer-encoding" not in self.headers and not size:
            raise ChatError(ErrorCode.BAD_REQUEST, NO_TEXT)
        charset = self.headers["content-type"].lower().replace('"', "").partition("charset=")[2].partition(";")[0]
        encoded = self.headers.get("content-encoding", "identity") != "identity"
        if self.is_by_cookie or encoded or charset.strip() not in _CHARSETS:
            raise RequestError(
                "a text should come as Content-Type: text/plain; charset=utf-8, not compressed, and by a token in the "
                "header Authorization; with the cookie, only JSON is taken",
                status=415,
                headers={"Accept": JSON_TYPE if self.is_by_cookie else f"{JSON_TYPE}, {TEXT_TYPE}"},
            )
        self._reader = reads_text(self)

    def _let_in(self, query: str, headers: Mapping[str, str]) -> None:
        """Raise ChatError or RequestError if nothing of the kind may be asked from there."""
        gate = self.gate
        if self.version != "HTTP/1.0":
            check_host(headers)
        self.address = client_address(self.peer, headers.get("x-forwarded-for"), gate.settings.trusted_proxies)
        self.arguments = Arguments(query)
        self._cors = gate.check_request(headers, self.peer, self.arguments)
        if "origin" not in headers and "cookie" in headers and self.method not in SAFE and self.is_by_cookie:
            # A browser says from where what it sends comes; what does not could be any page's.
            raise ChatError(
                ErrorCode.FORBIDDEN,
                "with the cookie, what changes something has to say its Origin: a page of this server's own, or of "
                "--allowed-origins (other programs give their token as Authorization: Bearer ...)",
            )
        if gate.context.draining:
            raise ChatError(ErrorCode.OVERLOADED, "this server is stopping: come back in a moment", retry_after=1)

    @property
    def is_by_cookie(self) -> bool:
        """The cookie is what tells who asks."""
        return bearer(self.headers) is None and cookie(self.headers) is not None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._answered:
            self._dropped += len(chunk)
            if self._dropped > LINGER_BYTES:
                self._end_early()
            return None
        if self._refusal is not None:
            return None
        if self._reader is not None:
            return self._carry_out(self._reader.take(chunk))
        if not self._body:
            self._body = chunk
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += chunk
        try:
            self._make_room(len(self._body))
        except ChatError as error:
            self._body = b""
            self.refuse(error)
        return None

    def _make_room(self, size: int) -> None:
        """Raise ChatError if no body of `size` bytes, or no more of them, is taken."""
        if size > MAX_BODY_BYTES:
            raise _too_long()
        if size > max(LONG_BYTES, self._size):
            if not self._size:
                self._check_owed()
            check_unread(self.gate.context, size - self._size)
            self.connection.hold(size - self._size)
            self._size = size

    def _check_owed(self) -> None:
        """Raise ChatError if no long body is taken before what the address has sent is paid."""
        addresses = self.gate.context.limits.addresses
        wait = addresses.owe_bytes(addresses.find(self.address), 0)
        if wait:
            raise rate_limited("you have sent more bytes than you may", wait)

    def finish(self) -> None:
        self._whole = True
        if self._answered:
            self._end_early()
            return
        if self._refusal is not None:
            self.refuse(self._refusal)
            return
        if self.method == "OPTIONS":
            self.answer(HTTPStatus.NO_CONTENT, headers=_PREFLIGHT)
            return
        if self._reader is not None:
            self.gate.context.hub.tasks.spawn(self._carry_out(self._reader.finish()))
            return
        endpoint = self._endpoint
        assert endpoint is not None
        try:
            self._check_media(endpoint)
            asked = endpoint.read(self.path, self.arguments, self.headers, self.body, self.gate.settings.text_chars)
            work = endpoint.call(self, asked)
        except Exception as error:
            self.owe_body()
            self.fail(error)
            return
        if work is not None:
            self.gate.context.hub.tasks.spawn(self._carry_out(work))

    def _check_media(self, endpoint: Endpoint) -> None:
        """Raise RequestError (415) if the body is of a kind that is not taken."""
        if not self._body:
            return
        takes, media = endpoint.takes, self.media_type
        if self.is_by_cookie:
            # No form of another page can send these, if a browser should forget to say its Origin.
            takes = tuple(taken for taken in takes if taken in (JSON_TYPE, FORM_TYPE))
        elif not media:
            return
        if media == FORM_TYPE and not ("hx-request" in self.headers or bearer(self.headers)):
            takes = (JSON_TYPE,)
        if media not in takes or self.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(
                f"the body should come as Content-Type: {' or '.join(takes)}, not compressed",
                status=415,
                headers={"Accept": ", ".join(takes)},
            )

    def on_connection_close(self) -> None:
        self.gone = True
        self._body = b""
        self._early = False
        if self._reader is not None:
            self._reader.end()
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None and not self._answered:
            on_gone()

    async def _carry_out(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            if isinstance(error, ChatError) and error.code in WRONG:
                self.owe_body()
            if not self._answered or self._reader is None:  # else it was told why it ends, as it ended
                self.fail(error)

    # For endpoints

    @property
    def body(self) -> bytes:
        if isinstance(self._body, bytearray):
            self._body = bytes(self._body)
        return self._body

    def owe_body(self) -> None:
        """Nothing that counts is made of the body. Who sent it may not be known: the address pays."""
        if self._body:
            addresses = self.gate.context.limits.addresses
            addresses.owe_bytes(addresses.find(self.address), len(self._body) + REQUEST_BYTES)

    @property
    def is_answered(self) -> bool:
        """Or the client has gone."""
        return self._answered or self.gone

    @property
    def media_type(self) -> str:
        """Of the body, in lower case; "" if it does not say."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def expect_answer_within(self, seconds: float) -> None:
        """The answer may take so long; without this, it and its way to the client have ANSWER_SECONDS in all.

        The body, which has been read, is forgotten. The connection is not taken for a quiet one meanwhile.
        """
        self._body = b""
        self.connection.release()
        self.connection.wait(seconds)

    @property
    def is_proxied(self) -> bool:
        """The connection is a proxy's: it does not count for its client's address."""
        return self.connection.account is None

    def identify(self) -> tuple[Identity, str | None]:
        """Who asks, and a guest's fresh token; ChatError (unauthorized, forbidden), as for a WebSocket."""
        return self.gate.identify(self.headers, (), self.arguments)

    def who(self) -> Identity:
        """Who asks; ChatError as `identify`."""
        return self.gate.who(self.headers, (), self.arguments)

    def answer(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        content_type: str = JSON_TYPE,
        close: bool = False,
    ) -> None:
        """Answer; `close` the connection after it, as is done a moment later if not all of the request was read.

        Nothing happens if the client has gone.
        """
        if self._answered:
            raise RuntimeError("this request was answered already")
        self._answered = True
        self.on_gone = None
        if self.gone:
            return
        self.connection.go_on()
        sent = {"Cache-Control": "no-store", **self._cors, **(headers or {})}
        if status != HTTPStatus.NO_CONTENT:
            sent.setdefault("Content-Type", content_type)
            sent["Content-Length"] = str(len(body))
        close |= self.gate.context.draining
        self.connection.release()
        if self._reader is not None:
            self._reader.end()
        shown = None if self.method == "HEAD" else body
        if not self._whole:
            self._answer_early(int(status), sent, shown)
            return
        taken = self._request.answer(int(status), sent, shown, close=close)
        if taken is not None and len(body) > LONG_BYTES:
            self.connection.hold(len(body))
            taken.add_done_callback(lambda _: self.connection.release(len(body)))

    def _answer_early(self, status: int, headers: Mapping[str, str], body: bytes | None) -> None:
        self._early = True
        self._body = b""
        self._request.answer_early(status, headers, body)
        self.connection.expect_answer(LINGER_SECONDS)

    def _end_early(self) -> None:
        if self._early:
            self._early = False
            self._request.end()

    def answer_object(self, status: int, obj: Any, headers: Mapping[str, str] | None = None) -> None:
        """Answer with `obj`, a dict or a Struct, as JSON."""
        self.answer(status, JSON.encode(obj), headers)

    def refuse(self, error: RequestError | ChatError, headers: Mapping[str, str] | None = None) -> None:
        """Answer with the error, and `headers` besides; whatever of the body has not come is dropped."""
        status, found, retry_after = terms(self.gate.context.hub.metrics, error)
        status, media, body = answer(self.headers.get("accept", ""), status, error.code, error.message, retry_after)
        self.answer(status, body, {**found, **media, **(headers or {})})

    def detach(self) -> tuple[SocketType, bytes]:
        """The socket, to which the answer is the caller's to write, and what came behind the request.

        OSError: it has gone meanwhile, or no file is left for a duplicate.
        """
        self._answered = True
        return self._request.detach()

    def cross_origin_headers(self) -> Mapping[str, str]:
        """What an answer has to say to a page of another origin that is allowed."""
        return self._cors

    def fail(self, error: Exception) -> None:
        """`endpoint` has raised `error`."""
        if self._answered:
            logger.error("request failed after its answer method=%s", self.method, exc_info=error)
            return
        if isinstance(error, LogUnavailable | TimeoutError):
            self.gate.context.log_warning.warning("log unavailable reason=%s", error)
            error = ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: try again", retry_after=1.0)
        if isinstance(error, RequestError | ChatError):
            self.refuse(error)
            return
        path = self._endpoint and self._endpoint.path
        logger.error("request failed method=%s path=%s", self.method, path, exc_info=error)
        message = "the server failed on this request: try again"
        status, headers, body = answer(self.headers.get("accept", ""), 500, ErrorCode.UNAVAILABLE, message)
        self.answer(status, body, headers)


def is_text(headers: Mapping[str, str]) -> bool:
    """Whether the body is `text/plain`."""
    return headers.get("content-type", "")[: len(TEXT_TYPE)].lower() == TEXT_TYPE


def _too_long() -> ChatError:
    return ChatError(ErrorCode.TOO_LARGE, f"a body has {MAX_BODY_BYTES:,} bytes at most: send less at once")


def _is_long(headers: Mapping[str, str]) -> bool:
    length = content_length(headers)
    return "transfer-encoding" in headers or length is None or length > LONG_BYTES


def _expect(headers: HTTPHeaders, version: str) -> None:
    """Let Tornado answer 100-continue however it is written, and to nobody who does not know it (RFC 9110 10.1.1)."""
    if version != "HTTP/1.1":
        del headers["Expect"]
    elif headers["Expect"].lower() == "100-continue":
        headers["Expect"] = "100-continue"
