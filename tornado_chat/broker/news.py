"""The news as bytes: what processes say to each other, and the check of every field of what one hears.

A text is the version of this format (1 byte), one letter, and a body:

    e  JSON list of events (`data` as clients get it), ascending and without holes
    h  the seq that the log holds events up to, in place of events that were too big, too many or not sent in time
    c  JSON list of what changed in the presence: when that was said, worker, version, the one before, names by id, ids
       that left
    s  JSON list of when that was said, the user a signal is not for (or null) and its data
    a  JSON list of the worker that has messages that grow, and a list of what each grew by: seq, gen, offset, text

And in the channel of one process:

    q  JSON list of when that was said, room, seq, gen, offset: of what is there of a message from that offset on
    m  JSON list of when that was said: a message has moved

And in the channel of all processes:

    p  JSON list of when that was said, the author's user, and room, seq and who stops it, of a message that is to end

Each process that has a room numbers what it hears there: events by their seq, changes of presence by their version. So
what somebody records and publishes again is dropped. Signals have no number, and of a change the number may have been
forgotten: both say when they were said, in ms since 1970, and are refused when that is too long ago. What a message
grew by has its gen and its offset: who hears it again has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Required, TypedDict, cast

import msgspec
import orjson
from msgspec import Meta

from tornado_chat.broker import EVERYBODY, Change, Receiver
from tornado_chat.errors import Reason
from tornado_chat.wire.codec import JSON, Encoded
from tornado_chat.wire.commands import (
    ID_CHARS,
    NAME_CHARS,
    SEQ_MAX,
    Cursor,
    Emoji,
    Id,
    Level,
    Mentions,
    RoomName,
    Seq,
    StatusText,
)
from tornado_chat.wire.events import OWN_LOG, OWN_TYPES, Data, Event, EventType
from tornado_chat.wire.replies import Chunk, Orphaned, Read, Signal, Status, Step, Stop, Typing

FORMAT = 1
"""What other versions of this program need not understand has another number."""

EVENTS, HEAD, SIGNAL, CHANGE, APPENDED, WANTED, MOVED, STOP = (bytes((FORMAT, kind)) for kind in b"ehscaqmp")
"""What a text of each kind begins with."""

TEXT_BYTES = 64 * 1024
"""An event that is bigger is fetched from the log by those who need it."""

FRESH_SECONDS = 20
"""How old a signal or a change of presence may be; the clocks of two machines must not differ by more."""

NEVER = -1
"""Stands for the version before a change that was too big to be told: it fits nowhere, and the record is read."""

Tell = Callable[[Receiver], None]
"""Hands what was heard to the receiver."""

UserId = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS)]
Worker = Annotated[str, Meta(min_length=1, max_length=ID_CHARS)]


class _Event(TypedDict, total=False):
    type: Required[EventType]
    room: Required[str]
    seq: Required[Seq]
    user: Required[UserId]
    ts: Required[Cursor]
    n: Seq
    name: Name
    target: Seq
    text: str
    deleted: bool
    id: Id
    reply_to: Seq
    meta: msgspec.Raw
    emoji: Emoji
    on: bool
    streaming: bool
    reason: Reason
    length: Cursor
    crc: Annotated[int, Meta(ge=0, lt=2**32)]
    agent: bool
    mentions: Mentions
    about: RoomName
    level: Level
    by: UserId
    read: Seq


REQUIRED: dict[EventType, set[str]] = {
    "message": {"n", "name"},
    "edited": {"target"},
    "deleted": {"target"},
    "reacted": {"target", "emoji", "on"},
    "finished": {"target", "reason", "length"},
    "followed": {"about", "level"},
    "unfollowed": {"about"},
    "marked": {"about", "read"},
    "mentioned": {"about", "target", "name"},
}
"""The fields of each type, besides those that all events have."""

_decode_events = msgspec.json.Decoder(list[_Event]).decode
_decode_signal = msgspec.json.Decoder(tuple[int, UserId | None, Typing | Status | Step | Read | Orphaned]).decode
_decode_appended = msgspec.json.Decoder(
    tuple[Worker, list[tuple[Seq, Seq, Cursor, Annotated[str, Meta(min_length=1)]]]]
).decode
_decode_wanted = msgspec.json.Decoder(tuple[int, RoomName, Seq, Seq, Cursor]).decode
_decode_moved = msgspec.json.Decoder(tuple[int]).decode
_decode_stop = msgspec.json.Decoder(tuple[int, UserId, RoomName, Seq, UserId]).decode
_decode_change = msgspec.json.Decoder(
    tuple[int, Worker, Seq, Annotated[int, Meta(ge=NEVER, le=SEQ_MAX)], dict[UserId, Name], list[UserId]]
).decode


def events_text(events: Sequence[Event]) -> bytes:
    """TypeError for what orjson does not take, as an integer past 64 bits."""
    return EVENTS + b"[" + b",".join([JSON.encode(event.data) for event in events]) + b"]"


def head_text(seq: int) -> bytes:
    return HEAD + b"%d" % seq


def signal_text(signal: Signal, not_for: str | None) -> bytes:
    return SIGNAL + msgspec.json.encode((_now(), not_for, signal))


def change_text(change: Change) -> bytes:
    body = [_now(), change.worker, change.version, change.after, change.joined, list(change.left)]
    return CHANGE + orjson.dumps(body)


def appended_text(worker: str, chunks: Sequence[Chunk]) -> bytes:
    return APPENDED + orjson.dumps((worker, chunks))


def parted(chunks: Sequence[Chunk]) -> tuple[Sequence[Chunk], Sequence[Chunk]]:
    """`chunks` as two halves."""
    if len(chunks) > 1:
        middle = len(chunks) // 2
        return chunks[:middle], chunks[middle:]
    ((seq, gen, offset, text),) = chunks
    middle = len(text) // 2
    return [(seq, gen, offset, text[:middle])], [(seq, gen, offset + middle, text[middle:])]


def wanted_text(room: str, seq: int, gen: int, offset: int) -> bytes:
    return WANTED + orjson.dumps((_now(), room, seq, gen, offset))


def moved_text() -> bytes:
    return MOVED + orjson.dumps((_now(),))


def stop_text(user: str, told: Stop) -> bytes:
    return STOP + orjson.dumps((_now(), user, told.room, told.seq, told.by))


def read(room: str, text: bytes) -> Tell:
    """What `text` says of `room`; ValueError if it does not say it as it has to."""
    kind, body = text[:2], text[2:]
    if room.startswith(EVERYBODY):
        return _to_processes(room, kind, body)
    if kind == EVENTS:
        return _events(room, body)
    if kind == HEAD:
        return _head(room, body)
    if kind == SIGNAL:
        return _signal(room, body)
    if kind == CHANGE:
        return _change(room, body)
    if kind == APPENDED:
        worker, chunks = _decode_appended(body)
        return lambda receiver: receiver.on_appended(room, worker, chunks)
    raise ValueError(f"this version does not read {kind!a}")


def _events(room: str, body: bytes) -> Tell:
    events = _decode_events(body)
    if not events:
        raise ValueError("no event")
    seq = events[0]["seq"]
    shown = OWN_LOG if room.startswith(OWN_LOG) else room
    for event in events:
        if event["seq"] != seq or event["room"] != shown:
            raise ValueError("events of another room, or with a hole among them")
        if (event["type"] in OWN_TYPES) != (shown != room):
            raise ValueError("events of a log of one's own in a room, or others there")
        _check_fields(event["type"], event.keys())
        seq += 1
    # msgspec has checked each field, and made plain dictionaries.
    plain = cast(list[Data], events)
    for data in plain:
        if "meta" in data:
            meta = bytes(data["meta"])  # of its own: it was a part of the payload
            if not meta.startswith(b"{"):
                raise ValueError("a meta that is no object")
            data["meta"] = Encoded(meta)
    return lambda receiver: receiver.on_events(room, plain)


def _head(room: str, body: bytes) -> Tell:
    if not body.isdigit() or len(body) > len(str(SEQ_MAX)) or not 0 < (seq := int(body)) <= SEQ_MAX:
        raise ValueError("no seq")
    return lambda receiver: receiver.on_head(room, seq)


def _signal(room: str, body: bytes) -> Tell:
    said, not_for, signal = _decode_signal(body)
    _check_fresh(said)
    if isinstance(signal, Orphaned):
        return _orphaned(room, signal)
    if signal.room != room:
        raise ValueError("a signal of another room")
    name = signal.user if isinstance(signal, Step) else signal.name
    if not (1 <= len(signal.user) <= NAME_CHARS and 1 <= len(name) <= NAME_CHARS):
        raise ValueError("a signal of nobody, or of a user with too long a name")
    match signal:
        case Read():
            msgspec.convert(signal.seq, Cursor)
        case Step():
            msgspec.convert(signal.seq, Seq)
        case Status():
            msgspec.convert((signal.text, signal.seq), tuple[StatusText, Seq | None])
    return lambda receiver: receiver.on_signal(room, signal, not_for)


def _orphaned(room: str, signal: Orphaned) -> Tell:
    if not room.startswith(OWN_LOG):
        raise ValueError("a signal of a log of one's own in a room")
    msgspec.convert((signal.room, signal.seq, signal.id), tuple[RoomName, Seq, Id])
    return lambda receiver: receiver.on_signal(room, signal, None)


def _to_processes(channel: str, kind: bytes, body: bytes) -> Tell:
    to_all = channel == EVERYBODY
    if kind == STOP and to_all:
        said, user, room, seq, by = _decode_stop(body)
        _check_fresh(said)
        told = Stop(room=room, seq=seq, by=by)
        return lambda receiver: receiver.on_stop(user, told)
    if kind == WANTED and not to_all:
        said, room, seq, gen, offset = _decode_wanted(body)
        _check_fresh(said)
        return lambda receiver: receiver.on_wanted(room, seq, gen, offset)
    if kind == MOVED and not to_all:
        (said,) = _decode_moved(body)
        _check_fresh(said)
        return lambda receiver: receiver.on_moved()
    raise ValueError(f"this version does not read {kind!a} in a channel of processes")


def _change(room: str, body: bytes) -> Tell:
    said, worker, version, after, joined, left = _decode_change(body)
    _check_fresh(said)
    change = Change(worker, version, after, joined, left)
    return lambda receiver: receiver.on_presence(room, change)


def _check_fields(type_: EventType, fields: Any) -> None:
    if not REQUIRED[type_] <= fields:
        raise ValueError(f"{type_} without {' and '.join(sorted(REQUIRED[type_] - fields))}")


def _check_fresh(said: int) -> None:
    late = (_now() - said) / 1000
    if abs(late) > FRESH_SECONDS:
        raise ValueError(f"it was said {late:.0f} s ago: somebody repeats it, or clocks differ")


def _now() -> int:
    """Ms since 1970."""
    return time.time_ns() // 1_000_000
