"""Every kind of event: what its command becomes, and what readers see of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tornado_chat.log.kinds import (
    BY_COMMAND,
    EDITING,
    ERASING,
    KINDS,
    Publishing,
    entry_of,
    event_of,
    made_along,
    portion,
)
from tornado_chat.wire.codec import JSON, MSGPACK
from tornado_chat.wire.commands import COMMANDS, Delete, Edit, Follow, Invite, React, Send, Unfollow

META = {"a": [1, {"b": None}], "é": "\u2028"}
CASES: list[tuple[Publishing, dict[str, Any]]] = [
    (
        Send(room="r", id="i", text="hi", reply_to=3, meta=META),
        {"type": "message", "n": 5, "name": "Ann", "text": "hi", "id": "i", "reply_to": 3, "meta": META},
    ),
    (Send(room="r", text="hi"), {"type": "message", "n": 5, "name": "Ann", "text": "hi"}),
    (Edit(room="r", id="i", seq=4, text="better"), {"type": "edited", "target": 4, "text": "better"}),
    (Delete(room="r", id="i", seq=4), {"type": "deleted", "target": 4}),
    (
        React(room="r", id="i", seq=4, emoji="🎉", on=False),
        {"type": "reacted", "target": 4, "emoji": "🎉", "on": False},
    ),
]


OWN_CASES: list[tuple[Publishing, str, dict[str, Any]]] = [
    (Follow(room="r", level="mentions"), "~ann", {"type": "followed", "about": "r", "level": "mentions"}),
    (Unfollow(room="r"), "~ann", {"type": "unfollowed", "about": "r"}),
    (Invite(room="r", user="bob"), "~bob", {"type": "followed", "about": "r", "level": "everything", "by": "ann"}),
]


@pytest.mark.parametrize(("command", "room", "seen"), OWN_CASES, ids=lambda case: type(case).__name__)
def test_what_a_command_becomes_in_a_log_of_ones_own(command: Publishing, room: str, seen: dict[str, Any]) -> None:
    entry = entry_of(command, "ann", "Ann", "hidden")
    assert entry.room == room
    assert event_of(entry, 7, 0, 1000).data == {"room": "~", "seq": 7, "user": "ann", "ts": 1000, **seen}


def test_whom_a_message_mentions() -> None:
    entry = entry_of(Send(room="r", text="hi", mentions=["bob", "ann", "eve", "bob"]), "ann", "Ann", "hidden")
    assert event_of(entry, 7, 5, 1).data["mentions"] == ["bob", "eve"]
    made = made_along(entry, 7)
    assert [event_of(along, 3, 0, 1).data for along in made] == [
        {"type": "mentioned", "room": "~", "seq": 3, "about": "r", "target": 7, "user": "ann", "name": "Ann", "ts": 1}
    ] * 2
    assert [along.room for along in made] == ["~bob", "~eve"]


def test_a_batch_is_cut_where_it_makes_too_many_events() -> None:
    batch = [
        entry_of(Send(room="r", text="hi", mentions=["bob"] * (number > 2)), "ann", "Ann", "") for number in range(5)
    ]
    for entry in batch[3:]:
        entry.mentions = tuple(f"user-{number}" for number in range(9))
    assert [len(portion(batch, limit)) for limit in (None, 100, 23, 22, 13, 12, 3, 2)] == [5, 5, 5, 4, 4, 3, 3, 2]
    assert len(portion(batch[3:], 1)) == 1


@pytest.mark.parametrize(("command", "seen"), CASES, ids=lambda case: type(case).__name__)
def test_what_a_command_becomes(command: Publishing, seen: dict[str, Any]) -> None:
    event = event_of(entry_of(command, "ann", "Ann", command.id or "hidden"), 7, 5, 1000)
    for codec in (JSON, MSGPACK):
        decoded = codec.decode(codec.encode(event.data))
        assert decoded == {"room": "r", "seq": 7, "user": "ann", "ts": 1000, **seen}
    assert event.seq == 7


def test_the_key_is_kept_and_a_hidden_one_is_not_shown() -> None:
    hidden = entry_of(Send(room="r", text="hi"), "ann", "Ann", "hidden")
    assert (hidden.key, hidden.id) == ("hidden", None)
    shown = entry_of(Send(room="r", id="i", text="hi"), "ann", "Ann", "i")
    assert (shown.key, shown.id) == ("i", "i")


def test_every_command_that_publishes_has_one_kind() -> None:
    names = ("send", "edit", "delete", "react", "follow", "unfollow", "invite")
    assert set(BY_COMMAND) == {COMMANDS[name] for name in names}
    assert {kind.type for kind in BY_COMMAND.values()} == set(KINDS) - {"finished", "marked", "mentioned"}


def test_what_an_erasure_takes() -> None:
    assert list(ERASING) == ["deleted"]
    assert set(EDITING) == {"edited", "finished"}
    for type in ("message", "edited", "finished"):
        entry = entry_of(CASES[0][0], "ann", "Ann", "i")
        entry.type, entry.text, entry.meta, entry.target = KINDS[type].type, None, None, 4
        data = event_of(entry, 7, 5, 1).data
        assert data["deleted"] is True
        assert not {"text", "meta", "crc"} & data.keys()


def test_meta_is_kept_as_json_of_its_own_size() -> None:
    entry = entry_of(CASES[0][0], "ann", "Ann", "i")
    assert entry.meta == orjson.dumps(META)
