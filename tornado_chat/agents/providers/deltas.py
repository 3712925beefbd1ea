"""What a provider's stream is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool, which runs next. `arguments` is the JSON that the model wrote, sound or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool's run has ended: `content` goes back to the model. `id` and `name` are those of its call."""

    id: str
    name: str
    content: str
    error: bool


Delta = str | ToolCall | ToolResult
"""A str is the next piece of the reply's text, never empty. Each call is followed by its result."""
