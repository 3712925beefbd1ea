"""Every command with all its fields, and what must be refused in each of them."""

from __future__ import annotations

import json
import math
from typing import Any

import msgpack

TEXT_CHARS = 100
SEQ_MAX = 2**63 - 1

ROOM: dict[str, Any] = {"id": "c1", "room": "general"}
FULL: dict[str, dict[str, Any]] = {
    "join": {**ROOM, "after": 4},
    "leave": {**ROOM},
    "send": {
        **{**ROOM, "text": "hello", "reply_to": 3, "meta": {"a": [1, 2.5, None, True, {"b": "c"}]}},
        **{"mentions": ["ann", "Zoë ☃"], "mark": False},
    },
    "edit": {**ROOM, "seq": 3, "text": "hello"},
    "delete": {**ROOM, "seq": 3},
    "react": {**ROOM, "seq": 3, "emoji": "👍", "on": True},
    "history": {**ROOM, "before": 9, "limit": 10},
    "read": {**ROOM, "seq": 3},
    "follow": {**ROOM, "level": "mentions"},
    "unfollow": {**ROOM},
    "invite": {**ROOM, "user": "ann"},
    "typing": {**ROOM, "on": False},
    "status": {**ROOM, "text": "searching", "seq": 3},
    "step": {
        **ROOM,
        "seq": 3,
        "step": {"id": "s1", "name": "search", "state": "done", "input": "a cake", "output": "42 found"},
    },
    "presence": {**ROOM},
    "ping": {"id": "c1"},
    "begin": {**ROOM, "reply_to": 3, "meta": {"a": 1}, "replica": "one", "take_over": False},
    "append": {**ROOM, "stream": "re:3", "offset": 0, "text": "hello", "gen": 1},
    "finish": {**ROOM, "stream": "re:3", "length": 5, "reason": "done", "meta": {"a": 1}},
    "stop": {**ROOM, "seq": 3},
    "fetch": {**ROOM, "seq": 3, "offset": 2},
}
"""Each command with its fields; `last`, which does not go with `after`, is tried by itself."""

REQUIRED = {
    "join": {"room"},
    "leave": {"room"},
    "send": {"room", "text"},
    "edit": {"room", "seq", "text"},
    "delete": {"room", "seq"},
    "react": {"room", "seq", "emoji", "on"},
    "history": {"room"},
    "read": {"room", "seq"},
    "follow": {"room", "level"},
    "unfollow": {"room"},
    "invite": {"room", "user"},
    "typing": {"room", "on"},
    "status": {"room", "text"},
    "step": {"room", "seq", "step"},
    "presence": {"room"},
    "ping": set[str](),
    "begin": {"id", "room"},
    "append": {"room", "stream", "offset", "text"},
    "finish": {"room", "stream", "length", "reason"},
    "stop": {"room"},
    "fetch": {"room", "seq"},
}


def nested(depth: int) -> Any:
    """An array inside an array and so on, `depth` in all."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


DEEP = "<1,000 arrays in each other>"
"""Put into the payload as what it says: no encoder goes that deep."""

TEXTUAL: list[Any] = [
    5,
    1.5,
    True,
    False,
    [],
    {},
    ["a"],
    {"a": "b"},
    "",
    "a\0b",
    "a\ud800",
    "\udc00a",
    2**64,
    10**40,
    DEEP,
]
NUMERIC: list[Any] = ["1", "", 1.0, 1.5, True, False, [], [1], {}, -1, -(2**63) - 1, 2**63, 2**64, 10**40, 1e300, DEEP]
LIMITED: list[Any] = [*NUMERIC, 501]
BAD: dict[str, list[Any]] = {
    "room": [*TEXTUAL, "A", "a b", " a", "a\n", "-a", ".a", "_a", "é", "a/b", "a" * 65],
    "id": [*TEXTUAL, "a" * 65],
    "text": [*TEXTUAL, "a" * (TEXT_CHARS + 1), "é" * (TEXT_CHARS + 1)],
    "emoji": [*TEXTUAL, "a" * 33],
    "after": NUMERIC,
    "last": LIMITED,
    "limit": [*LIMITED, 0, 201],
    "before": [*NUMERIC, 0],
    "reply_to": [*NUMERIC, 0],
    "seq": [*NUMERIC, 0],
    "on": [0, 1, 1.0, "true", "", [], {}, DEEP],
    "mark": [0, 1, 1.0, "true", "", [], {}, DEEP],
    "mentions": [
        *[value for value in TEXTUAL if type(value) is not list],
        *["ann", [5], [""], ["a" * 65], ["a\nb"], ["a\ud800"], ["a", "\0"], ["a"] * 51],
    ],
    "user": [*TEXTUAL, "a" * 65, "a\nb"],
    "level": [*TEXTUAL, "all", "Everything", "everything "],
    "take_over": [0, 1, 1.0, "true", "", [], {}, DEEP],
    "replica": [*TEXTUAL, "a" * 65],
    "stream": [*TEXTUAL, "a" * 65],
    "offset": NUMERIC,
    "length": NUMERIC,
    "gen": [*NUMERIC, 0],
    "reason": [*TEXTUAL, "Done", "done "],
    "meta": [
        *[5, 1.5, True, "a", "", [], [{}], DEEP, {"a": DEEP}, {"a": nested(64)}, {"a": nested(300)}],
        *[{"a\0": 1}, {"a": "\0"}, {"a": ["\ud800"]}, {"\ud800": 1}, {"a": 2**64}, {"a": [-(2**63) - 1]}],
        *[{"a": "b" * 2041}, {"a": "é" * 1021}, {"a" * 2043: 1}],
    ],
}
STEP: dict[str, Any] = FULL["step"]["step"]
BAD["step"] = [
    *[5, True, "a", [], {}, [STEP], DEEP],
    *[STEP | {name: value} for name in ("id", "name") for value in [*TEXTUAL, None, "a" * 65]],
    *[STEP | {name: value} for name in ("input", "output") for value in [*TEXTUAL, "é" * 1001] if value != ""],
    *[STEP | {"state": value} for value in [*TEXTUAL, None, "Done", "pending"]],
]
NAN: list[Any] = [math.nan, math.inf, -math.inf]
EXTENSIONS: list[Any] = [msgpack.ExtType(5, b"a"), msgpack.ExtType(5, b""), msgpack.Timestamp(1)]
ONLY_MSGPACK: list[Any] = [b"a", b"\xff", b"", {1: 2}, {None: 1}, {b"a": 1}, *NAN]


def bad(name: str, field: str) -> list[Any]:
    """What must be refused in this field of this command."""
    values = BAD[field]
    if (name, field) == ("read", "seq"):  # the one command whose seq may be 0
        values = NUMERIC
    if (name, field) == ("append", "text"):  # of any length
        values = TEXTUAL
    if (name, field) == ("status", "text"):
        values = [*[value for value in TEXTUAL if value != ""], "é" * 201]
    return values


def message(name: str, **changes: Any) -> dict[str, Any]:
    if "last" in changes:
        changes = {"after": None, **changes}
    return {"type": name, **FULL[name], **changes}


def as_json(obj: object) -> bytes:
    deep = b"[" * 1_000 + b"]" * 1_000
    return json.dumps(obj).encode().replace(json.dumps(DEEP).encode(), deep)  # lone surrogates as escapes, NaN as NaN


def as_msgpack(obj: object) -> bytes:
    payload: bytes = msgpack.packb(obj, unicode_errors="surrogatepass")
    return payload.replace(msgpack.packb(DEEP), b"\x91" * 999 + b"\x90")
