"""The contract of a log for messages that grow: the same tests for whichever database keeps it."""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from typing import Any

import pytest

from tests.support.databases import Open, sql
from tests.support.entries import (
    MIB,
    append,
    begun,
    deleted,
    edited,
    everything,
    finished,
    message,
    plain,
    reacted,
    refused,
)
from tornado_chat.errors import ChatError, Conflict, ErrorCode
from tornado_chat.log import Appended, Entry, Log, growing
from tornado_chat.log.growing import SILENT_SECONDS, Checkpoint, Claim
from tornado_chat.wire.events import Data

pytest_plugins = ["tests.support.database_fixtures", "tests.support.postgres_servers"]


def part(
    seq: int, start: int, text: str, gen: int = 1, room: str = "lobby", *, linked: bool = True, cut: bool = False
) -> Checkpoint:
    return Checkpoint(room, seq, gen, start, text, linked=linked, cut=cut)


async def claim(log: Log, entry: Entry) -> Claim:
    (outcome,) = await append(log, entry)
    assert outcome.claim is not None
    return outcome.claim


def terms(claim: Claim) -> tuple[Any, ...]:
    return claim.gen, claim.length, claim.text, claim.held, claim.reason


async def now(log: Log, seq: int, room: str = "lobby") -> Data:
    """A message as it is told now."""
    (found,), _ = await log.history(room, before=seq + 1, limit=1, max_bytes=4 * MIB)
    return plain(found)


async def conflict(log: Log, entry: Entry) -> Conflict:
    error = await refused(log, entry)
    assert isinstance(error, Conflict)
    assert error.code is ErrorCode.CONFLICT
    return error


async def lapse(database: str) -> None:
    """So much time has passed that all leases have run out."""
    await rows(database, "UPDATE growing SET lapses = lapses - 3600000")


async def rows(database: str, statement: str) -> list[tuple[Any, ...]]:
    return await asyncio.to_thread(sql, database, statement)


async def test_it_begins_grows_and_ends_as_an_ordinary_message(log: Log) -> None:
    first, begins, last = await append(log, message("go", key="q"), begun(reply_to=1, meta=b'{"a":1}'), message("!"))
    assert [(one.seq, one.n) for one in (first, begins, last)] == [(1, 1), (2, 2), (3, 3)]
    assert begins.claim is not None
    assert terms(begins.claim) == (1, 0, "", False, None)
    assert not begins.duplicate
    assert await now(log, 2) == {
        "type": "message", "room": "lobby", "seq": 2, "n": 2, "user": "bot", "name": "Bot",
        "streaming": True, "text": "", "ts": begins.ts, "id": "re:1", "reply_to": 1, "meta": {"a": 1},
    }  # fmt: skip
    assert await log.checkpoint("here", [part(2, 0, "Grüße, ")]) == [True]
    assert await log.checkpoint("here", [part(2, 7, "\U0001f600")]) == [True]
    found = await now(log, 2)
    assert (found["text"], found["streaming"]) == ("Grüße, \U0001f600", True)
    text = "Grüße, \U0001f600!"
    (ends,) = await append(log, finished(2, text, key="end", id="end", meta=b'{"b":2}'))
    assert ends.seq == 4
    assert await now(log, 2) == {
        "type": "message", "room": "lobby", "seq": 2, "n": 2, "user": "bot", "name": "Bot", "text": text,
        "ts": begins.ts, "id": "re:1", "reply_to": 1, "meta": {"b": 2},
    }  # fmt: skip
    events = await everything(log)
    assert (events[1]["streaming"], events[1]["text"], events[1]["meta"]) == (True, "", {"a": 1})
    assert events[3] == {
        "type": "finished", "room": "lobby", "seq": 4, "target": 2, "user": "bot", "ts": ends.ts, "reason": "done",
        "length": 9, "crc": zlib.crc32(text.encode()), "text": text, "meta": {"b": 2},
    }  # fmt: skip
    assert await log.open("lobby") == []
    assert await log.held("here") == []


async def test_nothing_is_left_of_it_but_its_events(log: Log, database: str) -> None:
    for number in range(3):
        (begins,) = await append(log, begun(f"re:{number}"))
        for start in range(5):
            assert await log.checkpoint("here", [part(begins.seq, start, "x")]) == [True]
        await append(log, finished(begins.seq, "xxxxx"))
    for table in ("growing", "growing_parts"):
        assert await rows(database, f"SELECT * FROM {table}") == []


async def test_who_has_it_no_more_hands_over_what_was_not_kept(log: Log) -> None:
    await append(log, begun(home="one"), begun("re:2", home="one"))
    await log.checkpoint("one", [part(1, 0, "Grüße, ")])
    await append(log, begun(home="two"), begun("re:2", home="two"))
    assert {held.former for held in await log.held("two")} == {"one"}
    await log.hand_over("another", [part(1, 7, "")])
    assert {held.former for held in await log.held("two")} == {"one"}
    await log.hand_over("one", [part(1, 7, "\U0001f600!"), part(2, 0, "all"), part(3, 0, "none")])
    assert sorted((held.seq, held.length) for held in await log.held("two")) == [(1, 9), (2, 3)]
    assert {held.former for held in await log.held("two")} == {None}
    assert await log.parts([("lobby", 1, 1, 7), ("lobby", 2, 1, 1)]) == ["\U0001f600!", "ll"]
    assert (await now(log, 1))["text"] == "Grüße, \U0001f600!"
    assert await log.checkpoint("two", [part(1, 7, "\U0001f600")]) == [False], "there is more than it knows"
    assert (await now(log, 1))["text"] == "Grüße, \U0001f600!"
    assert await log.checkpoint("two", [part(1, 7, "\U0001f600! Und")]) == [True]
    await log.hand_over("one", [part(1, 7, "\U0001f600! Und so")])  # some of it came another way
    await log.hand_over("one", [part(1, 7, "\U0001f600!"), part(2, 4, "a hole"), part(2, 0, "another", gen=2)])
    assert [(await now(log, seq))["text"] for seq in (1, 2)] == ["Grüße, \U0001f600! Und so", "all"]
    assert await log.checkpoint("two", [part(2, 0, "a", cut=True)]) == [True]
    assert (await now(log, 2))["text"] == "a"
    await append(log, finished(1, "Grüße", home="two"))
    await log.hand_over("one", [part(1, 7, "\U0001f600! Und so weiter")])
    assert (await now(log, 1))["text"] == "Grüße"


async def test_the_second_begin_goes_on_where_the_first_was(log: Log) -> None:
    await append(log, begun(home="one"))
    await log.checkpoint("one", [part(1, 0, "abc")])
    (again,) = await append(log, begun(home="two"))
    assert (again.seq, again.duplicate) == (1, True)
    assert again.claim is not None
    assert terms(again.claim) == (1, 3, "abc", False, None)
    assert [(held.seq, held.gen) for held in await log.held("two")] == [(1, 1)]
    assert await log.held("one") == []
    assert await log.checkpoint("one", [part(1, 3, "lost")]) == [False], "it has moved"
    assert (await conflict(log, finished(1, "abclost", home="one"))).gen == 1
    assert await log.checkpoint("two", [part(1, 3, "def")]) == [True]
    assert (await now(log, 1))["text"] == "abcdef"


async def test_a_begin_after_the_end_tells_how_it_ended(log: Log) -> None:
    await append(log, begun(), finished(1, "abc", reason="error"))
    assert terms(await claim(log, begun())) == (0, 3, "", False, "error")
    await append(log, message("plain", user="bot", key="plain"))
    assert terms(await claim(log, begun("plain"))) == (0, 5, "", False, "done")
    assert len(await everything(log)) == 3


async def test_a_begin_whose_message_is_in_the_same_batch(log: Log) -> None:
    outcomes = await append(log, message("plain", user="bot", key="a"), begun("a"), begun("b"), begun("b"))
    assert [(outcome.seq, outcome.duplicate) for outcome in outcomes] == [(1, False), (1, True), (2, False), (2, True)]
    assert [outcome.claim.gen for outcome in outcomes if outcome.claim is not None] == [0, 1, 1]


async def test_an_end_by_who_does_not_know_the_message_says_how_it_stands(log: Log) -> None:
    await append(log, begun("a"), begun("b"), message("plain", user="bot", key="plain"))
    await append(log, finished(1, "abc", reason="error"))
    await log.checkpoint("here", [part(2, 0, "de")])
    error = await conflict(log, finished(0, "", stream="a"))
    assert (error.reason, error.length) == ("error", None)
    for gen in (0, 1):
        error = await conflict(log, finished(0, "", gen=gen, stream="b"))
        assert (error.reason, error.gen, error.length) == (None, 1, 2)
    for stream in ("plain", "none"):
        assert (await refused(log, finished(0, "", stream=stream))).code is ErrorCode.NOT_FOUND


async def test_the_id_of_another_event_ends_nothing(log: Log) -> None:
    """It would be acknowledged as a duplicate, and what the message has grown to be lost."""
    await append(log, message("plain", user="bot", key="plain"), begun("a"), begun("b"))
    for key in ("plain", "a", "b"):
        assert (await refused(log, finished(2, "abc", key=key))).code is ErrorCode.BAD_REQUEST
    (ended, again) = await append(log, finished(2, "abc", key="end"), finished(2, "abc", key="end"))
    assert (ended.duplicate, again.duplicate, again.seq) == (False, True, ended.seq)
    assert (await refused(log, finished(3, "def", key="end"))).code is ErrorCode.BAD_REQUEST
    assert [one.seq for one in await log.open("lobby")] == [3]
    (unknown,) = await append(log, finished(0, "", key="end"))
    assert unknown.duplicate, "whoever repeats it may not know any more which message it was"


async def test_one_replica_holds_it(log: Log, database: str) -> None:
    assert (await claim(log, begun(replica="a"))).gen == 1
    await log.checkpoint("here", [part(1, 0, "abc")])
    assert terms(await claim(log, begun(replica="b", home="there"))) == (1, 3, "", True, None)
    error = await conflict(log, begun(replica="b", home="there", take_over=True))
    assert (error.gen, error.length) == (1, 3)
    assert terms(await claim(log, begun(home="there"))) == (1, 3, "abc", False, None), "one that names no replica"
    assert terms(await claim(log, begun(replica="a"))) == (1, 3, "abc", False, None)
    assert await log.checkpoint("here", [part(1, 3, "", linked=False)]) == [True]
    assert (await claim(log, begun(replica="b", home="there"))).held, "only if it asks"
    assert terms(await claim(log, begun(replica="b", home="there", take_over=True))) == (2, 0, "", False, None)
    assert await log.checkpoint("here", [part(1, 3, "late")]) == [False]
    assert (await conflict(log, finished(1, "abclate"))).gen == 2
    assert (await claim(log, begun(replica="a"))).held
    assert await log.checkpoint("there", [part(1, 0, "anew", 2)]) == [True]
    await append(log, finished(1, "anew", gen=2, home="there"))
    assert (await now(log, 1))["text"] == "anew"


async def test_a_holder_that_gives_no_sign_can_be_taken_over(log: Log, database: str) -> None:
    await append(log, begun(replica="a"), begun("re:2", replica="a"))
    await log.stop("lobby", [2], "ann")
    await rows(database, f"UPDATE growing SET lapses = lapses - {int(growing.RENEW_SECONDS * 1000)} WHERE seq = 1")
    assert (await conflict(log, begun(replica="b", take_over=True))).gen == 1
    await rows(database, f"UPDATE growing SET lapses = lapses - {int(SILENT_SECONDS * 1000)} WHERE seq = 1")
    assert (await claim(log, begun(replica="b"))).held
    assert (await claim(log, begun(replica="b", take_over=True))).gen == 2
    assert (await conflict(log, begun(replica="a", take_over=True))).gen == 2, "the new one was heard just now"
    assert (await conflict(log, begun("re:2", replica="b", take_over=True))).gen == 1, "it is being ended"
    await lapse(database)
    assert (await claim(log, begun("re:2", replica="b", take_over=True))).gen == 2


async def test_a_checkpoint_that_may_have_been_kept_is_given_again(log: Log) -> None:
    await append(log, begun(), begun("re:2"))
    assert await log.checkpoint("here", [part(1, 0, "abc"), part(2, 0, "x")]) == [True, True]
    assert await log.checkpoint("here", [part(2, 1, "y"), part(1, 0, "abcdef"), part(3, 0, "z")]) == [True, True, False]
    assert [(one.seq, one.text) for one in await log.open("lobby")] == [(1, ""), (2, "")], "texts may be long"
    assert [one.text for seq in (1, 2, 3) for one in await log.open("lobby", seq)] == ["abcdef", "xy"]
    assert await log.checkpoint("here", [part(1, 7, "hole")]) == [False]
    assert await log.checkpoint("here", [part(1, 6, "g", 2)]) == [False]
    assert await log.checkpoint("here", []) == []
    assert await log.checkpoint("here", [part(1, 0, "ab", cut=True)]) == [True], (
        "nothing is left of what came behind it"
    )
    assert (await log.open("lobby", 1))[0].text == "ab"


async def test_what_has_lapsed_can_be_finished_by_anybody(log: Log, open_log: Open, database: str) -> None:
    await append(log, message("?", user="ann"), begun(reply_to=1), begun("re:2"))
    await log.checkpoint("here", [part(2, 0, "so far")])
    other = await open_log()
    assert await other.lapsed() == []
    assert isinstance(await refused(other, finished(2, "so far", reason="interrupted", lapsed=True)), Conflict)
    await lapse(database)
    await log.checkpoint("here", [part(3, 0, "")])  # its author is there
    (one,) = await other.lapsed()
    assert (one.room, one.seq, one.user, one.name, one.id) == ("lobby", 2, "bot", "Bot", "re:1")
    assert (one.gen, one.home, one.stopped, one.asker, one.text) == (1, "here", None, "ann", "so far")
    end = finished(2, one.text, reason="interrupted", home=one.home, gen=one.gen, lapsed=True)
    await append(other, end)
    assert (await conflict(log, finished(2, "so far and more"))).reason == "interrupted"
    assert await log.checkpoint("here", [part(2, 6, " and more")]) == [False]
    assert (await now(log, 2))["text"] == "so far"


async def test_what_was_kept_meanwhile_is_not_lost_by_an_end_that_does_not_know_of_it(log: Log, database: str) -> None:
    """Asked to stop, and lapsed by that; the process that has it keeps more before another one ends it."""
    await append(log, begun())
    await log.stop("lobby", [1], "ann")
    await lapse(database)
    (one,) = await log.lapsed()
    assert await log.checkpoint("here", [part(1, 0, "kept")]) == [True]
    assert isinstance(await refused(log, finished(1, one.text, reason="stopped", lapsed=True)), Conflict)
    (one,) = await log.lapsed()
    await append(log, finished(1, one.text, reason="stopped", lapsed=True))
    assert (await now(log, 1))["text"] == "kept"


async def test_a_lease_is_renewed_by_a_living_link_alone(log: Log, database: str) -> None:
    await append(log, begun())
    before = time.time()
    await lapse(database)
    await log.checkpoint("here", [part(1, 0, "a", linked=False)])
    assert await log.lapsed() == [], "its author has just gone"
    await lapse(database)
    await log.checkpoint("here", [part(1, 1, "b", linked=False)])
    assert [one.text for one in await log.lapsed()] == ["ab"]
    await log.checkpoint("here", [part(1, 2, "c")])
    assert await log.lapsed() == []
    assert time.time() - before < growing.LEASE_SECONDS


async def test_many_that_lapse_are_told_some_at_a_time(log: Log, database: str) -> None:
    await append(log, *(begun(f"re:{number}") for number in range(growing.LAPSED + 1)))
    await lapse(database)
    assert len(await log.lapsed()) == growing.LAPSED
    assert len(await log.held("here")) == len(await log.open("lobby")) == growing.LAPSED + 1


async def test_what_grows_is_told_and_what_its_checkpoints_hold(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    await append(log, message("?", room="plain"), begun(), begun("re:2", home="there"), begun("re:3", room="den"))
    await log.checkpoint("here", [part(1, 0, "Grüße \U0001f600"), part(1, 0, "x", room="den", linked=False)])
    await log.checkpoint("here", [part(1, 7, " and more")])
    await log.stop("den", [1], "ann")
    assert await log.openings(["lobby", "den", "plain", "nowhere"]) == {
        "lobby": (2, True),
        "den": (1, True),
        "plain": (1, False),
    }

    def of(one: growing.Grown) -> tuple[Any, ...]:
        return one.room, one.seq, one.gen, one.home, one.length, one.user, one.id, bool(one.linked), one.stopped

    lobby = [
        ("lobby", 1, 1, "here", 16, "bot", "re:1", True, None),
        ("lobby", 2, 1, "there", 0, "bot", "re:2", True, None),
    ]
    assert [of(one) for one in await log.growing("lobby")] == lobby
    found = await log.growing()
    assert sorted(map(of, found)) == [("den", 1, 1, "here", 1, "bot", "re:3", False, "ann"), *lobby]
    assert await log.growing("nowhere") == []
    wanted = [("lobby", 1, 1, start) for start in (0, 5, 6, 7, 8, 15, 16, 99)]
    text = "Grüße \U0001f600 and more"
    assert await log.parts(wanted) == [text[start:] for _, _, _, start in wanted]
    others = [("lobby", 2, 1, 0), ("lobby", 1, 2, 0), ("nowhere", 1, 1, 0), ("den", 1, 1, 0), ("lobby", 9, 1, 0)]
    assert await log.parts(others) == ["", "", "", "x", ""]
    assert await log.parts([]) == []


async def test_the_links_at_a_dead_process_are_dead_and_that_is_told_once(log: Log) -> None:
    await append(log, begun(replica="a"), begun("re:2", room="den"), begun("re:3", home="there", replica="a"))
    orphans = await log.orphan("here")
    assert sorted((one.room, one.seq, one.user, one.id) for one in orphans) == [
        ("den", 1, "bot", "re:2"),
        ("lobby", 1, "bot", "re:1"),
    ]
    assert await log.orphan("here") == []
    assert (await claim(log, begun(replica="b", home="there", take_over=True))).gen == 2
    refused = await conflict(log, begun("re:3", replica="b", take_over=True))
    assert refused.gen == 1, "its process lives"


async def test_who_had_it_before_is_told(log: Log) -> None:
    assert (await claim(log, begun(replica="a"))).before == ""
    assert (await claim(log, begun(replica="a"))).before == ""
    assert (await claim(log, begun(replica="b", home="there"))).before == "", "it is held"
    assert (await claim(log, begun(replica="a", home="there"))).before == "here"
    await append(log, finished(1, "", home="there"))
    assert (await claim(log, begun(replica="a"))).before == ""


async def test_a_stop_is_noted_once_and_ends_in_time(log: Log, database: str) -> None:
    await append(log, begun(), begun("re:2"), begun("re:3", room="den"))
    await log.stop("lobby", [1, 7], "ann")
    await log.stop("lobby", [1], "ben")
    assert sorted((held.room, held.seq, held.stopped) for held in await log.held("here")) == [
        ("den", 1, None),
        ("lobby", 1, "ann"),
        ("lobby", 2, None),
    ]
    await log.stop("nowhere", [1], "ann")
    await rows(database, f"UPDATE growing SET lapses = lapses - {int(growing.STOPPED_SECONDS * 1000)}")
    assert await log.checkpoint("here", [part(1, 0, "more")]) == [True], "it is kept, and no longer for that"
    assert [(one.seq, one.stopped) for one in await log.lapsed()] == [(1, "ann")]


async def test_it_cannot_be_changed_while_it_grows(log: Log) -> None:
    await append(log, begun())
    for entry in (edited(1, user="bot"), deleted(1, "bot")):
        assert "still grows" in str(await conflict(log, entry))
    for entry in (edited(1, user="eve"), deleted(1, "eve")):
        assert (await refused(log, entry)).code is ErrorCode.FORBIDDEN
    await append(log, reacted(1, "+1"))
    assert (await now(log, 1))["reactions"] == {"+1": ["bob"]}
    await append(log, finished(1, "text"), edited(1, "better", "bot"))
    assert (await now(log, 1))["text"] == "better"
    assert (await refused(log, edited(3, user="bot"))).code is ErrorCode.NOT_FOUND, "no message"


async def test_a_deletion_erases_what_it_grew_to(log: Log, database: str) -> None:
    await append(log, begun(meta=b'{"secret":1}'), message("other"))
    await log.checkpoint("here", [part(1, 0, "secret")])
    await append(log, finished(1, "secret!", meta=b'{"secret":2}'), deleted(1, "bot"))
    events = await everything(log)
    assert "secret" not in str(events)
    assert events[0]["deleted"] is True
    assert (events[2]["deleted"], events[2]["length"]) == (True, 7)
    assert not {"text", "crc", "meta"} & events[2].keys()
    assert (await now(log, 1))["deleted"] is True
    assert "streaming" not in await now(log, 1)
    assert (await now(log, 2))["text"] == "other"


async def test_who_may_finish_what(log: Log) -> None:
    await append(log, begun(), message("plain", user="bot"))
    assert (await refused(log, finished(1, "x", "eve"))).code is ErrorCode.FORBIDDEN
    assert (await refused(log, finished(2, "x"))).code is ErrorCode.NOT_FOUND
    assert (await refused(log, finished(9, "x"))).code is ErrorCode.NOT_FOUND
    assert (await refused(log, finished(1, "x", room="nowhere"))).code is ErrorCode.NOT_FOUND
    assert (await conflict(log, finished(1, "x", gen=2))).gen == 1
    (ends,) = await append(log, finished(1, "x", key="end"))
    (again,) = await append(log, finished(1, "longer", key="end"))
    assert (again.seq, again.duplicate, ends.duplicate) == (ends.seq, True, False)
    assert (await conflict(log, finished(1, "x", key="another"))).reason == "done"


async def test_a_text_of_any_kind_and_none(log: Log) -> None:
    text = "é\U0001f600\n" * 80_000
    await append(log, begun(), begun("re:2"))
    size = 4_000
    for start in range(0, len(text), size):
        assert await log.checkpoint("here", [part(1, start, text[start : start + size])]) == [True]
    assert (await log.open("lobby", 1))[0].text == text
    await append(log, finished(1, text), finished(2, "", reason="interrupted"))
    assert (await now(log, 1))["text"] == text
    ends = (await everything(log))[3]
    assert (ends["text"], ends["length"], ends["crc"]) == ("", 0, 0)
    assert (await now(log, 2))["text"] == ""


async def test_it_is_there_after_reopening(log: Log, open_log: Open) -> None:
    await append(log, begun())
    await log.checkpoint("here", [part(1, 0, "abc")])
    await log.close()
    assert terms(await claim(await open_log(), begun(home="there"))) == (1, 3, "abc", False, None)


@pytest.mark.parametrize("seed", range(4))
async def test_any_sequence_agrees_with_a_model(log: Log, seed: int) -> None:
    dice = random.Random(seed)
    texts: dict[int, str] = {}  # of those that grow, what was checkpointed
    ended: dict[int, str | None] = {}  # of the others, as they are now
    homes: dict[int, str] = {}
    ids: dict[str, int] = {}
    head = 0
    for _ in range(150):
        kind = dice.choice(("begin", "part", "part", "part", "finish", "edit", "delete", "plain"))
        seq, home = dice.choice([*texts, *ended, 1]), dice.choice("hhht")
        if kind == "begin":
            id = f"re:{dice.randrange(30)}"
            (outcome,) = await append(log, begun(id, home=home))
            assert outcome.seq == ids.setdefault(id, head + 1)
            assert outcome.duplicate == (outcome.seq <= head)
            assert outcome.claim is not None
            if outcome.seq in ended:
                assert outcome.claim.gen == 0
            else:
                assert outcome.claim.text == texts.setdefault(outcome.seq, "")
                homes[outcome.seq] = home
            head = max(head, outcome.seq)
        elif kind == "plain":
            await append(log, message())
            head += 1
        elif kind == "part":
            new = dice.choice(("", "é", "word "))
            kept = seq in texts and homes[seq] == home
            assert await log.checkpoint(home, [part(seq, len(texts.get(seq, "")), new)]) == [kept]
            if kept:
                texts[seq] += new
        else:
            entry: Entry = deleted(seq, "bot")
            if kind == "finish":
                entry = finished(seq, texts.get(seq, "") + ".", home=home)
            elif kind == "edit":
                entry = edited(seq, "better", "bot")
            (result,) = await log.append([entry])
            may = seq in texts and homes[seq] == home if kind == "finish" else ended.get(seq) is not None
            assert isinstance(result, Appended) == may, (kind, seq)
            if isinstance(result, ChatError):
                continue
            head += 1
            if kind == "finish":
                ended[seq] = texts.pop(seq) + "."
            else:
                ended[seq] = None if kind == "delete" else "better"
    grow = [one.seq for one in await log.open("lobby")]
    assert {one.seq: one.text for seq in grow for one in await log.open("lobby", seq)} == texts
    for seq, text in {**texts, **ended}.items():
        found = await now(log, seq)
        assert found.get("text") == text
        assert ("streaming" in found) == (seq in texts)
    assert len(await everything(log)) == head
