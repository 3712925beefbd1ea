"""What an agent owes, as verify judges it."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import pytest

from tornado_chat.verify.answers import Answers, Reply
from tornado_chat.verify.calls import LEFT_LATE_SECONDS, LEFT_SECONDS, Call, judge
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.tales import question, tale

ROOM = "r"


class Log:
    """A room's log, told to Answers as it is written."""

    def __init__(self) -> None:
        self.ledger = Ledger([ROOM])
        self.answers = Answers("bot", self.ledger.grow)
        self.head = 0
        self.found: list[str] = []

    def tell(self, type: str, **fields: Any) -> int:
        self.head += 1
        event = {"type": type, "room": ROOM, "seq": self.head, **fields}
        self.found += (finding.kind for finding in self.answers.see(ROOM, event, float(self.head)))
        if type == "finished":
            for reply in self.answers.replies.values():
                if reply.seq == event["target"]:
                    self.found += (finding.kind for finding in reply.take_end(event, float(self.head)))
        return self.head

    def ask(self, key: str, user: str = "ann") -> int:
        self.answers.ask(ROOM, user, key, key)
        return self.tell("message", user=user, id=key, text=question(key))

    def edit(self, seq: int, key: str) -> int:
        return self.tell("edited", target=seq, user="ann", text=question(key))

    def begin(self, seq: int, number: int = 1) -> int:
        id = f"re:{seq}" if number == 1 else f"re:{seq}:{number}"
        return self.tell("message", user="bot", agent=True, streaming=True, id=id, reply_to=seq, text="")

    def end(self, target: int, reason: str, text: str) -> int:
        return self.tell(
            "finished", user="bot", target=target, reason=reason, length=len(text), text=text, crc=crc32(text.encode())
        )

    def audit(self) -> list[str]:
        replies = self.answers.replies.values()
        ends = [finding.kind for reply in replies for finding in reply.audit([], sound=True)]
        return [*self.found, *ends, *(finding.kind for _, finding in self.answers.audit())]

    def reply(self, seq: int, number: int = 1) -> Reply:
        return self.answers.replies[ROOM, seq, number]


def told(key: str) -> str:
    return "".join(tale(key))


def test_what_is_right() -> None:
    log = Log()
    one = log.ask("k1")
    assert log.answers.waiting() is not None
    reply = log.begin(one)
    log.end(reply, "interrupted", told("k1")[:3])
    assert log.answers.waiting() is not None
    log.end(log.begin(one, 2), "done", told("k1"))
    log.edit(one, "k2")
    log.end(log.begin(one, 3), "done", told("k2"))
    two = log.ask("k3")
    reply = log.begin(two)
    log.reply(two).stopped = True
    log.end(reply, "stopped", told("k3")[:2])
    three = log.ask("k4")
    reply = log.begin(three)
    log.edit(three, "k5")
    log.end(reply, "stopped", told("k4")[:1])
    log.end(log.begin(three, 2), "done", told("k5"))
    four = log.ask("k6")
    log.tell("deleted", target=four, user="ann")
    log.end(log.begin(four), "stopped", "")  # by who had not heard of that
    assert log.answers.waiting() is None
    assert log.audit() == []


def test_what_is_wrong() -> None:
    def found(*steps: Any) -> set[str]:
        log = Log()
        for step in steps:
            step(log)
        return set(log.audit())

    def ask(log: Log) -> None:
        log.ask("k1")

    def answer(number: int, reason: str, text: str) -> Any:
        return lambda log: log.end(log.begin(1, number), reason, text)

    whole = told("k1")
    assert found(ask) == {"unanswered"}
    assert found(ask, lambda log: log.begin(1)) == {"unanswered", "open"}
    assert found(ask, answer(1, "done", whole[:-1])) == {"text"}
    assert found(ask, answer(1, "done", whole[:-1] + "?")) == {"text"}
    assert found(ask, answer(1, "error", "")) == {"unanswered", "reason"}
    assert found(ask, answer(1, "stopped", "")) == {"reason"}
    assert found(ask, answer(1, "done", whole), answer(2, "done", whole)) == {"twice"}
    assert found(ask, answer(2, "done", whole)) == {"double"}
    assert found(ask, answer(1, "interrupted", ""), answer(3, "done", whole)) == {"double"}
    assert found(ask, *(answer(number, "interrupted", "") for number in (1, 2, 3))) == {"unanswered"}
    assert found(ask, answer(1, "done", whole), lambda log: log.edit(1, "k2")) == {"unanswered"}
    # The text of what was asked before.
    assert found(ask, lambda log: log.edit(1, "k2"), answer(1, "done", whole)) == {"text"}
    assert found(ask, lambda log: log.begin(7), answer(1, "done", whole)) == {"foreign"}
    # A second question of the same person, before its turn.
    assert "order" in found(ask, lambda log: log.begin(1), lambda log: log.ask("k2"), lambda log: log.begin(3))


@pytest.mark.parametrize("harmed", [False, True])
def test_how_long_the_model_goes_on(harmed: bool) -> None:
    log = Log()
    reply = log.begin(log.ask("k1"))
    log.reply(1).stopped, log.reply(1).stopped_at = True, 100.0
    log.end(reply, "stopped", "")

    def kinds(*ended_at: float) -> list[str]:
        calls = [Call(pid, ROOM, 1, 1, 50.0 + pid) for pid in range(len(ended_at))]
        for call, at in zip(calls, ended_at, strict=True):
            call.ended_at = at
        judged = judge(calls, log.answers, lambda since, until: harmed, 200.0)
        return [finding.kind for _, finding in judged.findings]

    allowed = LEFT_LATE_SECONDS if harmed else LEFT_SECONDS
    assert kinds(100.0 + allowed) == []
    assert kinds(100.1 + allowed) == ["billed"]
    assert kinds(50.5, 99.0) == []
    assert kinds(60.0, 99.0) == ([] if harmed else ["asked"])
