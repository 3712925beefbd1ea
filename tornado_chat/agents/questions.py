"""Which questions of a room an agent has to answer, as the room's log tells: no I/O, no clock but what it is given.

Every replica of an agent feeds the same log to this, so all come to the same attempts; who may answer is then elected
by the log, in which an id stands once.

1. An attempt to answer the message SEQ is a message of the agent's user with the id `re:SEQ`; the next one has
   `re:SEQ:2`, then `re:SEQ:3`. Its number is one more than the greatest that the log holds.
2. A question is answered by an attempt that ended `done` or `stopped`. After `error` it is not tried again; after
   `interrupted` it is, ATTEMPTS times in all.
3. Who edits a question asks it again. An attempt that began before that is no answer to it.
4. What an attempt asks the person in its turn is a message with the id `ask:SEQ:NUMBER:COUNT`. The person's next
   message in the room is the answer to it, and no question, as long as the attempt goes on and is wanted.
"""

from __future__ import annotations

from collections import Counter, deque

from tornado_chat.agents.question import HOPS, Question, Rules, hops_of
from tornado_chat.errors import Reason
from tornado_chat.wire.attempts import ATTEMPTS, ask_of, attempt_of
from tornado_chat.wire.events import Data

PENDING = 1000
"""Questions of a room that wait for an answer; for a further one the last of whoever has most of them is left alone."""

SETTLED = 64
"""Questions of a room that are answered and remembered, in case they are asked again."""

GROWING = 256
"""Messages of others that grow, and may be questions when they have ended."""

STRANGERS = 256
"""Messages that were edited, may be questions and are not remembered, until they are looked up; a further one is left
alone."""

MINUTE = 60_000  # ms


class Questions:
    """Those of one room. `feed` it the room's events in their order; it may begin anywhere."""

    __slots__ = (
        "_attempts",
        "_begun_at",
        "_growing",
        "_handled",
        "_known",
        "_pending",
        "_rules",
        "_settled",
        "_unsure",
        "dropped",
        "leavings",
        "limited_until",
        "seq",
        "strangers",
    )

    def __init__(self, rules: Rules, seq: int = 0, handled: int = 0) -> None:
        """`seq`: the event before the first that will be fed. What was asked up to `handled` needs no answer."""
        self.seq = seq
        """Up to here the log was fed."""
        self.dropped = 0
        """Questions that were one too many."""
        self.leavings: deque[int] = deque(maxlen=SETTLED)
        """Attempts that have ended and are to be deleted (`rollback`); for the caller to take away."""
        self.limited_until: int | None = None
        """When the next reply is allowed, in ms since 1970, where the last `due` held some back."""
        self.strangers: dict[int, Data] = {}
        """By the seq of a message, its last `edited`: it may be a question, and is not remembered, or was never fed.
        The caller looks it up, and says `recall` or `forget`."""
        self._rules = rules
        self._handled = handled
        self._unsure = seq  # what is a question up to here is not known, if it is not remembered
        self._known: dict[int, Question] = {}
        self._pending: dict[int, Question] = {}  # in the order of asking
        self._settled: dict[int, None] = {}  # the rest of those known, oldest first
        self._attempts: dict[int, Question] = {}  # by the seq of the attempt that goes on
        self._growing: dict[int, Data] = {}  # of others
        self._begun_at: deque[tuple[int, str]] = deque(maxlen=rules.replies_a_minute)  # ms, and whose question

    # What it is asked

    def due(self, now: int) -> list[Question]:
        """Those whose next attempt is to begin, in the order of asking; `now` in ms since 1970, by the server's clock.

        It is for all replicas to try; an attempt that has begun shows in the log. If not all may begin, those of
        whoever was answered least within the minute do.
        """
        self._expire(now)
        in_turn = self._rules.double_texting != "concurrent"
        busy = {question.user for question in self._pending.values() if question.open} if in_turn else set()
        while self._begun_at and self._begun_at[0][0] <= now - MINUTE:
            self._begun_at.popleft()
        allowed = self._rules.replies_a_minute - len(self._begun_at)
        self.limited_until = None
        due: list[Question] = []
        behind: dict[str, int] = {}  # by person, what was asked first of that which may be a question
        for edited in self.strangers.values():
            behind[edited["user"]] = min(edited["seq"], behind.get(edited["user"], edited["seq"]))
        for question in self._pending.values():
            if in_turn and not question.rejected:
                if question.user in busy or question.asked > behind.get(question.user, question.asked):
                    continue
                busy.add(question.user)
            if not question.wanted or question.open:
                continue
            due.append(question)
        if len(due) > allowed:
            self.limited_until = self._begun_at[0][0] + MINUTE if self._begun_at else now + MINUTE
            due = self._fair(due)[: max(0, allowed)]
        return due

    def _fair(self, due: list[Question]) -> list[Question]:
        """In the order in which they are to begin where not all of them may."""
        given = Counter(user for _, user in self._begun_at)
        places: list[int] = []
        for question in due:
            places.append(given[question.user])
            given[question.user] += 1
        return [question for _, question in sorted(zip(places, due, strict=True), key=lambda one: one[0])]

    def get(self, seq: int) -> Question | None:
        """The question that is the message `seq`, if it is remembered."""
        return self._known.get(seq)

    def open(self) -> list[Question]:
        """Those that have an attempt which goes on, whoever makes it."""
        return list(self._attempts.values())

    def goes_on(self, seq: int, number: int) -> bool:
        """Whether attempt `number` to answer `seq` is still wanted."""
        question = self._known.get(seq)
        return question is not None and question.wanted and number >= question.first

    def mark(self, now: int) -> int:
        """The last event before the oldest question that has no answer yet."""
        self._expire(now)
        edits: list[int] = [edited["seq"] for edited in self.strangers.values()]
        return min([self.seq + 1, *self._growing, *self._pending, *edits]) - 1

    def pending(self) -> int:
        """How many have no answer yet, or may have none."""
        return len(self._pending) + len(self.strangers)

    # What it is told

    def give_up(self, seq: int) -> None:
        """No answer is possible from here."""
        question = self._known.get(seq)
        if question is not None:
            self._close(question)

    def feed(self, event: Data) -> None:
        """The next event of the room; one that was fed before is left alone."""
        if event["seq"] <= self.seq:
            return
        self.seq = event["seq"]
        match event["type"]:
            case "message":
                self._on_message(event)
            case "edited":
                self._on_edited(event)
            case "deleted":
                self._on_deleted(event)
            case "finished":
                self._on_finished(event)

    def recall(self, message: Data) -> None:
        """The message of a stranger, as a history tells it. Attempts to answer it that were not fed are `found`."""
        edited = self.strangers.pop(message["seq"], None)
        if edited is None or message["user"] != edited["user"] or not self._is_question(message):
            return
        self._ask(message, edited)

    def forget(self, seq: int) -> None:
        """The stranger `seq` is no question."""
        self.strangers.pop(seq, None)

    def found(self, seq: int, number: int, at: int, reason: Reason) -> None:
        """The attempt `number` to answer `seq`, whose message is `at`, was there already, and has ended."""
        question = self._known.get(seq)
        if question is None or number <= question.begun:
            return
        question.begun, question.ahead = number, at
        if at < question.asked:  # an answer to what was asked before
            question.first = number + 1
        elif question.wanted:
            self._on_ended(question, reason)
        self._file(question)

    # The events

    def _on_message(self, event: Data) -> None:
        if event["user"] == self._rules.user:
            self._on_own(event)
        elif event.get("streaming"):
            if "text" in event and self._may_ask(event):
                self._growing[event["seq"]] = event
                if len(self._growing) > GROWING:
                    del self._growing[next(iter(self._growing))]
        elif "text" in event and not self._answers(event) and self._is_question(event):
            self._ask(event, event)

    def _on_own(self, event: Data) -> None:
        id = event.get("id", "")
        found = attempt_of(id)
        if found is not None:
            question = self._known.get(found[0])
            if event.get("streaming"):  # else it is about a reaction
                self._begun_at.append((event["ts"], question.user if question is not None else ""))
            if question is not None and found[1] > question.begun:
                self._begin(question, found[1], event)
            return
        asked = ask_of(id)
        if asked is not None:
            question = self._known.get(asked[0])
            if question is not None and question.open and question.begun == asked[1]:
                question.asking = event["seq"], question.begun, asked[2]

    def _on_edited(self, event: Data) -> None:
        question = self._known.get(event["target"])
        if "text" not in event:
            return
        if question is None:
            if event["target"] <= self._unsure:
                self._on_stranger(event)
        elif event["user"] == question.user:
            self._ask({**question.message, "text": event["text"]}, event)

    def _on_deleted(self, event: Data) -> None:
        target = event["target"]
        self._growing.pop(target, None)
        self.strangers.pop(target, None)
        if target in self.leavings:
            self.leavings.remove(target)
        question = self._known.get(target)
        if question is not None:
            self._close(question)
        for other in self._attempts.values():
            if other.asking is not None and other.asking[0] == target:
                other.asking = None

    def _on_finished(self, event: Data) -> None:
        grown = self._growing.pop(event["target"], None)
        if grown is not None:
            if event["reason"] == "done" and "text" in event:
                message = {**grown, "text": event["text"], "meta": event.get("meta", grown.get("meta"))}
                del message["streaming"]
                if self._is_question(message):
                    self._ask(message, event)
            return
        question = self._attempts.pop(event["target"], None)
        if question is None:
            return
        question.open = 0
        question.asking = None
        question.answers.clear()
        if question.rolled_back:
            self.leavings.append(event["target"])
        if question.begun >= question.first:
            self._on_ended(question, event["reason"])
        self._file(question)

    # What they mean

    def _on_stranger(self, edited: Data) -> None:
        target = edited["target"]
        if target in self.strangers or len(self.strangers) < STRANGERS:
            self.strangers[target] = edited
        else:
            self.dropped += 1

    def _may_ask(self, message: Data) -> bool:
        return not message.get("agent") or (self._rules.answer_agents and hops_of(message) < HOPS)

    def _is_question(self, message: Data) -> bool:
        return "text" in message and self._may_ask(message) and self._rules.concerns(message)

    def _answers(self, event: Data) -> bool:
        """Whether it is what an attempt waits for; it is kept there."""
        for question in self._attempts.values():
            if question.asking is None or question.user != event["user"]:
                continue
            _, number, count = question.asking
            if self.goes_on(question.seq, number):
                question.answers[number, count] = event
                question.asking = None
                return True
        return False

    def _ask(self, message: Data, event: Data) -> None:
        """`event` asks the question that `message` is, for the first time or again."""
        question = self._known.get(message["seq"])
        if len(self._pending) >= PENDING and (question is None or not question.pending):
            self.dropped += 1
            if not self._drop_for(message["user"]):
                return
        if question is None:
            question = self._known[message["seq"]] = Question(message)
        question.message = message
        self._ask_anew(question, event)
        others = [
            other
            for other in self._pending.values()
            if other is not question and other.user == question.user and other.asked < event["seq"]
            if not self._is_old(other, event["ts"])
        ]
        match self._rules.double_texting:
            case "reject":
                question.rejected = any(not other.rejected for other in others)
            case "interrupt" | "rollback" as kind:
                for other in others:
                    other.rolled_back = kind == "rollback"
                    self._close(other)
        self._file(question)

    def _drop_for(self, user: str) -> bool:
        """Leave a question alone of whoever has most of them, if `user` has fewer."""
        waiting = Counter(question.user for question in self._pending.values())
        most, count = waiting.most_common(1)[0]
        if count <= waiting[user] + 1:
            return False
        last = next(one for one in reversed(self._pending.values()) if one.user == most)
        if last.open:
            return False
        self._close(last)
        return True

    def _ask_anew(self, question: Question, event: Data) -> None:
        question.asked, question.asked_at = event["seq"], event["ts"]
        if question.asked < question.ahead:  # which answers that, too
            return
        question.first = question.next
        question.wanted = event["seq"] > self._handled
        question.rejected = question.rolled_back = question.interrupted = False

    def _begin(self, question: Question, number: int, event: Data) -> None:
        if question.open:
            del self._attempts[question.open]
        if number > question.next:  # those before were not fed
            question.first = number
        question.begun = number
        question.open = event["seq"] if event.get("streaming") else 0
        if question.open:
            self._attempts[question.open] = question
        else:
            question.wanted = False
        self._file(question)

    def _on_ended(self, question: Question, reason: Reason) -> None:
        """Its last attempt has."""
        question.interrupted = reason == "interrupted"
        tried = question.begun - question.first + 1
        if not question.interrupted or tried >= ATTEMPTS:
            question.wanted = False

    def _close(self, question: Question) -> None:
        """No answer is wanted any more; the attempt that goes on is to end."""
        question.wanted = False
        self._file(question)

    def _expire(self, now: int) -> None:
        for question in [one for one in self._pending.values() if not one.open and self._is_old(one, now)]:
            self._close(question)

    def _is_old(self, question: Question, now: int) -> bool:
        return not question.open and now - question.asked_at > self._rules.max_age * 1000

    def _file(self, question: Question) -> None:
        """Keep it where it belongs now."""
        seq = question.seq
        self._settled.pop(seq, None)
        before = self._pending.get(seq)
        if not question.pending:
            self._pending.pop(seq, None)
            # Who asks again brings the text.
            question.message = {**question.message, "text": ""}
            self._settled[seq] = None
            if len(self._settled) > SETTLED:
                oldest = next(iter(self._settled))
                del self._settled[oldest], self._known[oldest]
                self._unsure = max(self._unsure, oldest)
        elif before is None or next(reversed(self._pending.values())).asked < question.asked:
            self._pending.pop(seq, None)
            late = self._pending and next(reversed(self._pending.values())).asked > question.asked
            self._pending[seq] = question
            if late:  # it was recalled
                self._pending = dict(sorted(self._pending.items(), key=lambda one: one[1].asked))
