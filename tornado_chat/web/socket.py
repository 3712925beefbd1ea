"""`GET /ws` and `GET /ws/{room}`: who is it, may they come in; then the socket is the connection's."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
)

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.session import Session
from tornado_chat.live.websocket import WebSocket
from tornado_chat.web.gate import UNIX_PEER, Arguments, Gate, choose_codec, client_address
from tornado_chat.web.handover import take_over
from tornado_chat.web.refusals import STATUS, refuse
from tornado_chat.wire.deflate import negotiate
from tornado_chat.wire.encodings import websocket
from tornado_chat.wire.handshake import HandshakeError, check, response


class Handshake(HTTPMessageDelegate):
    """One request for a WebSocket. Nothing of it outlives the request but a WebSocket and its Session.

    A delegate and not a RequestHandler: those, with their routes, cost some 25 us more for each connection.
    """

    def __init__(self, gate: Gate, request: HTTPConnection) -> None:
        self.gate = gate
        self.request = request

    def headers_received(  # type: ignore[override]  # Tornado's is also for clients, which get a ResponseStartLine
        self, start_line: RequestStartLine, headers: HTTPHeaders
    ) -> None:
        gate, request = self.gate, self.request
        self.head = start_line.method == "HEAD"
        self.headers = headers
        assert isinstance(request, HTTP1Connection)
        path, _, query = start_line.path.partition("?")
        arguments = Arguments(query)
        peer = getattr(request.context, "remote_ip", UNIX_PEER)
        try:
            address = client_address(peer, headers.get("X-Forwarded-For"), gate.settings.trusted_proxies)
            if "Upgrade" not in headers:
                # A page, which cannot see why its WebSocket was refused, asks again by a plain GET.
                gate.check_room_for_one_more(address)
                gate.identify(headers, (), arguments)
            upgrade = check(start_line.method, start_line.version, headers)
            gate.check_host(headers, peer)
            gate.check_origin(headers, peer)
            gate.check_room_for_one_more(address)
            codec, subprotocol = choose_codec(upgrade.subprotocols)
            identity, token = gate.identify(headers, upgrade.subprotocols, arguments)
            join = gate.wanted_join(path, arguments)
        except HandshakeError as error:
            self._refuse(error.status, error.code, error.message, error.headers)
            return
        except ChatError as error:
            extra = {"WWW-Authenticate": "Bearer"} if error.code is ErrorCode.UNAUTHORIZED else {}
            if error.retry_after is not None:
                extra["Retry-After"] = str(math.ceil(error.retry_after))
            self._refuse(STATUS[error.code], error.code, error.message, extra, error.retry_after)
            return
        extensions, window_bits = negotiate(upgrade.extensions) or (None, 0) if upgrade.extensions else (None, 0)
        answer = response(upgrade, subprotocol=subprotocol, extensions=extensions)
        try:
            sock, early = take_over(request.detach())
        except OSError:  # it has gone meanwhile, or no file is left for the duplicate
            return
        account = gate.context.limits.addresses.enter(address)
        session = Session(gate.context, identity, account, websocket(codec, window_bits))
        line = WebSocket(gate.context.lines, sock, session, codec, deflate=window_bits > 0)
        line.jti, line.expires_at = identity.jti, identity.expires_at
        session.begin(line, answer, token, join)
        line.start(early)

    def _refuse(
        self, status: int, code: str, message: str, extra: Mapping[str, str], retry_after: float | None = None
    ) -> None:
        self.gate.context.hub.metrics.refusals[int(status)] += 1
        refuse(self.request, self.headers, status, code, message, head=self.head, extra=extra, retry_after=retry_after)
