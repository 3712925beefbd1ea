"""What the addresses of all bridges do alike: who asks, whom, and an answer that is waited for as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from tornado_chat.auth import new_device
from tornado_chat.bridges.asking import Asker, Asking, Askings
from tornado_chat.bridges.telling import Asked, End, Restart, Text
from tornado_chat.config import Settings
from tornado_chat.conversations import KEY_CHARS, conversation_room
from tornado_chat.errors import ChatError, ErrorCode, Reason
from tornado_chat.web.exchange import SAFE, Exchange
from tornado_chat.web.gate import has_credential
from tornado_chat.web.sessions import session_cookie

WHOLE_SECONDS = 300.0
"""For an answer that is waited for as a whole."""

DEMO = "demo"


class Caller(NamedTuple):
    """Who asks; for a new guest with the token by which they come back, and the headers that make it the cookie."""

    asker: Asker
    token: str | None
    headers: Mapping[str, str]


def caller(exchange: Exchange, *, guests: bool = True) -> Caller:
    """Who asks by `exchange`; without a credential a new guest, where those are let in. ChatError.

    An address that asks by GET can be named by any page: there, a browser has to say that it was one of ours.
    """
    if exchange.method in SAFE:
        _check_own_page(exchange)
    exchange.gate.check_room_for_one_more(exchange.address)
    identity = exchange.who()
    asker = Asker(identity, exchange.address)
    if not identity.new:
        return Caller(asker, None, {})
    if not guests:
        raise ChatError(ErrorCode.UNAUTHORIZED, "give a token (Authorization: Bearer ...); POST /v1/session has one")
    gate = exchange.gate
    identity = msgspec.structs.replace(identity, new=False, device=new_device())
    token = gate.guest_token(identity)
    assert token is not None
    headers = session_cookie(exchange, token, int(gate.lifetime(identity, 0.0)))
    return Caller(Asker(identity, exchange.address), token, headers)


def _check_own_page(exchange: Exchange) -> None:
    """Raise `forbidden` where a page of elsewhere may ask in the name of its visitor.

    `Origin`, where there is one, has been looked at; browsers tell it with no GET of the same origin. A link of a page
    can bring a `?token=`, which does not count beside the cookie, and an Authorization that is not Bearer.
    """
    headers = exchange.headers
    if "origin" in headers or (not exchange.is_by_cookie and has_credential(headers, exchange.arguments)):
        return
    site = headers.get("sec-fetch-site")
    if site == "same-origin" or (site is None and not exchange.is_by_cookie):
        return
    raise ChatError(
        ErrorCode.FORBIDDEN,
        "with the cookie only a page of this server may ask, and this does not come from one (Sec-Fetch-Site); "
        "other programs give their token as Authorization: Bearer ...",
    )


def agents_of(settings: Settings) -> list[str]:
    """Those of which the server knows; the first is asked where none is named."""
    if settings.default_agent is not None:
        return [settings.default_agent]
    return [DEMO] if settings.agent == (DEMO,) else []


def agent_of(settings: Settings, named: str | None) -> str:
    """Whom to ask; ChatError (bad_request)."""
    if named is not None:
        return named
    known = agents_of(settings)
    if not known:
        raise ChatError(
            ErrorCode.BAD_REQUEST,
            "agent: is missing, and this server has no --default-agent; give the user id of the one that is to answer",
        )
    return known[0]


def room_of(exchange: Exchange, asker: Asker, agent: str, key: str) -> str:
    """The room of the conversation that the user calls `key`; ChatError."""
    if not 1 <= len(key) <= KEY_CHARS:
        raise ChatError(ErrorCode.BAD_REQUEST, f"the conversation should be called by 1 to {KEY_CHARS} characters")
    room = conversation_room(exchange.gate.secret, asker.user, agent, key)
    asker.identity.check_room(room)
    return room


class Whole(NamedTuple):
    """All of an answer; `reason` is None where the agent waits for another message: then the text ends with what it
    asks.
    """

    text: str
    reason: Reason | None


async def whole(exchange: Exchange, askings: Askings, asking: Asking) -> Whole | None:
    """The answer, when it has ended; None if the client has gone before. ChatError."""
    context = askings.context
    text, end = "", None
    if exchange.gone:
        return None
    exchange.on_gone = asking.leave
    exchange.expect_answer_within(WHOLE_SECONDS)
    context.requests += 1  # a server that stops waits until it is answered
    try:
        async with asyncio.timeout(WHOLE_SECONDS), aclosing(asking.told()) as told:
            async for one in told:
                match one:
                    case Text():
                        text += one.text
                    case Restart():
                        text = ""
                    case Asked():
                        text += ("\n\n" if text else "") + one.text
                    case End():
                        end = one
    except TimeoutError:
        raise ChatError(
            ErrorCode.UNAVAILABLE,
            f"the answer has not ended within {WHOLE_SECONDS:g} s, and goes on in the room {asking.room}: "
            "ask with the same id again",
            retry_after=1.0,
        ) from None
    finally:
        context.requests -= 1
    return None if end is None else Whole(text, end.reason)
