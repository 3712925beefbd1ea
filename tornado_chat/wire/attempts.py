"""The ids of what an agent says to the message SEQ: its answers `re:SEQ`, `re:SEQ:2`, `re:SEQ:3`, and what it asks."""

from __future__ import annotations

import re

ATTEMPTS = 5
"""For one asking, where each is interrupted (docs/agents.md)."""

_ATTEMPT = re.compile(r"re:([1-9]\d{0,18})(?::([2-9]|[1-9]\d{1,8}))?")

_ASK = re.compile(r"ask:([1-9]\d{0,18}):([1-9]\d{0,8}):([1-9]\d{0,8})")


def attempt_id(question: int, number: int) -> str:
    """The id of an attempt's `begin`; `number` counts from 1."""
    return f"re:{question}" if number == 1 else f"re:{question}:{number}"


def attempt_of(id: str) -> tuple[int, int] | None:
    """The question and the number of the attempt that has this id; None if it is no attempt's."""
    found = _ATTEMPT.fullmatch(id)
    return None if found is None else (int(found[1]), int(found[2] or 1))


def ask_id(question: int, number: int, count: int) -> str:
    """The id of what an attempt asks its person for the `count`th time, from 1."""
    return f"ask:{question}:{number}:{count}"


def ask_of(id: str) -> tuple[int, int, int] | None:
    """The question, the attempt and the count of what has this id; None if nothing is asked by it."""
    found = _ASK.fullmatch(id)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))
