"""Every command and every field: what is taken, what is refused, and that the refusal names the field."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins

from tests.support.wrong_commands import (
    DEEP,
    EXTENSIONS,
    FULL,
    NAN,
    ONLY_MSGPACK,
    REQUIRED,
    SEQ_MAX,
    TEXT_CHARS,
    as_json,
    as_msgpack,
    bad,
    message,
    nested,
)
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.wire.codec import JSON, MSGPACK, Codec
from tornado_chat.wire.commands import (
    COMMANDS,
    COMMANDS_MAX,
    ESCAPES_MAX,
    Actor,
    Append,
    Begin,
    Command,
    Delete,
    Edit,
    Fetch,
    Finish,
    Follow,
    History,
    Invite,
    Join,
    Leave,
    Ping,
    Presence,
    React,
    Read,
    Send,
    Status,
    Step,
    Stop,
    Typing,
    Unfollow,
    Unparsed,
    check_name,
    check_user_id,
    commands_of,
    decode,
    parse,
    room_name,
)

ACTING = [
    "send",
    "edit",
    "delete",
    "react",
    "read",
    "follow",
    "unfollow",
    "invite",
    "begin",
    "append",
    "finish",
    "stop",
    "status",
    "step",
]
FIELDS = [(name, field) for name, full in FULL.items() for field in [*full, *(["last"] if name == "join" else [])]]


def payloads(obj: object) -> list[tuple[Codec, bytes]]:
    """`obj` in each codec that has it: MessagePack has no integers past 64 bits."""
    made = [(JSON, as_json(obj))]
    with contextlib.suppress(OverflowError):
        made.append((MSGPACK, as_msgpack(obj)))
    return made


def refused(codec: Codec, payload: bytes) -> tuple[str, str | None]:
    """The message of the one ChatError that decode and parse give, and the id that goes with it."""
    with pytest.raises(Unparsed) as caught:
        decode(codec, payload, TEXT_CHARS)
    error = caught.value
    assert error.code is ErrorCode.BAD_REQUEST
    assert len(error.message) < 300
    assert "\n" not in error.message
    error.message.encode()
    return error.message, error.id


def short(value: object) -> str:
    return ascii(value)[:24]


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_bad_field_is_named(name: str, field: str) -> None:
    for value in bad(name, field):
        for codec, payload in payloads(message(name, **{field: value})):
            text, id = refused(codec, payload)
            assert text.startswith(f"{field}: must "), (value, text)
            assert id == (None if field == "id" else "c1")


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_what_only_message_pack_has_is_named(name: str, field: str) -> None:
    for value in ONLY_MSGPACK:
        text, id = refused(MSGPACK, as_msgpack(message(name, **{field: value})))
        assert text.startswith(f"{field}: must "), (value, text)
        assert id == (None if field == "id" else "c1")


def test_meta_is_json_at_every_level() -> None:
    for value in ONLY_MSGPACK:
        for meta in ({"a": value}, {"b": [value]}, {"b": [{"c": {"d": value}}]}):
            text, id = refused(MSGPACK, as_msgpack(message("send", meta=meta)))
            assert text.startswith("meta: must "), (value, text)
            assert id == "c1"


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_an_extension_value_is_refused_before_it_is_made(name: str, field: str) -> None:
    for value in EXTENSIONS:
        for held in (value, [value] * 10_000, {"a": value}):
            text, _ = refused(MSGPACK, as_msgpack(message(name, **{field: held})))
            assert text.startswith(("message: is not MessagePack", "message: holds an extension")), text


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("value", NAN)
def test_nan_is_not_json(name: str, value: float) -> None:
    for field in FULL[name]:
        assert refused(JSON, as_json(message(name, **{field: value})))[0].startswith("message: is not JSON: ")


@pytest.mark.parametrize("name", FULL)
def test_a_missing_field_is_named(name: str) -> None:
    for field in FULL[name]:
        absent = message(name)
        del absent[field]
        for obj in (absent, message(name, **{field: None})):
            for codec, payload in payloads(obj):
                if field in REQUIRED[name]:
                    text, id = refused(codec, payload)
                    assert text.startswith(f"{field}: is missing; must be "), text
                    assert id == (None if field == "id" else "c1")
                else:
                    decode(codec, payload, TEXT_CHARS)


@pytest.mark.parametrize("name", FULL)
def test_each_command_is_its_struct(name: str) -> None:
    obj = message(name)
    for codec, payload in payloads(obj):
        command = decode(codec, payload, TEXT_CHARS)
        assert type(command) is COMMANDS[name]
        assert {field: to_builtins(getattr(command, field)) for field in FULL[name]} == FULL[name]


def test_the_structs_by_name() -> None:
    structs = [Join, Leave, Send, Edit, Delete, React, History, Read, Follow, Unfollow, Invite, Typing, Status, Step]
    structs += [Presence, Ping, Begin, Append, Finish, Stop, Fetch]
    assert [(name, COMMANDS[name]) for name in FULL] == [(struct.__name__.lower(), struct) for struct in structs]
    assert len(COMMANDS) == len(FULL)


@pytest.mark.parametrize(
    ("obj", "command"),
    [
        ({"type": "ping"}, Ping()),
        ({"type": "join", "room": "r"}, Join(room="r")),
        ({"type": "join", "room": "r", "after": 0}, Join(room="r", after=0)),
        ({"type": "join", "room": "r", "after": SEQ_MAX}, Join(room="r", after=SEQ_MAX)),
        ({"type": "join", "room": "r", "last": 0}, Join(room="r", last=0)),
        ({"type": "join", "room": "r", "last": 500, "after": None}, Join(room="r", last=500)),
        ({"type": "join", "room": "0.-_a" + "z" * 59}, Join(room="0.-_a" + "z" * 59)),
        ({"type": "send", "room": "r", "text": "a"}, Send(room="r", text="a")),
        ({"type": "send", "room": "r", "text": " "}, Send(room="r", text=" ")),
        ({"type": "send", "room": "r", "text": "😀" * TEXT_CHARS}, Send(room="r", text="😀" * TEXT_CHARS)),
        ({"type": "send", "room": "r", "text": "a", "meta": {}}, Send(room="r", text="a", meta={})),
        ({"type": "send", "room": "r", "text": "a", "meta": None}, Send(room="r", text="a")),
        ({"type": "send", "room": "r", "text": "a", "reply_to": SEQ_MAX}, Send(room="r", text="a", reply_to=SEQ_MAX)),
        ({"type": "send", "room": "r", "text": "a", "id": "é" * 64}, Send(room="r", text="a", id="é" * 64)),
        (
            {"type": "react", "room": "r", "seq": 1, "emoji": "👍" * 32, "on": False},
            React(room="r", seq=1, emoji="👍" * 32, on=False),
        ),
        ({"type": "send", "room": "r", "text": "a", "mentions": []}, Send(room="r", text="a", mentions=[])),
        ({"type": "send", "room": "r", "text": "a", "mark": None}, Send(room="r", text="a", mark=True)),
        (
            {"type": "send", "room": "r", "text": "a", "mentions": ["a"] * 50},
            Send(room="r", text="a", mentions=["a"] * 50),
        ),
        ({"type": "history", "room": "r"}, History(room="r", limit=50)),
        ({"type": "history", "room": "r", "limit": None, "before": None, "id": None}, History(room="r", limit=50)),
        ({"type": "history", "room": "r", "limit": 1, "before": 1}, History(room="r", limit=1, before=1)),
        ({"type": "history", "room": "r", "limit": 200}, History(room="r", limit=200)),
        ({"type": "read", "room": "r", "seq": 0}, Read(room="r", seq=0)),
        ({"type": "read", "room": "r", "seq": SEQ_MAX}, Read(room="r", seq=SEQ_MAX)),
        ({"type": "edit", "room": "r", "seq": 1, "text": "a"}, Edit(room="r", seq=1, text="a")),
    ],
)
def test_the_bounds_are_taken(obj: dict[str, Any], command: Command) -> None:
    for codec, payload in payloads(obj):
        assert decode(codec, payload, TEXT_CHARS) == command


@pytest.mark.parametrize(
    "meta",
    [
        {"a": "b" * 2040},
        {"a": "é" * 1020},
        {"a": nested(63)},
        {"": "\\u0000", "b": [1e300, -0.0, 2**64 - 1, -(2**63), True, None, "\u2028😀"]},
    ],
    ids=short,
)
def test_the_bounds_of_meta_are_taken(meta: dict[str, Any]) -> None:
    for codec, payload in payloads(message("send", meta=meta)):
        command = decode(codec, payload, TEXT_CHARS)
        assert isinstance(command, Send)
        assert command.meta == meta
        for again in (JSON, MSGPACK):
            assert again.decode(again.encode({"messages": [{"meta": command.meta}]})) == {"messages": [{"meta": meta}]}


def test_both_after_and_last() -> None:
    for after in (0, 1):
        text, id = refused(JSON, as_json(message("join", after=after, last=0)))
        assert text.startswith("after, last: ")
        assert id == "c1"


@pytest.mark.parametrize("name", FULL)
def test_unknown_fields_are_ignored_whatever_they_hold(name: str) -> None:
    for value in (None, 1.0, "\0", "\ud800", 2**63, DEEP, {"room": 1}):
        assert type(decode(JSON, as_json(message(name, unknown=value)), TEXT_CHARS)) is COMMANDS[name]
    for value in ONLY_MSGPACK:
        assert type(decode(MSGPACK, as_msgpack(message(name, unknown=value)), TEXT_CHARS)) is COMMANDS[name]


@pytest.mark.parametrize("obj", [[], [{}], 5, 1.5, True, None, "ping", "", DEEP, 10**40], ids=short)
def test_what_is_not_an_object(obj: object) -> None:
    text, id = refused(JSON, as_json(obj))
    assert text.startswith("message: must be an object")
    assert id is None


@pytest.mark.parametrize("obj", [b"ping", {1: 2}, {"type": "ping", 1: 2}, math.nan, 2**64 - 1], ids=short)
def test_what_is_not_an_object_in_message_pack(obj: object) -> None:
    assert refused(MSGPACK, as_msgpack(obj))[0].startswith("message: must be an object")


def test_keys_that_are_no_text() -> None:
    assert decode(JSON, as_json({"type": "ping", "\ud800": 1}), TEXT_CHARS) == Ping()
    text, _ = refused(MSGPACK, as_msgpack({"type": "ping", 1: 1}))
    assert text.endswith("; got a map whose keys are not all strings")


@pytest.mark.parametrize(
    "value", [None, 5, 1.5, True, [], {}, "", "Ping", "nope", "ping ", "\0", "\ud800", "x" * 9_999, DEEP], ids=short
)
def test_an_unknown_type_lists_the_known_ones(value: Any) -> None:
    for obj in ({"type": value, "id": "c1"}, *([{"id": "c1"}, {"id": "c1", "Type": "ping"}] if value is None else [])):
        for codec, payload in payloads(obj):
            text, id = refused(codec, payload)
            assert text.startswith(f"type: must be one of {', '.join(FULL)}; got ")
            assert id == "c1"


def test_the_length_of_a_text_is_a_setting() -> None:
    for name in ("send", "edit"):
        obj = message(name, text="a" * 8_001)
        with pytest.raises(ChatError, match=r"^text: must be a string of 1 to 8,000 characters; got a string of 8,001"):
            parse(obj, 8_000)
        assert isinstance(parse(obj, 8_001), (Send, Edit))
        with pytest.raises(ChatError, match=r"^text: must be a string of 1 to 7 characters; got a string of 0"):
            parse(message(name, text=""), 7)


def test_a_message_says_what_was_wrong_and_what_would_be_right() -> None:
    assert refused(JSON, as_json(message("join", room="No Spaces")))[0] == (
        "room: must be 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit; or ~, the log of one's own; "
        "got a string of 9 characters"
    )
    assert refused(JSON, as_json(message("join", last=501)))[0] == "last: must be an integer from 0 to 500; got 501"
    assert refused(JSON, as_json(message("react", on=1)))[0] == "on: must be true or false; got 1"
    assert refused(JSON, as_json(message("edit", seq=None)))[0] == "seq: is missing; must be a seq, an integer from 1"
    assert refused(MSGPACK, as_msgpack(message("send", text=b"a")))[0] == (
        "text: must be a string of 1 to 100 characters; got binary"
    )
    for value, held in (
        (b"a", "binary"),
        ({1: 2}, "a map whose keys are not all strings"),
        (math.nan, "the number nan"),
    ):
        text = refused(MSGPACK, as_msgpack(message("send", meta={"a": [value]})))[0]
        assert text.endswith(f"of at most 64 bits; it holds {held}")
    assert refused(JSON, as_json(message("send", meta={"a": "b" * 3000})))[0] == (
        "meta: must be at most 2,048 bytes as JSON; got 3,008"
    )


@pytest.mark.parametrize("id", ["a", "a" * 64, "é", " "])
def test_the_id_of_a_bad_command(id: str) -> None:
    for codec, payload in payloads({"type": 5, "id": id}):
        assert refused(codec, payload)[1] == id
    for codec, payload in payloads(message("send", id=id, text="a" * (TEXT_CHARS + 1))):
        assert refused(codec, payload)[1] == id


@pytest.mark.parametrize("value", ["", "a" * 65, "\0", "\ud800", 5, None, []], ids=short)
def test_no_id_that_could_not_be_sent_back(value: object) -> None:
    for codec, payload in payloads({"type": 5, "id": value}):
        assert refused(codec, payload)[1] is None


@pytest.mark.parametrize("obj", [None, [], "id", {}], ids=short)
def test_no_id_where_there_is_none(obj: object) -> None:
    for codec, payload in payloads(obj):
        assert refused(codec, payload)[1] is None


ATOMS: list[st.SearchStrategy[object]] = [
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec=None)),
    st.binary(),
]
ATOMS += [
    st.sampled_from(EXTENSIONS),
    st.builds(msgpack.Timestamp, st.integers(0, 9)),
    st.builds(object),
    st.datetimes(),
    st.uuids(),
]
KEYS = st.text(st.characters(codec=None)) | st.integers() | st.binary()
ANYTHING = st.recursive(
    st.one_of(ATOMS),
    lambda children: st.lists(children) | st.tuples(children) | st.dictionaries(KEYS, children),
    max_leaves=10,
)
GOOD = [FULL[name][field] for name in FULL for field in FULL[name]]
COMMAND_LIKE = st.sampled_from(sorted(FULL)).flatmap(
    lambda name: st.fixed_dictionaries(
        {"type": st.just(name)},
        optional={
            field: st.just(FULL[name].get(field, 1)) | st.sampled_from(GOOD) | ANYTHING
            for field in sorted({*FULL[name], *REQUIRED[name], "last", "unknown"})
        },
    )
)


@given(obj=ANYTHING | COMMAND_LIKE | st.dictionaries(st.text(), ANYTHING))
def test_whatever_the_object_it_is_a_command_or_one_chat_error(obj: object) -> None:
    command = None
    with contextlib.suppress(ChatError):
        command = parse(obj, TEXT_CHARS)
    if command is None:
        with pytest.raises(ChatError, match=r"^[a-z_, ]+: ") as caught:
            parse(obj, TEXT_CHARS)
        assert caught.value.code is ErrorCode.BAD_REQUEST
        caught.value.message.encode()
        return
    id = command.id
    if isinstance(command, Send):
        event = {"room": command.room, "text": command.text, "id": id, "meta": command.meta}
        for codec in (JSON, MSGPACK):
            assert codec.decode(codec.encode({"messages": [event]})) == {"messages": [event]}


def test_integers_of_any_size() -> None:
    for obj in (message("edit", seq=10**9_999), message("send", meta={"a": -(10**9_999)}), {"type": 10**9_999}):
        with pytest.raises(ChatError, match=r"past 64 bits|64-bit"):
            parse(obj, TEXT_CHARS)


def test_objects_deeper_than_any_decoder_goes() -> None:
    deep = nested(100_000)
    for obj in (
        message("send", room=deep),
        message("send", meta=deep),
        message("send", meta={"a": deep}),
        {"type": deep},
    ):
        with pytest.raises(ChatError):
            parse(obj, TEXT_CHARS)
    assert parse(message("ping", unknown=deep), TEXT_CHARS) == Ping(id="c1")


@pytest.mark.parametrize("value", ["a", "general", "0", "a.b_c-d", "a" * 64])
def test_names_of_rooms(value: str) -> None:
    assert room_name(value) == value


@pytest.mark.parametrize("value", ["", "A", "a b", "-a", "a\n", "é", "a" * 65, None, 5, b"a", ["a"]], ids=short)
def test_what_does_not_name_a_room(value: object) -> None:
    with pytest.raises(
        ChatError, match=r"^room: must be 1 to 64 of a-z 0-9 \. _ -, beginning with a letter or digit; got "
    ):
        room_name(value)


@pytest.mark.parametrize("value", ["a", "Alice Smith", "josé@example.org", "guest-1", "名", "x" * 64])
def test_user_ids_and_names(value: str) -> None:
    assert check_user_id(value) == check_name(value) == value


@pytest.mark.parametrize("value", ["", "x" * 65, "a\0", "a\n", "a\x7f", "\ud800", "a\u202e", None, 5, b"a"], ids=short)
def test_what_is_no_user_id_and_no_name(value: object) -> None:
    with pytest.raises(ChatError, match=r"^user id: must be a string of 1 to 64 printable characters; got "):
        check_user_id(value)
    with pytest.raises(ChatError, match=r"^name: must be a string of 1 to 64 printable characters; got "):
        check_name(value)


@pytest.mark.parametrize("name", ["Ada", "👩‍💻", "\U0001fae9", "می‌خواهم"])
def test_names_may_hold_joined_and_new_emoji(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("actor", "reason"),
    [
        ({}, "as: must be an object with `user`"),
        ("ada", "as: must be an object with `user`"),
        ({"user": 7}, "as: must be an object with `user`"),
        ({"user": ""}, "as.user: must be a string of 1 to 64 printable characters; got "),
        ({"user": "a\n"}, "as.user: must be a string of 1 to 64 printable characters; got "),
        ({"user": "ada", "name": " "}, "as.name: must have a character that can be seen"),
    ],
)
def test_who_is_no_actor(actor: object, reason: str) -> None:
    for type in ACTING:
        obj = {**message(type), "as": actor}
        with pytest.raises(ChatError, match=re.escape(reason)):
            parse(obj, TEXT_CHARS)
        with pytest.raises(ChatError, match=re.escape(reason)):
            decode(JSON, orjson.dumps(obj), TEXT_CHARS)


def test_an_actor_comes_with_what_is_published() -> None:
    for type in ACTING:
        extras: list[tuple[dict[str, object], str | None]] = [({}, None), ({"name": "Ada", "more": 1}, "Ada")]
        for extra, name in extras:
            command = parse({**message(type), "as": {"user": "ada", **extra}}, TEXT_CHARS)
            assert getattr(command, "as_", None) == Actor(user="ada", name=name)


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
def test_commands_of_a_body_are_taken_apart_unread(codec: Codec) -> None:
    commands = [{"type": "ping"}, {"type": "send", "meta": {"a": [1, "]"]}}, 7, [[]], None]
    parts = [codec.encode(command) for command in commands]
    assert commands_of(codec, codec.encode(commands)) == parts
    assert commands_of(codec, parts[1]) == [parts[1]]
    assert commands_of(codec, codec.encode([])) == []
    assert len(commands_of(codec, codec.encode([7] * COMMANDS_MAX))) == COMMANDS_MAX
    with pytest.raises(ChatError, match="at most 64 commands"):  # of what follows nothing is read
        commands_of(codec, codec.encode([7] * 70)[:-2])
    for wrong in (
        codec.encode([7] * (COMMANDS_MAX + 1)),
        codec.encode(commands)[:-1],
        b"[" if codec is JSON else b"\x91",
        b"",
        b"nonsense",
        codec.encode("text"),
        codec.encode(7),
        parts[1][:-1],
        parts[1] + parts[1],
    ):
        with pytest.raises(ChatError, match=r"^body: must be "):
            commands_of(codec, wrong)


def test_halves_of_surrogate_pairs_are_looked_for_in_bodies_of_few_escapes() -> None:
    """Of a mebibyte of them it took 150 ms, for which everybody else waited."""
    half = rb'{"type":"send","text":"\ud800"}'
    assert commands_of(JSON, b"[%b]" % half) == [half.replace(b"d800", b"0000")]
    escapes = rb'"%b"' % (rb"\u00e9" * (ESCAPES_MAX - 1))
    assert len(commands_of(JSON, b"[%b,%b]" % (half, escapes))) == 2
    with pytest.raises(ChatError, match=r"^body: must be .* unexpected end of hex escape"):
        commands_of(JSON, b"[%b,%b,%b]" % (half, half, escapes))
