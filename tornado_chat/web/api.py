"""Every address under `/v1`, once: what `Exchange` finds, and what openapi.json tells."""

from __future__ import annotations

from collections.abc import Sequence

from tornado.http1connection import HTTP1Connection

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.web.endpoint import EVENTS_TYPE, Endpoint
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.gate import Gate
from tornado_chat.wire.refusals import RequestError

PREFIX = "/v1"


class Api:
    """Those of one server."""

    __slots__ = ("_by_length", "_gate", "endpoints")

    def __init__(self, gate: Gate, endpoints: Sequence[Endpoint]) -> None:
        self._gate = gate
        self.endpoints = endpoints
        self._by_length: dict[int, list[Endpoint]] = {}
        for endpoint in endpoints:
            self._by_length.setdefault(len(endpoint.segments), []).append(endpoint)

    def find(self, method: str, path: str, accept: str = "") -> tuple[Endpoint, dict[str, str]]:
        """The endpoint for a request, and what stands in its path for the names in braces, as it came.

        `accept` is its header: a stream of events is for those who name it. ChatError (not_found): there is no such
        address. RequestError 405: it has other methods.
        """
        segments = path.split("/")
        allowed: dict[str, None] = {}
        best: tuple[Endpoint, dict[str, str]] | None = None
        for endpoint in self._by_length.get(len(segments), ()):
            found = endpoint.match(segments)
            if found is None:
                continue
            if method == endpoint.method or (method == "HEAD" and endpoint.method == "GET"):
                if best is None or (endpoint.gives == EVENTS_TYPE) == (EVENTS_TYPE in accept):
                    best = endpoint, found
            else:
                allowed[endpoint.method] = None
        if best is not None:
            return best
        if not allowed:
            raise ChatError(ErrorCode.NOT_FOUND, "there is nothing at this address")
        if "GET" in allowed:
            allowed["HEAD"] = None
        raise RequestError(
            f"this address takes {', '.join(allowed)}, not {method[:20]}",
            status=405,
            headers={"Allow": ", ".join(allowed)},
        )

    def begin(self, request: HTTP1Connection) -> Exchange:
        """What reads and answers one request."""
        return Exchange(self._gate, self.find, request)
