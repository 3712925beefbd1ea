"""One request under `/v1` and its answer: read from Tornado's connection, carried out by an `Endpoint`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.web.endpoint import Endpoint
from tornado_chat.web.gate import UNIX_PEER, Arguments, Gate, client_address, has_credential
from tornado_chat.web.http_connections import ANSWER_SECONDS, HttpConnection
from tornado_chat.web.refusals import answer, terms
from tornado_chat.wire.refusals import CONTENT_TYPE, RequestError, refusal_body

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024
"""Of one request."""

REFUSED_BODY_BYTES = 64 * 1024
"""A longer body is not read where the request is refused by its head: the connection ends instead."""


class Exchange(HTTPMessageDelegate):
    """One request. When `endpoint` is called, all of it is here: `path` by name, `arguments`, `headers`, `body`.

    A delegate and not a RequestHandler: those cost some 60 us more for each request.
    """

    def __init__(
        self,
        gate: Gate,
        find: Callable[[str, str, str], tuple[Endpoint, dict[str, str]]],
        request: HTTP1Connection,
    ) -> None:
        self.gate = gate
        self.request = request
        self.method = ""
        self.path: dict[str, str] = {}
        self.arguments = Arguments("")
        self.headers: Mapping[str, str] = {}
        self.version = "HTTP/1.1"
        self.peer = getattr(request.context, "remote_ip", UNIX_PEER)
        self.address = self.peer
        self.gone = False
        """The client has hung up: nobody reads an answer."""
        self.on_gone: Callable[[], None] | None = None
        """Called once, if the client hangs up before it was answered."""
        self._find = find
        self._endpoint: Endpoint | None = None
        self._refusal: RequestError | ChatError | None = None
        self._answered = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._cors: dict[str, str] = {}

    # HTTPMessageDelegate

    def headers_received(  # type: ignore[override]  # Tornado's is also for clients, which get a ResponseStartLine
        self, start_line: RequestStartLine, headers: HTTPHeaders
    ) -> None:
        gate = self.gate
        self.method, self.headers, self.version = start_line.method, headers, start_line.version
        path, _, query = start_line.path.partition("?")
        self.request.set_close_callback(self.on_connection_close)
        try:
            self.address = client_address(self.peer, headers.get("x-forwarded-for"), gate.settings.trusted_proxies)
            self.arguments = Arguments(query)
            # A page that was loaded by another name can pretend that a proxy forwards it; it has no token of ours.
            gate.check_host(headers, self.peer, proxied=has_credential(headers, self.arguments))
            gate.check_origin(headers, self.peer)
            self._cors = gate.cross_origin(headers)
            if gate.context.draining:
                raise ChatError(ErrorCode.OVERLOADED, "this server is stopping: come back in a moment", retry_after=1)
            if self.method != "OPTIONS":
                self._endpoint, self.path = self._find(self.method, path, headers.get("accept", ""))
            length = headers.get("content-length", "")
            self._check_size(int(length) if length.isascii() and length.isdigit() else 0)
        except (RequestError, ChatError) as error:
            self._refusal = error  # told when the body was read: an answer before that ends the connection
            if "expect" in headers or _is_long(headers):
                self.refuse(error)

    def data_received(self, chunk: bytes) -> None:
        if self._answered or self._refusal is not None:
            return
        self._size += len(chunk)
        try:
            self._check_size(self._size)
        except ChatError as error:
            self.refuse(error)
        else:
            self._chunks.append(chunk)

    def finish(self) -> None:
        if self._answered:
            return
        if self._refusal is not None:
            self.refuse(self._refusal)
            return
        if self.method == "OPTIONS":
            self._answer_preflight()
            return
        endpoint = self._endpoint
        assert endpoint is not None
        try:
            asked = endpoint.read(self.path, self.arguments, self.headers, self.body, self.gate.settings.text_chars)
            work = endpoint.call(self, asked)
        except Exception as error:
            self._fail(error)
            return
        if work is not None:
            self.gate.context.hub.tasks.spawn(self._carry_out(work))

    def on_connection_close(self) -> None:
        self.gone = True
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None and not self._answered:
            on_gone()

    async def _carry_out(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._fail(error)

    def _check_size(self, size: int) -> None:
        if size > MAX_BODY_BYTES:
            raise ChatError(ErrorCode.TOO_LARGE, f"a body has {MAX_BODY_BYTES:,} bytes at most: send less at once")

    # For endpoints

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def expect_answer_within(self, seconds: float) -> None:
        """The answer may take so long; without this, it and its way to the client have ANSWER_SECONDS in all."""
        connection = self.request.context
        assert isinstance(connection, HttpConnection)
        connection.expect_answer(seconds + ANSWER_SECONDS)

    def identify(self) -> tuple[Identity, str | None]:
        """Who asks, and a guest's fresh token; ChatError (unauthorized, forbidden), as for a WebSocket."""
        return self.gate.identify(self.headers, (), self.arguments)

    def answer(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        content_type: str = CONTENT_TYPE,
        close: bool = False,
    ) -> None:
        """Answer; `close` the connection after it. Nothing happens if the client has gone."""
        if self._answered:
            raise RuntimeError("this request was answered already")
        self._answered = True
        if self.gone:
            return
        sent = HTTPHeaders({"Cache-Control": "no-store", **self._cors, **(headers or {})})
        if status != HTTPStatus.NO_CONTENT:
            sent.setdefault("Content-Type", content_type)
            sent["Content-Length"] = str(len(body))
        if close or self.gate.context.draining:
            sent["Connection"] = "close"
            self.request.no_keep_alive = True
        start = ResponseStartLine("HTTP/1.1", int(status), HTTPStatus(status).phrase)
        self.request.write_headers(start, sent, None if self.method == "HEAD" else body)
        self.request.finish()

    def answer_object(self, status: int, obj: Any, headers: Mapping[str, str] | None = None) -> None:
        """Answer with `obj`, a dict, as JSON."""
        self.answer(status, orjson.dumps(obj), headers)

    def refuse(self, error: RequestError | ChatError) -> None:
        """Answer with the error; whatever of the body has not come is not read."""
        status, headers, retry_after = terms(self.gate.context.hub.metrics, error)
        found, body = answer(self.headers.get("accept", ""), status, error.code, error.message, retry_after)
        self.answer(status, body, headers | found)

    def detach(self) -> IOStream:
        """The stream, to which the answer is somebody else's to write."""
        self._answered = True
        return self.request.detach()

    def cross_origin_headers(self) -> Mapping[str, str]:
        """What an answer has to say to a page of another origin that is allowed."""
        return self._cors

    def _fail(self, error: Exception) -> None:
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
        logger.error(
            "request failed method=%s path=%s", self.method, self._endpoint and self._endpoint.path, exc_info=error
        )
        self.answer(500, refusal_body(ErrorCode.UNAVAILABLE, "the server failed on this request: try again"))

    def _answer_preflight(self) -> None:
        self.answer(
            HTTPStatus.NO_CONTENT,
            headers={
                "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
                "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
                "Access-Control-Max-Age": "7200",
            },
        )


def _is_long(headers: Mapping[str, str]) -> bool:
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdigit() or int(length) > REFUSED_BODY_BYTES
