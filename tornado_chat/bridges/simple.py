"""The simplest: a question by one request; its answer whole (`POST /api/agent/chat`), or as it comes (by EventSource).

Each event of the stream has an id, which says where the answer goes on: who brings it does not ask again.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote, unquote

from msgspec import Meta, Struct

from tornado_chat.bridges.asking import Asking, Askings
from tornado_chat.bridges.callers import agent_of, caller, room_of, whole
from tornado_chat.bridges.outlet import pour
from tornado_chat.bridges.telling import Asked, Doing, End, Mark, Restart, Step, Text, crc_of
from tornado_chat.conversations import KEY_CHARS
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.web.app import SIMPLE
from tornado_chat.web.endpoint import EVENTS_TYPE, Endpoint
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.written import new_id
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import Id, UserId
from tornado_chat.wire.event_stream import PING
from tornado_chat.wire.events import Data

SessionId = Annotated[
    str, Meta(min_length=1, max_length=KEY_CHARS, description=f"a string of 1 to {KEY_CHARS} characters")
]
Message = Annotated[str, Meta(min_length=1, description="a string of 1 to {text_chars:,} characters")]
EventId = Annotated[str, Meta(min_length=1, description="an id of an event, or an id of 1 to 64 characters")]

_PLACE = re.compile(r"([^~]+)~([1-9][0-9]{0,18})\.([0-9]{1,7})\.([0-9a-f]{1,8})(\.end)?")


class AskedChat(Struct, kw_only=True, frozen=True):
    """`session_id` says which conversation it belongs to; without one it begins another."""

    message: Message
    session_id: SessionId | None = None
    agent: UserId | None = None
    id: Id | None = None


class AskedStream(Struct, kw_only=True, frozen=True):
    """`id` is that of the question, for who may have to ask again, or of the last event that came."""

    query: Message | None = None
    session_id: SessionId | None = None
    agent: UserId | None = None
    id: EventId | None = None
    last_event_id: EventId | None = None


class Replied(Struct, kw_only=True, omit_defaults=True):
    """`reason`: how the reply ended (done, stopped, error, interrupted), or `asks`: it waits for another message."""

    reply: str
    session_id: str
    room: str
    agent: str
    reason: str
    token: str | None = None


class Place(NamedTuple):
    """In the conversation `session`: so much of the answer to `question` is there, with this CRC-32 of its UTF-8."""

    session: str
    question: int
    offset: int
    crc: int
    ended: bool = False

    @property
    def id(self) -> str:
        session = quote(self.session, safe="").replace("~", "%7E")  # it may be anything, and an id has one line
        return f"{session}~{self.question}.{self.offset}.{self.crc:x}{'.end' if self.ended else ''}"


def place_of(id: str) -> Place | None:
    """What an id of one of our events tells; None if it is none."""
    found = _PLACE.fullmatch(id)
    return found and Place(unquote(found[1]), int(found[2]), int(found[3]), int(found[4], 16), found[5] is not None)


def endpoints(askings: Askings) -> list[Endpoint]:
    async def chat(exchange: Exchange, asked: AskedChat) -> None:
        await _chat(exchange, askings, asked)

    async def stream(exchange: Exchange, asked: AskedStream) -> None:
        await _stream(exchange, askings, asked)

    return [
        Endpoint(
            "POST",
            f"{SIMPLE}/agent/chat",
            chat,
            summary="Ask an agent, and get all of its answer",
            asks=AskedChat,
            answers={HTTPStatus.OK: Replied},
        ),
        Endpoint(
            "GET",
            f"{SIMPLE}/chat/stream",
            stream,
            summary="Ask an agent, and get its answer as it comes",
            asks=AskedStream,
            answers={HTTPStatus.OK: dict[str, Any], HTTPStatus.NO_CONTENT: None},
            gives=EVENTS_TYPE,
        ),
    ]


async def _chat(exchange: Exchange, askings: Askings, asked: AskedChat) -> None:
    who = caller(exchange)
    agent = agent_of(askings.context.settings, asked.agent)
    session = asked.session_id or new_session()
    room = room_of(exchange, who.asker, agent, session)
    asking = await askings.ask(who.asker, agent, room, asked.message, asked.id or new_id())
    found = await whole(exchange, askings, asking)
    if found is None:
        return
    reason = found.reason or "asks"
    replied = Replied(reply=found.text, session_id=session, room=room, agent=agent, reason=reason, token=who.token)
    exchange.answer_object(HTTPStatus.OK, replied, who.headers)


async def _stream(exchange: Exchange, askings: Askings, asked: AskedStream) -> None:
    who = caller(exchange)
    agent = agent_of(askings.context.settings, asked.agent)
    ids = exchange.headers.get("last-event-id"), asked.last_event_id, asked.id
    place = next((found for id in ids if id and (found := place_of(id)) is not None), None)
    if place is not None:
        if place.ended:
            exchange.answer(HTTPStatus.NO_CONTENT)
            return
        room = room_of(exchange, who.asker, agent, place.session)
        asking = await askings.find(who.asker, room, place.question, agent)
    else:
        if asked.query is None:
            raise ChatError(ErrorCode.BAD_REQUEST, "query: is missing; give what is to be asked")
        if exchange.method == "HEAD":
            exchange.answer(HTTPStatus.OK, content_type=EVENTS_TYPE)
            return
        session = asked.session_id or new_session()
        room = room_of(exchange, who.asker, agent, session)
        asking = await askings.ask(who.asker, agent, room, asked.query, asked.id or new_id())
        place = Place(session, asking.question, 0, 0)
    begin: Data = {"session_id": place.session, "room": room, "agent": agent, "seq": asking.question}
    if who.token is not None:
        begin["token"] = who.token
    telling = _Telling(place)
    await pour(exchange, asking, _blocks(telling, asking, begin), telling.failed, headers=who.headers, heartbeat=PING)


async def _blocks(telling: _Telling, asking: Asking, begin: Data) -> AsyncGenerator[bytes, None]:
    yield telling.event("start", begin)
    place = telling.place
    async with aclosing(asking.told(Mark(place.offset, place.crc) if place.offset else None)) as told:
        async for one in told:
            match one:
                case Text(text, offset):
                    yield telling.text(text, offset)
                case Restart():
                    yield telling.restart()
                case Doing(status):
                    yield telling.event("status", {"text": status})
                case Step(step):
                    yield telling.event("step", step)
                case Asked(text):
                    yield telling.event("asks", {"text": text})
                case End(reason):
                    yield telling.end({"reason": reason or "asks"})


class _Telling:
    """The events of one stream; what the text gained has no name, so that `onmessage` gets that and nothing else."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def text(self, text: str, offset: int) -> bytes:
        self.place = self.place._replace(offset=offset + len(text), crc=crc_of(text, self.place.crc))
        return self.event("", {"text": text})

    def restart(self) -> bytes:
        self.place = self.place._replace(offset=0, crc=0)
        return self.event("restart", {})

    def end(self, data: Mapping[str, Any]) -> bytes:
        self.place = self.place._replace(ended=True)
        return self.event("end", data)

    def failed(self, error: ChatError) -> bytes:
        """What passes is asked for again by the EventSource itself, from where it is; the rest ends it."""
        if error.code is ErrorCode.OVERLOADED:
            return b"retry: 1000\n" + self.event("wait", {"message": error.message})
        told = {"code": error.code, "message": error.message}
        return self.end({"reason": "unavailable", "error": told})

    def event(self, name: str, data: Mapping[str, Any]) -> bytes:
        named = b"event: %b\n" % name.encode() if name else b""
        return b"%bdata: %b\nid: %b\n\n" % (named, JSON.encode(dict(data)), self.place.id.encode())


def new_session() -> str:
    return secrets.token_urlsafe(12)
