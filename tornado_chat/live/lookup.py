"""Questions to the log that are asked in one loop turn go there as one query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

from tornado_chat.tasks import Tasks

K = TypeVar("K")


class Lookup(Generic[K]):
    """Numbers by key (heads by room, marks by room and user); a key that the log does not know has 0."""

    __slots__ = ("asking", "query", "tasks", "wanted")

    def __init__(self, tasks: Tasks, query: Callable[[Collection[K]], Awaitable[dict[K, int]]]) -> None:
        self.tasks = tasks
        self.query = query
        self.wanted: dict[K, asyncio.Future[int]] = {}
        self.asking = False

    async def get(self, key: K) -> int:
        """The number of `key`; raises LogUnavailable like the query."""
        answer = self.wanted.get(key)
        if answer is None:
            answer = self.wanted[key] = asyncio.get_running_loop().create_future()
            if not self.asking:
                self.asking = True
                self.tasks.spawn(self._ask())
        return await asyncio.shield(answer)  # others wait for the same answer

    async def _ask(self) -> None:
        while self.wanted:
            asked, self.wanted = self.wanted, {}
            try:
                found = await self.query(asked)
            except Exception as error:
                for answer in asked.values():
                    answer.set_exception(error)
                    answer.exception()  # whoever asked may be gone: the error is theirs, not the loop's
            else:
                for key, answer in asked.items():
                    answer.set_result(found.get(key, 0))
        self.asking = False
