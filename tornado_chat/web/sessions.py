"""`/v1/session`: a token becomes the cookie, and the session ends."""

from __future__ import annotations

import re
import time
from http import HTTPStatus

import msgspec
from msgspec import Struct

from tornado_chat.auth import GUEST_PREFIX, new_device
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.limits import rate_limited
from tornado_chat.web.endpoint import FORM_TYPE, JSON_TYPE, Endpoint
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.gate import COOKIE, credential
from tornado_chat.wire.commands import Flag, GuestName, check_name

_COOKIE_VALUE = re.compile(r"[A-Za-z0-9._-]+")

MAX_COOKIE_BYTES = 4096
"""Of a cookie's name and value together, which browsers keep (RFC 6265 section 6.1)."""


class SignIn(Struct, kw_only=True):
    """Who comes without a token is a guest, and may say their name. `cookie`: whether it is to be set."""

    name: GuestName | None = None
    cookie: Flag = True


class SignedIn(Struct):
    """`token` is what the cookie holds."""

    user: str
    name: str
    token: str


class SignedOut(Struct):
    """`revoked`: the token is refused from now on; one without `jti` cannot be, and is good until it expires."""

    revoked: bool


def sign_in(exchange: Exchange, asked: SignIn) -> None:
    """Whoever's token was brought, or a new guest: they get it, as the cookie too if they want that."""
    gate, headers = exchange.gate, exchange.headers
    brought = credential(headers, (), exchange.arguments)
    try:
        identity = exchange.who()
    except ChatError as error:
        exchange.refuse(error, session_cookie(exchange, "", 0) if exchange.is_by_cookie else None)
        return
    if identity.guest:
        name = identity.name if asked.name is None else check_name(asked.name)
        identity = msgspec.structs.replace(identity, name=name, device=identity.device or new_device())
    token = gate.guest_token(identity) or brought
    assert token is not None
    told = SignedIn(identity.user, identity.name, token)
    if not asked.cookie:
        exchange.answer_object(HTTPStatus.OK, told)
        return
    if not _COOKIE_VALUE.fullmatch(token):  # a lenient reader of base64 takes more than a cookie may hold
        raise ChatError(ErrorCode.BAD_REQUEST, "the token has characters that no token has: give it as it was made")
    if len(COOKIE) + len(token) > MAX_COOKIE_BYTES:
        raise ChatError(
            ErrorCode.TOO_LARGE,
            f"browsers keep no cookie of more than {MAX_COOKIE_BYTES:,} bytes: give a shorter token, of fewer patterns",
        )
    lasts = int(gate.lifetime(identity, time.time()))
    exchange.answer_object(HTTPStatus.OK, told, session_cookie(exchange, token, lasts))


async def sign_out(exchange: Exchange, _: None) -> None:
    """End the session everywhere, and the cookie here."""
    context = exchange.gate.context
    end = session_cookie(exchange, "", 0)
    try:
        if credential(exchange.headers, (), exchange.arguments) is None:
            raise ChatError(ErrorCode.UNAUTHORIZED, "there is no session to end: give its token, or the cookie")
        identity = exchange.who()
    except ChatError as error:
        exchange.refuse(error, end if exchange.is_by_cookie else None)
        return
    if identity.user.startswith(GUEST_PREFIX):
        limits = context.limits
        wait = limits.guest_ends.take(limits.time())
        if wait:
            raise rate_limited("too many guests end their sessions", wait)
    if identity.jti is not None:
        await context.hub.log.revoke(identity.jti)
        await context.revocations.poll()
    exchange.answer_object(HTTPStatus.OK, SignedOut(identity.jti is not None), end)


def session_cookie(exchange: Exchange, token: str, lasts: int) -> dict[str, str]:
    """The header that sets the cookie for so many seconds; 0: that ends it.

    Lax: other sites' pages do not send it, but by a link. None would let them, and browsers that keep the cookies of
    other sites apart would not; a page of another site gives its token itself. Path: below which one a proxy has put us
    is not known here.
    """
    secure = "; Secure" if exchange.gate.is_secure(exchange.headers, exchange.peer) else ""
    return {"Set-Cookie": f"{COOKIE}={token}; Path=/; Max-Age={lasts}; HttpOnly; SameSite=Lax{secure}"}


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/session",
        sign_in,
        summary="Make a token, or a new guest, the cookie chat_session",
        asks=SignIn,
        takes=(JSON_TYPE, FORM_TYPE),
        answers={200: SignedIn},
        token="given",
    ),
    Endpoint(
        "DELETE",
        "/v1/session",
        sign_out,
        summary="End the session and revoke its token",
        answers={200: SignedOut},
        token="needed",
    ),
)
