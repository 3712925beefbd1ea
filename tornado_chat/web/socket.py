"""`GET /ws` and `GET /ws/{room}`: who is it, may they come in; then the socket is the connection's."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import secrets
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import orjson
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from tornado_chat.auth import GUEST_TTL, Identity, authenticate, mint, new_guest
from tornado_chat.config import Network, Settings
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.connection import Connection, Transport
from tornado_chat.live.session import Context, Session
from tornado_chat.web.handover import take_over
from tornado_chat.wire.codec import CODECS, JSON, Codec
from tornado_chat.wire.commands import Join, check_name, parse
from tornado_chat.wire.deflate import negotiate
from tornado_chat.wire.handshake import HandshakeError, check, response

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


class SocketHandler(RequestHandler):
    """The handshake. Nothing of this handler outlives it: an open connection is a Connection and its Session."""

    def initialize(self, context: Context, transport: Transport, secret: bytes) -> None:
        self.context = context
        self.transport = transport
        self.secret = secret

    def get(self, room: str | None = None) -> None:
        request, limits = self.request, self.context.limits
        try:
            upgrade = check(request.method or "", request.version, request.headers)
            self._check_origin()
            address = client_address(
                request.remote_ip, request.headers.get("X-Forwarded-For"), self.context.settings.trusted_proxies
            )
            self._check_room_for_one_more(address)
            identity, token = self._identify(upgrade.subprotocols)
            codec, subprotocol = choose_codec(upgrade.subprotocols)
            join = self._wanted_join(room)
        except HandshakeError as error:
            self._refuse(error.status, error.code, error.message, error.headers)
            return
        except ChatError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.code is ErrorCode.UNAUTHORIZED else {}
            if error.retry_after is not None:
                headers["Retry-After"] = str(math.ceil(error.retry_after))
            self._refuse(_STATUS[error.code], error.code, error.message, headers)
            return
        deflate = negotiate(upgrade.extensions) if upgrade.extensions else None
        extensions, window_bits = deflate or (None, 0)
        answer = response(upgrade, subprotocol=subprotocol, extensions=extensions)
        try:
            sock, early = take_over(self)
        except StreamClosedError:
            return
        session = Session(self.context, identity, limits.addresses.enter(address), codec, window_bits)
        connection = Connection(self.transport, sock, session, deflate=window_bits > 0)
        session.begin(connection, answer, token, join, early)

    def _check_origin(self) -> None:
        """A page of another origin may not use its visitor's cookie (RFC 6455 section 10.2)."""
        origin = self.request.headers.get("Origin")
        if origin is None:
            return  # not a browser
        origin = origin.lower()
        if urlsplit(origin).netloc != self.request.host.lower() and origin not in self.context.settings.allowed_origins:
            raise ChatError(
                ErrorCode.FORBIDDEN,
                f"pages of {origin[:100]!a} may not connect: the server allows its own and those of --allowed-origins",
            )

    def _check_room_for_one_more(self, address: str) -> None:
        if self.context.draining:
            raise ChatError(ErrorCode.OVERLOADED, "this server is stopping: come back in a moment", retry_after=1)
        self.context.limits.check_connection(address)

    def _identify(self, subprotocols: tuple[str, ...]) -> tuple[Identity, str | None]:
        """Who connects, and the token that makes a guest's next connection the same user."""
        settings = self.context.settings
        credential = self._credential(subprotocols)
        name = self.get_query_argument("name", None)
        if credential is not None:
            identity = authenticate(self.secret, credential, guests=settings.guests)
            if identity.guest and name:
                identity = dataclasses.replace(identity, name=check_name(name))
        elif settings.guests:
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

    def _credential(self, subprotocols: tuple[str, ...]) -> str | None:
        """The first token that is present, in the protocol's order."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        cookie = self.get_cookie("chat_session")
        if cookie is not None:
            return cookie
        for subprotocol in subprotocols:
            if subprotocol.startswith(BEARER):
                return subprotocol[len(BEARER) :]
        return self.get_query_argument("token", None)

    def _wanted_join(self, room: str | None) -> Join | None:
        if room is None:
            return None
        wanted: dict[str, object] = {"type": "join", "room": room}
        for field in ("after", "last"):
            value = self.get_query_argument(field, None)
            if value is not None:
                wanted[field] = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else value
        join = parse(wanted, self.context.settings.text_chars)
        assert isinstance(join, Join)
        return join

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str]) -> None:
        self.context.hub.metrics.refusals[int(status)] += 1
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.set_header("Content-Type", "application/json")
        self.finish(orjson.dumps({"error": {"code": code, "message": message}}))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        code = ErrorCode.BAD_REQUEST if status_code < 500 else ErrorCode.UNAVAILABLE
        self._refuse(status_code, code, HTTPStatus(status_code).phrase.lower(), {})


def choose_codec(subprotocols: tuple[str, ...]) -> tuple[Codec, str | None]:
    """The codec, and the sub-protocol to echo: the client's first that is known; JSON when it offers none."""
    offered = [name for name in subprotocols if not name.startswith(BEARER)]
    for name in offered:
        if name in CODECS:
            return CODECS[name], name
    if offered:
        raise HandshakeError(f"no known sub-protocol is offered: offer {' or '.join(CODECS)}, or none")
    return JSON, None


def client_address(peer: str, forwarded: str | None, trusted: tuple[Network, ...]) -> str:
    """Whose limits count: the peer, or behind trusted proxies the last in X-Forwarded-For that is none of them.

    An IPv6 client counts as its /64, which is what one customer gets.
    """
    chain = [peer, *reversed([part.strip() for part in forwarded.split(",")])] if forwarded else [peer]
    client = peer
    for hop in chain:
        try:
            address = ipaddress.ip_address(hop)
        except ValueError:
            break
        client = str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else hop
        if hop != UNIX_PEER and not any(address in network for network in trusted):
            break
    return client
