"""What is wrong, and where it was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """Something that breaks a promise: `kind` is one word, `text` says what was seen and what would be right."""

    kind: str
    text: str
    seq: int = 0
    """Where it is not of the event that revealed it: the one that is missing."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A Finding, and where: the room, the seq (0: of no event) and the device that saw it, a `client` in the report."""

    kind: str
    room: str
    seq: int
    device: str
    text: str
    second: float
    """Since the run began."""

    def __str__(self) -> str:
        where = [f"room={self.room}"] if self.room else []
        where += [f"seq={self.seq}"] if self.seq else []
        where += [f"client={self.device}"] if self.device else []
        return f"{self.kind} at {self.second:.1f} s: {' '.join((*where, ''))}{self.text}"

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "room": self.room,
            "seq": self.seq,
            "client": self.device,
            "text": self.text,
            "second": self.second,
        }
