"""What `verify` takes for a message of the server's: the tables of docs/protocol.md, and their bounds."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support import ROOT
from tornado_chat.verify.codecs import Data
from tornado_chat.verify.messages import CLOSES, ERRORS, FIELDS, RETRY_CLOSES, malformed, retry_after

DOC = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under `heading`, without its head."""
    rows = re.findall(r"^\|.*\n", DOC.partition(f"\n{heading}\n")[2].partition("\n#")[0], re.MULTILINE)[2:]
    assert rows, heading
    return [[cell.strip() for cell in row.strip("|\n").split("|")] for row in rows]


def test_every_type_and_field_of_the_page_and_no_other() -> None:
    documented = {
        row[0].strip("`"): {name + mark for name, mark in re.findall(r"`(\w+)`(\??)", row[1])}
        for heading in ("### Events", "### Answers and notices", "### Signals")
        for row in table(heading)
    }
    assert {name: set(fields) for name, fields in FIELDS.items()} == documented


def test_every_code_of_the_page_and_what_it_tells_a_client() -> None:
    assert {row[0].strip("`"): row[3].startswith("repeat it") for row in table("## Errors")} == ERRORS
    blames = "do not repeat it"
    assert {int(row[0]): blames not in row[2] for row in table("## Close codes")} == CLOSES
    assert {int(row[0]) for row in table("## Close codes") if "retry_after_ms" in row[2]} == RETRY_CLOSES


def test_the_example_of_the_page() -> None:
    said = [json.loads(line) for line in re.findall(r"^S> (.*)$", DOC, re.MULTILINE)]
    assert len(said) > 10
    assert [malformed(one) for one in said] == [None] * len(said)


USER = {"user": "u", "name": "U"}
MESSAGE: Data = {"type": "message", "room": "r", "seq": 3, "n": 2, **USER, "text": "x", "ts": 1}
EDITED: Data = {"type": "edited", "room": "r", "seq": 3, "target": 2, "user": "u", "text": "x", "ts": 1}
STEP: Data = {"id": "s", "name": "search", "state": "running"}
LIMITS = {"frame_bytes": 65536, "text_chars": 8000, "send_rate": 0, "send_burst": 20}
WELCOME: Data = {
    "type": "welcome",
    **USER,
    "device": "d",
    "epoch": "e",
    "server_time": 1,
    "limits": LIMITS,
    "ping_interval": 25,
}
JOINED: Data = {"type": "joined", "room": "r", "head": 5, "cursor": 5, "read": 5, "epoch": "e"}
PRESENCE: Data = {"type": "presence", "room": "r", "count": 1}


def page(*messages: Data) -> Data:
    return {"type": "history", "room": "r", "messages": list(messages), "more": False}


@pytest.mark.parametrize(
    "message",
    [
        WELCOME | {"token": "t", "ping_interval": 0.5, "news": [1]},
        JOINED | {"id": "j", "news": None},
        JOINED | {"state": {"rooms": []}},
        MESSAGE | {"mentions": ["ann", "bob"]},
        MESSAGE | {"agent": True},
        {"type": "status", "room": "r", **USER, "text": ""},
        {"type": "step", "room": "r", "user": "u", "seq": 3, "step": STEP | {"input": "", "output": "x" * 1000}},
        MESSAGE | {"id": None, "meta": {"a": [1, None, {"b": 2.5}]}, "reply_to": 9},
        {key: value for key, value in MESSAGE.items() if key != "text"} | {"deleted": True},
        {"type": "ack", "id": "i", "room": "r"},
        {"type": "pong"},
        {"type": "error", "code": "overloaded", "message": "m", "retry_after": 0.5},
        PRESENCE,
        PRESENCE | {"joined": [USER], "left": []},
        PRESENCE | {"id": "p", "users": [USER]},
        page(),
        page(MESSAGE | {"edited": 2, "reactions": {"👍": ["u", "v"]}}),
        page(EDITED | {"type": "message", "n": 2, "name": "U", "news": 1}),
    ],
)
def test_messages_of_the_protocol(message: Data) -> None:
    assert malformed(message) is None


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({}, "the type None"),
        ({"type": "news"}, "the type 'news'"),
        ({"type": []}, r"the type \[\]"),
        ({"type": "synced", "room": "r"}, "seq is 'None'"),
        ({"type": "synced", "room": "r", "seq": True}, "seq is 'True'"),
        ({"type": "synced", "room": "R", "seq": 1}, "room is 'R'"),
        ({"type": "synced", "room": "r\n", "seq": 1}, "room"),
        ({"type": "behind", "room": "r", "seq": 6, "head": 5}, "beyond the head"),
        (MESSAGE | {"seq": 0}, "seq is '0'"),
        (MESSAGE | {"seq": 2**63}, "seq"),
        (MESSAGE | {"ts": 1.5}, "ts"),
        (MESSAGE | {"text": None}, "neither"),
        (MESSAGE | {"deleted": True}, "deleted, with a text"),
        (MESSAGE | {"deleted": False}, "deleted is"),
        (MESSAGE | {"text": ""}, "text"),
        (MESSAGE | {"text": "a\0"}, "text"),
        (MESSAGE | {"text": "\ud800"}, "text"),
        (MESSAGE | {"name": "n" * 65}, "name"),
        (MESSAGE | {"id": ""}, "id"),
        (MESSAGE | {"reply_to": 0}, "reply_to"),
        (MESSAGE | {"meta": []}, "meta"),
        (MESSAGE | {"meta": {"a": float("nan")}}, "meta"),
        (MESSAGE | {"meta": {"a": b"x"}}, "meta"),
        (MESSAGE | {"meta": {"a": "é" * 1024}}, "meta"),
        (MESSAGE | {"agent": False}, "agent"),
        ({"type": "status", "room": "r", **USER, "text": "x" * 201}, "text"),
        ({"type": "step", "room": "r", "user": "u", "seq": 3, "step": STEP | {"state": "ended"}}, "step"),
        ({"type": "step", "room": "r", "user": "u", "seq": 3, "step": STEP | {"id": ""}}, "step"),
        ({"type": "step", "room": "r", "user": "u", "seq": 3, "step": STEP | {"input": "x" * 1001}}, "step"),
        (EDITED | {"target": 3}, "target 3 is not before the seq 3"),
        (EDITED | {"type": "reacted", "emoji": "x", "on": 1}, "on is '1'"),
        (EDITED | {"type": "reacted", "emoji": "x" * 33, "on": True}, "emoji"),
        (JOINED | {"cursor": 6}, "beyond the head"),
        (JOINED | {"read": 6}, "beyond the head"),
        (WELCOME | {"limits": LIMITS | {"text_chars": 0}}, "limits"),
        (WELCOME | {"ping_interval": 0}, "ping_interval"),
        ({"type": "ack", "id": "i", "room": "r", "duplicate": False}, "duplicate"),
        ({"type": "error", "code": "late", "message": "m"}, "code"),
        ({"type": "error", "code": [], "message": "m"}, "code"),
        ({"type": "error", "code": "overloaded", "message": "m", "retry_after": -1}, "retry_after"),
        (PRESENCE | {"id": "p"}, "without users"),
        (PRESENCE | {"id": "p", "count": 2, "users": [USER]}, "1 users are named, but the count is 2"),
        (PRESENCE | {"id": "p", "count": 2, "users": [USER, USER]}, "users is"),
        (PRESENCE | {"id": "p", "users": [USER], "left": []}, "with users, and with"),
        (PRESENCE | {"joined": [USER]}, "without who went"),
        (PRESENCE | {"joined": [USER], "left": [USER]}, "both came and went"),
        (PRESENCE | {"joined": [{"user": "u"}], "left": []}, "joined"),
        (page(MESSAGE) | {"more": None}, "more"),
        (page(MESSAGE | {"room": "s"}), "message 3: it is of the room s"),
        (page(EDITED), "message 3"),
        (page(MESSAGE | {"edited": True}), "edited"),
        (page(MESSAGE | {"reactions": {"x": []}}), "reactions"),
        (page(MESSAGE | {"reactions": {"x": ["u", "u"]}}), "reactions"),
        (page(*[MESSAGE] * 201), "messages"),
    ],
)
def test_messages_that_are_not_the_protocols(message: Any, why: str) -> None:
    assert re.search(why, malformed(message) or "")


def test_the_pause_that_a_close_asks_for() -> None:
    assert retry_after("retry_after_ms=1500") == 1.5
    assert [retry_after(reason) for reason in ("", "retry_after_ms=", "retry_after_ms=-1", "retry_after_ms=1s")] == [
        None
    ] * 4
