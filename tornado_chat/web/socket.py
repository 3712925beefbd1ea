"""`GET /ws` and `GET /ws/{room}`: who is it, may they come in; then the socket is the connection's."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import secrets
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson
from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
    parse_cookie,
)

from tornado_chat.auth import GUEST_TTL, Identity, authenticate, mint, new_guest
from tornado_chat.config import Network
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.context import Context
from tornado_chat.live.session import Session
from tornado_chat.live.websocket import WebSocket
from tornado_chat.web.handover import take_over
from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.commands import Join, check_name, parse
from tornado_chat.wire.deflate import negotiate
from tornado_chat.wire.encodings import SUBPROTOCOLS, websocket
from tornado_chat.wire.handshake import HandshakeError, check, response

PATH = "/ws"

BEARER = "bearer."
"""A sub-protocol that begins so is a token: the one way for a browser to send it that no log of URLs sees."""

UNIX_PEER = "0.0.0.0"
"""What Tornado calls the peer of a Unix socket: only a proxy on this machine can be there."""

_STATUS = {
    ErrorCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
}


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
        assert isinstance(request, HTTP1Connection)
        path, _, query = start_line.path.partition("?")
        arguments = Arguments(query)
        try:
            address = client_address(
                getattr(request.context, "remote_ip", UNIX_PEER),
                headers.get("X-Forwarded-For"),
                gate.settings.trusted_proxies,
            )
            if "Upgrade" not in headers:
                # A page, which cannot see why its WebSocket was refused, asks again by a plain GET.
                gate.check_room_for_one_more(address)
                gate.identify(headers, (), arguments)
            upgrade = check(start_line.method, start_line.version, headers)
            gate.check_origin(headers)
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
            self._refuse(_STATUS[error.code], error.code, error.message, extra)
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
        line.expires_at = identity.expires_at
        line.write(answer + session.encoding.frame(session.welcome(line, token)))
        if join is not None:
            session.take(join, 0)
        line.start(early)

    def _refuse(self, status: int, code: str, message: str, extra: dict[str, str]) -> None:
        self.gate.context.hub.metrics.refusals[int(status)] += 1
        body = orjson.dumps({"error": {"code": code, "message": message}})
        headers = HTTPHeaders(extra)
        headers["Connection"] = "close"
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
        reason = HTTPStatus(status).phrase
        self.request.write_headers(ResponseStartLine("HTTP/1.1", status, reason), headers, None if self.head else body)
        self.request.finish()


class Arguments:
    """The query of the address, the last value of each name; without `parse_qs` where there is none."""

    __slots__ = ("values",)

    def __init__(self, query: str) -> None:
        self.values = dict(parse_qsl(query, keep_blank_values=True)) if query else {}

    def get(self, name: str) -> str | None:
        return self.values.get(name)


class Gate:
    """What all handshakes of a server share: whom it lets in, and what it hands the connections over to."""

    def __init__(self, context: Context, secret: bytes) -> None:
        self.context = context
        self.settings = context.settings
        self.secret = secret

    def check_origin(self, headers: HTTPHeaders) -> None:
        """A page of another origin may not use its visitor's cookie (RFC 6455 section 10.2)."""
        origin = headers.get("Origin")
        if origin is None:
            return  # not a browser
        origin = origin.lower()
        try:
            own = urlsplit(origin).netloc == headers.get("Host", "").lower()
        except ValueError:
            own = False
        if not own and origin not in self.settings.allowed_origins:
            raise ChatError(
                ErrorCode.FORBIDDEN,
                f"pages of {origin[:100]!a} may not connect: the server allows its own and those of --allowed-origins",
            )

    def check_room_for_one_more(self, address: str) -> None:
        if self.context.draining:
            raise ChatError(ErrorCode.OVERLOADED, "this server is stopping: come back in a moment", retry_after=1)
        self.context.limits.check_connection(address, len(self.context.lines.open))

    def identify(
        self, headers: HTTPHeaders, subprotocols: tuple[str, ...], arguments: Arguments
    ) -> tuple[Identity, str | None]:
        """Who connects, and the token that makes a guest's next connection the same user."""
        credential = _credential(headers, subprotocols, arguments)
        name = arguments.get("name")
        if credential is not None:
            identity = authenticate(self.secret, credential, guests=self.settings.guests)
            self.context.revocations.check(identity.jti)
            if identity.guest and name:
                identity = dataclasses.replace(identity, name=check_name(name))
        elif self.settings.guests:
            identity = new_guest(name or None)
        else:
            raise ChatError(ErrorCode.UNAUTHORIZED, "guests are not let in: give a token (Authorization: Bearer ...)")
        if identity.device is None:
            identity = dataclasses.replace(identity, device=secrets.token_hex(4))
        if not identity.guest:
            return identity, None
        return identity, mint(
            self.secret, identity.user, name=identity.name, device=identity.device, rooms=identity.rooms, ttl=GUEST_TTL
        )

    def wanted_join(self, path: str, arguments: Arguments) -> Join | None:
        """The join that `/ws/{room}?after=N` or `?last=N` stands for."""
        room = path.removeprefix(PATH).removeprefix("/")
        if path == PATH:
            return None
        wanted: dict[str, object] = {"type": "join", "room": unquote(room)}
        for field in ("after", "last"):
            value = arguments.get(field)
            if value is not None:
                wanted[field] = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else value
        join = parse(wanted, self.settings.text_chars)
        assert isinstance(join, Join)
        return join


def _credential(headers: HTTPHeaders, subprotocols: tuple[str, ...], arguments: Arguments) -> str | None:
    """The first token that is present, in the protocol's order."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if "Cookie" in headers:
        cookie = parse_cookie(headers["Cookie"]).get("chat_session")
        if cookie is not None:
            return cookie
    for subprotocol in subprotocols:
        if subprotocol.startswith(BEARER):
            return subprotocol[len(BEARER) :]
    return arguments.get("token")


def choose_codec(subprotocols: tuple[str, ...]) -> tuple[Codec, str | None]:
    """The codec, and the sub-protocol to echo: the client's first that is known; JSON when it offers none."""
    offered = [name for name in subprotocols if not name.startswith(BEARER)]
    for name in offered:
        if name in SUBPROTOCOLS:
            return SUBPROTOCOLS[name], name
    if offered:
        raise HandshakeError(f"no known sub-protocol is offered: offer {' or '.join(SUBPROTOCOLS)}, or none")
    return JSON, None


def client_address(peer: str, forwarded: str | None, trusted: tuple[Network, ...]) -> str:
    """Whose limits count: the peer, or behind trusted proxies the last in X-Forwarded-For that is none of them.

    An IPv6 client counts as its /64, which is what one customer gets.
    """
    if forwarded is None and ":" not in peer:
        return peer
    chain = [peer, *reversed([part.strip() for part in forwarded.split(",")])] if forwarded else [peer]
    client = peer
    for hop in chain:
        try:
            address = ipaddress.ip_address(hop)
        except ValueError:
            break
        address = getattr(address, "ipv4_mapped", None) or address
        client = str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
        if hop != UNIX_PEER and not any(address in network for network in trusted):
            break
    return client
