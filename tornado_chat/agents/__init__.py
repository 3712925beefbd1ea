"""Agents: programs that answer in rooms, each reply once, whoever dies. They are clients like any other.

from tornado_chat.agents import Agent
"""

from __future__ import annotations

from tornado_chat.agents.agent import Agent
from tornado_chat.agents.context import Context, ThreadContext
from tornado_chat.agents.message import Message, Reaction
from tornado_chat.agents.steps import Step

__all__ = ["Agent", "Context", "Message", "Reaction", "Step", "ThreadContext"]
