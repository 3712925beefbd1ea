"""`GET /ws` and `GET /ws/{room}`: who is it, may they come in; then the socket is the connection's."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from typing import NamedTuple

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
)

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.session import Session
from tornado_chat.live.websocket import WebSocket
from tornado_chat.web.gate import UNIX_PEER, Arguments, Gate, choose_codec, client_address
from tornado_chat.web.handover import take_over
from tornado_chat.web.refusals import STATUS, refuse
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.commands import Join
from tornado_chat.wire.deflate import negotiate
from tornado_chat.wire.encodings import websocket
from tornado_chat.wire.handshake import HandshakeError, check, response


class Admitted(NamedTuple):
    """A client that may come in, and what its handshake is answered."""

    answer: bytes
    address: str
    identity: Identity
    token: str | None
    codec: Codec
    window_bits: int  # 0: no permessage-deflate
    join: Join | None


def admit(gate: Gate, peer: str, method: str, target: str, version: str, headers: Mapping[str, str]) -> Admitted:
    """Whoever asks for a WebSocket so; HandshakeError or ChatError: they may not. Nothing is taken up yet."""
    path, _, query = target.partition("?")
    arguments = Arguments(query)
    address = client_address(peer, headers.get("x-forwarded-for"), gate.settings.trusted_proxies)
    if "upgrade" not in headers:
        # A page, which cannot see why its WebSocket was refused, asks again by a plain GET.
        gate.check_room_for_one_more(address)
        gate.identify(headers, (), arguments)
    upgrade = check(method, version, headers)
    gate.check_host(headers, peer)
    gate.check_origin(headers, peer)
    gate.check_room_for_one_more(address)
    codec, subprotocol = choose_codec(upgrade.subprotocols)
    identity, token = gate.identify(headers, upgrade.subprotocols, arguments)
    join = gate.wanted_join(path, arguments)
    extensions, window_bits = negotiate(upgrade.extensions) or (None, 0) if upgrade.extensions else (None, 0)
    answer = response(upgrade, subprotocol=subprotocol, extensions=extensions)
    return Admitted(answer, address, identity, token, codec, window_bits, join)


def open_session(gate: Gate, admitted: Admitted, sock: socket.socket, early: bytes) -> None:
    """Answer the handshake on `sock` (not blocking), which is the WebSocket's from here on; `early` came behind it."""
    context, identity = gate.context, admitted.identity
    account = context.limits.addresses.enter(admitted.address)
    session = Session(context, identity, account, websocket(admitted.codec, admitted.window_bits))
    line = WebSocket(context.lines, sock, session, admitted.codec, deflate=admitted.window_bits > 0)
    line.jti, line.expires_at = identity.jti, identity.expires_at
    line.write(admitted.answer + session.encoding.frame(session.welcome(line, admitted.token)))
    if admitted.join is not None:
        session.take(admitted.join, 0)
    line.start(early)


class Handshake(HTTPMessageDelegate):
    """One request for a WebSocket that Tornado has read: it was not plain, or is to be refused.

    A delegate and not a RequestHandler: those, with their routes, cost some 25 us more for each connection.
    """

    def __init__(self, gate: Gate, request: HTTPConnection) -> None:
        self.gate = gate
        self.request = request

    def headers_received(  # type: ignore[override]  # Tornado's is also for clients, which get a ResponseStartLine
        self, start_line: RequestStartLine, headers: HTTPHeaders
    ) -> None:
        self.head = start_line.method == "HEAD"
        self.headers = headers
        request = self.request
        assert isinstance(request, HTTP1Connection)
        peer = getattr(request.context, "remote_ip", UNIX_PEER)
        try:
            admitted = admit(self.gate, peer, start_line.method, start_line.path, start_line.version, headers)
        except HandshakeError as error:
            self._refuse(error.status, error.code, error.message, error.headers)
        except ChatError as error:
            extra = {"WWW-Authenticate": "Bearer"} if error.code is ErrorCode.UNAUTHORIZED else {}
            if error.retry_after is not None:
                extra["Retry-After"] = str(math.ceil(error.retry_after))
            self._refuse(STATUS[error.code], error.code, error.message, extra, error.retry_after)
        else:
            try:
                sock, early = take_over(request.detach())
            except OSError:  # it has gone meanwhile, or no file is left for the duplicate
                return
            open_session(self.gate, admitted, sock, early)

    def _refuse(
        self, status: int, code: str, message: str, extra: Mapping[str, str], retry_after: float | None = None
    ) -> None:
        self.gate.context.hub.metrics.refusals[int(status)] += 1
        refuse(self.request, self.headers, status, code, message, head=self.head, extra=extra, retry_after=retry_after)
