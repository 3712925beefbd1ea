"""Where an agent's words come from: `from tornado_chat.agents.providers import Anthropic, OpenAI`.

Each provider has `stream(messages, tools=())`, an asynchronous iterator of `Delta`. Its SDK is an extra of the package:
`pip install 'tornado_chat[openai]'` or `'tornado_chat[anthropic]'`, and is imported by whoever makes a provider.
"""

from __future__ import annotations

from tornado_chat.agents.providers.anthropic import Anthropic
from tornado_chat.agents.providers.deltas import Delta, ToolCall, ToolResult
from tornado_chat.agents.providers.failures import Kind, ProviderError
from tornado_chat.agents.providers.limits import Limits
from tornado_chat.agents.providers.openai import OpenAI
from tornado_chat.agents.providers.provider import Provider
from tornado_chat.agents.providers.tools import Tool

__all__ = [
    "Anthropic",
    "Delta",
    "Kind",
    "Limits",
    "OpenAI",
    "Provider",
    "ProviderError",
    "Tool",
    "ToolCall",
    "ToolResult",
]
