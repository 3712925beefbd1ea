"""`GET /ws` and `GET /ws/{room}`: who is it, may they come in; then the socket is the connection's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
)

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError
from tornado_chat.live.session import Session
from tornado_chat.live.websocket import WebSocket
from tornado_chat.web.gate import UNIX_PEER, Arguments, Gate, choose_codec, client_address
from tornado_chat.web.handover import begin_session, take_over
from tornado_chat.web.refusals import refuse, refused, terms
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.commands import Join
from tornado_chat.wire.deflate import negotiate
from tornado_chat.wire.encodings import websocket
from tornado_chat.wire.handshake import check, response
from tornado_chat.wire.refusals import RequestError
from tornado_chat.wire.request import Request


class Admitted(NamedTuple):
    """A client that may come in."""

    accepted: bytes  # the answer to the handshake
    address: str
    identity: Identity
    token: str | None
    codec: Codec
    window_bits: int  # 0: no permessage-deflate
    joins: tuple[Join, ...]


def admit(gate: Gate, peer: str, method: str, target: str, version: str, headers: Mapping[str, str]) -> Admitted:
    """Whoever asks for a WebSocket so; RequestError or ChatError: they may not. Nothing is taken up yet."""
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
    joins = (join,) if join else ()
    extensions, window_bits = negotiate(upgrade.extensions) or (None, 0) if upgrade.extensions else (None, 0)
    accepted = response(upgrade, subprotocol=subprotocol, extensions=extensions)
    return Admitted(accepted, address, identity, token, codec, window_bits, joins)


def open_session(gate: Gate, admitted: Admitted, sock: socket.SocketType, early: bytes) -> None:
    """Answer the handshake on `sock` (not blocking), which is the WebSocket's from here on; `early` came behind it."""
    context, identity = gate.context, admitted.identity
    account = context.limits.addresses.enter(admitted.address)
    session = Session(context, identity, account, websocket(admitted.codec, admitted.window_bits))
    line = WebSocket(context.lines, sock, session, admitted.codec, deflate=admitted.window_bits > 0)
    begin_session(session, line, admitted.accepted, admitted.token, admitted.joins, early)


def let_in(gate: Gate, peer: str, request: Request) -> Callable[[socket.SocketType, bytes], None]:
    """What makes a socket a WebSocket, if `request` is a handshake that is let in; else Refused."""
    headers = request.headers
    try:
        admitted = admit(gate, peer, "GET", request.target, "HTTP/1.1", headers)
    except (RequestError, ChatError) as error:
        raise refused(gate.context.hub.metrics, error, headers.get("accept", "")) from None
    return partial(open_session, gate, admitted)


class Handshake(HTTPMessageDelegate):
    """One request for a WebSocket that Tornado has read, since it was not plain.

    A delegate and not a RequestHandler: those, with their routes, cost some 25 us more for each connection.
    """

    def __init__(self, gate: Gate, request: HTTPConnection) -> None:
        self.gate = gate
        self.request = request

    def headers_received(  # type: ignore[override]  # Tornado's is also for clients, which get a ResponseStartLine
        self, start_line: RequestStartLine, headers: HTTPHeaders
    ) -> None:
        gate, request = self.gate, self.request
        assert isinstance(request, HTTP1Connection)
        peer = getattr(request.context, "remote_ip", UNIX_PEER)
        try:
            admitted = admit(gate, peer, start_line.method, start_line.path, start_line.version, headers)
        except (RequestError, ChatError) as error:
            status, extra, wait = terms(gate.context.hub.metrics, error)
            head = start_line.method == "HEAD"
            refuse(request, headers, status, error.code, error.message, head=head, extra=extra, retry_after=wait)
            return
        try:
            sock, early = take_over(request.detach())
        except OSError:  # it has gone meanwhile, or no file is left for the duplicate
            return
        open_session(gate, admitted, sock, early)
