"""What an agent does while it answers: its status, and the steps (a tool's run) that are kept with the message."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import orjson

from tornado_chat.wire.commands import META_BYTES
from tornado_chat.wire.events import Data

NAME_CHARS, TEXT_CHARS = 64, 1000
"""Of a step's name, and of its input and its output."""

STATUS_CHARS = 200

STEPS = 50
"""Of one reply; of more the oldest are not told any more."""

KEPT_CHARS = 300, 100, 30, 0
"""Of an input and an output that are kept with the message: the first with which all steps fit."""

State = Literal["running", "done", "error"]


@runtime_checkable
class ToolCall(Protocol):
    """What a provider yields when its model wants a tool to be run; the result follows under the same id."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> str: ...


@runtime_checkable
class ToolResult(Protocol):
    """What the tool's run has given."""

    @property
    def id(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def error(self) -> bool: ...


def short(said: object, most: int) -> str:
    """`said`, as text, in at most so many characters; what is left out shows as an ellipsis.

    What a tool was given or gives may be anything, and what no message may hold is left out: a step fails no reply.
    """
    text = str(said).replace("\0", "").encode("utf-8", "ignore").decode()
    return text if len(text) <= most else text[: max(0, most - 1)] + "…"[:most]


class Step:
    """One step. Set `output` before it ends, to show what came of it."""

    __slots__ = ("id", "input", "name", "output", "state")

    def __init__(self, id: str, name: str, input: str) -> None:
        self.id = id
        self.name = name
        self.input = input
        self.output = ""
        self.state: State = "running"

    def told(self, most: int = TEXT_CHARS) -> Data:
        """As the protocol has it, with texts of `most` characters."""
        told: Data = {"id": self.id, "name": short(self.name, NAME_CHARS) or "step", "state": self.state}
        for key, text in (("input", short(self.input, most)), ("output", short(self.output, most))):
            if text:
                told[key] = text
        return told


def with_steps(meta: Data, steps: list[Step]) -> Data:
    """`meta` and the steps, shortened so that it is not too large: their texts first, then the oldest go."""
    for most in KEPT_CHARS:
        kept = {**meta, "steps": [step.told(most) for step in steps]}
        if _fits(kept):
            return kept
    while steps:
        steps = steps[1:]
        kept = {**meta, "steps": [step.told(0) for step in steps]}
        if _fits(kept):
            return kept
    return meta


def _fits(meta: Data) -> bool:
    return len(orjson.dumps(meta)) <= META_BYTES
