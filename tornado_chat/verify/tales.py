"""What an agent is asked, and what its model says to that: both by a key, so that everybody knows every word."""

from __future__ import annotations

import random
import re
from functools import lru_cache

WORDS = (
    "and",
    "then",
    "the",
    "quiet",
    "water",
    "über",
    "naïve",
    "水",
    "🦊",
    "ran",
    "**on**",
    "again,",
    "without",
    "end.\n\n",
)

COUNTS = (1, 5, 20, 20, 40, 80, 400)
"""Words of one tale."""
LONGEST_SECONDS = 8.0
"""Of a tale."""


def question(key: str) -> str:
    """What the agent is asked; it answers whatever begins with `tell `."""
    return f"tell {key}"


def key_of(question: str) -> str | None:
    found = re.fullmatch(r"tell (\w+)", question)
    return found and found[1]


@lru_cache(1000)
def tale(key: str) -> tuple[str, ...]:
    """The pieces in which the model says it."""
    dice = random.Random(key)
    return (f"{key}:", *(f" {word}" for word in dice.choices(WORDS, k=dice.choice(COUNTS))))


def pause(key: str) -> float:
    """Seconds between two pieces of the tale."""
    return min(random.Random(key).choice((0.01, 0.05, 0.1)), LONGEST_SECONDS / len(tale(key)))
