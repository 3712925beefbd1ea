"""What a room tells of the answer to one question: the text so far, and how it ended. No I/O, no clock.

It is fed with what a member of the room gets, in that order, from the question on: events, `stream`, `appended`,
`status` and `step`. Which of the agent's messages count is said in `agents/questions.py`; what an agent asks back is
part of no answer.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import msgspec

from tornado_chat.errors import Reason
from tornado_chat.wire.attempts import ask_of, attempt_of
from tornado_chat.wire.commands import ToolRun
from tornado_chat.wire.events import Data


class Run(NamedTuple):
    """The text of an answer begins anew with each attempt, and when another replica takes one over."""

    number: int
    gen: int


NO_RUN = Run(0, 0)

STEPS = 50
"""That are kept of a reply that grows; agents of ours tell of no more."""


class Answer:
    """`text` is that of the newest `run` that counts, `reason` how that ended; `seq` is the message."""

    __slots__ = (
        "_asker",
        "_asks_in",
        "_first",
        "agent",
        "asked_at",
        "asked_for",
        "asks",
        "lacking",
        "question",
        "reason",
        "run",
        "seen",
        "seq",
        "signs",
        "status",
        "steps",
        "text",
        "ts",
        "withdrawn",
    )

    def __init__(self, agent: str, asker: str, question: int, asked_at: int = 0) -> None:
        """`question` is the seq of the message, `asked_at` when it was said, in ms since 1970."""
        self.agent = agent
        self._asker = asker
        self.question = question
        self._first = 1  # the number of the first attempt that answers the last asking
        self.seen = question  # the last event of the room
        self.run = NO_RUN
        self.seq = 0  # until there is one
        self.text = ""
        self.reason: Reason | None = None
        self.ts = asked_at
        self.asked_at = asked_at  # when it was asked last, or an attempt was interrupted: another is due
        self.asked_for = asked_at  # when it was asked last
        self.asks = ""  # what the agent wants to know from the asker meanwhile
        self._asks_in = 0  # the message that says so
        self.withdrawn = False  # the question, or the answer, was deleted
        self.status = ""
        self.steps: dict[str, Data] = {}  # by id
        self.lacking = False  # the text has to be fetched: a part of it is missing here
        self.signs = 0  # how often the agent was heard of

    @property
    def over(self) -> bool:
        """Nothing more comes, but for what is `lacking`."""
        return self.withdrawn or self.reason in ("done", "stopped", "error")

    @property
    def grows(self) -> bool:
        return self.seq > 0 and self.reason is None

    def feed(self, told: Data) -> None:
        if "ts" in told and "seq" in told:
            if told["seq"] <= self.seen:
                return
            self.seen = told["seq"]
        match told["type"]:
            case "appended":
                for seq, gen, offset, text in told["chunks"]:
                    self._put(seq, gen, offset, text)
            case "stream":
                self._put(told["seq"], told["gen"], told["offset"], told["text"])
            case "message":
                self._on_message(told)
            case "finished":
                self._on_finished(told)
            case "edited":
                self._on_edited(told)
            case "deleted":
                self.withdrawn = self.withdrawn or told["target"] in (self.question, self.seq)
                if told["target"] == self._asks_in:
                    self.asks = ""
            case "status" | "step" if told["user"] == self.agent:
                self._on_doing(told)

    def fetched(self, told: Data) -> None:
        """The whole text, as `fetch` answers it."""
        if told["seq"] != self.seq or told["gen"] < self.run.gen:
            return
        self.run = Run(self.run.number, told["gen"])
        self.text = told["text"]
        self.lacking = False

    def _put(self, seq: int, gen: int, offset: int, text: str) -> None:
        if seq != self.seq or gen < self.run.gen or self.reason is not None:
            return
        self.signs += 1
        if gen > self.run.gen:
            self.run = Run(self.run.number, gen)
            self.text, self.lacking = "", False
        if offset > len(self.text):
            self.lacking = True
        elif offset + len(text) > len(self.text):
            self.text = self.text[:offset] + text

    def _on_message(self, event: Data) -> None:
        if event["user"] == self._asker and "text" in event and "streaming" not in event:
            self.asks = ""  # that is what the agent waited for
        if event["user"] != self.agent:
            return
        self.signs += 1
        id = event.get("id", "")
        found = attempt_of(id)
        if found is None or found[0] != self.question:
            asked = ask_of(id)
            if asked is not None and asked[:2] == (self.question, self.run.number):
                self.asks, self._asks_in = event.get("text", ""), event["seq"]
            return
        number = found[1]
        if number < self._first or number <= self.run.number:
            return
        self.run = Run(number, 1)
        self.seq = event["seq"]
        self.text = event.get("text", "")
        self.reason = None if "streaming" in event else "done"
        self.lacking = False
        self.asks = self.status = ""
        self.steps = {}

    def _on_finished(self, event: Data) -> None:
        if event["user"] == self.agent:
            self.signs += 1
        if event["target"] != self.seq or self.reason is not None:
            return
        self.reason = event["reason"]
        self.asked_at = event["ts"]
        self.status = ""
        meta: Any = event.get("meta")
        if isinstance(meta, dict) and isinstance(meta.get("steps"), list):
            self.steps = {step["id"]: step for step in meta["steps"] if _is_step(step)}
        if event.get("deleted"):
            self.withdrawn = True
        elif "text" in event:
            self.text, self.lacking = event["text"], False
        else:
            self.text = self.text[: event["length"]]
            self.lacking = zlib.crc32(self.text.encode()) != event["crc"]

    def _on_edited(self, event: Data) -> None:
        if event["target"] == self.question and event["user"] == self._asker:  # it is asked again
            self._first = self.run.number + 1
            self.asked_at = self.asked_for = event["ts"]
            self.seq, self.text, self.reason = 0, "", None  # what was said is no answer to that
            self.asks, self.lacking = "", False

    def _on_doing(self, told: Data) -> None:
        self.signs += 1
        if told.get("seq") != self.seq or not self.grows:
            return
        if told["type"] == "status":
            self.status = told["text"]
        elif told["step"]["id"] in self.steps or len(self.steps) < STEPS:
            self.steps[told["step"]["id"]] = told["step"]


def _is_step(told: Any) -> bool:
    """A `meta` holds what its author likes, who may be no agent of ours."""
    try:
        msgspec.convert(told, ToolRun)
    except msgspec.ValidationError:
        return False
    return True
