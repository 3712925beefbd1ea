"""`GET /v1/rooms/{room}/events`, `GET` and `POST /v1/events`: who reads what; then the socket is the stream's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from socket import SHUT_WR, SocketType
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.live.event_stream import CursorStream, EventStream, random_retry
from tornado_chat.live.stream_session import StreamSession
from tornado_chat.log import own
from tornado_chat.web.endpoint import EVENTS_TYPE, Endpoint
from tornado_chat.web.event_schemas import OnStream
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.handover import begin_session
from tornado_chat.wire import event_stream
from tornado_chat.wire.commands import AnyRoom, Cursor, Flag, Join, Last, read
from tornado_chat.wire.event_stream import StreamEncoding

ROOMS = 100
"""Of one stream."""

Id = Annotated[str, Meta(description="an id as a stream gives it, like the header Last-Event-ID")]
RoomAndCursor = Annotated[str, Meta(description="a room, and perhaps a colon and a seq")]
Rooms = Annotated[
    list[RoomAndCursor],
    Meta(
        min_length=1,
        max_length=ROOMS,
        description=f"a room, and perhaps a colon and a seq; 1 to {ROOMS} times",
        examples=[["lobby"]],
    ),
]


class Resuming(Struct, kw_only=True, frozen=True):
    """What every stream may be asked with."""

    last_event_id: Id | None = None
    lastEventId: Id | None = None  # as polyfills of EventSource call it


class OneRoom(Resuming, frozen=True):
    """Of `GET /v1/rooms/{room}/events`."""

    room: AnyRoom
    after: Cursor | None = None
    last: Last | None = None


class ManyRooms(Resuming, frozen=True):
    """Of `GET /v1/events`."""

    join: Rooms
    ids: Flag = False


class Wanted(Struct, kw_only=True, frozen=True):
    """One room of `POST /v1/events`."""

    room: str
    after: int | None = None
    last: int | None = None


class PostedRooms(Struct, kw_only=True, frozen=True):
    """Of `POST /v1/events`."""

    join: Annotated[
        list[Wanted],
        Meta(
            max_length=ROOMS,
            description=f"an array of up to {ROOMS} objects with `room`, and perhaps `after` or `last`",
            examples=[[{"room": "lobby"}]],
        ),
    ]


Asked = OneRoom | ManyRooms | PostedRooms


class Admitted(NamedTuple):
    """A client that may come in."""

    head: bytes  # of the answer
    first: bytes  # blocks before `welcome`
    identity: Identity
    token: str | None
    encoding: StreamEncoding
    joins: Sequence[Join]
    tells_cursors: bool


def endpoints() -> Sequence[Endpoint]:
    return (
        _endpoint("GET", "/v1/rooms/{room}/events", OneRoom, "A stream of one room, as it goes on"),
        _endpoint("GET", "/v1/events", ManyRooms, "A stream of several rooms, as they go on"),
        _endpoint("POST", "/v1/events", PostedRooms, "The same, for who reads the stream with `fetch`"),
    )


def _endpoint(method: str, path: str, asks: type[Struct], summary: str) -> Endpoint:
    return Endpoint(method, path, _stream, summary=summary, answers={200: OnStream}, asks=asks, gives=EVENTS_TYPE)


def _stream(exchange: Exchange, asked: Any) -> None:
    begin(exchange, admit(exchange, asked, ids(exchange)))


def begin(exchange: Exchange, admitted: Admitted) -> None:
    """Answer with a stream, which has the connection from then on."""
    if exchange.gone:
        return
    try:
        sock, early = exchange.detach()
    except OSError:  # it has gone meanwhile, or no file is left for the duplicate
        return
    if exchange.method == "HEAD":
        try:
            sock.send(admitted.head)
            sock.shutdown(SHUT_WR)
        except OSError:
            pass  # it has gone
        sock.close()
        return
    try:
        _open(exchange, admitted, sock, early)
    except BaseException:
        sock.close()
        raise


def admit(exchange: Exchange, asked: Asked, ids: Sequence[str]) -> Admitted:
    """Who asks for a stream so, with these Last-Event-ID; RequestError or ChatError: they may not have it.

    Nothing is taken up yet.
    """
    gate, headers, arguments = exchange.gate, exchange.headers, exchange.arguments
    gate.check_room_for_one_more(exchange.address)
    identity, token = gate.identify(headers, (), arguments)
    joins = _joins(asked, [event_stream.parse_last_event_id(id) for id in ids], gate.settings.text_chars)
    only = joins[0] if len(joins) == 1 else None
    if only is not None and only.room != own.NAME and not identity.may_enter(only.room):
        raise ChatError(ErrorCode.FORBIDDEN, f"your token does not let you into {only.room}: ask for one that does")
    if exchange.version == "HTTP/1.0":
        framing = event_stream.PLAIN
    elif event_stream.accepts_gzip(headers.get("accept-encoding", "")):
        framing = event_stream.GZIPPED
    else:
        framing = event_stream.CHUNKED
    encoding = gate.context.streams.get(framing, numbered=only is not None)
    head = event_stream.head(framing, exchange.cross_origin_headers())
    tells_cursors = only is None and arguments.get("ids") in ("1", "true")
    return Admitted(head, event_stream.retry(random_retry()), identity, token, encoding, joins, tells_cursors)


def _open(exchange: Exchange, admitted: Admitted, sock: SocketType, early: bytes) -> None:
    """Answer on `sock` (not blocking), which is the stream's from here on; `early` came behind the request."""
    context, encoding, joins = exchange.gate.context, admitted.encoding, admitted.joins
    account = context.limits.addresses.enter(exchange.address)
    session = StreamSession(context, admitted.identity, account, encoding)
    if admitted.tells_cursors:
        cursors, soon = partial(session.cursors, joins), context.hub.shared.turns.tell_cursors
        line: EventStream = CursorStream(context.lines, sock, session, encoding, cursors, soon)
    else:
        line = EventStream(context.lines, sock, session, encoding)
    framing = encoding.framing
    answer = admitted.head + framing.begin + framing.part(admitted.first)
    begin_session(session, line, answer, admitted.token, joins, early)


def _joins(asked: Asked, told: Sequence[int | dict[str, int]], text_chars: int) -> list[Join]:
    """What the client joins; an id that it brings wins over `after` and `last`, and of several the highest."""
    wanted: list[dict[str, Any]]
    if isinstance(asked, OneRoom):
        wanted = [{"room": asked.room, "after": asked.after, "last": asked.last}]
    elif isinstance(asked, ManyRooms):
        wanted = [_named(text) for text in asked.join]
    else:
        wanted = [{"room": each.room, "after": each.after, "last": each.last} for each in asked.join]
    names = [each["room"] for each in wanted]
    if len(set(names)) < len(names):
        raise ChatError(ErrorCode.BAD_REQUEST, "join: must name each room only once")
    for each in wanted:
        found = [_cursor(one, each["room"], len(wanted)) for one in told]
        cursors = [cursor for cursor in found if cursor is not None]
        if cursors:
            each["after"], each["last"] = max(cursors), None
    return [read(each, Join, text_chars) for each in wanted]


def _named(text: str) -> dict[str, Any]:
    room, colon, seq = text.partition(":")
    after = int(seq) if seq.isascii() and seq.isdigit() and len(seq) < 20 else seq
    return {"room": room, "after": after if colon else None, "last": None}


def _cursor(told: int | dict[str, int], room: str, rooms: int) -> int | None:
    """The cursor for `room`, one of so many, in an id."""
    if isinstance(told, dict):
        return told.get(room)
    if rooms > 1:
        raise ChatError(ErrorCode.BAD_REQUEST, "Last-Event-ID: must name the rooms, as a stream of several tells them")
    return told


def ids(exchange: Exchange) -> list[str]:
    """Every id that the client brings; an empty one is none."""
    arguments = exchange.arguments
    values = exchange.headers.get("last-event-id"), arguments.get("last_event_id"), arguments.get("lastEventId")
    return [value for value in values if value]
