"""`/v1/rooms/{room}/fragments`: a room as HTML for a page of HTMX, and the form of that page."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

import msgspec

from tornado_chat.web import commands, stream
from tornado_chat.web.endpoint import EVENTS_TYPE, FORM_TYPE, JSON_TYPE, Endpoint
from tornado_chat.web.exchange import Exchange
from tornado_chat.wire.commands import Cursor, Last, RoomName, Send
from tornado_chat.wire.event_stream import block
from tornado_chat.wire.fragments import CLEAR

LAST = 50
"""Events with which a page begins that does not say what it has."""


class RoomInHtml(stream.Resuming, frozen=True):
    """Of `GET /v1/rooms/{room}/fragments`."""

    room: RoomName
    after: Cursor | None = None
    last: Last | None = None


def _listen(exchange: Exchange, asked: RoomInHtml) -> None:
    """Answer with a stream. Who does not say what it has, or has it of another log, begins with an empty list.

    An EventSource of htmx that has given up is followed by another one, which asks as the first one did.
    """
    context = exchange.gate.context
    brought = stream.ids(exchange)
    known = [id for id in brought if id.rpartition(".")[0] == context.hub.log.epoch]
    room, after, last = asked.room, asked.after, asked.last
    anew = not known if brought else after is None
    if anew:
        after, last = None, LAST if last is None else last
    admitted = stream.admit(exchange, stream.OneRoom(room=room, after=after, last=last), known)
    first = admitted.first + block(CLEAR) if anew else admitted.first
    # What comes back in `joined` tells whether the log has all that the page has.
    joins = [msgspec.structs.replace(join, id=join.after and str(join.after)) for join in admitted.joins]
    encoding = context.streams.fragments(admitted.encoding.framing)
    stream.begin(exchange, admitted._replace(first=first, joins=joins, encoding=encoding))


ENDPOINTS = (
    Endpoint(
        "GET",
        commands.ROOM + "/fragments",
        _listen,
        summary="A room as fragments of HTML that HTMX swaps, as it goes on",
        asks=RoomInHtml,
        answers={200: str},
        gives=EVENTS_TYPE,
    ),
    Endpoint(
        "POST",
        commands.ROOM + "/fragments",
        partial(commands.publish, status=HTTPStatus.NO_CONTENT),
        summary="Say something by a form, for which HTMX then swaps nothing",
        asks=Send,
        takes=(FORM_TYPE, JSON_TYPE),
        token="needed",
        answers={HTTPStatus.NO_CONTENT: None},
    ),
)
