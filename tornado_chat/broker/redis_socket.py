"""One connection to Redis, read and written without redis-py once the greetings are over.

Measured: a message received costs 1.1 us here and 2.6 us by `Connection.read_response`, 4.8 by `PubSub.listen`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

import hiredis
from redis import asyncio as aioredis
from redis.exceptions import ConnectionError, ResponseError

CLOSE_SECONDS = 1.0
WRITE_BUFFER_BYTES = 1 << 20
"""What the transport may hold; while it holds more, publishes wait in the link's own queue, which is bounded."""

pack = cast(Callable[[tuple[bytes, ...]], bytes], hiredis.pack_command)  # its stub takes tuples of one only
"""A command as RESP."""

News = tuple[str, int]
"""A publish whose reply has not come: its room, and the last seq that it tells of (0: a signal; see also CHANGED)."""


class RedisSocketOwner(Protocol):
    def on_push(self, push: list[Any]) -> None:
        """A message, or the confirmation of a subscription."""

    def on_writable(self) -> None:
        """The transport takes bytes again."""


class RedisSocket(asyncio.Protocol):
    """Takes over the transport of `connection`, which has greeted its server with RESP 3.

    `ended` is done when nothing comes any more; its exception says why. `close` must be awaited in the end.
    """

    def __init__(self, connection: aioredis.Connection, reader: RedisSocketOwner) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writable = True
        self.unconfirmed = 0  # channels whose subscribe or unsubscribe was written, and not confirmed
        self.replies: deque[News | asyncio.Future[Any]] = deque()  # those to come, in order
        self._reader = reader
        self._lost = asyncio.Event()
        self._parser = hiredis.Reader(replyError=ResponseError, notEnoughData=self)
        self._connection = connection
        writer = connection._writer  # redis-py has no public way to its transport
        assert writer is not None
        self._transport = cast(asyncio.Transport, writer.transport)
        self._before = self._transport.get_protocol()
        self._transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._transport.set_protocol(self)

    def write(self, data: bytes, replies: Iterable[News | asyncio.Future[Any]]) -> None:
        """Commands as RESP, and who gets their replies (a confirmed subscription has none)."""
        self.replies.extend(replies)
        if not self.ended.done():
            self._transport.write(data)

    def end(self, reason: Exception) -> None:
        """Read nothing more; whoever waits for `ended` is told why."""
        if not self.ended.done():
            self.ended.set_exception(reason)
            self.ended.exception()  # whoever waits gets it; nobody may be left
            self._transport.abort()

    async def close(self) -> None:
        """What was written goes out, unless the socket has ended; then nothing is left of the connection."""
        self._transport.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._lost.wait()
        finally:
            self.end(ConnectionError("closed"))
            for reply in self.replies:
                if isinstance(reply, asyncio.Future) and not reply.done():
                    reply.set_exception(ConnectionError("the link to Redis was lost"))
            await self._connection.disconnect(nowait=True)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not self:
                if type(reply) is hiredis.PushNotification:
                    self._reader.on_push(reply)
                else:
                    self._on_reply(reply)
        except hiredis.HiredisError as error:
            self.end(ConnectionError(f"this is not Redis: {error}"))
        except Exception as error:
            self.end(error)

    def _on_reply(self, reply: Any) -> None:
        failed = isinstance(reply, ResponseError)
        if failed and self.unconfirmed and not str(reply).startswith(("OOM", "WRONGTYPE")):
            raise reply  # perhaps of a subscription, which is nobody's reply; it needs no memory and no key
        waiting = self.replies.popleft()
        if isinstance(waiting, asyncio.Future):
            if not waiting.done():
                if failed:
                    waiting.set_exception(reply)
                else:
                    waiting.set_result(reply)
        elif failed:
            raise reply

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._reader.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()
        self.end(ConnectionError(str(exc) if exc else "Redis closed the connection"))
        self._before.connection_lost(None)
