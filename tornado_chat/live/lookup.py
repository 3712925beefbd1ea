"""Questions to the log that are asked in one loop turn go there as one query; some answers are told in each turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, Generic, TypeVar

from tornado_chat.live.turns import Turns
from tornado_chat.tasks import Tasks

K = TypeVar("K")
V = TypeVar("V")


class Question(Generic[K]):
    """One that was asked: `told` is called once, in a loop turn to come, unless it is cancelled before.

    It is called with the answer, or with what the query raised.
    """

    __slots__ = ("key", "told")

    def __init__(self, key: K, told: Callable[[Any], None]) -> None:
        self.key = key
        self.told: Callable[[Any], None] | None = told

    def cancel(self) -> None:
        self.told = None


class Lookup(Generic[K, V]):
    """Heads by room, marks by room and user; `missing` is the answer for a key that the log does not know."""

    __slots__ = ("asking", "missing", "query", "tasks", "turns", "wanted")

    def __init__(
        self, tasks: Tasks, turns: Turns, query: Callable[[Collection[K]], Awaitable[dict[K, V]]], missing: V
    ) -> None:
        self.tasks = tasks
        self.turns = turns
        self.query = query
        self.missing = missing
        self.wanted: list[Question[K]] = []
        self.asking = False

    def ask(self, key: K, told: Callable[[V | Exception], None]) -> Question[K]:
        """Let `told` have the answer for `key`."""
        question = Question(key, told)
        self.wanted.append(question)
        if not self.asking:
            self.asking = True
            self.tasks.spawn(self._ask())
        return question

    async def get(self, key: K) -> V:
        """The answer for `key`; raises LogUnavailable like the query."""
        answer: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        question = self.ask(key, partial(_settle, answer))
        try:
            return await answer
        finally:
            question.cancel()

    async def _ask(self) -> None:
        while self.wanted:
            asked, self.wanted = self.wanted, []
            try:
                found = await self.query({question.key for question in asked})
            except Exception as error:
                for question in asked:
                    self.turns.answer(_tell, (question, error))
            else:
                for question in asked:
                    self.turns.answer(_tell, (question, found.get(question.key, self.missing)))
        self.asking = False


def _tell(answered: tuple[Question[K], Any]) -> None:
    question, answer = answered
    if question.told is not None:
        question.told(answer)


def _settle(future: asyncio.Future[V], answer: V | Exception) -> None:
    if future.done():
        return  # whoever waits has been cancelled in this very turn
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
