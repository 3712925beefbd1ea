"""The contract of a log: the same tests for whichever database keeps it."""

from __future__ import annotations

import asyncio
import random
import time

import orjson
import pytest

from tests.support.databases import Open
from tests.support.entries import (
    MIB,
    append,
    begun,
    deleted,
    edited,
    everything,
    finished,
    followed,
    guests_mark,
    message,
    past,
    plain,
    reacted,
    read_mark,
    refused,
    unfollowed,
)
from tests.support.log_model import USERS, Model, random_entry, random_own_entry, told
from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.log import Appended, Entry, Log, own, sweeping
from tornado_chat.log.kinds import AGENT
from tornado_chat.wire.codec import JSON

pytest_plugins = ["tests.support.database_fixtures", "tests.support.postgres_servers"]


async def test_each_room_is_numbered_from_one(log: Log) -> None:
    outcomes = await append(log, message(), message(room="den"), message(), message(room="den"), message())
    assert [outcome.seq for outcome in outcomes] == [1, 1, 2, 2, 3]
    assert not any(outcome.duplicate for outcome in outcomes)
    assert (await append(log, message(room="den")))[0].seq == 3
    assert await log.heads(["lobby", "den", "nowhere"]) == {"lobby": 3, "den": 3, "nowhere": 0}


@pytest.mark.parametrize("size", [1, 2, 5, 100, 511, 512, 513, 1500])
async def test_a_batch_of_any_size_is_stored_in_its_order(log: Log, size: int) -> None:
    await append(log, message("first"))
    outcomes = await append(log, *(message(f"text {number}") for number in range(size)))
    assert [outcome.seq for outcome in outcomes] == list(range(2, size + 2))
    events = await everything(log)
    assert [event["text"] for event in events[1:]] == [f"text {number}" for number in range(size)]
    assert [event["ts"] for event in events[1:]] == [outcome.ts for outcome in outcomes]


async def test_an_empty_batch_is_no_commit(log: Log) -> None:
    assert await log.append([]) == []
    assert await log.heads(["lobby"]) == {"lobby": 0}


async def test_batches_at_the_same_time_leave_no_hole(log: Log) -> None:
    batches = [[message(f"{batch} {number}") for number in range(5)] for batch in range(20)]
    outcomes = await asyncio.gather(*(append(log, *batch) for batch in batches))
    seqs = [outcome.seq for batch in outcomes for outcome in batch]
    assert sorted(seqs) == list(range(1, 101))
    texts = [event["text"] for event in await everything(log)]
    for batch in range(20):
        assert [text for text in texts if text.startswith(f"{batch} ")] == [f"{batch} {number}" for number in range(5)]


async def test_what_was_appended_is_there_after_reopening(open_log: Open) -> None:
    log = await open_log()
    epoch = log.epoch
    assert epoch
    await append(log, message("one", key="a"), reacted(1), edited(1, "two"), read_mark(2))
    before = await everything(log), await past(log)
    await log.close()
    log = await open_log()
    assert log.epoch == epoch
    assert (await everything(log), await past(log)) == before
    assert await log.marks([("lobby", "alice")]) == {("lobby", "alice"): 2}
    again, new = await append(log, message("again", key="a"), message())
    assert (again.seq, again.duplicate, new.seq) == (1, True, 4)


async def test_events_have_the_fields_of_the_protocol(log: Log) -> None:
    full = message("hi", key="c1", reply_to=1, meta={"tags": ["x", 1.5, None], "é": True})
    outcomes = await append(log, message("plain"), full, edited(2, "ho"), reacted(1, "❤"), reacted(1, "❤", False))
    ts = [outcome.ts for outcome in outcomes]
    lobby = {"room": "lobby", "user": "alice"}
    assert await everything(log) == [
        {"type": "message", "seq": 1, "n": 1, "name": "Alice", "text": "plain", "ts": ts[0], **lobby},
        {
            "type": "message",
            "seq": 2,
            "n": 2,
            "name": "Alice",
            "text": "hi",
            "ts": ts[1],
            "id": "c1",
            "reply_to": 1,
            **lobby,
        }
        | {"meta": {"tags": ["x", 1.5, None], "é": True}},
        {"type": "edited", "seq": 3, "target": 2, "text": "ho", "ts": ts[2], **lobby},
        {"type": "reacted", "seq": 4, "target": 1, "emoji": "❤", "on": True, "ts": ts[3], **lobby} | {"user": "bob"},
        {"type": "reacted", "seq": 5, "target": 1, "emoji": "❤", "on": False, "ts": ts[4], **lobby} | {"user": "bob"},
    ]
    assert (await log.read("lobby", 3, max_events=1, max_bytes=MIB))[0].data["on"] is True


async def test_texts_come_back_as_they_were(log: Log) -> None:
    texts = [
        "",
        " ",
        "\n\t\\\"'",
        "\x01\x7f\u2028\ufeff",
        "é" * 8000,
        "👩‍👩‍👧‍👦",
        "'); DROP TABLE events; --",
        "1",
        "null",
        "1e5",
    ]
    await append(log, *(message(text, meta={"text": text}) for text in texts))
    events = await everything(log)
    assert [event["text"] for event in events] == texts
    assert [event["meta"] for event in events] == [{"text": text} for text in texts]
    assert [event["text"] for event in await past(log)] == texts


async def test_timestamps_do_not_go_back_with_the_clock(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [2000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    log = await open_log()
    stamps = [(await append(log, message()))[0].ts]
    clock[0] = 1000.0
    stamps += [outcome.ts for outcome in await append(log, message(), reacted(1), message())]
    await log.close()
    log = await open_log()
    stamps += [outcome.ts for outcome in await append(log, edited(1), message())]
    clock[0] = 3000.0
    stamps.append((await append(log, message()))[0].ts)
    assert stamps == [2_000_000] * 6 + [3_000_000]
    assert [event["ts"] for event in await everything(log)] == stamps


async def test_a_duplicate_is_answered_with_the_first_ones_seq(log: Log) -> None:
    (first,) = await append(log, message("one", key="a"))
    await append(log, message("two", key="b"))
    again, new = await append(log, message("other text", key="a"), message("three", key="c"))
    assert (again.seq, again.ts, again.duplicate) == (1, first.ts, True)
    assert (new.seq, new.duplicate) == (3, False)
    assert [event["text"] for event in await everything(log)] == ["one", "two", "three"]


async def test_a_duplicate_inside_a_batch_takes_no_number(log: Log) -> None:
    for room in ("lobby", "den"):  # the first time the room is new, too
        batch = [message(str(number), key=key, room=room) for number, key in enumerate("abacbad")]
        outcomes = await append(log, *batch)
        assert [outcome.seq for outcome in outcomes] == [1, 2, 1, 3, 2, 1, 4]
        assert [outcome.duplicate for outcome in outcomes] == [False, False, True, False, True, True, False]
        assert [event["text"] for event in await everything(log, room)] == ["0", "1", "3", "6"]
    outcomes = await append(log, *(message(key=key) for key in "xyxa"))
    assert [(outcome.seq, outcome.duplicate) for outcome in outcomes] == [(5, False), (6, False), (5, True), (1, True)]
    assert len(await everything(log)) == 6


async def test_a_duplicate_late_in_a_long_batch(log: Log) -> None:
    await append(log, message("first", key="a"))
    outcomes = await append(log, *(message(str(number)) for number in range(1000)), message("again", key="a"))
    assert [outcome.seq for outcome in outcomes] == [*range(2, 1002), 1]
    assert [outcome.duplicate for outcome in outcomes] == [False] * 1000 + [True]


async def test_an_id_is_its_users_and_its_rooms_alone(log: Log) -> None:
    outcomes = await append(log, message(key="a"), message(key="a", user="bob"), message(key="a", room="den"))
    assert [(outcome.seq, outcome.duplicate) for outcome in outcomes] == [(1, False), (2, False), (1, False)]


async def test_an_id_is_one_across_types_and_comes_before_other_checks(log: Log) -> None:
    await append(log, message("one", key="m"))
    await append(log, edited(1, key="e"), deleted(1, key="d"))
    outcomes = await append(
        log,
        deleted(1, key="d"),  # the message is gone, but this is the deletion that did it
        edited(99, key="e"),
        deleted(1, key="m", user="alice"),
        message("late", key="d"),
    )
    assert [(outcome.seq, outcome.duplicate) for outcome in outcomes] == [(3, True), (2, True), (1, True), (3, True)]
    assert len(await everything(log)) == 3


async def test_what_was_refused_took_no_id(log: Log) -> None:
    assert (await refused(log, edited(1, key="e"))).code == ErrorCode.NOT_FOUND
    await append(log, message())
    (outcome,) = await append(log, edited(1, key="e"))
    assert (outcome.seq, outcome.duplicate) == (2, False)


async def test_read_is_bounded_by_seqs_events_and_bytes(log: Log) -> None:
    await append(log, *(message("x" * 1000) for _ in range(300)))

    async def seqs(after: int, before: int | None = None, max_events: int = 500, max_bytes: int = MIB) -> list[int]:
        page = await log.read("lobby", after, before=before, max_events=max_events, max_bytes=max_bytes)
        return [event.seq for event in page]

    assert await seqs(0) == list(range(1, 301))
    assert await seqs(298) == [299, 300]
    assert await seqs(300) == []
    assert await seqs(2**70) == []
    assert await seqs(10, before=13) == [11, 12]
    assert await seqs(10, before=2**70, max_events=2) == [11, 12]
    assert await seqs(10, before=11) == []
    assert await seqs(10, max_events=3) == [11, 12, 13]
    assert await seqs(0, max_events=200) == list(range(1, 201))
    assert await seqs(5, max_bytes=1) == [6]
    assert await seqs(5, max_bytes=2500) == [6, 7]
    assert len(await seqs(0, max_bytes=200_000)) == 200
    assert await log.read("nowhere", 0, max_events=10, max_bytes=MIB) == []


async def test_a_batch_that_grows_while_it_is_written(log: Log) -> None:
    """As many as were written have an outcome, and they are the first."""
    batch = [message(f"{number}") for number in range(3)]
    writing = asyncio.ensure_future(log.append(batch, 5))
    for number in range(3, 9):
        await asyncio.sleep(0)
        batch.append(message(f"{number}"))
    outcomes = await writing
    assert 3 <= len(outcomes) <= 5
    assert [event["text"] for event in await everything(log)] == [entry.text for entry in batch[: len(outcomes)]]
    assert [outcome.seq for outcome in outcomes if isinstance(outcome, Appended)] == [*range(1, len(outcomes) + 1)]
    assert len(await log.append(batch[len(outcomes) :], 2)) == 2
    assert len(await everything(log)) == len(outcomes) + 2


async def test_heads_of_many_rooms(log: Log) -> None:
    rooms = [f"room-{number}" for number in range(1200)]
    await append(log, *(message(room=room) for room in rooms))
    await append(log, *(message(room=room) for room in rooms[::2]))
    heads = await log.heads({*rooms, "nowhere"})
    assert heads == {room: 2 - number % 2 for number, room in enumerate(rooms)} | {"nowhere": 0}
    assert await log.heads([]) == {}


async def test_read_marks_go_forward_only(log: Log) -> None:
    await append(log, *(message(user="dora") for _ in range(5)))

    async def mark(seq: int, user: str = "alice") -> tuple[int, bool]:
        (outcome,) = await append(log, read_mark(seq, user))
        return outcome.seq, outcome.changed

    assert await mark(3) == (3, True)
    assert await mark(3) == (3, False)
    assert await mark(2) == (3, False)
    assert await mark(99) == (5, True)  # beyond the head
    assert await mark(0, "bob") == (0, False)
    assert await mark(1, "bob") == (1, True)
    await append(log, message(user="dora"))
    assert await mark(2**70) == (6, True)
    wanted = [("lobby", "alice"), ("lobby", "bob"), ("lobby", "carol"), ("nowhere", "alice")]
    assert await log.marks(wanted) == {("lobby", "alice"): 6, ("lobby", "bob"): 1}
    assert await log.marks([]) == {}


async def test_a_mark_counts_from_its_place_in_the_batch(log: Log) -> None:
    dora = {"user": "dora"}
    outcomes = await append(
        log, read_mark(9), message(**dora), read_mark(9), message(**dora), read_mark(1), read_mark(9, "bob")
    )
    assert [(outcome.seq, outcome.changed) for outcome in outcomes] == [
        (0, False),  # the room has no event yet
        (1, True),
        (1, True),
        (2, True),
        (1, False),
        (2, True),
    ]
    assert await log.marks([("lobby", "alice"), ("lobby", "bob")]) == {("lobby", "alice"): 1, ("lobby", "bob"): 2}
    again = await append(
        log, read_mark(2), message(key="a", **dora), read_mark(9), message(key="a", **dora), read_mark(9)
    )
    assert [outcome.seq for outcome in again] == [2, 3, 3, 3, 3]


async def test_a_mark_does_not_make_a_room(log: Log) -> None:
    assert [outcome.changed for outcome in await append(log, read_mark(1, room="empty"))] == [False]
    assert await log.marks([("empty", "alice")]) == {}


DAY = 86400.0
WANTED = [("lobby", "alice"), ("lobby", "guest-1"), ("lobby", "guest-2"), ("den", "guest-1")]


async def swept(log: Log) -> int:
    """Sweep until nothing is left to do; how many slices there were."""
    slices = 1
    while await log.sweep():
        slices += 1
    return slices


class Clock:
    """What `time.time` tells; the log asks for it where it numbers events, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_guests_marks_lapse_and_no_others(log: Log, clock: Clock) -> None:
    await append(log, message(), message(room="den"))
    await append(log, read_mark(1), *(guests_mark(1, user, room) for room, user in WANTED[1:]))
    clock.now += 30.9 * DAY
    await swept(log)
    (moved,) = await append(log, message())
    await append(log, guests_mark(moved.seq, "guest-2"))
    clock.now += 0.2 * DAY
    await swept(log)
    assert await log.marks(WANTED) == {("lobby", "alice"): 2, ("lobby", "guest-2"): 2}
    clock.now += 32 * DAY
    await swept(log)
    assert await log.marks(WANTED) == {("lobby", "alice"): 2}
    assert len(await everything(log)) == 2  # messages never go
    assert [outcome.changed for outcome in await append(log, guests_mark(1, "guest-1"))] == [True]


async def test_a_mark_that_is_asked_for_stays(log: Log, clock: Clock) -> None:
    await append(log, message(user="dora"), guests_mark(1, "guest-1"), guests_mark(1, "guest-2"))
    for _ in range(4):
        clock.now += 20 * DAY
        assert await log.marks(WANTED[:2]) == {("lobby", "guest-1"): 1}
        await swept(log)
    assert await log.marks(WANTED) == {("lobby", "guest-1"): 1}


async def test_many_marks_lapse_some_at_a_time(log: Log, clock: Clock) -> None:
    await append(log, message(), *(guests_mark(1, f"guest-{number}") for number in range(2 * sweeping.MARKS + 1)))
    clock.now += 32 * DAY
    assert await swept(log) == 3
    assert await log.marks([("lobby", f"guest-{number}") for number in range(2 * sweeping.MARKS + 1)]) == {}


async def test_history_shows_the_last_edit(log: Log) -> None:
    await append(log, message("one", key="c", reply_to=7, meta={"a": 1}), message("two"))
    _, last = await append(log, edited(1, "better"), edited(1, "best"))
    assert await past(log) == [
        {"type": "message", "room": "lobby", "seq": 1, "n": 1, "user": "alice", "name": "Alice", "text": "best"}
        | {"ts": (await everything(log))[0]["ts"], "id": "c", "reply_to": 7, "meta": {"a": 1}, "edited": last.ts},
        (await everything(log))[1],
    ]
    assert (await everything(log))[0]["text"] == "one"  # the log keeps what was said


async def test_a_deletion_erases_the_texts(log: Log) -> None:
    await append(log, message("one", key="c", reply_to=7, meta={"a": "one"}), edited(1, "better"), reacted(1))
    await append(log, message("other"), edited(4, "another"))
    await append(log, deleted(1))
    events = await everything(log)
    ts = [event["ts"] for event in events]
    lobby = {"room": "lobby", "user": "alice"}
    gone = {
        "type": "message",
        "seq": 1,
        "n": 1,
        "name": "Alice",
        "deleted": True,
        "ts": ts[0],
        "id": "c",
        "reply_to": 7,
        **lobby,
    }
    assert events[0] == gone
    assert events[1] == {"type": "edited", "seq": 2, "target": 1, "deleted": True, "ts": ts[1], **lobby}
    assert [event.get("text") for event in events[3:5]] == ["other", "another"]
    assert events[5] == {"type": "deleted", "seq": 6, "target": 1, "ts": ts[5], **lobby}
    first, second = await past(log)
    assert first == gone | {"edited": ts[1]}
    assert second["text"] == "another"


async def test_the_edits_of_a_deleted_message_go_in_slices_and_nobody_sees_them_meanwhile(
    log: Log, open_log: Open
) -> None:
    """However often it was edited, and however many are deleted at once: a commit erases EDITS of them at most."""
    await append(log, message("one"), message("two"), message("three"))
    for target, edits in ((1, 2 * sweeping.EDITS), (2, 5), (3, sweeping.EDITS + 7)):
        await append(log, *(edited(target, f"SECRET {number}") for number in range(edits)))
    await append(log, deleted(1), deleted(2), message("four"), deleted(3))
    texts = [event["text"] for event in await everything(log) if "text" in event]
    assert texts == ["four"]
    assert all(event["deleted"] for event in await everything(log) if event["type"] == "edited")
    assert [message.get("text") for message in await past(log)] == [None, None, None, "four"]
    other = await open_log()  # whoever comes after a crash goes on
    assert await swept(other) == 6
    assert await everything(other) == await everything(log)
    assert await swept(log) == 1


async def test_what_was_deleted_cannot_be_changed(log: Log) -> None:
    await append(log, message(), deleted(1))
    for entry in (edited(1), deleted(1), reacted(1), reacted(1, on=False)):
        error = await refused(log, entry)
        assert error.code == ErrorCode.NOT_FOUND
        assert "deleted" in error.message
    assert len(await everything(log)) == 2


async def test_anothers_message_cannot_be_edited_or_deleted(log: Log) -> None:
    await append(log, message())
    for entry in (edited(1, user="bob"), deleted(1, user="bob")):
        error = await refused(log, entry)
        assert error.code == ErrorCode.FORBIDDEN
        assert "another user" in error.message
    await append(log, reacted(1, user="bob"))
    assert (await past(log))[0]["text"] == "hello"


async def test_only_messages_can_be_edited_deleted_or_reacted_to(log: Log) -> None:
    await append(log, message(), edited(1), reacted(1, user="alice"))
    for target in (0, -1, 2, 3, 4):
        for entry in (edited(target), deleted(target), reacted(target)):
            error = await refused(log, entry)
            assert error.code == ErrorCode.NOT_FOUND
            assert str(target) in error.message
    assert (await refused(log, edited(1, room="nowhere"))).code == ErrorCode.NOT_FOUND
    assert await log.heads(["lobby", "nowhere"]) == {"lobby": 3, "nowhere": 0}


async def test_reactions_stand_until_they_are_taken_back(log: Log) -> None:
    await append(log, message(), message())
    await append(log, reacted(1), reacted(1, user="alice"), reacted(1, "❤"), reacted(1, "❤"), reacted(2, on=False))
    first, second = await past(log)
    assert {emoji: sorted(users) for emoji, users in first["reactions"].items()} == {
        "+1": ["alice", "bob"],
        "❤": ["bob"],
    }
    assert "reactions" not in second
    await append(log, reacted(1, on=False), reacted(1, "❤", on=False), reacted(1, "❤", on=False))
    assert (await past(log))[0]["reactions"] == {"+1": ["alice"]}
    assert len(await everything(log)) == 10  # what changes nothing is an event as well


async def test_order_counts_inside_a_batch(log: Log) -> None:
    outcomes = await log.append(
        [
            edited(1),  # of what does not exist yet
            message("one"),
            edited(1, "uno"),
            reacted(1),
            message("two"),
            deleted(1),
            edited(1, "dos"),
            reacted(5),
            edited(4, "deux"),
            message("three"),
        ]
    )
    assert [outcome.seq if isinstance(outcome, Appended) else outcome.code for outcome in outcomes] == [
        *(ErrorCode.NOT_FOUND, 1, 2, 3, 4, 5, ErrorCode.NOT_FOUND, ErrorCode.NOT_FOUND, 6, 7)
    ]
    assert [event.get("text") for event in await past(log)] == [None, "deux", "three"]
    assert [event["seq"] for event in await past(log)] == [1, 4, 7]


async def test_pages_of_history(log: Log) -> None:
    await append(log, *(message(str(number)) for number in range(1, 151)))

    async def page(before: int | None, limit: int, max_bytes: int = MIB) -> tuple[list[int], bool]:
        messages, more = await log.history("lobby", before=before, limit=limit, max_bytes=max_bytes)
        return [event["seq"] for event in messages], more

    assert await page(None, 3) == ([148, 149, 150], True)
    assert await page(4, 3) == ([1, 2, 3], False)
    assert await page(4, 2) == ([2, 3], True)
    assert await page(1, 2) == ([], False)
    assert await page(0, 2) == ([], False)
    assert await page(2**70, 1) == ([150], True)
    assert await page(None, 200) == (list(range(1, 151)), False)
    assert await page(None, 150) == (list(range(1, 151)), False)
    assert await page(None, 149) == (list(range(2, 151)), True)
    assert await page(None, 50, max_bytes=1) == ([150], True)
    assert await page(2, 50, max_bytes=1) == ([1], False)
    assert await log.history("nowhere", before=None, limit=5, max_bytes=MIB) == ([], False)


async def test_history_counts_messages_whatever_stands_between_them(log: Log) -> None:
    await append(log, message("one"))
    for _ in range(3):
        await append(log, *(reacted(1, on=bool(number % 2)) for number in range(300)))
    await append(log, message("two"), edited(902, "due"), message("three"))
    messages, more = await log.history("lobby", before=None, limit=2, max_bytes=MIB)
    assert [(event["seq"], event["text"]) for event in messages] == [(902, "due"), (904, "three")]
    assert more
    for before in (902, 700, 2):
        messages, more = await log.history("lobby", before=before, limit=2, max_bytes=MIB)
        assert ([event["seq"] for event in messages], more) == ([1], False)


async def test_history_stays_within_its_bytes(log: Log) -> None:
    await append(log, *(message("é" * 4000, meta={"x": "y" * 2000}) for _ in range(30)))
    await append(log, *(reacted(number, user=f"user-{user}") for number in (29, 30) for user in range(500)))
    for max_bytes in (9_000, 20_000, 60_000, 100_000):
        messages, more = await log.history("lobby", before=None, limit=50, max_bytes=max_bytes)
        assert more
        assert [event["seq"] for event in messages] == list(range(31 - len(messages), 31))
        assert len(JSON.encode({"messages": messages})) <= max_bytes + 20 or len(messages) == 1
    assert len(messages) > 5
    messages, more = await log.history("lobby", before=None, limit=50, max_bytes=MIB)
    assert (len(messages), more) == (30, False)
    assert [len(event.get("reactions", {}).get("+1", [])) for event in messages[-3:]] == [0, 500, 500]


async def test_more_reactions_than_fit_are_cut(log: Log) -> None:
    await append(log, message("one"), message("two"))
    await append(log, *(reacted(2, emoji, user=f"user-{user}") for emoji in "abc" for user in range(800)))
    messages, more = await log.history("lobby", before=None, limit=50, max_bytes=20_000)
    assert ([event["seq"] for event in messages], more) == ([2], True)
    assert 19_000 < len(orjson.dumps(messages)) <= 20_000
    await append(log, message("three"))
    messages, more = await log.history("lobby", before=None, limit=50, max_bytes=20_000)
    assert ([event["seq"] for event in messages], more) == ([2403], True)
    messages, more = await log.history("lobby", before=None, limit=50, max_bytes=MIB)
    assert (len(messages), more) == (3, False)
    assert {emoji: len(users) for emoji, users in messages[1]["reactions"].items()} == dict.fromkeys("abc", 800)


@pytest.mark.parametrize(
    "poison",
    [
        message("\ud800"),
        message(key="\udfff"),
        message(user="\ud800"),
        message(reply_to=2**63),
        edited(2**70),
        edited(1, "\ud800"),
        reacted(1, "\ud800"),
    ],
)
async def test_an_entry_that_cannot_be_stored_fails_alone(log: Log, poison: Entry) -> None:
    await append(log, message("zero"))
    for _ in range(2):
        batch = [message("one", key="a"), edited(1, "nil"), poison, message("two", key="b"), read_mark(9), reacted(1)]
        outcomes = await log.append(batch)
        assert isinstance(outcomes[2], ChatError)
        assert outcomes[2].code == ErrorCode.BAD_REQUEST
        assert sum(isinstance(outcome, ChatError) for outcome in outcomes) == 1
    texts = [event.get("text") for event in await everything(log)]
    assert texts == ["zero", "one", "nil", "two", None, "nil", None]
    assert await log.marks([("lobby", "alice")]) == {("lobby", "alice"): 6}


@pytest.mark.parametrize("batch", [[message("\ud800")], [message("ok"), message("\ud800")], [edited(1, "\ud800")]])
async def test_what_was_refused_took_no_number(log: Log, batch: list[Entry]) -> None:
    await append(log, message())
    outcomes = await log.append(batch)
    assert isinstance(outcomes[-1], ChatError)
    await append(log, message())
    assert len(await everything(log)) == len(batch) + 1


async def test_a_poisoned_batch_in_a_new_room(log: Log) -> None:
    outcomes = await log.append([message("\ud800", room="a"), message("ok", room="b"), message("ok", room="a")])
    assert [isinstance(outcome, ChatError) for outcome in outcomes] == [True, False, False]
    assert await log.heads(["a", "b"]) == {"a": 1, "b": 1}


async def revoked(log: Log, after: int = 0) -> list[str]:
    found = await log.revocations(after)
    ids = [revocation.id for revocation in found]
    assert ids == sorted(set(ids))
    assert all(id > after for id in ids)
    return [revocation.jti for revocation in found]


async def test_revocations_come_in_their_order_and_stay(log: Log, open_log: Open) -> None:
    assert await revoked(log) == []
    await log.revoke("a")
    await log.revoke("b")
    first = (await log.revocations(0))[0].id
    assert await revoked(log, first) == ["b"]
    assert await revoked(await open_log()) == ["a", "b"]
    last = (await log.revocations(0))[-1].id
    assert await revoked(log, last) == []
    await log.revoke("\u00e9 '\\ \U0001f600")
    assert await revoked(log, last) == ["\u00e9 '\\ \U0001f600"]


async def test_revoking_again_is_told_once(log: Log, open_log: Open) -> None:
    for _ in range(3):
        await log.revoke("a")
        assert await revoked(log) == ["a"]
    last = (await log.revocations(0))[0].id
    other = await open_log()
    await asyncio.gather(*(one.revoke("a") for one in (log, other) * 10))
    assert await revoked(log, last) == []


async def test_no_clock_brings_a_revoked_session_back(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await log.revoke("a")
    now = time.time()
    for moment in (now + 100 * 365 * 86400, 0.0, now):
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda moment=moment: moment)
            await log.revoke(f"at {moment}")
            while await log.sweep():
                pass
            assert (await revoked(log))[0] == "a"
    assert len(await revoked(log)) == 4


async def test_revocations_are_told_some_at_a_time(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sqlite", "postgres"):
        monkeypatch.setattr(f"tornado_chat.log.{module}.REVOCATIONS", 4)
    for number in range(10):
        await log.revoke(str(number))
    seen: list[str] = []
    last = 0
    while found := await log.revocations(last):
        assert len(found) <= 4
        seen += [revocation.jti for revocation in found]
        last = found[-1].id
    assert seen == [str(number) for number in range(10)]


async def test_whoever_follows_the_revocations_misses_none(log: Log, open_log: Open) -> None:
    """However they are committed beside each other: none gets an id below one that was seen before it."""
    writers = [await open_log() for _ in range(3)]
    wanted = {f"{number}-{count}" for number in range(3) for count in range(20)}

    async def write(number: int) -> None:
        for count in range(20):
            await writers[number].revoke(f"{number}-{count}")

    writing = asyncio.gather(*(write(number) for number in range(3)))
    seen: list[str] = []
    last = 0
    while len(seen) < len(wanted):
        ended = writing.done()
        found = await log.revocations(last)
        seen += [revocation.jti for revocation in found]
        last = found[-1].id if found else last
        assert found or not ended, wanted - set(seen)
    await writing
    assert sorted(seen) == sorted(wanted)


async def test_a_new_epoch_stays(log: Log, open_log: Open) -> None:
    old = log.epoch
    new = await log.new_epoch()
    assert new == log.epoch != old
    assert (await open_log()).epoch == new


async def test_a_closed_log_says_so(open_log: Open) -> None:
    log = await open_log()
    await append(log, message())
    await log.close()
    await log.close()
    for asked in (
        log.append([message()]),
        log.read("lobby", 0, max_events=1, max_bytes=MIB),
        log.heads(["lobby"]),
        log.marks([("lobby", "alice")]),
        log.history("lobby", before=None, limit=1, max_bytes=MIB),
        log.revoke("a"),
        log.revocations(0),
        log.sweep(),
        log.new_epoch(),
    ):
        with pytest.raises(LogUnavailable, match="closed"):
            await asked


async def test_closing_finishes_what_was_begun(open_log: Open) -> None:
    log = await open_log()
    begun = [asyncio.ensure_future(append(log, message(str(number)))) for number in range(20)]
    reading = asyncio.ensure_future(log.heads(["lobby"]))
    await asyncio.sleep(0)
    await log.close()
    assert [(await task)[0].seq for task in begun] == list(range(1, 21))
    assert (await reading)["lobby"] in range(21)
    assert len(await everything(await open_log())) == 20


@pytest.mark.parametrize("seed", range(6))
async def test_any_sequence_of_batches_agrees_with_the_model(log: Log, seed: int) -> None:
    dice = random.Random(seed)
    model = Model()
    for _ in range(60):
        few_kinds = dice.random() < 0.5
        head = max(map(len, model.events.values()), default=0)
        batch = [
            random_own_entry(dice) if not few_kinds and dice.random() < 0.3 else random_entry(dice, head, few_kinds)
            for _ in range(dice.choice((1, 1, 2, 3, 8, 20)))
        ]
        wanted = [model.apply(entry) for entry in batch]
        outcomes = await log.append(batch)
        got = [
            (outcome.code,)
            if isinstance(outcome, ChatError)
            else (outcome.seq, outcome.n, outcome.duplicate, outcome.changed, [seq for _, seq, _ in outcome.along])
            for outcome in outcomes
        ]
        assert got == wanted
    assert await log.marks([(room, user) for room in "ab" for user in USERS]) == model.marks
    for user in USERS:
        log_of_own = await log.read(own.room_of(user), 0, max_events=10_000, max_bytes=MIB)
        assert [told(plain(event.data)) for event in log_of_own] == model.owns.get(user, [])
        state = await log.state(user)
        assert (state.head, state.floor, state.rooms) == (len(log_of_own), 0, model.state(user))
    for room in "ab":
        events = await everything(log, room)
        assert [event["type"] for event in events] == [entry.type for entry in model.events[room]]
        assert [event.get("text") for event in events] == model.texts(room)
        assert [event.get("n") for event in events] == model.numbers(room)
        for after in range(len(events)):
            page = await log.read(room, after, before=after + 5, max_events=3, max_bytes=MIB)
            assert [plain(event.data) for event in page] == events[after : after + 3]
            messages, _ = await log.history(room, before=after + 1, limit=3, max_bytes=MIB)
            before = [(event["seq"], event["n"]) for event in events[:after] if event["type"] == "message"]
            assert [(message["seq"], message["n"]) for message in messages] == before[-3:]
        assert [
            (
                event["seq"],
                event.get("text"),
                {emoji: set(users) for emoji, users in event.get("reactions", {}).items()},
            )
            for event in await past(log, room)
        ] == model.past(room)


async def test_a_mark_counts_what_another_process_has_written(open_log: Open) -> None:
    one, two = await open_log(), await open_log()
    await append(one, message(user="bob"), message(user="bob"))
    await append(two, *(message(user="bob") for _ in range(10)))
    (mark,) = await append(one, read_mark(12))
    assert (mark.seq, mark.changed) == (12, True)
    (beyond,) = await append(one, read_mark(99))
    assert (beyond.seq, beyond.changed) == (12, False)
    assert await two.marks([("lobby", "alice")]) == {("lobby", "alice"): 12}


async def test_what_no_event_came_to_is_no_room(log: Log) -> None:
    await refused(log, edited(1, room="rumour"))
    await append(log, read_mark(1, room="rumour"))
    assert await log.heads(["rumour"]) == {"rumour": 0}
    assert [outcome.seq for outcome in await append(log, message(room="rumour"))] == [1]


async def test_the_epoch_that_another_process_gave_is_seen(open_log: Open) -> None:
    one, two = await open_log(), await open_log()
    assert await one.read_epoch() == one.epoch == two.epoch
    new = await two.new_epoch()
    assert await one.read_epoch() == new != one.epoch


# Logs of one's own


async def rows_of(log: Log, room: str) -> list[int]:
    return [event.seq for event in await log.read(room, 0, max_events=10_000, max_bytes=MIB)]


async def test_a_message_moves_its_senders_mark(log: Log) -> None:
    async def marks() -> dict[str, int]:
        return {user: seq for (_, user), seq in (await log.marks([("lobby", user) for user in USERS])).items()}

    await append(log, message(user="alice"), message(user="bob"), message(user="alice"), message(user="bob", on=False))
    assert await marks() == {"alice": 3, "bob": 2}
    (unmoved, moved) = await append(log, read_mark(2), read_mark(4))
    assert (unmoved.seq, unmoved.changed, moved.seq, moved.changed) == (3, False, 4, True)
    again = message(user="carol", key="a")
    await append(log, again, message(user="bob"))
    await append(log, message(user="dora"), again)
    assert await marks() == {"alice": 4, "bob": 6, "carol": 5}


@pytest.mark.parametrize("size", [1, 3, 300])
async def test_marks_are_the_same_before_and_after_they_are_settled(open_log: Open, size: int) -> None:
    log, other = await open_log(), await open_log()
    dice = random.Random(size)
    users = [f'"us\\ér"-{number}' for number in range(40)]
    seqs: dict[str, int] = {}
    head = 0
    for turn in range(3 * own.SETTLED // size):
        batch = [message(user=users[dice.randrange(40)], on=dice.choice((None, None, False))) for _ in range(size)]
        if turn % 5 == 4:
            batch[0] = reacted(1, user="user-1")
        await append((log, other)[turn % 2], *batch)
        for seq, entry in enumerate(batch, head + 1):
            if entry.type == "message" and entry.on is None:
                seqs[entry.user] = seq
        head += size
        found = await other.marks([("lobby", user) for user in users])
        assert {user: seq for (_, user), seq in found.items()} == seqs


async def test_a_guests_message_leaves_a_mark_that_lapses(log: Log, clock: Clock) -> None:
    await append(log, *(message(user=user) for user in ("guest-1", "alice") for _ in range(own.SETTLED)))
    assert await log.marks([("lobby", "guest-1"), ("lobby", "alice")]) == {
        ("lobby", "guest-1"): own.SETTLED,
        ("lobby", "alice"): 2 * own.SETTLED,
    }
    clock.now += 32 * DAY
    await swept(log)
    assert await log.marks([("lobby", "guest-1")]) == {}


async def test_a_mention_is_committed_with_its_message_or_not_at_all(log: Log) -> None:
    outcomes = await log.append([message(mentions=("bob", "\ud800")), message(mentions=("bob", "eve"), key="a")])
    assert isinstance(outcomes[0], ChatError)
    assert isinstance(outcomes[1], Appended)
    assert [(entry.room, seq) for entry, seq, _ in outcomes[1].along] == [("~bob", 1), ("~eve", 1)]
    (again,) = await append(log, message(mentions=("bob", "carol"), key="a"))
    assert (again.duplicate, list(again.along)) == (True, [])
    assert await log.heads(["lobby", "~bob", "~eve", "~carol"]) == {"lobby": 1, "~bob": 1, "~eve": 1, "~carol": 0}
    (event,) = await everything(log)
    assert event["mentions"] == ["bob", "eve"]
    assert (await past(log))[0]["mentions"] == ["bob", "eve"]
    await append(log, deleted(1))
    assert "mentions" not in (await everything(log))[0] | (await past(log))[0]


async def test_what_an_agent_said_stays_marked(log: Log) -> None:
    batch = [message(user="bot", emoji=AGENT, mentions=named) for named in ((), ("bob",))]
    await append(log, message(), *batch, begun(user="bot", agent=True), message(user="bot"), begun("x"))
    await append(log, finished(4, "told", meta=b"{}"), edited(2, user="bot"), deleted(3, user="bot"))
    await append(log, message(user="bot", emoji=AGENT))  # alone
    said = [event for event in await everything(log) if event["type"] == "message"]
    assert [event["seq"] for event in said if event.get("agent") is True] == [2, 3, 4, 10]
    assert ["emoji" in event or event.get("agent") is False for event in said] == [False] * 7
    assert [one["seq"] for one in await past(log) if one.get("agent") is True] == [2, 3, 4, 10]
    assert (await past(log))[2].keys() == {"type", "room", "seq", "n", "user", "name", "agent", "deleted", "ts"}


async def test_who_is_named_behind_a_duplicate_hears_of_it(log: Log) -> None:
    await append(log, message(mentions=("bob",), key="a"))
    again, other = await append(log, message(mentions=("bob",), key="a"), message(mentions=("eve", "bob"), key="b"))
    assert (again.duplicate, [(entry.room, seq) for entry, seq, _ in other.along]) == (True, [("~eve", 1), ("~bob", 2)])
    assert await log.heads(["~bob", "~eve"]) == {"~bob": 2, "~eve": 1}


async def test_an_own_log_of_a_year_is_as_long_as_one_of_a_day(log: Log, clock: Clock) -> None:
    await append(log, *(message(str(number), user="alice") for number in range(10)))
    for day in range(365):
        clock.now += DAY
        batch = [message(f"{day}", mentions=("bob",)) for _ in range(6)]
        head = 10 + 6 * (day + 1)
        await append(log, *batch, followed("lobby", "bob", ("mentions", "nothing")[day % 2]))
        if day % 3:
            await append(log, read_mark(head, "bob"))
        floors, heads = await log.floors(["~bob", "~nobody"]), await log.heads(["~bob"])
        assert floors == {"~bob": max(0, heads["~bob"] - own.KEPT), "~nobody": 0}
    head = heads["~bob"]
    assert head > 2.5 * own.KEPT
    assert await rows_of(log, "~bob") == list(range(head - own.KEPT + 1, head + 1))
    state = await log.state("bob")
    assert (state.head, state.floor) == (head, head - own.KEPT)
    messages = 10 + 6 * 365
    assert state.rooms == [
        {"room": "lobby", "level": "mentions", "head": messages, "messages": messages, "read": messages}
        | {"unread": 0, "mentions": 0}
    ]


async def test_old_events_of_own_logs_go_but_for_the_newest(log: Log, clock: Clock) -> None:
    people = [f"user-{number:02}" for number in range(3 * sweeping.OWN_CUT)]
    await append(log, message(user="alice"))
    for _ in range(3):
        await append(log, *(followed("lobby", user, level) for user in people for level in ("nothing", "mentions")))
    clock.now += 30 * DAY
    await append(log, message(user="alice", mentions=("user-00", "newcomer")), followed("lobby", "newcomer"))
    await swept(log)
    assert await log.floors(["~user-00", "~user-01", "~newcomer"]) == {"~user-00": 0, "~user-01": 0, "~newcomer": 0}
    clock.now += 2 * DAY
    assert await swept(log) == 4
    assert await rows_of(log, "~user-00") == [7]
    for user in people[1:]:
        assert await rows_of(log, f"~{user}") == [6]
    assert await rows_of(log, "~newcomer") == [1, 2]
    state = await log.state("user-00")
    assert (state.head, state.floor) == (7, 6)
    assert [(room["level"], room["unread"], room["mentions"]) for room in state.rooms] == [("mentions", 2, 1)]
    (again,) = await append(log, unfollowed("lobby", "user-01"))
    assert again.seq == 7
    assert await swept(log) == 1
    assert await rows_of(log, "~user-01") == [6, 7], "not again within the hour"
    clock.now += 2 * sweeping.OWN_SECONDS
    await swept(log)
    assert await rows_of(log, "~user-01") == [7]


async def test_what_a_guest_followed_is_forgotten_and_nobody_elses(log: Log, clock: Clock) -> None:
    users = ("guest-1", "guest-2", "guestbook", "alice")
    await append(log, message(user="bob", mentions=users), *(followed("lobby", user) for user in users))
    clock.now += 60 * DAY
    await append(log, followed("den", "guest-2"))
    await swept(log)
    clock.now += 34 * DAY
    await swept(log)
    states = {user: await log.state(user) for user in users}
    assert {user: len(state.rooms) for user, state in states.items()} == {
        "guest-1": 0, "guest-2": 2, "guestbook": 1, "alice": 1,
    }  # fmt: skip
    assert [state.head for state in states.values()] == [2, 3, 2, 2]
    (again,) = await append(log, followed("lobby", "guest-1"))
    assert again.seq == 3
    assert [room["mentions"] for room in (await log.state("guest-1")).rooms] == [0]
    assert [room["mentions"] for room in (await log.state("alice")).rooms] == [1]


async def test_unread_mentions_of_one_user_are_bounded(log: Log) -> None:
    await append(log, followed("lobby", "bob"), followed("den", "bob"))
    for room in ("den", "lobby"):
        for _ in range(6):
            await append(log, *(message(room=room, mentions=("bob",)) for _ in range(100)))
    most = own.MENTIONS + own.MENTIONS_LOOK
    den, lobby = (await log.state("bob")).rooms
    assert own.MENTIONS - own.MENTIONS_LOOK <= den["mentions"] + lobby["mentions"] <= most
    assert (lobby["mentions"], lobby["unread"], den["unread"]) == (600, 600, 600)
    await append(log, read_mark(600, "bob", "den"), read_mark(590, "bob"))
    assert [room["mentions"] for room in (await log.state("bob")).rooms] == [0, 10]


async def test_rooms_that_one_user_follows_are_bounded(log: Log) -> None:
    invited = [followed(f"invited-{number}", "bob", by="eve") for number in range(own.INVITATIONS)]
    await append(log, *invited)
    error = await refused(log, followed("one-more", "bob", by="mallory"))
    assert (error.code, "nobody else can" in error.message) == (ErrorCode.TOO_LARGE, True)
    (again,) = await append(log, followed("invited-3", "bob", by="mallory"))
    assert (again.seq, again.changed) == (0, False)
    await append(log, followed("invited-3", "bob", "mentions"))  # one's own say: no invitation any more
    await append(log, followed("one-more", "bob", by="mallory"))
    rest = own.FOLLOWS - own.INVITATIONS - 1
    await append(log, *(followed(f"room-{number}", "bob") for number in range(rest)))
    error = await refused(log, followed("room-x", "bob"))
    assert (error.code, str(own.FOLLOWS)[0] in error.message) == (ErrorCode.TOO_LARGE, True)
    await append(log, followed("room-1", "bob", "nothing"), unfollowed("room-2", "bob"), followed("room-x", "bob"))
    state = await log.state("bob")
    assert len(state.rooms) == own.FOLLOWS
    by_room = {room["room"]: (room["level"], room.get("by")) for room in state.rooms}
    assert by_room["invited-3"] == ("mentions", None)
    assert by_room["invited-4"] == ("everything", "eve")
    assert by_room["room-1"] == ("nothing", None)


async def test_what_changes_nothing_is_no_event(log: Log) -> None:
    first, second, third = await append(log, unfollowed("den"), followed("den", key="a"), followed("den", key="b"))
    assert [(outcome.seq, outcome.changed) for outcome in (first, second, third)] == [(0, False), (1, True), (0, False)]
    (again,) = await append(log, followed("den", level="nothing", key="a"))
    assert (again.seq, again.duplicate) == (1, True)
    assert await rows_of(log, "~alice") == [1]


async def test_the_state_is_of_one_moment(open_log: Open) -> None:
    log, other = await open_log(), await open_log()
    await append(log, followed("lobby", "bob"))

    async def write() -> None:
        for _ in range(60):
            await append(other, message(mentions=("bob",)))

    async def look() -> None:
        while not writing.done():
            state = await log.state("bob")
            (room,) = state.rooms
            assert state.head == 1 + room["head"] == 1 + room["unread"] == 1 + room["mentions"]

    writing = asyncio.ensure_future(write())
    await look()
    await writing
