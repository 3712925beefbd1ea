"""Where a reply is given, as it sees that: the room, and the agent in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tornado_chat.agents.declaration import Declaration
from tornado_chat.agents.handlers import Threads
from tornado_chat.agents.message import Names
from tornado_chat.agents.question import Question
from tornado_chat.client import Client
from tornado_chat.errors import Reason
from tornado_chat.wire.events import Data


class Replies(Protocol):
    """What is said by this process at the moment."""

    threads: Threads

    def resting(self, limit: asyncio.Timeout, user: str) -> AbstractContextManager[None]:
        """While a reply waits for `user`, until `limit`, it takes no place."""


class Process(Protocol):
    """The agent in this process; `replica` is its name among several."""

    @property
    def agent(self) -> Declaration: ...

    client: Client
    names: Names
    replica: str
    user: str

    @property
    def turns(self) -> Replies: ...


class Place(Protocol):
    """A room; `state` is what the handlers keep there."""

    name: str
    state: dict[str, Any]

    @property
    def life(self) -> Process: ...

    def addressed(self, event: Data) -> bool:
        """Whether the message is meant for the agent."""

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until `holds` is true, which is asked with each event."""

    async def reached(self, seq: int) -> None:
        """Wait until the log was read here up to `seq`."""

    def goes_on(self, question: Question, number: int) -> bool:
        """Whether the attempt is still wanted."""

    def found(self, question: Question, number: int, at: int, reason: Reason) -> None:
        """The attempt `number`, whose message is `at`, was there already, and has ended."""

    async def stop(self, seq: int) -> None:
        """End a reply from outside."""

    async def delete(self, seq: int) -> None:
        """Take back what the agent has said."""

    def give_up(self, question: Question) -> None:
        """No answer is possible from here."""
