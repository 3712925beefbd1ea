"""`POST /v1/commands`, and the addresses by which one command can be given in HTTP's own words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from http import HTTPStatus
from operator import or_
from typing import Any, get_args

import msgspec
from msgspec import Raw, Struct, defstruct

from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.request import Answer, Done, Request
from tornado_chat.log.kinds import BY_COMMAND, Publishing
from tornado_chat.web import event_schemas
from tornado_chat.web.endpoint import JSON_TYPE, MSGPACK_TYPE, Endpoint, renamed
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.texts import Text
from tornado_chat.web.written import Written, new_id
from tornado_chat.wire import replies
from tornado_chat.wire.codec import JSON, MSGPACK, Codec
from tornado_chat.wire.commands import (
    Command,
    Delete,
    Edit,
    Finish,
    Follow,
    History,
    Id,
    Invite,
    Join,
    Leave,
    Presence,
    React,
    Read,
    RoomName,
    Send,
    Seq,
    Unfollow,
    Unparsed,
    commands_of,
    decode,
)

CODECS = {JSON_TYPE: JSON, MSGPACK_TYPE: MSGPACK}


def _posted(command: type[Command]) -> Any:
    """`command` as a request gives it, for its description: what makes an event has an `id`."""
    required = [("id", Id)] if command in BY_COMMAND or command is Finish else []
    name = command.__name__
    return defstruct(name + "Command", required, bases=(command,), kw_only=True, frozen=True, tag=name.lower())


Posted: Any = reduce(or_, (_posted(command) for command in get_args(Command) if command not in (Join, Leave)))
"""A command of a request."""


class Applied(Struct, omit_defaults=True):
    """It is so now: the read mark stands there, or further on; the room is followed, or not."""

    room: str
    id: str | None = None


class OneMessage(Struct):
    """Which message."""

    room: RoomName
    seq: Seq


# Many


def commands(exchange: Exchange, _: None) -> None:
    """Carry out one command, or an array of them, and answer each in its place."""
    media = exchange.media_type or JSON_TYPE
    codec = CODECS.get(media, JSON)  # an empty body may be called anything
    settings = exchange.gate.settings
    body = exchange.body
    found = _decoded(codec, commands_of(codec, body), settings.max_frame_bytes, settings.text_chars)

    def done(outcome: list[Answer] | ChatError) -> None:
        if isinstance(outcome, ChatError):
            exchange.refuse(outcome)
        else:
            exchange.answer(HTTPStatus.OK, codec.encode(outcome), content_type=media)

    _begin(exchange, found, codec, done)


def _decoded(codec: Codec, payloads: list[bytes], most: int, text_chars: int) -> Iterator[Command | Unparsed]:
    for payload in payloads:
        if len(payload) > most:
            error = ChatError(ErrorCode.TOO_LARGE, f"command: has {len(payload):,} bytes; at most {most:,} are taken")
            yield Unparsed(error, None)
            continue
        try:
            command = decode(codec, payload, text_chars)
        except Unparsed as unparsed:
            yield Unparsed(renamed(unparsed, "command"), unparsed.id, unparsed.room, unparsed.stream)
        else:
            yield command


def _begin(exchange: Exchange, found: Iterator[Command | Unparsed], codec: Codec, done: Done) -> None:
    context, identity = exchange.gate.context, exchange.who()
    request = Request(context, identity, context.limits.addresses.enter(exchange.address), found, codec, done)
    exchange.on_gone = request.abandon
    request.begin(len(exchange.body))


# One


def publish(exchange: Exchange, command: Publishing | Read, status: HTTPStatus = HTTPStatus.OK) -> None:
    """Carry out what makes an event, and tell which; with NO_CONTENT that it is done."""
    if command.id is None and not isinstance(command, Read):
        command = msgspec.structs.replace(command, id=new_id())

    def done(outcome: list[Answer] | ChatError) -> None:
        reply = outcome if isinstance(outcome, ChatError) else outcome[0]
        if isinstance(reply, replies.Ack) and reply.seq is not None and reply.ts is not None:
            if status is HTTPStatus.NO_CONTENT:
                exchange.answer(status)
                return
            written = Written(reply.room, reply.seq, reply.ts, reply.id)
            exchange.answer_object(HTTPStatus.OK if reply.duplicate else status, written)
        elif reply is None or isinstance(reply, replies.Ack):
            exchange.answer_object(HTTPStatus.OK, Applied(command.room, command.id))
        else:
            _refuse(exchange, reply)

    _begin(exchange, iter((command,)), JSON, done)


def _refuse(exchange: Exchange, reply: Any) -> None:
    if isinstance(reply, replies.Error):
        reply = ChatError(ErrorCode(reply.code), reply.message, reply.retry_after)
    exchange.refuse(reply)


def send(exchange: Exchange, command: Send) -> None:
    publish(exchange, command, HTTPStatus.CREATED)


def _ask(exchange: Exchange, command: History | Presence) -> None:
    def done(outcome: list[Answer] | ChatError) -> None:
        reply = outcome if isinstance(outcome, ChatError) else outcome[0]
        if isinstance(reply, Raw):
            exchange.answer(HTTPStatus.OK, bytes(reply))
        elif isinstance(reply, replies.Presence):
            exchange.answer_object(HTTPStatus.OK, reply)
        else:
            _refuse(exchange, reply)

    _begin(exchange, iter((command,)), JSON, done)


class _Page(Struct):
    messages: list[Raw]


class _Numbered(Struct):
    seq: int


_page = msgspec.json.Decoder(_Page).decode
_numbered = msgspec.json.Decoder(_Numbered).decode


def message(exchange: Exchange, asked: OneMessage) -> None:
    """The last message up to this seq is it, or there is none."""

    def done(outcome: list[Answer] | ChatError) -> None:
        reply = outcome if isinstance(outcome, ChatError) else outcome[0]
        if not isinstance(reply, Raw):
            _refuse(exchange, reply)
            return
        found = _page(reply).messages
        if found and _numbered(found[0]).seq == asked.seq:
            exchange.answer(HTTPStatus.OK, bytes(found[0]))
        else:
            exchange.refuse(
                ChatError(ErrorCode.NOT_FOUND, f"seq {asked.seq} of room {asked.room} is no message; ask for one's seq")
            )

    _begin(exchange, iter((History(room=asked.room, before=asked.seq + 1, limit=1),)), JSON, done)


ROOM = "/v1/rooms/{room}"
MESSAGE = ROOM + "/messages/{seq}"
ME = "/v1/me"
REACTION = MESSAGE + "/reactions/{emoji}"

ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/commands",
        commands,
        summary="Carry out one command or up to 64; the answers stand in their order, `null` where there is none",
        body=Posted | list[Posted],
        takes=(JSON_TYPE, MSGPACK_TYPE),
        answers={
            200: list[
                replies.Ack
                | replies.Error
                | event_schemas.History
                | replies.Presence
                | replies.Pong
                | replies.Stream
                | None
            ]
        },
    ),
    Endpoint(
        "POST",
        ROOM + "/messages",
        send,
        summary="Say something; 200: it was there already",
        asks=Send,
        reads_text=Text,
        token="needed",
        answers={201: Written, 200: Written},
    ),
    Endpoint(
        "GET",
        ROOM + "/messages",
        _ask,
        summary="The messages before one, or the last ones, as they are now",
        asks=History,
        answers={200: event_schemas.History},
    ),
    Endpoint(
        "GET",
        MESSAGE,
        message,
        summary="One message as it is now",
        asks=OneMessage,
        answers={200: event_schemas.MessageNow},
    ),
    Endpoint(
        "PATCH",
        MESSAGE,
        publish,
        summary="Change one's own message",
        asks=Edit,
        answers={200: Written},
        token="needed",
    ),
    Endpoint(
        "DELETE",
        MESSAGE,
        publish,
        summary="Delete one's own message",
        asks=Delete,
        answers={200: Written},
        token="needed",
    ),
    Endpoint(
        "PUT",
        REACTION,
        publish,
        summary="Give a reaction",
        asks=React,
        fixed={"on": True},
        token="needed",
        answers={200: Written},
    ),
    Endpoint(
        "DELETE",
        REACTION,
        publish,
        summary="Take a reaction back",
        asks=React,
        fixed={"on": False},
        token="needed",
        answers={200: Written},
    ),
    Endpoint(
        "PUT",
        ROOM + "/read",
        publish,
        summary="Move one's read mark",
        asks=Read,
        answers={200: Applied},
        token="needed",
    ),
    Endpoint(
        "PUT",
        ME + "/rooms/{room}",
        publish,
        summary="Follow a room, or follow it otherwise",
        asks=Follow,
        answers={200: Applied},
        token="needed",
    ),
    Endpoint(
        "DELETE",
        ME + "/rooms/{room}",
        publish,
        summary="Follow a room no more",
        asks=Unfollow,
        answers={200: Applied},
        token="needed",
    ),
    Endpoint(
        "POST",
        ME + "/invitations",
        publish,
        summary="Invite somebody to a room",
        asks=Invite,
        answers={200: Applied},
        token="needed",
    ),
    Endpoint(
        "GET", ROOM + "/presence", _ask, summary="Who is in the room", asks=Presence, answers={200: replies.Presence}
    ),
)
