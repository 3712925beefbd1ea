"""What the server may say, as docs/protocol.md has it and not as the server's code does. No I/O.

A field whose name ends with `?` may be absent, and counts as absent where it is null. Fields that are not here are
allowed, and not looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.frames import MAX_MESSAGE_BYTES

OWN = "~"
"""What one's own log is called wherever a room may be named."""

CHANGES = frozenset({"edited", "deleted", "reacted", "finished"})
"""Events that change the message with the seq `target`, or end it."""
EVENTS = frozenset({"message", *CHANGES, "followed", "unfollowed", "marked", "mentioned"})

ERRORS = {
    "bad_request": False,
    "unauthorized": False,
    "forbidden": False,
    "not_found": False,
    "conflict": False,
    "too_large": False,
    "rate_limited": True,
    "overloaded": True,
    "unavailable": True,
}
"""Each code of an `error`, and whether the same command, sent again, may fare better."""

CLOSES = {
    1000: True,
    1002: False,
    1003: False,
    1007: False,
    1008: True,
    1009: False,
    1011: True,
    1012: True,
    1013: True,
    4001: True,
    4002: True,
    4003: True,
}
"""Each code of a close frame, and whether the same client may come back: the others blame it."""

RETRY_CLOSES = frozenset({1012, 1013})
"""Close codes whose reason tells when to come back."""

TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses of a refusal, a proxy's too, after which the same request may fare better."""

ERROR_STATUSES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "bad_request",
    409: "conflict",
    413: "too_large",
    415: "bad_request",
    429: "rate_limited",
    503: "unavailable",
}
"""The code that the error of an answer over HTTP must have by its status; 503 may be `overloaded` too."""

REASONS = ("done", "stopped", "error", "interrupted")
"""Why a message does not grow any more."""

HISTORY_MAX = 200
PRESENT_MAX = 200
MENTIONS_MAX = 50
LEVELS = ("everything", "mentions", "nothing")
META_BYTES, META_LEVELS = 2048, 64
STATUS_CHARS, STEP_CHARS = 200, 1000
STATES = ("running", "done", "error")
"""How it stands with a step."""


class Field(NamedTuple):
    """What a field must be: in words, and as a check."""

    must: str
    holds: Callable[[Any], bool]


def _string(shortest: int = 1, longest: int | None = None) -> Field:
    def holds(value: Any) -> bool:
        return type(value) is str and shortest <= len(value) <= (longest or MAX_MESSAGE_BYTES) and _is_sound(value)

    size = f"of {shortest} to {longest} characters" if longest else f"of at least {shortest} characters"
    return Field(f"a string {size}", holds)


def _integer(least: int) -> Field:
    return Field(f"an integer from {least} to 2^63 - 1", lambda value: type(value) is int and least <= value < 2**63)


def _is_sound(text: str) -> bool:
    """No U+0000 and no half of a surrogate pair."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value) and value >= 0


def _is_limits(value: Any) -> bool:
    if type(value) is not dict:
        return False
    sizes = all(type(value.get(name)) is int and value[name] > 0 for name in ("frame_bytes", "text_chars"))
    return sizes and all(_is_number(value.get(name)) for name in ("send_rate", "send_burst"))


def _is_json(value: Any, levels: int) -> bool:
    """What every client can read: no binary, no NaN, no keys that are not strings, and not too deep."""
    match value:
        case None | bool():
            return True
        case str():
            return _is_sound(value)
        case int():
            return -(2**63) <= value < 2**64
        case float():
            return isfinite(value)
        case dict():
            return levels > 0 and all(
                type(key) is str and _is_sound(key) and _is_json(part, levels - 1) for key, part in value.items()
            )
        case list():
            return levels > 0 and all(_is_json(part, levels - 1) for part in value)
    return False


def _is_meta(value: Any) -> bool:
    if type(value) is not dict or not _is_json(value, META_LEVELS):
        return False
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) <= META_BYTES


def _is_users(value: Any) -> bool:
    """A list of `{user, name}`, each user once."""
    if type(value) is not list or not all(type(one) is dict and not _faults(_USER_CHECKS, one) for one in value):
        return False
    return len({one["user"] for one in value}) == len(value)


def _is_mentions(value: Any) -> bool:
    """A list of ids, each once; not empty."""
    if type(value) is not list or not 1 <= len(value) <= MENTIONS_MAX or not all(map(_ID.holds, value)):
        return False
    return len(set(value)) == len(value)


def _is_state(value: Any) -> bool:
    """The rooms that somebody follows, each once, with numbers that agree."""
    rooms = value.get("rooms") if type(value) is dict else None
    if type(rooms) is not list or not all(type(one) is dict and _is_followed(one) for one in rooms):
        return False
    return len({one["room"] for one in rooms}) == len(rooms)


def _is_followed(room: Data) -> bool:
    names = ("head", "messages", "read", "unread", "mentions")
    if not all(_CURSOR.holds(room.get(name)) for name in names) or not _LEVEL.holds(room.get("level")):
        return False
    head, messages, read, unread, mentions = (room[name] for name in names)
    sound = read <= head and messages <= head and mentions <= unread <= min(messages, head - read)
    return sound and _ROOM.holds(room.get("room")) and ("by" not in room or _ID.holds(room["by"]))


def _is_reactions(value: Any) -> bool:
    """From each emoji to the list of those who gave it, each once."""
    return type(value) is dict and all(
        _EMOJI.holds(emoji)
        and type(users) is list
        and users != []
        and all(map(_ID.holds, users))
        and len(set(users)) == len(users)
        for emoji, users in value.items()
    )


def _is_page(value: Any) -> bool:
    return type(value) is list and len(value) <= HISTORY_MAX and all(type(one) is dict for one in value)


def _is_chunks(value: Any) -> bool:
    return type(value) is list and all(
        type(chunk) is list
        and len(chunk) == 4
        and _SEQ.holds(chunk[0])
        and _SEQ.holds(chunk[1])
        and _CURSOR.holds(chunk[2])
        and _TEXT.holds(chunk[3])
        for chunk in value
    )


def _is_step(value: Any) -> bool:
    return type(value) is dict and not _faults(_STEP_CHECKS, value)


def _is_cursors(value: Any) -> bool:
    return type(value) is dict and all(_ANY_ROOM.holds(room) and _CURSOR.holds(seq) for room, seq in value.items())


def _is_errors(value: Any) -> bool:
    return type(value) is dict and all(
        _ROOM.holds(room) and type(error) is dict and not _faults(_CHECKS["error"], error)
        for room, error in value.items()
    )


_ID = _string(1, 64)
_ROOM = Field(
    "1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
    lambda value: type(value) is str and re.fullmatch("[a-z0-9][a-z0-9._-]{0,63}", value) is not None,
)
_ANY_ROOM = Field(f"{_ROOM.must}; or {OWN}", lambda value: value == OWN or _ROOM.holds(value))
_EMOJI = _string(1, 32)
_TEXT = _string()
_ANY_TEXT = _string(0)
_REASON = Field(f"one of {', '.join(REASONS)}", lambda value: type(value) is str and value in REASONS)
_SEQ = _integer(1)
_CURSOR = _integer(0)
_TIME = _integer(1)
_FLAG = Field("true or false", lambda value: type(value) is bool)
_TRUE = Field("true", lambda value: value is True)
_META = Field(f"an object that is JSON, of at most {META_BYTES} bytes", _is_meta)
_USERS = Field("a list of {user, name}, each user once", _is_users)
_PRESENT = Field(
    f"a list of at most {PRESENT_MAX} {{user, name}}, each user once",
    lambda value: _is_users(value) and len(value) <= PRESENT_MAX,
)

_EVENTS = Field("a list of objects", lambda value: type(value) is list and all(type(one) is dict for one in value))

_STATE = Field("an object with rooms", _is_state)
_LEVEL = Field(f"one of {', '.join(LEVELS)}", lambda value: type(value) is str and value in LEVELS)

_USER = {"user": _ID, "name": _ID}
_ROOM_EVENT = {"room": _ROOM, "seq": _SEQ}
_OWN_EVENT = {"room": Field(OWN, lambda value: value == OWN), "seq": _SEQ, "about": _ROOM}

FIELDS: Mapping[str, Mapping[str, Field]] = {
    "welcome": {
        **_USER,
        "device": _ID,
        "token?": _string(),
        "epoch": _string(),
        "server_time": _TIME,
        "limits": Field("an object with frame_bytes, text_chars, send_rate and send_burst", _is_limits),
        "ping_interval": Field("a number above 0", lambda value: _is_number(value) and value > 0),
    },
    "joined": {
        "id?": _ID,
        "room": _ANY_ROOM,
        "head": _CURSOR,
        "cursor": _CURSOR,
        "read": _CURSOR,
        "epoch": _string(),
        "state?": _STATE,
    },
    "synced": {"room": _ANY_ROOM, "seq": _CURSOR},
    "behind": {"room": _ANY_ROOM, "seq": _CURSOR, "head": _CURSOR},
    "left": {"id?": _ID, "room": _ANY_ROOM},
    "message": {
        **_ROOM_EVENT,
        "n": _SEQ,
        **_USER,
        "agent?": _TRUE,
        "streaming?": _TRUE,
        "text?": _ANY_TEXT,
        "deleted?": _TRUE,
        "ts": _TIME,
        "id?": _ID,
        "reply_to?": _SEQ,
        "meta?": _META,
        "mentions?": Field(f"a list of at most {MENTIONS_MAX} ids, each once", _is_mentions),
    },
    "edited": {**_ROOM_EVENT, "target": _SEQ, "user": _ID, "text?": _TEXT, "deleted?": _TRUE, "ts": _TIME},
    "deleted": {**_ROOM_EVENT, "target": _SEQ, "user": _ID, "ts": _TIME},
    "reacted": {**_ROOM_EVENT, "target": _SEQ, "user": _ID, "emoji": _EMOJI, "on": _FLAG, "ts": _TIME},
    "finished": {
        **_ROOM_EVENT,
        "target": _SEQ,
        "user": _ID,
        "ts": _TIME,
        "reason": _REASON,
        "length": _CURSOR,
        "deleted?": _TRUE,
        "crc?": _CURSOR,
        "text?": _ANY_TEXT,
        "meta?": _META,
    },
    "followed": {**_OWN_EVENT, "level": _LEVEL, "by?": _ID, "user": _ID, "ts": _TIME},
    "unfollowed": {**_OWN_EVENT, "user": _ID, "ts": _TIME},
    "marked": {**_OWN_EVENT, "read": _SEQ, "user": _ID, "ts": _TIME},
    "mentioned": {**_OWN_EVENT, "target": _SEQ, **_USER, "ts": _TIME},
    "ack": {
        "id": _ID,
        "room": _ROOM,
        "seq?": _SEQ,
        "ts?": _TIME,
        "duplicate?": _TRUE,
        "gen?": _SEQ,
        "length?": _CURSOR,
        "held?": _TRUE,
        "reason?": _REASON,
    },
    "history": {
        "id?": _ID,
        "room": _ROOM,
        "messages": Field(f"a list of at most {HISTORY_MAX} objects", _is_page),
        "more": _FLAG,
    },
    "pong": {"id?": _ID},
    "error": {
        "id?": _ID,
        "room?": _ANY_ROOM,
        "code": Field(f"one of {', '.join(ERRORS)}", lambda value: type(value) is str and value in ERRORS),
        "message": _string(),
        "retry_after?": Field("a number of seconds", _is_number),
        "stream?": _ID,
        "gen?": _SEQ,
        "length?": _CURSOR,
        "reason?": _REASON,
    },
    "closing": {
        "code": Field(f"one of {', '.join(map(str, CLOSES))}", lambda value: type(value) is int and value in CLOSES),
        "reason?": _string(),
        "retry_after_ms?": _CURSOR,
    },
    "stream": {
        "id?": _ID,
        "room": _ROOM,
        "seq": _SEQ,
        "gen": _SEQ,
        "offset": _CURSOR,
        "text": _ANY_TEXT,
        "done": _FLAG,
    },
    "appended": {"room": _ROOM, "chunks": Field("a list of [seq, gen, offset, text]", _is_chunks)},
    "stop": {"room": _ROOM, "seq": _SEQ, "by": _ID},
    "orphaned": {"room": _ROOM, "seq": _SEQ, "id": _ID},
    "typing": {"room": _ROOM, **_USER, "on": _FLAG},
    "status": {"room": _ROOM, **_USER, "text": _string(0, STATUS_CHARS), "seq?": _SEQ},
    "step": {
        "room": _ROOM,
        "user": _ID,
        "seq": _SEQ,
        "step": Field("an object with id, name, state, and perhaps input and output", _is_step),
    },
    "read": {"room": _ROOM, **_USER, "seq": _CURSOR},
    "presence": {
        "id?": _ID,
        "room": _ROOM,
        "count": _CURSOR,
        "users?": _PRESENT,
        "joined?": _USERS,
        "left?": _USERS,
    },
}
"""Each type that the server may send, and its fields."""


def plain(name: str) -> str:
    """The name of a field, without the mark that it may be absent."""
    return name.removesuffix("?")


_Check = tuple[str, bool, Field]


def _checks(fields: Mapping[str, Field]) -> list[_Check]:
    """The name of each field, whether it may be absent, and what it must be."""
    return [(plain(name), name != plain(name), field) for name, field in fields.items()]


_CHECKS = {name: _checks(fields) for name, fields in FIELDS.items()}
_PAGE_CHECKS = _checks(
    {
        "room": _ANY_ROOM,
        "epoch": _string(),
        "events": _EVENTS,
        "cursor": _CURSOR,
        "head": _CURSOR,
        "state?": _STATE,
    }
)
_POLL_CHECKS = _checks(
    {
        "epoch": _string(),
        "events": _EVENTS,
        "cursors": Field("an object from rooms to cursors", _is_cursors),
        "more": _FLAG,
        "errors?": Field("an object from rooms to {code, message}", _is_errors),
        "state?": _STATE,
    }
)
_SESSION_CHECKS = _checks({**_USER, "token": _string()})
_USER_CHECKS = _checks(_USER)
_STEP_CHECKS = _checks(
    {
        "id": _ID,
        "name": _ID,
        "state": Field(f"one of {', '.join(STATES)}", lambda value: type(value) is str and value in STATES),
        "input?": _string(0, STEP_CHARS),
        "output?": _string(0, STEP_CHARS),
    }
)
_IN_HISTORY = _checks(
    {
        **FIELDS["message"],
        "edited?": _TIME,
        "reactions?": Field("an object from each emoji to the users who gave it", _is_reactions),
    }
)
"""A message in a `history`: as it is now."""


def malformed(message: Data) -> str | None:
    """What keeps `message` from being one of the protocol's; None if nothing does."""
    name = message.get("type")
    checks = _CHECKS.get(name) if isinstance(name, str) else None
    if checks is None:
        return f"a message of the type {name!r}"
    fault = _faults(checks, message) or _contradiction(message)
    if fault is None and name == "message" and message.get("text") == "" and not message.get("streaming"):
        fault = "a text without characters, and it does not grow"
    if fault is None and name == "history":
        fault = next(_of_page(message), None)
    return f"{name}: {fault}" if fault else None


def malformed_page(page: Any) -> str | None:
    """What keeps `page` from being a page of a room's events; None if nothing does. The events are not looked at."""
    fault = _faults(_PAGE_CHECKS, page) if type(page) is dict else f"{str(page)[:80]!r} is no object"
    if fault is None and page["cursor"] > page["head"]:
        fault = f"the cursor {page['cursor']} is beyond the head {page['head']}"
    return f"a page: {fault}" if fault else None


def malformed_poll(answer: Any) -> str | None:
    """What keeps `answer` from being that of a poll; None if nothing does. The events are not looked at."""
    fault = _faults(_POLL_CHECKS, answer) if type(answer) is dict else f"{str(answer)[:80]!r} is no object"
    return f"a poll: {fault}" if fault else None


def malformed_session(session: Any) -> str | None:
    """What keeps `session` from being one; None if nothing does."""
    fault = _faults(_SESSION_CHECKS, session) if type(session) is dict else f"{str(session)[:80]!r} is no object"
    return f"a session: {fault}" if fault else None


def _faults(checks: Iterable[_Check], message: Data) -> str | None:
    for name, optional, field in checks:
        value = message.get(name)
        if not (optional and value is None) and not field.holds(value):
            return f"the field {name} is {str(value)[:80]!r}, and must be {field.must}"
    return None


def _contradiction(message: Data) -> str | None:
    """What no field is wrong with by itself."""
    match message["type"]:
        case "message" | "edited" if (message.get("text") is None) is (message.get("deleted") is None):
            return "neither a text nor deleted" if message.get("text") is None else "deleted, with a text"
        case "edited" | "deleted" | "reacted" | "finished" if message["target"] >= message["seq"]:
            return f"the target {message['target']} is not before the seq {message['seq']}"
        case "joined" if max(message["cursor"], message["read"]) > message["head"]:
            return f"the cursor {message['cursor']} or the mark {message['read']} is beyond the head {message['head']}"
        case "behind" if message["seq"] > message["head"]:
            return f"the seq {message['seq']} is beyond the head {message['head']}"
        case "presence":
            return _contradiction_of_presence(message)
    return None


def _contradiction_of_presence(message: Data) -> str | None:
    users, came, went = (message.get(name) for name in ("users", "joined", "left"))
    if users is not None:
        if came is not None or went is not None:
            return "an answer with users, and with those who came or went"
        if len(users) != min(message["count"], PRESENT_MAX):
            return f"{len(users)} users are named, but the count is {message['count']}"
    elif message.get("id") is not None:
        return "an answer without users"
    elif (came is None) is not (went is None):
        return "who came without who went, or the other way round"
    elif came and went and {one["user"] for one in came} & {one["user"] for one in went}:
        return "a user who both came and went"
    return None


def _of_page(answer: Data) -> Iterator[str]:
    """What is wrong with the messages of a `history`, each by itself."""
    for message in answer["messages"]:
        fault = _faults(_IN_HISTORY, message)
        if fault is None and message.get("type") != "message":
            fault = f"an object of the type {message.get('type')!r}"
        if fault is None:
            fault = _contradiction(message)
        if fault is None and message["room"] != answer["room"]:
            fault = f"it is of the room {message['room']}"
        if fault is not None:
            yield f"message {message.get('seq')}: {fault}"


def retry_after(reason: str) -> float | None:
    """The seconds that a close's reason tells to wait; None if it tells nothing."""
    asked = re.fullmatch("retry_after_ms=([0-9]{1,9})", reason)
    return int(asked[1]) / 1000 if asked else None
