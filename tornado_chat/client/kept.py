"""A client whose rooms are held as they are now, so that nobody has to iterate: of it is made the one without asyncio.

All of it lives on one loop. It does not know who looks at it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from tornado_chat.client.client import Client
from tornado_chat.client.ends import Closed
from tornado_chat.client.messages import Messages
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.wire.events import Data

PAGE = 200
"""Messages that a room begins with, at most: what one `history` may ask for."""


class KeptRoom:
    """A joined room; `lock` is for `messages`, which other threads look at."""

    def __init__(self, name: str, page: Sequence[Data]) -> None:
        self.name = name
        self.lock = threading.Lock()
        self.messages = Messages(page)
        self.version = 1
        self.failure: Exception | None = None
        self._changed = asyncio.Event()

    def heed(self, item: Data) -> None:
        if item["type"] == "left":
            code = next((code for code in ErrorCode if code == item["code"]), ErrorCode.BAD_REQUEST)
            self.end(ChatError(code, f"{self.name} cannot be read any more: {item['message']}"))
            return
        with self.lock:
            changed = self.messages.heed(item)
        if changed:
            self.version += 1
            self._tell()

    def end(self, failure: Exception) -> None:
        if self.failure is None:
            self.failure = failure
            self._tell()

    async def change(self, version: int) -> int:
        while self.version == version:
            if self.failure is not None:
                raise self.failure
            await self._changed.wait()
        return self.version

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class KeptClient:
    """A client, the task that reads it, and its rooms."""

    client: Client

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._rooms: dict[str, KeptRoom] = {}
        self._joining: asyncio.Lock
        self._reading: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._joining = asyncio.Lock()
        self.client = await self._make().__aenter__()
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        if self._reading is not None:
            await self.client.close()
            await asyncio.wait({self._reading})
            for held in self._rooms.values():
                held.end(Closed("the client was closed"))

    def end(self, then: Callable[[], None]) -> None:
        """Begin to close it."""
        self._ending = asyncio.create_task(self._end(then))

    async def _end(self, then: Callable[[], None]) -> None:
        try:
            await self.close()
        finally:
            then()

    async def join(self, name: str, last: int) -> KeptRoom:
        async with self._joining:
            held = self._rooms.get(name)
            if held is None or held.failure is not None:
                page: list[Data] = []
                if last:
                    page = (await self.client.history(name, limit=min(last, PAGE)))["messages"]
                held = self._rooms[name] = KeptRoom(name, page)
                try:
                    # What the page has is of its time or later: all that came behind its last message is heeded again.
                    after = (page[-1]["seq"] if page else 0) if last else None
                    await self.client.join(name, after=after)
                except BaseException:
                    del self._rooms[name]
                    raise
            return held

    async def leave(self, name: str) -> None:
        async with self._joining:
            await self.client.leave(name)
            held = self._rooms.pop(name, None)
            if held is not None:
                held.end(Closed(f"{name} was left"))

    async def _read(self) -> None:
        failure: Exception = Closed("the client was closed")
        try:
            async for item in self.client:
                held = self._rooms.get(item["room"])
                if held is not None:
                    held.heed(item)
        except Exception as error:
            failure = error
        for held in self._rooms.values():
            held.end(failure)
