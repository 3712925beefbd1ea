"""Which questions are due, as the log tells: by examples, and with replicas that see prefixes of one log."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tornado_chat.agents import questions
from tornado_chat.agents.question import HOPS, DoubleTexting, Question, Rules
from tornado_chat.agents.questions import MINUTE, Questions
from tornado_chat.wire.attempts import ATTEMPTS, ask_id, attempt_id, attempt_of
from tornado_chat.wire.events import Data

BOT = "bot"
START = 1_000_000


def asks_bot(message: Data) -> bool:
    return "bot" in message["text"]


class Log:
    """A room's log, written as the server would write it: an id of the bot stands in it once."""

    def __init__(self) -> None:
        self.events: list[Data] = []
        self.ids: dict[str, int] = {}
        self.open: dict[int, str] = {}
        self.now = START

    def add(self, type: str, user: str, **fields: Any) -> int:
        self.now += 10
        seq = len(self.events) + 1
        self.events.append({"type": type, "room": "r", "seq": seq, "user": user, "ts": self.now, **fields})
        return seq

    def say(self, user: str, text: str = "bot?", **fields: Any) -> int:
        return self.add("message", user, name=user, text=text, **fields)

    def edit(self, seq: int, text: str = "bot!") -> int:
        return self.add("edited", self.events[seq - 1]["user"], target=seq, text=text)

    def delete(self, seq: int) -> int:
        return self.add("deleted", self.events[seq - 1]["user"], target=seq)

    def begin(self, id: str) -> bool:
        """Whether the claim is the first."""
        if id in self.ids:
            return False
        self.ids[id] = self.say(BOT, "", id=id, streaming=True)
        self.open[self.ids[id]] = id
        return True

    def finish(self, id: str, reason: str = "done", text: str = "so") -> int:
        del self.open[self.ids[id]]
        return self.add("finished", BOT, target=self.ids[id], reason=reason, length=len(text), text=text)

    def message(self, seq: int) -> Data:
        """As a history tells it."""
        texts = [event["text"] for event in self.events if event["type"] == "edited" and event["target"] == seq]
        return {**self.events[seq - 1], **({"text": texts[-1]} if texts else {})}

    def claim(self, replica: Questions, question: Question) -> str | None:
        """The attempt that is due, begun; None if it was there already: `replica` is told what an ack tells."""
        id = attempt_id(question.seq, question.next)
        if self.begin(id):
            return id
        at = self.ids[id]
        for event in self.events:
            if event["type"] == "finished" and event["target"] == at:
                replica.found(question.seq, question.next, at, event["reason"])
        return None

    def claims(self, replica: Questions) -> list[str]:
        """What it begins, once it knows of what was there already."""
        begun: list[str] = []
        tried: list[str] = []
        while tried != (due := [attempt_id(one.seq, one.next) for one in replica.due(self.now)]) and not begun:
            tried = due
            begun = [id for id in (self.claim(replica, question) for question in replica.due(self.now)) if id]
        return begun


class Room:
    """A log, and questions that are fed all of it."""

    def __init__(self, double_texting: DoubleTexting = "enqueue", **rules: Any) -> None:
        self.log = Log()
        self.rules = Rules(BOT, rules.pop("concerns", asks_bot), double_texting, **rules)
        self.questions = Questions(self.rules)

    def feed(self) -> Questions:
        for event in self.log.events[self.questions.seq :]:
            self.questions.feed(event)
        return self.questions

    def due(self) -> list[str]:
        return [attempt_id(one.seq, one.next) for one in self.feed().due(self.log.now)]


def test_ids_are_read_as_they_are_written() -> None:
    for number in (1, 2, 3, 10, 123):
        assert attempt_of(attempt_id(7, number)) == (7, number)
    for other in ("re:0", "re:7:1", "re:7:0", "re:7:02", "re:7:", "re:x", "say:7:1", "re:7:2:1", "", " re:7", "re:٣"):
        assert attempt_of(other) is None


def test_a_question_is_due_until_it_is_begun_and_again_when_that_was_interrupted() -> None:
    room = Room()
    asked = room.log.say("ann")
    room.log.say("ann", "something else")
    assert room.due() == ["re:1"]
    room.log.begin("re:1")
    assert room.due() == []
    assert room.questions.mark(room.log.now) == asked - 1
    for number in range(2, ATTEMPTS + 1):
        room.log.finish(attempt_id(1, number - 1), "interrupted")
        assert room.due() == [f"re:1:{number}"]
        room.log.begin(f"re:1:{number}")
    room.log.finish(f"re:1:{ATTEMPTS}", "interrupted")
    assert room.due() == []
    assert room.questions.mark(room.log.now) == room.questions.seq
    assert ATTEMPTS == 5


@pytest.mark.parametrize("reason", ["done", "stopped", "error"])
def test_it_is_answered_by_an_attempt_that_ended_otherwise(reason: str) -> None:
    room = Room()
    room.log.say("ann")
    room.log.begin("re:1")
    room.log.finish("re:1", reason)
    assert room.due() == []
    assert room.questions.pending() == 0


def test_who_edits_asks_again_with_the_number_after_the_greatest() -> None:
    room = Room()
    room.log.say("ann")
    room.log.edit(1)
    assert room.due() == ["re:1"]
    room.log.begin("re:1")
    room.feed()
    assert room.questions.goes_on(1, 1)
    room.log.edit(1, "bot, again")
    assert room.due() == []
    assert not room.questions.goes_on(1, 1)
    room.log.finish("re:1", "stopped")
    assert room.due() == ["re:1:2"]
    found = room.questions.get(1)
    assert found is not None
    assert found.message["text"] == "bot, again"
    room.log.begin("re:1:2")
    room.log.finish("re:1:2")
    assert room.due() == []
    room.log.edit(1)  # the same text: regenerate
    assert room.due() == ["re:1:3"]


def test_an_edit_begins_the_count_of_attempts_anew() -> None:
    room = Room()
    room.log.say("ann")
    for number in range(1, ATTEMPTS + 1):
        room.log.begin(attempt_id(1, number))
        room.log.finish(attempt_id(1, number), "interrupted")
    assert room.due() == []
    room.log.edit(1)
    for number in range(ATTEMPTS + 1, 2 * ATTEMPTS + 1):
        assert room.due() == [attempt_id(1, number)]
        room.log.begin(attempt_id(1, number))
        room.log.finish(attempt_id(1, number), "interrupted")
    assert room.due() == []


def test_somebody_elses_edit_or_id_is_none_of_it() -> None:
    room = Room()
    room.log.say("ann")
    room.log.add("edited", "eve", target=1, text="bot, obey")
    room.log.say("eve", "nothing", id="re:1")
    assert room.due() == ["re:1"]
    found = room.questions.get(1)
    assert found is not None
    assert found.message["text"] == "bot?"


def test_a_deleted_question_is_not_answered() -> None:
    room = Room()
    room.log.say("ann")
    room.log.say("bob", "bot?", deleted=True)
    del room.log.events[-1]["text"]
    room.log.say("cyd")
    room.feed()
    room.log.delete(1)
    assert room.due() == ["re:3"]
    room.log.begin("re:3")
    room.log.delete(3)
    room.feed()
    assert not room.questions.goes_on(3, 1)
    room.log.finish("re:3", "interrupted")
    assert room.due() == []


def test_what_is_old_is_not_answered() -> None:
    room = Room(max_age=3600.0)
    room.log.say("ann")
    room.log.now += 3_600_000
    assert room.due() == ["re:1"]
    room.log.now += 1
    assert room.due() == []
    assert room.questions.mark(room.log.now) == 1
    room.log.edit(1)
    assert room.due() == ["re:1"]


def test_what_was_handled_is_not_answered_but_may_be_asked_again() -> None:
    room = Room()
    room.log.say("ann")
    room.log.edit(1)
    room.log.say("bob")
    room.questions = Questions(room.rules, 0, handled=2)
    assert room.due() == ["re:3"]
    room.log.edit(1)
    assert room.due() == ["re:3", "re:1"]


def test_agents_are_not_answered_unless_that_is_wanted_and_then_a_few_times() -> None:
    room = Room()
    room.log.say("other", agent=True)
    assert room.due() == []
    room = Room("concurrent", answer_agents=True)
    for hops in (None, 1, HOPS - 1, HOPS, HOPS + 4, -1, "x"):
        room.log.say("other", agent=True, meta={} if hops is None else {"hops": hops})
    room.log.say("ann", meta={"hops": HOPS})  # a person's is not heeded
    assert room.due() == ["re:1", "re:2", "re:3", "re:6", "re:7", "re:8"]


def test_a_message_that_grows_asks_when_it_has_ended() -> None:
    room = Room(answer_agents=True)
    room.log.say("ann", "", streaming=True)
    assert room.due() == []
    assert room.questions.mark(room.log.now) == 0
    room.log.add("finished", "ann", target=1, reason="done", length=4, text="bot?")
    assert room.due() == ["re:1"]
    assert room.questions.due(room.log.now)[0].message["text"] == "bot?"
    for reason in ("stopped", "interrupted", "error"):
        seq = room.log.say("bob", "", streaming=True)
        room.log.add("finished", "bob", target=seq, reason=reason, length=4, text="bot?")
    assert room.due() == ["re:1"]


def test_the_questions_of_one_person_wait_for_their_turn() -> None:
    room = Room("enqueue")
    for user in ("ann", "ann", "bob", "ann"):
        room.log.say(user)
    assert room.due() == ["re:1", "re:3"]
    room.log.begin("re:1")
    assert room.due() == ["re:3"]
    room.log.finish("re:1", "interrupted")
    assert room.due() == ["re:1:2", "re:3"]
    room.log.begin("re:1:2")
    room.log.finish("re:1:2")
    assert room.due() == ["re:2", "re:3"]
    room.log.edit(2)  # it is asked after the last one now
    assert room.due() == ["re:3", "re:4"]


def test_what_comes_too_soon_is_refused() -> None:
    room = Room("reject")
    for user in ("ann", "ann", "bob"):
        room.log.say(user)
    assert room.due() == ["re:1", "re:2", "re:3"]
    assert [one.rejected for one in room.questions.due(room.log.now)] == [False, True, False]
    for id in ("re:1", "re:2"):
        room.log.begin(id)
        room.log.finish(id)
    room.log.say("ann")
    assert [one.rejected for one in room.feed().due(room.log.now)] == [False, False]


@pytest.mark.parametrize("kind", ["interrupt", "rollback"])
def test_the_later_question_ends_the_earlier_one(kind: DoubleTexting) -> None:
    room = Room(kind)
    room.log.say("ann")
    room.log.say("ann")
    assert room.due() == ["re:2"]
    room.log.begin("re:2")
    room.log.say("bob")
    room.log.say("ann")
    assert room.due() == ["re:4"]
    assert not room.questions.goes_on(2, 1)
    found = room.questions.get(2)
    assert found is not None
    assert found.rolled_back == (kind == "rollback")
    room.log.finish("re:2", "stopped")
    assert room.due() == ["re:4", "re:5"]
    assert list(room.questions.leavings) == ([room.log.ids["re:2"]] if kind == "rollback" else [])
    room.log.add("deleted", BOT, target=room.log.ids["re:2"])
    assert not room.feed().leavings


def test_all_at_once() -> None:
    room = Room("concurrent")
    for _ in range(3):
        room.log.say("ann")
    assert room.due() == ["re:1", "re:2", "re:3"]


def test_what_an_attempt_asks_is_answered_by_the_persons_next_message() -> None:
    room = Room()
    room.log.say("ann")
    room.log.begin("re:1")
    room.log.say(BOT, "where?", id=ask_id(1, 1, 1))
    room.log.say("bob", "bot, here")
    answer = room.log.say("ann", "bot, there")
    after = room.log.say("ann", "bot, and now?")
    assert room.due() == ["re:4"]
    question = room.questions.get(1)
    assert question is not None
    assert question.answers[1, 1]["seq"] == answer
    room.log.finish("re:1")
    assert room.due() == ["re:4", f"re:{after}"]


@pytest.mark.parametrize("end", ["finished", "deleted", "never begun"])
def test_what_is_not_asked_any_more_has_no_answer(end: str) -> None:
    room = Room("concurrent")
    room.log.say("ann")
    if end != "never begun":
        room.log.begin("re:1")
    asked = room.log.say(BOT, "where?", id=ask_id(1, 1, 1))
    if end == "finished":
        room.log.finish("re:1")
    elif end == "deleted":
        room.log.delete(asked)
    later = room.log.say("ann", "bot, there")
    assert f"re:{later}" in room.due()


@pytest.mark.parametrize(("end", "due"), [("edit", "re:1:2"), ("delete", "re:5")])
def test_what_is_said_while_an_attempt_is_being_ended_is_no_answer_to_it(end: str, due: str) -> None:
    room = Room()
    room.log.say("ann")
    room.log.begin("re:1")
    room.log.say(BOT, "which?", id=ask_id(1, 1, 1))
    getattr(room.log, end)(1)
    room.log.say("ann", "bot, something else")
    room.log.finish("re:1", "stopped")
    assert room.due() == [due]
    if end == "edit":
        room.log.begin("re:1:2")
        room.log.finish("re:1:2")
        assert room.due() == ["re:5"]


def test_replies_of_a_minute_are_bounded_and_the_rest_waits() -> None:
    room = Room(replies_a_minute=2)
    for user in "abc":
        room.log.say(user)
    assert room.due() == ["re:1", "re:2"]
    for id in ("re:1", "re:2"):
        room.log.begin(id)
        room.log.finish(id)
    assert room.due() == []
    room.log.now = room.log.events[3]["ts"] + MINUTE
    assert room.questions.limited_until == room.log.now
    assert room.due() == ["re:3"]
    assert room.questions.limited_until is None


@pytest.mark.parametrize("kind", ["enqueue", "concurrent"])
def test_where_replies_are_short_who_had_fewest_comes_first(kind: DoubleTexting) -> None:
    room = Room(kind, replies_a_minute=3)
    for _ in range(8):
        room.log.say("ann")

    def answer() -> list[str]:
        due = room.due()
        for id in due:
            room.log.begin(id)
            room.log.finish(id)
        return due

    while answer():
        pass
    bob = room.log.say("bob")
    assert answer() == []
    assert room.questions.limited_until is not None
    room.log.now = room.questions.limited_until
    assert answer() == [f"re:{bob}"]


def test_who_asks_for_all_places_keeps_none_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PENDING", 5)
    room = Room("concurrent")
    for user in ("ann",) * 8 + ("bob", "cid", "bob", "bob"):
        room.log.say(user)
    # Of the last two that have as many as anybody there is one too many.
    assert room.due() == ["re:1", "re:2", "re:9", "re:10", "re:11"]
    assert room.questions.dropped == 7


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PENDING", "SETTLED", "GROWING", "STRANGERS"):
        monkeypatch.setattr(questions, name, 5)
    room = Room("concurrent")
    for number in range(20):
        room.log.say(f"u{number}")
        room.log.say(f"u{number}", "", streaming=True)
    found = room.feed()
    assert len(found.due(room.log.now)) == 5
    assert found.dropped == 15
    assert len(found._growing) == 5
    for seq in (1, 3, 5, 7, 9):
        room.log.begin(f"re:{seq}")
        room.log.finish(f"re:{seq}")
    for number in range(20):
        seq = room.log.say(f"u{number}")
        room.log.begin(f"re:{seq}")
        room.log.finish(f"re:{seq}")
    room.log.now += 4_000_000
    room.feed().due(room.log.now)
    assert found.pending() == 0
    assert len(found._known) == len(found._settled) == 5
    assert not found._attempts
    assert all(question.message["text"] == "" for question in found._known.values())
    dropped = found.dropped
    for seq in range(1, 21):
        room.log.edit(2 * seq - 1)
    assert len(room.feed().strangers) == 5
    assert found.dropped == dropped + 15


def test_an_edit_of_what_was_forgotten_is_told_and_what_never_asked_is_not() -> None:
    room = Room()
    room.log.say("ann")
    room.log.say("ann", "to bob")
    late = Questions(room.rules, 2)
    room.log.edit(1)
    room.log.say("ann", "to bob")
    room.log.edit(4)
    for event in room.log.events:
        late.feed(event)
    assert list(late.strangers) == [1]
    assert (late.mark(room.log.now), late.pending()) == (2, 1), "nothing behind that edit is seen to"
    late.forget(1)
    assert (late.mark(room.log.now), late.pending()) == (5, 0)


@pytest.mark.parametrize(
    ("history", "due"),
    [
        ([], ["re:1"]),
        (["begin", "finish"], ["re:1"]),
        (["begin", "finish", "edit"], ["re:1:2"]),
        (["begin", "finish", "edit", "edit"], ["re:1:2"]),
        (["begin", "finish", "edit", "begin"], []),
        (["begin", "finish", "edit", "begin", "finish"], []),
        (["begin", "edit", "finish"], ["re:1:2"]),
        (["begin", "finish", "edit", "begin", "cut"], ["re:1:3"]),
        (["begin", "finish", "edit", "begin", "edit", "finish"], ["re:1:3"]),
        (["begin", "finish", "edit", "begin", "cut", "begin", "finish"], []),
    ],
)
def test_what_is_recalled_goes_on_like_what_was_fed(history: list[str], due: list[str]) -> None:
    room = Room()
    log = room.log
    log.say("ann")
    fed = Questions(room.rules)
    late: Questions | None = None
    number = 0
    for what in history:
        if what == "begin":
            number += 1
            log.begin(attempt_id(1, number))
        elif what in ("finish", "cut"):
            log.finish(attempt_id(1, number), "done" if what == "finish" else "interrupted")
        else:
            late = late or Questions(room.rules, len(log.events))  # it has not read anything from before the first edit
            log.edit(1)
    for event in log.events:
        fed.feed(event)
        if late is not None:
            late.feed(event)
    if late is not None:
        late.recall(log.message(1))
        if log.open:
            assert not log.claims(late)
            log.finish(attempt_id(1, number), "interrupted")
            late.feed(log.events[-1])
            assert log.claims(late) == [attempt_id(1, number + 1)]
        else:
            assert log.claims(late) == due
    else:
        assert [attempt_id(one.seq, one.next) for one in fed.due(log.now)] == (due if not history else [])


def test_attempts_that_were_not_fed_do_not_count_for_what_is_asked_now() -> None:
    room = Room()
    log = room.log
    log.say("ann")
    for number in range(1, ATTEMPTS + 2):
        late, other = Questions(room.rules, len(log.events)), Questions(room.rules, len(log.events))
        log.edit(1)
        if number <= ATTEMPTS:
            log.begin(attempt_id(1, number))
            log.finish(attempt_id(1, number))
    for replica in (late, other):
        replica.feed(log.events[-1])
        replica.recall(log.message(1))
    for number in range(ATTEMPTS + 1, 2 * ATTEMPTS + 1):
        assert log.claims(late) == [attempt_id(1, number)]
        log.finish(attempt_id(1, number), "interrupted")
        for event in log.events[-2:]:
            late.feed(event)
            other.feed(event)
        assert late.pending() == other.pending() == (number < 2 * ATTEMPTS)


def test_who_asks_again_what_is_not_remembered_asks_that_before_what_comes_then() -> None:
    room = Room()
    log = room.log
    first = log.say("ann")
    late = Questions(room.rules, first)
    log.edit(first)
    second, other = log.say("ann"), log.say("bob")
    for event in log.events[1:]:
        late.feed(event)
    assert log.claims(late) == [attempt_id(other, 1)]
    late.recall(log.message(first))
    assert log.claims(late) == [attempt_id(first, 1)]
    for event in log.events[-2:]:
        late.feed(event)
    assert not log.claims(late)
    log.finish(attempt_id(first, 1))
    late.feed(log.events[-1])
    assert log.claims(late) == [attempt_id(second, 1)]


class Replica:
    """One of several processes, which has read so much of the log, and makes some attempts."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.start(0)

    def start(self, seq: int) -> None:
        self.questions = Questions(self.rules, seq)
        self.mine: list[str] = []

    def read(self, log: Log, count: int) -> None:
        for event in log.events[self.questions.seq : self.questions.seq + count]:
            self.questions.feed(event)

    def recall(self, log: Log) -> None:
        while self.questions.strangers:
            self.questions.recall(log.message(next(iter(self.questions.strangers))))

    def claim(self, log: Log) -> None:
        for id in log.claims(self.questions):
            self.mine.append(id)

    def end(self, log: Log, id: str, reason: str) -> None:
        self.mine.remove(id)
        if log.ids[id] in log.open:
            log.finish(id, reason)


def play(kind: DoubleTexting, chance: random.Random, steps: int) -> tuple[Log, list[Replica]]:
    """People and replicas do what they like, and then all is read and ended."""
    log = Log()
    replicas = [Replica(Rules(BOT, asks_bot, kind, replies_a_minute=10**6)) for _ in range(3)]
    asked: list[int] = []
    marked = 0
    for _ in range(steps):
        replica = chance.choice(replicas)
        match chance.choice(
            [
                "say",
                "edit",
                "delete",
                "read",
                "read",
                "recall",
                "mark",
                "claim",
                "claim",
                "end",
                "end",
                "die",
                "all die",
            ]
        ):
            case "say":
                asked.append(log.say(chance.choice("ab")))
            case "edit" if asked:
                log.edit(chance.choice(asked))
            case "delete" if asked and chance.random() < 0.3:
                log.delete(asked.pop(chance.randrange(len(asked))))
            case "read":
                replica.read(log, chance.randint(1, 8))
            case "recall":
                replica.recall(log)
            case "claim":
                replica.claim(log)
            case "end" if replica.mine:
                id = chance.choice(replica.mine)
                replica.end(log, id, chance.choice(["done", "stopped", "interrupted", "error"]))
            case "mark":
                marked = max(marked, replica.questions.mark(log.now))
            case "die" | "all die" as who:
                for one in replicas if who == "all die" else [replica]:
                    for id in list(one.mine):
                        one.end(log, id, "interrupted")
                    one.start(marked)
    before = -1
    while before != len(log.events):
        before = len(log.events)
        for replica in replicas:
            replica.read(log, len(log.events))
            for id in list(replica.mine):
                replica.end(log, id, "done")
            replica.read(log, len(log.events))
            replica.recall(log)
            replica.claim(log)
    return log, replicas


@given(st.integers(0, 2**32), st.sampled_from(["enqueue", "reject", "interrupt", "rollback", "concurrent"]))
@settings(max_examples=300, deadline=None)
def test_replicas_that_see_prefixes_answer_all_and_each_once(seed: int, kind: DoubleTexting) -> None:
    log, replicas = play(kind, random.Random(seed), 80)
    assert not log.open
    for replica in replicas:
        assert not replica.questions.due(log.now)
        assert replica.questions.mark(log.now) == len(log.events)
        assert not replica.questions._attempts
    deleted = {event["target"] for event in log.events if event["type"] == "deleted"}
    reasons = {event["target"]: event["reason"] for event in log.events if event["type"] == "finished"}
    for question in (one for one in log.events if one["type"] == "message" and one["user"] != BOT):
        seq = question["seq"]
        edits = [one["seq"] for one in log.events if one["type"] == "edited" and one["target"] == seq]
        attempts = [at for id, at in log.ids.items() if id.split(":")[1] == str(seq)]
        for number, at in enumerate(attempts, 1):
            assert log.ids[attempt_id(seq, number)] == at, "an attempt was left out, or came before another"
        for before, after in pairwise(attempts):
            again = any(before < edit < after for edit in edits)
            assert again or reasons[before] == "interrupted", "what was answered was answered again"
        last = [reasons[at] for at in attempts if at > max([seq, *edits])]
        assert len(last) <= ATTEMPTS
        if seq not in deleted and kind in ("enqueue", "concurrent", "reject"):
            assert last, f"{seq} was never answered"
            assert last[-1] != "interrupted" or len(last) == ATTEMPTS
    if kind == "enqueue":
        _check_one_at_a_time(log)


def _check_one_at_a_time(log: Log) -> None:
    """Of one person one attempt goes on at a time, but where a replica has not heard of an edit or a deletion yet."""
    changed = {event["target"] for event in log.events if event["type"] in ("edited", "deleted")}
    users = {event["seq"]: event["user"] for event in log.events if event["type"] == "message"}
    open: dict[int, int] = {}
    for event in log.events:
        if event["type"] == "message" and event["user"] == BOT:
            found = attempt_of(event["id"])
            assert found is not None
            open[event["seq"]] = found[0]
            people = [users[seq] for seq in open.values() if seq not in changed]
            assert len(people) == len(set(people))
        elif event["type"] == "finished":
            del open[event["target"]]
