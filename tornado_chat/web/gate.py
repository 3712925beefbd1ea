"""Who may come in: the origin, the limits, the credential, and what the address asks for."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from tornado.httputil import parse_cookie

from tornado_chat.auth import GUEST_TTL, Identity, authenticate, mint, new_device, new_guest
from tornado_chat.config import Network, is_loopback
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.context import Context
from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.commands import Join, check_name, parse
from tornado_chat.wire.encodings import SUBPROTOCOLS
from tornado_chat.wire.refusals import RequestError

PATH = "/ws"

COOKIE = "chat_session"

BEARER = "bearer."
"""A sub-protocol that begins so is a token: the one way for a browser to send it that no log of URLs sees."""

UNIX_PEER = "0.0.0.0"
"""What Tornado calls the peer of a Unix socket: only a proxy on this machine can be there."""

FORWARDED = "x-forwarded-for", "x-forwarded-proto", "forwarded"
"""Of these, a proxy adds one at least."""

_SECURE = {"https", "wss"}

MAX_ARGUMENTS = 128
"""In the address: 100 rooms and what else there are names for. So many take 0.1 ms."""

ADDRESSES = 4096
"""Names and addresses about which is remembered what they are: to parse one takes 4 us, at each handshake."""

HOST_CHARS = 300
"""Of a Host that may be loopback's. A DNS name has 253; longer ones would fill what is remembered."""


class Arguments:
    """The query of the address; RequestError for more than MAX_ARGUMENTS."""

    __slots__ = ("pairs", "values")

    def __init__(self, query: str, most: int = MAX_ARGUMENTS) -> None:
        if query.count("&") >= most:  # 8,000 of them take 6 ms
            raise RequestError(f"the address should have {most} arguments at most")
        self.pairs = _pairs(query) if query else []
        self.values = dict(self.pairs)

    def get(self, name: str) -> str | None:
        """The last value of this name."""
        return self.values.get(name)

    def all(self, name: str) -> list[str]:
        """All values of this name."""
        return [value for found, value in self.pairs if found == name] if name in self.values else []


def _pairs(query: str) -> list[tuple[str, str]]:
    """As `parse_qsl`, with blank values; of most queries in 0.4 us instead of 1.8."""
    if "%" in query or "+" in query:
        return parse_qsl(query, keep_blank_values=True)
    return [(name, value) for name, _, value in (field.partition("=") for field in query.split("&") if field)]


class Gate:
    """What all handshakes of a server share: whom it lets in, and what it hands the connections over to.

    Headers have names in lower case, or ignore case; one that came several times is one value with commas.
    """

    def __init__(self, context: Context, secret: bytes) -> None:
        self.context = context
        self.settings = context.settings
        self.secret = secret
        self.any_host = self.settings.unix_socket is not None or not is_loopback(self.settings.host)
        self.allowed_hosts = {urlsplit(origin).netloc for origin in self.settings.allowed_origins}

    def check_host(self, headers: Mapping[str, str], peer: str, *, proxied: bool = True) -> None:
        """On loopback, refuse what was sent to a name that is not this server's.

        Whoever owns a domain can have its name lead to 127.0.0.1 after the visitor has loaded a page of it (DNS
        rebinding): to the browser that page and this server are then one origin, and only Host tells.
        `peer` tells nothing: a browser here and a proxy here have the same address. A proxy is known by the headers
        that it adds. A page cannot add them to its WebSocket's handshake, but it can to its fetch(). So `proxied` is
        false for what is not for everybody: then only --allowed-origins lets another name in.
        """
        host = headers.get("host", "").lower()
        if self.any_host or not host or host in self.allowed_hosts:
            return
        if len(host) <= HOST_CHARS and _is_loopback_host(host):
            return
        if proxied and any(name in headers for name in FORWARDED) and self.is_proxy(peer):
            return
        raise ChatError(
            ErrorCode.FORBIDDEN,
            f"the server listens on loopback and is not called {host[:100]!a}: ask for localhost, "
            "or name its origin in --allowed-origins",
        )

    def is_proxy(self, peer: str) -> bool:
        return peer == UNIX_PEER or is_in(peer, self.settings.trusted_proxies)

    def check_origin(self, headers: Mapping[str, str], peer: str) -> None:
        """A page of another origin may not use its visitor's cookie (RFC 6455 section 10.2)."""
        origin = headers.get("origin")
        if origin is None:
            return  # not a browser
        origin = origin.lower()
        try:
            parts = urlsplit(origin)
            own = parts.netloc == headers.get("host", "").lower()
        except ValueError:
            own = False
        else:
            if parts.scheme != "https":
                # Behind TLS a page of http is not ours: whoever can change what is sent in the clear can have made it.
                own = own and not self.is_secure(headers, peer)
        if not own and origin not in self.settings.allowed_origins:
            raise ChatError(
                ErrorCode.FORBIDDEN,
                f"pages of {origin[:100]!a} may not connect: the server allows its own and those of --allowed-origins",
            )

    def is_secure(self, headers: Mapping[str, str], peer: str) -> bool:
        """Whether the client came by TLS, which a proxy of ours took off."""
        forwarded = headers.get("x-forwarded-proto", "").lower()
        return self.is_proxy(peer) and bool(_SECURE & set(map(str.strip, forwarded.split(","))))

    def cross_origin(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers (of CORS) that let a page of one of --allowed-origins read the answer."""
        origin = headers.get("origin")
        if origin is None or origin.lower() not in self.settings.allowed_origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "Retry-After",
            "Vary": "Origin",
        }

    def check_request(self, headers: Mapping[str, str], peer: str, arguments: Arguments) -> dict[str, str]:
        """Refuse what a page may not ask for; else the headers of its answer, as `cross_origin` gives them."""
        # A page that was loaded by another name can pretend that a proxy forwards it; it has no token of ours.
        self.check_host(headers, peer, proxied=has_credential(headers, arguments))
        self.check_origin(headers, peer)
        return self.cross_origin(headers)

    def check_room_for_one_more(self, address: str) -> None:
        if self.context.draining:
            raise ChatError(ErrorCode.OVERLOADED, "this server is stopping: come back in a moment", retry_after=1)
        context = self.context
        sockets = len(context.lines.open) + len(context.polls.waiting) + len(context.bodies)
        context.limits.check_connection(address, sockets)

    def identify(
        self, headers: Mapping[str, str], subprotocols: tuple[str, ...], arguments: Arguments
    ) -> tuple[Identity, str | None]:
        """Who connects, and the token that makes a guest's next connection the same user."""
        identity = self.who(headers, subprotocols, arguments)
        if identity.device is None:
            identity = msgspec.structs.replace(identity, device=new_device())
        return identity, self.guest_token(identity)

    def who(self, headers: Mapping[str, str], subprotocols: tuple[str, ...], arguments: Arguments) -> Identity:
        """Who asks; ChatError (unauthorized, bad_request)."""
        token = credential(headers, subprotocols, arguments)
        name = arguments.get("name")
        if token is not None:
            identity = authenticate(self.secret, token, guests=self.settings.guests)
            self.context.revocations.check(identity.jti)
            if identity.guest and name:
                identity = msgspec.structs.replace(identity, name=check_name(name))
            return identity
        if self.settings.guests:
            return new_guest(name or None)
        raise ChatError(ErrorCode.UNAUTHORIZED, "guests are not let in: give a token (Authorization: Bearer ...)")

    def lifetime(self, identity: Identity, now: float) -> float:
        """The seconds for which the token of `identity`, a guest's fresh one, is good."""
        return GUEST_TTL if identity.guest else max(0.0, identity.expires_at - now)

    def guest_token(self, identity: Identity) -> str | None:
        """A fresh token, if `identity` is a guest's."""
        if not identity.guest:
            return None
        return mint(
            self.secret,
            identity.user,
            name=identity.name,
            device=identity.device,
            rooms=identity.rooms,
            ttl=GUEST_TTL,
            jti=identity.jti,
            guest=True,
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


def credential(headers: Mapping[str, str], subprotocols: tuple[str, ...], arguments: Arguments) -> str | None:
    """The first token that is present, in the protocol's order."""
    if "authorization" in headers or "cookie" in headers:
        found = bearer(headers)
        if found is None:
            found = cookie(headers)
        if found is not None:
            return found
    for subprotocol in subprotocols:
        if subprotocol.startswith(BEARER):
            return subprotocol[len(BEARER) :]
    return arguments.get("token")


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of the header Authorization (RFC 6750 section 2.1)."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def cookie(headers: Mapping[str, str]) -> str | None:
    """The token of the cookie."""
    return parse_cookie(headers["cookie"]).get(COOKIE) if "cookie" in headers else None


def has_credential(headers: Mapping[str, str], arguments: Arguments) -> bool:
    """Whether a plain request brings a token, sound or not."""
    return credential(headers, (), arguments) is not None


def choose_codec(subprotocols: tuple[str, ...]) -> tuple[Codec, str | None]:
    """The codec, and the sub-protocol to echo: the client's first that is known; JSON when it offers none."""
    offered = [name for name in subprotocols if not name.startswith(BEARER)]
    for name in offered:
        if name in SUBPROTOCOLS:
            return SUBPROTOCOLS[name], name
    if offered:
        raise RequestError(f"no known sub-protocol is offered: offer {' or '.join(SUBPROTOCOLS)}, or none")
    return JSON, None


def accountable(peer: str, trusted: tuple[Network, ...]) -> str | None:
    """The address that a socket of `peer` counts for when it is accepted.

    None for a trusted proxy's: it speaks for many, and whose a request is stands in its headers.
    """
    if peer == UNIX_PEER or is_in(peer, trusted):
        return None
    return client_address(peer, None, trusted)


@lru_cache(ADDRESSES)
def _is_loopback_host(host: str) -> bool:
    return is_loopback(_host_name(host))


def _host_name(host: str) -> str:
    """The name or address in a Host header."""
    if host.startswith("["):
        address, _, port = host[1:].partition("]")
        return address if port[:1] in ("", ":") else host
    return host.partition(":")[0].removesuffix(".")


@lru_cache(ADDRESSES)
def is_in(name: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)


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
