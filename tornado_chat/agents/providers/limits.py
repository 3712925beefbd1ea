"""How long a provider may take, and how much it may say."""

from __future__ import annotations

from dataclasses import dataclass

EVENT_BYTES = 1024 * 1024
"""Of one server-sent event."""
ERROR_BYTES = 64 * 1024
"""Of an answer with another status than a success: the rest is not read."""
ANSWER_BYTES = 32 * 1024 * 1024
"""Of one answer. An event of some 200 bytes brings one token, so this is more than any model says."""
CALLS = 32
"""Tools that the model may call in one answer."""
RESULT_CHARS = 65_536
"""Of what a tool gives. The rest is cut off, and the model is told so."""
CLOSE_SECONDS = 2.0
"""Closing a connection may take this long before it is dropped."""
DRAIN_SECONDS = 0.1
"""After an answer's last event: its connection can be used again if it ends within this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds, and numbers of things. What goes beyond one ends the stream with a ProviderError."""

    connect: float = 10.0
    """Until a connection stands."""
    first: float = 120.0
    """From a request to the first byte of its answer, with all its attempts and the waits between them."""
    silent: float = 60.0
    """Without a byte in an answer. A ping is a sign of life."""
    whole: float = 900.0
    """All of a stream, tools included."""
    attempts: int = 3
    """Of one request, while the model has not said a word."""
    rounds: int = 8
    """Answers that call tools, before one that does not."""
    tool: float = 60.0
    """One run of a tool. What goes beyond is told to the model, and does not end the stream."""
