"""The client's commands: each waits for its turn in its room, is sent, and is sent again until it is answered."""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import time
from collections import deque

from tornado_chat.client.ends import LONGEST_WAIT
from tornado_chat.client.link import Link
from tornado_chat.errors import TRANSIENT_ERRORS, ChatError, ErrorCode
from tornado_chat.wire.events import Data

UNKNOWN_FRAME_BYTES = 65536  # the limit of a server that nobody has told otherwise


class Call:
    """A call that waits for its answer."""

    __slots__ = ("flown", "id", "number", "payloads", "queue", "reply")

    def __init__(self, number: int, queue: Queue, id: str, payloads: tuple[bytes, ...]) -> None:
        self.number = number
        self.queue = queue
        self.id = id
        self.payloads = payloads
        self.reply: asyncio.Future[Data] = asyncio.get_running_loop().create_future()
        self.flown = False  # the server may have it


class Queue:
    """The commands of one room."""

    __slots__ = ("failures", "flying", "room", "timer", "waiting")

    def __init__(self, room: str) -> None:
        self.room = room
        self.waiting: deque[Call] = deque()  # by number
        self.flying: dict[str, Call] = {}
        self.timer: asyncio.TimerHandle | None = None  # nothing is sent until it fires
        self.failures = 0

    def recall(self, *commands: Call) -> None:
        """`commands` are not on their way any more: they wait again, each in its place."""
        for command in commands:
            del self.flying[command.id]
        self.waiting = deque(sorted((*commands, *self.waiting), key=lambda command: command.number))

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Outbound:
    """All commands of a client that are not answered yet, at most `max_commands`; see Client for their order."""

    def __init__(self, link: Link, max_commands: int) -> None:
        self.commands: dict[str, Call] = {}
        self.queues: dict[str, Queue] = {}  # of rooms that have commands
        self._link = link
        self._slots = asyncio.Semaphore(max_commands)
        self._numbers = itertools.count(1)
        self._user: str | None = None
        self._frame_bytes = 0
        self._window = 1.0  # commands of a room that may fly at once
        self._failure: Exception | None = None

    async def ask(self, room: str, id: str, *payloads: bytes) -> Data:
        """The server's answer to the command `id`; ChatError if that is an error, ValueError if another has this `id`.

        Of several `payloads`, which go together, it is one. An `id` is that of another event in another room, but not
        every answer tells its room: one waits for the other's.
        """
        async with self._slots:
            while (other := self.commands.get(id)) is not None and other.queue.room != room:
                await asyncio.wait({other.reply})
                await asyncio.sleep(0)
            if self._failure is not None:
                raise self._failure
            if other is not None:
                raise ValueError(f"the id {id!r} waits for its answer already")
            queue = self.queues.setdefault(room, Queue(room))
            command = self.commands[id] = Call(next(self._numbers), queue, id, payloads)
            queue.waiting.append(command)
            self._pump(queue)
            try:
                return await command.reply
            finally:
                self._forget(command)

    def on_welcome(self, welcome: Data) -> None:
        limits = welcome.get("limits", {})  # a poll is not told any
        self._frame_bytes = limits.get("frame_bytes", UNKNOWN_FRAME_BYTES)
        self._window = 1 if limits.get("send_rate", 1) else math.inf
        before, self._user = self._user, welcome["user"]
        if before not in (None, self._user):
            text = f"now signed in as {self._user}; whether the log has what {before} sent is not known"
            for command in self.commands.values():
                # Another user's id names another event: sent again, it might stand there twice.
                if command.flown and not command.reply.done():
                    command.reply.set_exception(ChatError(ErrorCode.UNAUTHORIZED, text))
        for queue in list(self.queues.values()):
            self._pump(queue)

    def on_lost(self) -> None:
        for queue in self.queues.values():
            queue.stop_timer()
            queue.recall(*queue.flying.values())

    def on_answer(self, message: Data) -> None:
        command = self.commands.get(message.get("id", ""))
        if command is not None and message.get("room") in (None, command.queue.room):
            command.queue.failures = 0
            if not command.reply.done():
                command.reply.set_result(message)
            self._forget(command)

    def on_error(self, id: str, error: ChatError, room: str | None) -> None:
        """`room`: that which the error names, if it names one."""
        command = self.commands.get(id)
        if command is None or room not in (None, command.queue.room):  # its caller has given up
            return
        if error.code in TRANSIENT_ERRORS and id in command.queue.flying:
            command.queue.recall(command)
            self._rest(command.queue, error.retry_after)
        else:
            self._fail(command, error)

    def end(self, failure: Exception) -> None:
        """Nothing will be answered any more."""
        self._failure = failure
        for command in list(self.commands.values()):
            self._fail(command, failure)

    def _fail(self, command: Call, error: Exception) -> None:
        if not command.reply.done():
            command.reply.set_exception(error)
        self._forget(command)

    def _forget(self, command: Call) -> None:
        """It was answered, or nobody waits for its answer any more."""
        if self.commands.get(command.id) is not command:  # forgotten already; another room's may have the id now
            return
        del self.commands[command.id]
        queue = command.queue
        if queue.flying.pop(command.id, None) is None and command in queue.waiting:
            queue.waiting.remove(command)
        self._pump(queue)
        if not queue.waiting and not queue.flying:
            queue.stop_timer()
            del self.queues[queue.room]

    def _pump(self, queue: Queue) -> None:
        """Send what may be sent now."""
        transport = self._link.transport
        if transport is None or queue.timer is not None:
            return
        while queue.waiting and len(queue.flying) < self._window:
            command = queue.waiting.popleft()
            if command.reply.done():  # cancelled
                continue
            size = max(map(len, command.payloads))
            if size > self._frame_bytes:
                text = f"the frame has {size:,} bytes; at most {self._frame_bytes:,} may be sent"
                command.reply.set_exception(ChatError(ErrorCode.TOO_LARGE, text))
                continue
            queue.flying[command.id] = command
            command.flown = True
            transport.write(*command.payloads)

    def _rest(self, queue: Queue, delay: float | None) -> None:
        """Send nothing of this room for a while, since the server could not take it."""
        loop = asyncio.get_running_loop()
        when = loop.time() + (self._link.pause(queue.failures) if delay is None else min(delay, LONGEST_WAIT))
        queue.failures += 1
        if queue.timer is not None:
            when = max(when, queue.timer.when())
        queue.stop_timer()
        queue.timer = loop.call_at(when, self._resume, queue)

    def _resume(self, queue: Queue) -> None:
        queue.timer = None
        self._pump(queue)


def new_id() -> str:
    """An id that nobody else chooses. It begins with the time: such ids cost the log's index a third less."""
    return f"{time.time_ns() // 1000:x}-{secrets.token_hex(8)}"
