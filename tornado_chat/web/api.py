"""Every address of the API, once: what `Exchange` finds, and what openapi.json tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tornado.http1connection import HTTP1Connection

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.web.endpoint import EVENTS_TYPE, Endpoint
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.gate import Gate
from tornado_chat.web.http_connection import HttpConnection
from tornado_chat.web.openapi import document
from tornado_chat.web.tornado_requests import TornadoRequest
from tornado_chat.wire import event_stream
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.refusals import RequestError

PREFIX = "/v1"


class Api:
    """Those of one server."""

    __slots__ = ("_by_length", "_by_method", "_description", "_gate", "endpoints")

    def __init__(self, gate: Gate, endpoints: Sequence[Endpoint], others: Sequence[Endpoint] = ()) -> None:
        """`others` speak the protocols of others, who describe them: openapi.json does not."""
        self._gate = gate
        described = Endpoint(
            "GET", PREFIX + "/openapi.json", self._describe, summary="This description", answers={200: dict[str, Any]}
        )
        self.endpoints = endpoints = (*endpoints, described)
        self._description = JSON.encode(document(endpoints, gate.settings.text_chars))
        self._by_length: dict[int, list[Endpoint]] = {}
        self._by_method: dict[tuple[str, int], list[Endpoint]] = {}
        for endpoint in (*endpoints, *others):
            length = len(endpoint.segments)
            self._by_length.setdefault(length, []).append(endpoint)
            self._by_method.setdefault((endpoint.method, length), []).append(endpoint)

    def _describe(self, exchange: Exchange, _: None) -> None:
        exchange.answer(200, self._description, {"Cache-Control": "no-cache"})

    def find(self, method: str, path: str, accept: str = "") -> tuple[Endpoint, dict[str, str]]:
        """The endpoint for a request, and what stands in its path for the names in braces, as it came.

        `accept` is its header: a stream of events is for those who name it. ChatError (not_found): there is no such
        address. RequestError 405: it has other methods.
        """
        segments = path.split("/")
        best: tuple[Endpoint, dict[str, str]] | None = None
        for endpoint in self._by_method.get(("GET" if method == "HEAD" else method, len(segments)), ()):
            found = endpoint.match(segments)
            if found is not None and (
                best is None or (endpoint.gives == EVENTS_TYPE) == event_stream.is_wanted(accept)
            ):
                best = endpoint, found
        if best is not None:
            return best
        others = self._by_length.get(len(segments), ())
        allowed = dict.fromkeys(endpoint.method for endpoint in others if endpoint.match(segments) is not None)
        if not allowed:
            raise ChatError(ErrorCode.NOT_FOUND, "there is nothing at this address")
        if "GET" in allowed:
            allowed["HEAD"] = None
        raise RequestError(
            f"this address takes {', '.join(allowed)}, not {method[:20]}",
            status=405,
            headers={"Allow": ", ".join(allowed)},
        )

    def read(self, connection: HttpConnection) -> Exchange:
        """What reads and answers one request."""
        return Exchange(self._gate, self.find, connection)

    def begin(self, request: HTTP1Connection) -> Exchange:
        """What answers one that Tornado reads."""
        assert isinstance(request.context, HttpConnection)
        exchange = Exchange(self._gate, self.find, request.context, TornadoRequest(request))
        request.set_close_callback(exchange.on_connection_close)
        return exchange
