"""`GET /v1/rooms/{room}/events` as JSON, a page of a room, and `POST /v1/poll`, the news of several; both may wait."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from msgspec import Meta, Struct

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.polls import MOST_EVENTS, ROOMS, Found
from tornado_chat.live.questions import check_unread, own_log
from tornado_chat.live.stays import Poller
from tornado_chat.log import own
from tornado_chat.web.endpoint import Endpoint
from tornado_chat.web.event_schemas import AnEvent
from tornado_chat.web.exchange import LONG_BYTES, Exchange
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import AnyRoom, Cursor, Last
from tornado_chat.wire.replies import Code, OwnState

WAIT_SECONDS = 55
"""The longest that a poll may wait: proxies cut off after 60 s."""

PAGE_EVENTS = 100
"""Of a page for which no `limit` is given."""

PageLimit = Annotated[int, Meta(ge=1, le=MOST_EVENTS, description=f"an integer from 1 to {MOST_EVENTS}")]
Wait = Annotated[float, Meta(ge=0, le=WAIT_SECONDS, description=f"seconds, a number from 0 to {WAIT_SECONDS}")]
Cursors = Annotated[
    dict[AnyRoom, Cursor],
    Meta(
        min_length=1,
        max_length=ROOMS,
        description=f"an object of 1 to {ROOMS} names of rooms, each with its cursor, an integer from 0",
        examples=[{"lobby": 0}],
    ),
]


class AskedPage(Struct, kw_only=True, frozen=True, gc=False):
    """A page of a room; `last` is the same as `after` = head - `last`."""

    room: AnyRoom
    after: Cursor | None = None
    last: Last | None = None
    limit: PageLimit = PAGE_EVENTS
    wait: Wait = 0


class AskedPoll(Struct, kw_only=True, frozen=True):
    """What is new in these rooms."""

    rooms: Cursors
    wait: Wait = 0


class Page(Struct, kw_only=True, omit_defaults=True):
    """`events` are those after `after`; `cursor` is the last one's seq. `head` is the room's last seq. `state`: of
    one's own log, at `cursor`, where it begins there.
    """

    room: str
    epoch: str
    events: list[AnEvent]
    cursor: int
    head: int
    state: OwnState | None = None


class RoomError(Struct, kw_only=True):
    """Why nothing of a room is told."""

    code: Code
    message: str


class News(Struct, kw_only=True, omit_defaults=True):
    """`cursors` are those to ask with next; `more`: others are there already. `errors`: of rooms that are left out.
    `state`: of one's own log, at its cursor, where events after the one that was given are gone.
    """

    epoch: str
    events: list[AnEvent]
    cursors: dict[str, int]
    more: bool
    errors: dict[str, RoomError] | None = None
    state: OwnState | None = None


_Body = Callable[[bytes, Found], bytes]
"""What makes the body of an answer out of the epoch, as JSON, and what was found."""


def endpoints() -> list[Endpoint]:
    return [
        Endpoint(
            "GET",
            "/v1/rooms/{room}/events",
            _page,
            summary="A page of a room, its events after a cursor; with `wait`, as soon as there is one",
            asks=AskedPage,
            answers={HTTPStatus.OK: Page},
        ),
        Endpoint(
            "POST",
            "/v1/poll",
            _poll,
            summary="The events of several rooms after their cursors; with `wait`, as soon as there is one",
            asks=AskedPoll,
            answers={HTTPStatus.OK: News},
        ),
    ]


def _page(exchange: Exchange, asked: AskedPage) -> Coroutine[Any, Any, None] | None:
    identity = exchange.who()
    if asked.room == own.NAME:
        return _own_page(exchange, identity, asked)
    identity.check_room(asked.room)
    if asked.last is None:
        _begin_page(exchange, identity, asked, asked.after or 0)
        return None
    if asked.after is not None:
        raise ChatError(ErrorCode.BAD_REQUEST, "last: give it or after, not both")
    return _last_page(exchange, identity, asked, asked.last)


async def _own_page(exchange: Exchange, identity: Identity, asked: AskedPage) -> None:
    """A page of one's own log; without events, but with the state, where that begins anew."""
    context = exchange.gate.context
    context.limits.check_join(context.limits.addresses.find(exchange.address))
    after, state = await own_log(context, identity, asked.after if asked.last is None else None)
    if exchange.gone:
        return
    if state is None:
        _begin_page(exchange, identity, asked, after)
    else:
        epoch = context.hub.log.epoch
        page = Page(room=asked.room, epoch=epoch, events=[], cursor=after, head=after, state=state)
        exchange.answer_object(HTTPStatus.OK, page)


async def _last_page(exchange: Exchange, identity: Identity, asked: AskedPage, last: int) -> None:
    head = await exchange.gate.context.hub.heads.get(asked.room)
    if not exchange.gone:
        _begin_page(exchange, identity, asked, max(0, head - last))


def _begin_page(exchange: Exchange, identity: Identity, asked: AskedPage, after: int) -> None:
    wait = asked.wait if exchange.method != "HEAD" else 0
    name = own.room_of(identity.user) if asked.room == own.NAME else asked.room
    _begin(exchange, identity, {name: after}, asked.limit, wait, partial(_page_of, name))


def _poll(exchange: Exchange, asked: AskedPoll) -> Coroutine[Any, Any, None] | None:
    identity = exchange.who()
    cursors: dict[str, int] = {}
    refused: dict[str, ChatError] = {}
    for room, cursor in asked.rooms.items():
        if room == own.NAME:
            continue
        try:
            identity.check_room(room)
        except ChatError as error:
            refused[room] = error
        else:
            cursors[room] = cursor
    mine = asked.rooms.get(own.NAME)
    if mine is not None:
        return _own_poll(exchange, identity, asked, mine, cursors, refused)
    if not cursors:
        raise next(iter(refused.values()))
    _begin(exchange, identity, cursors, MOST_EVENTS, asked.wait, partial(_news_of, refused, None))
    return None


async def _own_poll(
    exchange: Exchange,
    identity: Identity,
    asked: AskedPoll,
    mine: int,
    cursors: dict[str, int],
    refused: dict[str, ChatError],
) -> None:
    """The news of one's own log among those of rooms; where that begins anew, at once."""
    cursors[own.room_of(identity.user)], state = await own_log(exchange.gate.context, identity, mine)
    if not exchange.gone:
        wait = asked.wait if state is None else 0
        _begin(exchange, identity, cursors, MOST_EVENTS, wait, partial(_news_of, refused, state))


def _begin(
    exchange: Exchange, identity: Identity, cursors: Mapping[str, int], limit: int, wait: float, body_of: _Body
) -> None:
    """Answer `exchange` with what `body_of` makes of what is found."""
    gate, address = exchange.gate, exchange.address
    if wait:
        gate.check_room_for_one_more(address)
    account = gate.context.limits.addresses.find(address)
    nobody = identity.new  # to be there, one has to come again as the same
    poller = Poller(
        account,
        "\0" + address if nobody else identity.user,
        None if nobody else identity.user,
        identity.name,
        exchange.is_proxied,
    )
    poll = gate.context.polls.begin(identity, poller, cursors, limit, wait, partial(_tell, exchange, body_of))
    exchange.on_gone = poll.cancel
    if wait:
        exchange.expect_answer_within(wait)


def _tell(exchange: Exchange, body_of: _Body, found: Found | Exception) -> None:
    try:
        if isinstance(found, Exception):
            raise found
        context = exchange.gate.context
        body = body_of(orjson.dumps(context.hub.log.epoch), found)
        if len(body) > LONG_BYTES:
            check_unread(context, len(body))  # many may have asked for as much
        exchange.answer(HTTPStatus.OK, body)
    except Exception as error:
        exchange.fail(error)


def _page_of(room: str, epoch: bytes, found: Found) -> bytes:
    return b'{"room":"%b","epoch":%b,"events":[%b],"cursor":%d,"head":%d}' % (
        own.shown(room).encode(),
        epoch,
        found.events,
        found.cursors[room],
        found.heads[room],
    )


def _news_of(refused: Mapping[str, ChatError], state: OwnState | None, epoch: bytes, found: Found) -> bytes:
    errors = b""
    if refused:
        told = {room: {"code": error.code, "message": error.message} for room, error in refused.items()}
        errors = b',"errors":' + orjson.dumps(told)
    return b'{"epoch":%b,"events":[%b],"cursors":%b,"more":%b%b%b}' % (
        epoch,
        found.events,
        orjson.dumps({own.shown(room): cursor for room, cursor in found.cursors.items()}),
        b"true" if found.more else b"false",
        errors,
        b"" if state is None else b',"state":' + JSON.encode(state),
    )
