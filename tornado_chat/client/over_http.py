"""What a stream and a poll have in common: the rooms go by portions, the commands by POST."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from dataclasses import replace

from tornado_chat.client.portion import ROOMS, Portion
from tornado_chat.client.posts import Posts
from tornado_chat.client.transport import Listener, Target, TransportKind
from tornado_chat.wire.events import Data


class OverHttp(ABC):
    """See Transport. There is one stream, or one poll at a time, for each ROOMS rooms; the first is there without."""

    kind: TransportKind

    def __init__(self, target: Target) -> None:
        self.heard = asyncio.get_running_loop().time()
        self._target = target
        self._posts = Posts(target)
        self._portions = [Portion()]
        self._carried: dict[Portion, asyncio.Task[None]] = {}
        self._posting: asyncio.Task[None] | None = None
        self._listener: Listener | None = None  # once it runs
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def unwritten(self) -> int:
        return len(self._posts)

    @abstractmethod
    async def open(self, joins: Sequence[Data]) -> Data: ...

    @abstractmethod
    async def _carry(self, portion: Portion, listener: Listener) -> None:
        """Pass on what comes of the rooms of `portion`; returns when it is spent."""

    async def run(self, listener: Listener) -> None:
        self._listener = listener
        for portion in self._portions:
            portion.drop_unclaimed()
            self._start(portion)
        self._posting = self._task(self._posts.run(listener))
        try:
            await self._ended
        finally:
            await self._stop()

    def write(self, *payloads: bytes) -> None:
        self._posts.write(*payloads)

    async def written(self) -> None:
        """It waits for its answers; who wants to know waits for these."""
        await asyncio.sleep(0)

    def join(self, join: Data) -> None:
        self._portion(join["room"]).join(join)

    def leave(self, room: str) -> None:
        for portion in self._portions:
            portion.leave(room)

    async def close(self) -> None:
        await self._posts.close()

    async def _stop(self) -> None:
        """Pass on nothing any more."""
        self._listener = None
        tasks = [*self._carried.values(), *([] if self._posting is None else [self._posting])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin_portions(self, joins: Sequence[Data]) -> None:
        self._portions = [Portion(joins[at : at + ROOMS]) for at in range(0, max(len(joins), 1), ROOMS)]

    def _is_spent(self, portion: Portion) -> bool:
        """Whether nothing is left in it, and it is not the first: no room goes there any more then."""
        spent = not portion.rooms and portion is not self._portions[0]
        if spent:
            self._portions.remove(portion)
        return spent

    def _accept(self, welcome: Data) -> None:
        """A guest is the same from now on in all requests."""
        if "token" in welcome:
            self._target = replace(self._target, token=welcome["token"])
            self._posts.use(self._target)

    def _portion(self, room: str) -> Portion:
        """The one that has `room`, or has space for it."""
        found = next((portion for portion in self._portions if room in portion.rooms), None)
        if found is None:
            found = next((portion for portion in self._portions if len(portion.rooms) < ROOMS), None)
        if found is None:
            found = Portion()
            self._portions.append(found)
            self._start(found)
        return found

    def _start(self, portion: Portion) -> None:
        if self._listener is not None:
            self._carried[portion] = self._task(self._carry(portion, self._listener))

    def _task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        for portion in [portion for portion, carrying in self._carried.items() if carrying is task]:
            del self._carried[portion]
        if not task.cancelled() and (error := task.exception()) is not None and not self._ended.done():
            self._ended.set_exception(error)
