"""Every kind of event: what its command becomes, and what readers see of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tornado_chat.log.kinds import BY_COMMAND, EDITING, ERASING, KINDS, Publishing, entry_of, event_of
from tornado_chat.wire.codec import JSON, MSGPACK
from tornado_chat.wire.commands import COMMANDS, Delete, Edit, React, Send

META = {"a": [1, {"b": None}], "é": "\u2028"}
CASES: list[tuple[Publishing, dict[str, Any]]] = [
    (
        Send(room="r", id="i", text="hi", reply_to=3, meta=META),
        {"type": "message", "name": "Ann", "text": "hi", "id": "i", "reply_to": 3, "meta": META},
    ),
    (Send(room="r", text="hi"), {"type": "message", "name": "Ann", "text": "hi"}),
    (Edit(room="r", id="i", seq=4, text="better"), {"type": "edited", "target": 4, "text": "better"}),
    (Delete(room="r", id="i", seq=4), {"type": "deleted", "target": 4}),
    (
        React(room="r", id="i", seq=4, emoji="🎉", on=False),
        {"type": "reacted", "target": 4, "emoji": "🎉", "on": False},
    ),
]


@pytest.mark.parametrize(("command", "seen"), CASES, ids=lambda case: type(case).__name__)
def test_what_a_command_becomes(command: Publishing, seen: dict[str, Any]) -> None:
    event = event_of(entry_of(command, "ann", "Ann", command.id or "hidden"), 7, 1000)
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
    publishing = {struct for name, struct in COMMANDS.items() if name in ("send", "edit", "delete", "react")}
    assert set(BY_COMMAND) == publishing
    assert KINDS.keys() - {kind.type for kind in BY_COMMAND.values()} == {"finished"}


def test_what_an_erasure_takes() -> None:
    assert list(ERASING) == ["deleted"]
    assert set(EDITING) == {"edited", "finished"}
    for type in ("message", "edited", "finished"):
        entry = entry_of(CASES[0][0], "ann", "Ann", "i")
        entry.type, entry.text, entry.meta, entry.target = KINDS[type].type, None, None, 4
        data = event_of(entry, 7, 1).data
        assert data["deleted"] is True
        assert not {"text", "meta", "crc"} & data.keys()


def test_meta_is_kept_as_json_of_its_own_size() -> None:
    entry = entry_of(CASES[0][0], "ann", "Ann", "i")
    assert entry.meta == orjson.dumps(META)
