"""A question to an agent, and the rules by which a message is one. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tornado_chat.wire.events import Data

DoubleTexting = Literal["enqueue", "reject", "interrupt", "rollback", "concurrent"]
"""What becomes of a question while another one of the same person waits for its answer, or is being answered:
it waits for its turn; is refused; ends the other one, which keeps what was said; or deletes that; or has no turn."""

HOPS = 3
"""Agents that answer one another in a row, where they may at all: a person asked the first of them."""


def hops_of(message: Data) -> int:
    """How many agents have answered one another up to this message: 0 for a person's.

    An agent tells it in `meta.hops`; of one that does not, nothing is known but that it is one.
    """
    if not message.get("agent"):
        return 0
    meta = message.get("meta")
    hops = meta.get("hops") if isinstance(meta, dict) else None
    return hops if isinstance(hops, int) and hops > 0 else 1


@dataclass(frozen=True, slots=True)
class Rules:
    """What makes a message a question to `user`, and how many are answered at once.

    `concerns` tells of a message with a text whether a handler is there for it. `max_age` is in seconds;
    `replies_a_minute` are those of all replicas in one room.
    """

    user: str
    concerns: Callable[[Data], bool]
    double_texting: DoubleTexting = "enqueue"
    max_age: float = 3600.0
    answer_agents: bool = False
    replies_a_minute: int = 20


class Question:
    """A message that concerns the agent, and what the log tells of its answers."""

    __slots__ = (
        "ahead",
        "answers",
        "asked",
        "asked_at",
        "asking",
        "begun",
        "first",
        "interrupted",
        "message",
        "open",
        "rejected",
        "rolled_back",
        "seq",
        "user",
        "wanted",
    )

    def __init__(self, message: Data) -> None:
        self.seq: int = message["seq"]
        self.user: str = message["user"]
        self.message = message  # as it was asked last
        self.asked = self.seq  # the event that asked last
        self.asked_at: int = message["ts"]
        self.wanted = False  # it has no answer yet, and is to have one
        self.rejected = False  # the answer is that it comes too soon
        self.rolled_back = False  # what was said is to be deleted
        self.first = 1  # the number of the first attempt that counts for this asking
        self.begun = 0  # the greatest number in the log
        self.ahead = 0  # the seq of an attempt that was found before the log was read up to it
        self.open = 0  # the seq of the attempt that goes on; 0: none does
        self.interrupted = False  # so ended the last attempt
        self.asking: tuple[int, int, int] | None = None  # what waits for an answer: its seq, attempt and count
        self.answers: dict[tuple[int, int], Data] = {}  # by attempt and count

    @property
    def next(self) -> int:
        """The number of the next attempt."""
        return self.begun + 1

    @property
    def pending(self) -> bool:
        return self.wanted or self.open > 0
