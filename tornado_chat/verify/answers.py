"""What an agent owes: an answer to each question, and one, in the words of its model, whichever process says it. As
docs/agents.md has it and not as the code of agents does. No I/O, no clock: times are passed in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.growth import Growth, Span
from tornado_chat.verify.tales import key_of, tale

ATTEMPTS = 5
"""After so many that were cut off, an agent gives a question up."""

ANSWERING = ("done", "stopped")
"""How an attempt ends that answers the question."""

_ATTEMPT = re.compile(r"re:([1-9]\d*)(?::([2-9]|[1-9]\d+))?")


class Asking(NamedTuple):
    """That a question was asked: by its message, or again by an edit. `key` None: it was erased, and is not known."""

    seq: int
    key: str | None
    at: float


class Question:
    """A message to the agent, and what became of it."""

    __slots__ = ("askings", "deleted_at", "deleted_by", "editing", "id", "key", "replies", "room", "seq", "user")

    def __init__(self, room: str, user: str, id: str, key: str) -> None:
        self.room = room
        self.user = user
        self.id = id
        self.key = key
        self.seq = 0  # 0: not known yet
        self.askings: list[Asking] = []
        self.editing = False  # an edit is on its way
        self.deleted_by = 0  # the seq of that event; 0: it is there
        self.deleted_at = math.inf
        self.replies: list[Reply] = []  # all attempts, in the order of the log

    @property
    def deleted(self) -> bool:
        return self.deleted_by > 0

    def changed_after(self, seq: int) -> float:
        """When it was first asked again after the event `seq`, or deleted; infinite if it was not.

        Deleted before it, too: a process may begin the reply before it has heard of that.
        """
        again = (asking.at for asking in self.askings if asking.seq > seq)
        return min(next(again, math.inf), self.deleted_at)

    def last_replies(self) -> list[Reply]:
        """The attempts that began after it was asked last."""
        asked = self.askings[-1].seq if self.askings else 0
        return [reply for reply in self.replies if reply.seq > asked]

    @property
    def waits(self) -> bool:
        """It is to be answered, and is not so far."""
        if self.deleted or self.editing:
            return self.editing
        reasons = [reply.end.reason if reply.end is not None else "" for reply in self.last_replies()]
        given_up = len(reasons) >= ATTEMPTS and "" not in reasons
        return not given_up and not any(reason in (*ANSWERING, "error") for reason in reasons)


class Reply(Growth):
    """One attempt: whichever process says it, from its first word or again, it says the tale of the question's key."""

    __slots__ = ("key", "number", "question")

    def __init__(self, question: Question, user: str, id: str, number: int) -> None:
        self.key = question.askings[-1].key
        super().__init__(
            question.room, user, id, "".join(tale(self.key)) if self.key else "", asker=question.user, watched=False
        )
        self.question = question
        self.number = number
        self.said = len(self.text)

    def has_gen(self, gen: int) -> bool:
        """Each process that takes it over has one more, and begins the text again."""
        self.gen = max(self.gen, gen)
        return True

    def is_part(self, offset: int, text: str) -> bool:
        return self.key is None or super().is_part(offset, text)

    def take_end(self, event: Data, now: float) -> Iterator[Finding]:
        yield from super().take_end(event if self.key is not None else event | {"deleted": True}, now)

    @property
    def unwanted_at(self) -> float:
        """When somebody wanted it to end, or had no use for it any more; infinite if nobody did."""
        return min(self.stopped_at, self.question.changed_after(self.seq))

    def audit(self, breaks: Sequence[Span], *, sound: bool) -> Iterator[Finding]:
        end = self.end
        if end is None:
            yield Finding("open", f"{self.id} has not ended", self.seq)
        elif end.reason == "error":
            yield Finding("reason", f"{self.id} has failed, and its model had not", self.seq)
        elif end.reason == "stopped" and not self.stopped and self.unwanted_at == math.inf:
            yield Finding("reason", f"{self.id} was stopped, and nobody had asked for that", self.seq)
        elif end.reason == "done" and self.key is not None and end.length != len(self.text):
            text = f"{self.id} is done with {end.length} characters, and its model has said {len(self.text)}"
            yield Finding("text", text, self.seq)


class Answers:
    """Those of one agent, the user `user`, in all rooms. `grow` is told of each reply that begins."""

    def __init__(self, user: str, grow: Callable[[Growth], None]) -> None:
        self.user = user
        self.questions: list[Question] = []
        self.replies: dict[tuple[str, int, int], Reply] = {}
        """By room, question and number."""
        self._grow = grow
        self._asked: dict[tuple[str, str, str], Question] = {}  # by room, user and id
        self._known: dict[tuple[str, int], Question] = {}  # by room and seq

    def ask(self, room: str, user: str, id: str, key: str) -> Question:
        """Somebody sends it."""
        question = self._asked[room, user, id] = Question(room, user, id, key)
        self.questions.append(question)
        return question

    def is_question(self, room: str, user: str, id: str) -> bool:
        return (room, user, id) in self._asked

    def waiting(self) -> Question | None:
        """One without an answer, None: all have theirs."""
        return next((one for one in self.questions if one.waits), None)

    # What the log says

    def see(self, room: str, event: Data, now: float) -> Iterator[Finding]:
        """The next event of the room: each once, and in their order."""
        match event["type"]:
            case "message" if event["user"] == self.user:
                yield from self._on_reply(room, event)
            case "message":
                question = self._asked.get((room, event["user"], event.get("id", "")))
                if question is not None:
                    question.seq = event["seq"]
                    question.askings.append(Asking(event["seq"], question.key, now))
                    self._known[room, question.seq] = question
            case "edited":
                question = self._known.get((room, event["target"]))
                if question is not None:
                    question.editing = False
                    question.askings.append(Asking(event["seq"], key_of(event.get("text", "")), now))
            case "deleted":
                question = self._known.get((room, event["target"]))
                if question is not None:
                    question.deleted_by, question.deleted_at = event["seq"], now

    def _on_reply(self, room: str, event: Data) -> Iterator[Finding]:
        id: str = event.get("id", "")
        found = _ATTEMPT.fullmatch(id)
        question = self._known.get((room, int(found[1]))) if found else None
        if found is None or question is None:
            yield Finding("foreign", f"the agent says {id}, which answers no question")
            return
        if event.get("reply_to") != question.seq or event.get("agent") is not True:
            yield Finding("content", f"{id} is no reply of an agent to {question.seq}: {event}")
        number = int(found[2] or 1)
        expected = max((reply.number for reply in question.replies), default=0) + 1
        if number != expected:
            yield Finding("double", f"{id} is the attempt {expected}")
        before = question.last_replies()
        reply = Reply(question, self.user, id, number)
        reply.seq = event["seq"]
        question.replies.append(reply)
        self.replies[room, question.seq, number] = reply
        self._grow(reply)
        answered = next((one for one in before if one.end is None or one.end.reason != "interrupted"), None)
        if answered is not None:
            ended = "goes on" if answered.end is None else f"ended with {answered.end.reason}"
            yield Finding("twice", f"{id} begins, although {answered.id} {ended}")
        elif len(before) >= ATTEMPTS:
            yield Finding("twice", f"{id} begins after {len(before)} attempts that were cut off")

    def first_words(self) -> Iterator[float]:
        """How long after a question, in seconds, somebody had the first word of its answer.

        Of those whose asker had no other in the room, and that were answered at the first attempt.
        """
        open_until: dict[tuple[str, str], float] = {}
        for question in self.questions:
            place = question.room, question.user
            if len(question.askings) != 1 or question.deleted or len(question.replies) != 1:
                open_until[place] = math.inf
                continue
            reply, at = question.replies[0], question.askings[0].at
            if open_until.get(place, 0.0) < at and reply.first_shown_at < math.inf:
                yield reply.first_shown_at - at
            open_until[place] = max(open_until.get(place, 0.0), reply.ended_at)

    # The end

    def audit(self) -> Iterator[tuple[str, Finding]]:
        """When nothing goes on any more: the room, and what is wrong."""
        for question in self.questions:
            if question.seq and not question.deleted:
                finding = _unanswered(question)
                if finding is not None:
                    yield question.room, finding
        by_asker: dict[tuple[str, str], list[Reply]] = {}
        for reply in self.replies.values():
            if reply.question.changed_after(reply.question.seq) == math.inf:
                by_asker.setdefault((reply.room, reply.question.user), []).append(reply)
        for (room, asker), replies in by_asker.items():
            for one, other in pairwise(sorted(replies, key=lambda reply: reply.seq)):
                if other.seq < one.ends_with:
                    text = f"{other.id} begins while {one.id} answers the same person, {asker}"
                    yield room, Finding("order", text, other.seq)


def _unanswered(question: Question) -> Finding | None:
    replies = question.last_replies()
    reasons = [reply.end.reason if reply.end is not None else "open" for reply in replies]
    if any(reason in ANSWERING for reason in reasons):
        return None
    again = f", asked again with {question.askings[-1].seq}," if len(question.askings) > 1 else ""
    told = ", ".join(f"{reply.id} {reason}" for reply, reason in zip(replies, reasons, strict=True)) or "no reply"
    return Finding("unanswered", f"the question of {question.user}{again} has no answer: {told}", question.seq)
