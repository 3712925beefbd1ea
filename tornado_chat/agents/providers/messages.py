"""The messages that every provider takes, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]
"""Each is `{"role": "system"|"user"|"assistant"|"tool", "content": str}`, in the order in which they were said.

`name`: who of several people says it. `tool_calls` of an assistant and `tool_call_id` of a tool are as in OpenAI's Chat
Completions. Other keys are passed over.
"""

_ROLES = ("system", "user", "assistant", "tool")


def checked(messages: Messages) -> list[dict[str, Any]]:
    """As they go to a model. A `name` stands before the text: few models are shown it elsewhere."""
    found = []
    for at, message in enumerate(messages):
        role, content, name = message.get("role"), message.get("content"), message.get("name")
        if role not in _ROLES or not isinstance(content, str):
            raise ValueError(f"message {at} has to have a role ({', '.join(_ROLES)}) and a content that is a str")
        if role == "user" and name:
            content = f"{' '.join(str(name).split())}: {content}"
        kept = {key: message[key] for key in ("tool_calls", "tool_call_id") if message.get(key)}
        # Nobody said anything: Anthropic refuses such a message.
        if content.strip() or kept:
            found.append({"role": role, "content": content, **kept})
    return found
