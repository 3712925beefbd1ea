"""Every address under `/v1`, once: what `Exchange` finds, and what openapi.json tells."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from tornado.http1connection import HTTP1Connection

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.web.exchange import Endpoint, Exchange
from tornado_chat.web.gate import Gate
from tornado_chat.wire.refusals import RequestError

PREFIX = "/v1"


class Api:
    """Those of one server."""

    __slots__ = ("_by_length", "_gate")

    def __init__(self, gate: Gate, endpoints: Sequence[Endpoint]) -> None:
        self._gate = gate
        self._by_length: dict[int, list[Endpoint]] = {}
        for endpoint in endpoints:
            self._by_length.setdefault(len(endpoint.segments), []).append(endpoint)

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """The endpoint for a request, and what stands in its path for the names in braces.

        ChatError (not_found): there is no such address. RequestError 405: it has other methods.
        """
        segments = path.split("/")
        allowed: list[str] = []
        for endpoint in self._by_length.get(len(segments), ()):
            found = _match(endpoint.segments, segments)
            if found is None:
                continue
            if method == endpoint.method or (method == "HEAD" and endpoint.method == "GET"):
                return endpoint, found
            allowed.append(endpoint.method)
        if not allowed:
            raise ChatError(ErrorCode.NOT_FOUND, "there is nothing at this address")
        raise RequestError(
            f"this address takes {', '.join(allowed)}, not {method}", status=405, headers={"Allow": ", ".join(allowed)}
        )

    def begin(self, request: HTTP1Connection) -> Exchange:
        """What reads and answers one request."""
        return Exchange(self._gate, self.find, request)


def _match(names: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    found = {}
    for name, segment in zip(names, segments, strict=True):
        if name[:1] == "{":
            found[name[1:-1]] = unquote(segment)
        elif name != segment:
            return None
    return found
