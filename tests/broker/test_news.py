"""What processes say to each other, as text: each field is checked, and a text cannot be moved or repeated."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from msgspec import to_builtins

from tests.support.brokers import News, event, typing
from tornado_chat.broker import EVERYBODY, Change, channel_to, news
from tornado_chat.broker.seal import Seal
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import SEQ_MAX, ToolRun
from tornado_chat.wire.events import OWN_TYPES, Event
from tornado_chat.wire.replies import Chunk, Orphaned, Read, Signal, Status, Step, Stop

MESSAGE = event("a", 1).data
EDITED = {"type": "edited", "room": "a", "seq": 2, "target": 1, "user": "ann", "text": "better", "ts": 2}
ERASED = {"type": "edited", "room": "a", "seq": 3, "target": 1, "user": "ann", "deleted": True, "ts": 2}
DELETED = {"type": "deleted", "room": "a", "seq": 4, "target": 1, "user": "ann", "ts": 2}
REACTED = {"type": "reacted", "room": "a", "seq": 5, "target": 1, "user": "ann", "emoji": "🎉", "on": True, "ts": 2}
RICH = {**event("a", 6).data, "id": "x" * 64, "reply_to": 5, "meta": {"deep": [{"n": 1.5}, None]}, "text": "ä\n"}
AGENTS = {**event("a", 7).data, "agent": True}
READ = Read(room="a", user="ann", name="Ann", seq=0)
STATUS = Status(room="a", user="ann", name="Ann", text="ä" * 200, seq=5)
OVER = Status(room="a", user="ann", name="Ann", text="")
STEP = Step(room="a", user="ann", seq=5, step=ToolRun(id="s", name="x", state="running", input="ä" * 1000))
TYPING: dict[str, Any] = to_builtins(typing("a"))


def heard(text: bytes) -> News:
    receiver = News()
    news.read("a", text)(receiver)
    return receiver


def test_what_is_said_is_heard() -> None:
    every = [MESSAGE, EDITED, ERASED, DELETED, REACTED, RICH, AGENTS]
    got = [
        orjson.loads(JSON.encode(data))
        for data in heard(news.events_text([Event(data["seq"], data) for data in every])).data
    ]
    assert got == every
    assert [list(data) for data in got] == [list(data) for data in every], "with the fields in their order"
    assert heard(news.head_text(SEQ_MAX)).heads == [("a", SEQ_MAX)]
    signals: list[Signal] = [typing("a"), READ, STATUS, OVER, STEP]
    for signal in signals:
        assert heard(news.signal_text(signal, None)).signals == [("a", signal, None)]
    ((room, change),) = heard(news.change_text(Change("w", 7, news.NEVER, {"ann": "Ann"}, ("bob",)))).changes
    assert (room, change.worker, change.version, change.after) == ("a", "w", 7, -1)
    assert (change.joined, change.left) == ({"ann": "Ann"}, ["bob"])


OWN: list[dict[str, Any]] = [
    {"type": "followed", "room": "~", "seq": 1, "about": "a", "level": "nothing", "by": "bob", "user": "bob", "ts": 2},
    {"type": "unfollowed", "room": "~", "seq": 2, "about": "a", "user": "ann", "ts": 2},
    {"type": "marked", "room": "~", "seq": 3, "about": "a", "read": 7, "user": "ann", "ts": 2},
    {"type": "mentioned", "room": "~", "seq": 4, "about": "a", "target": 7, "user": "bob", "name": "Bob", "ts": 2},
]


def test_what_is_said_of_a_log_of_ones_own() -> None:
    text = news.events_text([Event(data["seq"], data) for data in OWN])
    receiver = News()
    news.read("~ann", text)(receiver)
    assert receiver.data == OWN
    assert {data["type"] for data in OWN} == OWN_TYPES
    mentioning = news.events_text([Event(1, {**MESSAGE, "mentions": ["bob"]})])
    for room, wrong in (
        ("a", text),
        ("~ann", news.events_text([Event(1, {**MESSAGE, "room": "~"})])),
        ("~ann", mentioning),
    ):
        with pytest.raises(ValueError, match="room"):
            news.read(room, wrong)
    assert heard(mentioning).data[0]["mentions"] == ["bob"]
    for data in OWN:
        for field in data.keys() - {"by"}:
            with pytest.raises(ValueError, match=field):
                news.read("~ann", news.events_text([Event(1, {**data, field: None})]))


CHUNKS: list[Chunk] = [(1, 1, 0, "Grüße \U0001f600"), (5, 2, 70_000, "x")]


def test_what_is_said_of_messages_that_grow() -> None:
    assert heard(news.appended_text("w", CHUNKS)).appended == [("a", "w", chunk) for chunk in CHUNKS]
    receiver = News()
    for channel, text in (
        (channel_to("w"), news.wanted_text("a", 5, 2, 7)),
        (channel_to("w"), news.moved_text()),
        (EVERYBODY, news.stop_text("ann", Stop(room="a", seq=5, by="bob"))),
        ("~ann", news.signal_text(Orphaned(room="a", seq=5, id="re:1"), None)),
    ):
        news.read(channel, text)(receiver)
        for elsewhere in {"a", "~ann", EVERYBODY, channel_to("w")} - {channel}:
            with pytest.raises(ValueError, match=r"read|log of one's own"):
                news.read(elsewhere, text)
    assert receiver.wanted == [("a", 5, 2, 7)]
    assert receiver.moved == 1
    assert receiver.stops == [("ann", Stop(room="a", seq=5, by="bob"))]
    assert receiver.signals == [("~ann", Orphaned(room="a", seq=5, id="re:1"), None)]


def test_what_is_too_big_is_parted() -> None:
    first, second = news.parted(CHUNKS)
    assert [*first, *second] == CHUNKS
    first, second = news.parted([(1, 1, 10, "abcde")])
    assert [*first, *second] == [(1, 1, 10, "ab"), (1, 1, 12, "cde")]


BAD_GROWTH: list[tuple[str, bytes]] = [
    *(
        ("a", b"\x01a" + orjson.dumps(body))
        for body in (
            [],
            ["w"],
            ["", [[1, 1, 0, "x"]]],
            [5, [[1, 1, 0, "x"]]],
            ["w", {}],
            ["w", [1]],
            *(["w", [[*place, "x"]]] for place in ([1, 1], [0, 1, 0], [1, 0, 0], [1, 1, -1], [1 << 63, 1, 0])),
            *(["w", [[1, 1, 0, text]]] for text in ("", 5, None)),
        )
    ),
    *(
        ("!w", b"\x01q" + orjson.dumps([1_800_000_000_000, *body]))
        for body in ([], ["A", 1, 1, 0], ["a", 0, 1, 0], ["a", 1, 0, 0], ["a", 1, 1, -1], ["a", 1, 1, "0"])
    ),
    ("!w", b"\x01q" + orjson.dumps([1_799_999_979_000, "a", 1, 1, 0])),
    ("!w", b"\x01m" + orjson.dumps([1_799_999_979_000])),
    ("!w", b"\x01m[]"),
    *(
        ("!", b"\x01p" + orjson.dumps([1_800_000_000_000, *body]))
        for body in ([], ["", "a", 1, "bob"], ["ann", "~ann", 1, "bob"], ["ann", "a", 0, "bob"], ["ann", "a", 1, ""])
    ),
    ("!", b"\x01p" + orjson.dumps([1_799_999_979_000, "ann", "a", 1, "bob"])),
    *(
        ("~ann", b"\x01s" + orjson.dumps([1_800_000_000_000, None, {"type": "orphaned", **body}]))
        for body in (
            {"room": "a", "seq": 1},
            {"room": "~", "seq": 1, "id": "x"},
            {"room": "a", "seq": 0, "id": "x"},
            {"room": "a", "seq": 1, "id": ""},
        )
    ),
]


@pytest.mark.parametrize(("channel", "text"), BAD_GROWTH, ids=lambda part: ascii(part[:60]))
def test_what_is_wrongly_said_of_messages_that_grow_is_refused(
    channel: str, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "_now", lambda: 1_800_000_000_000)
    with pytest.raises((ValueError, LookupError)):
        news.read(channel, text)


def but(data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {key: value for key, value in (data | fields).items() if value != "absent"}


BAD_EVENTS: list[Any] = [
    [],
    {},
    [1],
    [{}],
    [MESSAGE, but(MESSAGE, seq=3)],
    [MESSAGE, MESSAGE],
    [but(MESSAGE, room="b")],
    [but(MESSAGE, type="absent")],
    [but(MESSAGE, type="removed")],
    [but(MESSAGE, type=["message"])],
    *([but(MESSAGE, seq=seq)] for seq in ("absent", "1", True, 1.0, None, 0, -1, 1 << 63)),
    *([but(MESSAGE, user=user)] for user in ("absent", "", 5, None, "x" * 65)),
    *([but(MESSAGE, name=name)] for name in ("absent", "", 5, None, "x" * 65)),
    *([but(MESSAGE, n=n)] for n in ("absent", "1", None, 0, 1.5)),
    *([but(MESSAGE, ts=ts)] for ts in ("absent", "1", -1, 1.5)),
    *([but(MESSAGE, **{field: 5})] for field in ("text", "id", "meta", "deleted")),
    [but(MESSAGE, id="x" * 65)],
    [but(MESSAGE, meta=[])],
    [but(MESSAGE, reply_to=0)],
    [but(EDITED, target="absent")],
    [but(DELETED, target="absent")],
    [but(REACTED, emoji="absent")],
    [but(REACTED, emoji="x" * 33)],
    [but(REACTED, on=1)],
]
NOW = 1_800_000_000_000
BAD_SIGNALS: list[Any] = [
    1,
    [1, 2, 3],
    [NOW, None, {}],
    [NOW, 5, TYPING],
    [NOW, None, to_builtins(typing("b"))],
    [NOW, None, but(TYPING, user="absent")],
    [NOW, None, but(TYPING, on="absent")],
    [NOW, None, but(TYPING, type="presence")],
    *([NOW, None, but(to_builtins(READ), seq=seq)] for seq in ("5", -1, 1 << 63)),
    *([NOW, None, but(TYPING, user=user)] for user in ("", 5, "x" * 65)),
    *([NOW, None, but(TYPING, name=name)] for name in ("absent", "", 5, "x" * 65)),
    *([NOW, None, but(to_builtins(STATUS), text=text)] for text in ("absent", 5, "x" * 201)),
    *([NOW, None, but(to_builtins(signal), seq=seq)] for signal in (STATUS, STEP) for seq in ("5", 0, 1 << 63)),
    [NOW, None, but(to_builtins(STEP), user="")],
    *([NOW, None, but(to_builtins(STEP), step=step)] for step in ("absent", {"id": "s", "name": "x"})),
    [NOW, None, but(to_builtins(STEP), step=to_builtins(STEP.step) | {"output": "x" * 1001})],
    [NOW - 21_000, None, TYPING],
    [NOW + 60_000, None, TYPING],
    [str(NOW), None, TYPING],
]
BAD_CHANGES: list[Any] = [
    [],
    [NOW, "w", 1, 0, {}],
    [NOW - 21_000, "w", 1, 0, {}, []],
    [NOW, "", 1, 0, {}, []],
    [NOW, "w", 0, 0, {}, []],
    [NOW, "w", 1 << 63, 0, {}, []],
    [NOW, "w", "1", 0, {}, []],
    [NOW, "w", 1, -2, {}, []],
    [NOW, "w", 1, 0, {"ann": 5}, []],
    [NOW, "w", 1, 0, {"": "Ann"}, []],
    [NOW, "w", 1, 0, {"ann": "x" * 65}, []],
    [NOW, "w", 1, 0, [], []],
    [NOW, "w", 1, 0, {}, {}],
    [NOW, "w", 1, 0, {}, [5]],
]
BAD_TEXTS = [
    b"",
    b"\x01",
    b"\x02e[]",
    b"\x01x[]",
    b"\x01e",
    b"\x01e\xff",
    b'\x01e[{"type":"message","room":"a","seq":1,"user":"\\ud800","name":"Ann","ts":1}]',
    b"\x01e" + orjson.dumps([MESSAGE])[:-1],
    *(b"\x01h" + digits for digits in (b"", b"x", b"-5", b"0", b"9" * 19, b"9" * 5000, "٣".encode())),
    *(b"\x01e" + orjson.dumps(body) for body in BAD_EVENTS),
    *(b"\x01s" + orjson.dumps(body) for body in BAD_SIGNALS),
    *(b"\x01c" + orjson.dumps(body) for body in BAD_CHANGES),
]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: ascii(text[:60]))
def test_what_is_not_said_as_it_has_to_be_is_refused(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "_now", lambda: NOW)  # else all of them are refused as too old, a while after the start
    with pytest.raises((ValueError, LookupError)):
        news.read("a", text)


def test_a_field_that_a_newer_version_has_is_left_out() -> None:
    assert heard(b"\x01e" + orjson.dumps([{**MESSAGE, "later": 5}])).data == [MESSAGE]


def test_a_sealed_text_is_of_one_secret_and_one_place() -> None:
    seal = Seal(b"secret")
    sealed = seal.close(b"here", b"\x01text")
    assert Seal(b"secret").open(b"here", sealed) == b"\x01text"
    flipped = [bytes([*sealed[:at], sealed[at] ^ 1, *sealed[at + 1 :]]) for at in range(len(sealed))]
    moved = [(seal, b"there", sealed), (seal, b"her", sealed), (Seal(b"secret2"), b"here", sealed)]
    for one, place, text in [*moved, *((seal, b"here", bad) for bad in flipped)]:
        with pytest.raises(ValueError, match="not sealed"):
            one.open(place, text)
    for short in (b"", sealed[:16], sealed[:-1]):
        with pytest.raises(ValueError, match="not sealed"):
            seal.open(b"here", short)
