"""Messages that grow, as their author writes them: each has a task that brings its text to the server, whatever breaks.

All of the text is kept, which is `stream_chars` at most: where a connection is lost, or the server has lost some of the
last seconds, `begin` tells what is there, and it is said again from there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from tornado_chat.client.ends import Closed
from tornado_chat.client.link import Link
from tornado_chat.client.outbound import Outbound, new_id
from tornado_chat.errors import ChatError, ErrorCode, Reason
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.events import Data

PART_CHARS = 2048
"""Of one `append`: six bytes each, escaped, are well below the least frame."""

AHEAD_CHARS = 16_384
"""Of the text that has not gone out: then `write` waits."""

UNWRITTEN = 16
"""Commands that have not gone out: then no more are made."""

RENEW_SECONDS = 5.0
"""How often a message of which nothing comes is begun again, where no connection tells that its author lives."""

STREAM_CHARS = 262_144  # where `welcome` does not tell


class Held(ChatError):
    """Another replica has the message, and this one is to leave it."""


class Stopped(Exception):
    """Somebody wants the message to end: raised by `write`, and dealt with at the end of the `async with`."""

    def __init__(self, by: str | None) -> None:
        super().__init__("the message was stopped" if by is None else f"the message was stopped by {by}")
        self.by = by


class Replies:
    """All that a client writes at present."""

    __slots__ = ("check", "codec", "in_time", "link", "open", "outbound", "stream_chars")

    def __init__(
        self,
        link: Link,
        outbound: Outbound,
        codec: Codec,
        check: Callable[[Data], None],
        in_time: Callable[[Awaitable[None], str], Awaitable[None]],
    ) -> None:
        """`check` raises ChatError for a command that no server takes; `in_time` waits as long as a call may take."""
        self.link = link
        self.outbound = outbound
        self.codec = codec
        self.check = check
        self.in_time = in_time
        self.open: dict[tuple[str, str], Reply] = {}  # by room and id
        self.stream_chars = STREAM_CHARS

    def on_welcome(self, welcome: Data) -> None:
        self.stream_chars = welcome.get("limits", {}).get("stream_chars", STREAM_CHARS)
        self.on_lost()

    def on_lost(self) -> None:
        for reply in self.open.values():
            reply.wake()

    def on_stop(self, message: Data) -> None:
        for reply in self.open.values():
            if (reply.room, reply.seq) == (message["room"], message["seq"]):
                reply.hear(message["by"])

    def on_error(self, message: Data) -> None:
        """An `append` was refused."""
        reply = self.open.get((message.get("room", ""), message["stream"]))
        if reply is not None:
            reply.astray()

    def end(self, failure: Exception) -> None:
        for reply in self.open.values():
            reply.fail(failure)


class Reply:
    """One message that grows; an async context manager. See Client.stream."""

    def __init__(self, replies: Replies, begin: Data) -> None:
        self.seq = 0
        """Of the message."""
        self.reason: Reason | None = None
        """Why it has ended; None while it grows."""
        self.stopped_by: str | None = None
        """Who wants it to end."""
        self.length = 0
        """Code points that were written."""
        self._replies = replies
        self._begin = begin
        self._pieces: list[str] = []  # all of the text
        self._tail = ""  # of it, from `_sent` on
        self._sent = 0  # code points that the server has, or will have if nothing breaks
        self._gen = 0
        self._on: object = None  # the transport that it was begun on
        self._finish: Data | None = None
        self._wanted: Reason | None = None  # the reason in that
        self._left = False  # its end is not ours to tell
        self._news = asyncio.Event()  # for the task
        self._progress = asyncio.Event()  # for `write`
        self._task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    # For its author

    async def __aenter__(self) -> Reply:
        self._replies.open[self.room, self.id] = self
        self._task = asyncio.create_task(self._run())
        try:
            await self._replies.in_time(self._until(lambda: self.seq), f"begin {self.id}")
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """`done`; `stopped` after Stopped, which goes no further; `interrupted` if cancelled; else `error`."""
        stopped = isinstance(error, Stopped)
        try:
            if self._left:
                pass
            elif error is None or stopped or self._failure is None:
                await self.finish(_reason_of(error))
        except (ChatError, TimeoutError, Closed):
            if error is None or stopped:
                raise
        finally:
            await self._end()
        return stopped

    @property
    def gen(self) -> int:
        """How many have written it, one after another; 0: it is not begun."""
        return self._gen

    @property
    def lost(self) -> bool:
        """Nothing can be said in it any more: it has ended, another replica has it, or the client is closed."""
        return self.reason is not None or self._failure is not None

    @property
    def id(self) -> str:
        id: str = self._begin["id"]
        return id

    async def write(self, text: str) -> None:
        """Let the message grow; waits while too much of it has not gone out.

        Stopped: somebody wants it to end. ChatError: `too_large`; `conflict`, it has ended.
        """
        self._check()
        if not text:
            return
        self._replies.check({"type": "append", "room": self.room, "stream": self.id, "offset": 0, "text": text})
        most = self._replies.stream_chars
        if self.length + len(text) > most:
            raise ChatError(ErrorCode.TOO_LARGE, f"a message that grows has at most {most:,} characters")
        self._pieces.append(text)
        self._tail += text[max(0, self._sent - self.length) :]
        self.length += len(text)
        self._news.set()
        await self._replies.in_time(self._until(lambda: self.length - self._sent < AHEAD_CHARS), f"append to {self.id}")
        self._check()

    def leave(self) -> None:
        """Do not end it with the `async with`: another replica goes on, or the server ends it as `interrupted`."""
        self._left = True

    async def over(self) -> None:
        """Wait until somebody wants it to end, or it has ended: for who has nothing to write for long."""
        with contextlib.suppress(Exception):  # which `write` and `finish` raise
            await self._until(lambda: self.stopped_by is not None or self.reason)

    async def finish(self, reason: Reason = "done", *, meta: Data | None = None) -> None:
        """End it, and return when the log has all of it; the end of the `async with` does it by itself.

        ChatError (conflict): it has ended otherwise, unless it was stopped: that is `reason` then.
        """
        if self._finish is None:
            self._wanted = reason
            self._finish = {"type": "finish", "id": new_id(), "room": self.room, "stream": self.id, "reason": reason}
            if meta is not None:
                self._finish["meta"] = meta
            self._replies.check({**self._finish, "length": 0})
            self._news.set()
        await self._replies.in_time(self._until(lambda: self.reason), f"finish {self.id}")
        if self.reason not in (self._wanted, "stopped"):
            raise self._over()

    @property
    def room(self) -> str:
        room: str = self._begin["room"]
        return room

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.reason not in (None, "stopped"):
            raise self._over()
        if self.stopped_by is not None or self.reason == "stopped":
            raise Stopped(self.stopped_by)

    def _over(self) -> ChatError:
        return ChatError(ErrorCode.CONFLICT, f"message {self.seq} of {self.room} has ended ({self.reason})")

    async def _until(self, holds: Callable[[], Any]) -> None:
        while not holds():
            if self._failure is not None:
                raise self._failure
            if self.stopped_by is not None and self._finish is None:
                return  # `write` tells
            await self._progress.wait()

    async def _end(self) -> None:
        self._replies.open.pop((self.room, self.id), None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    # What the client tells

    def wake(self) -> None:
        """The link is another, or there is none."""
        self._news.set()

    def astray(self) -> None:
        """The server has another part of the text than we took it to have."""
        self._on = None
        self._news.set()

    def hear(self, by: str) -> None:
        if self.stopped_by is None:
            self.stopped_by = by
            self._tell()

    def fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
        self._news.set()
        self._tell()

    # How it is brought there

    async def _run(self) -> None:
        try:
            while self.reason is None:
                await self._step()
                self._tell()
        except Exception as error:
            self.fail(error)

    def _tell(self) -> None:
        """Let those look again who wait for something."""
        self._progress.set()
        self._progress = asyncio.Event()

    async def _step(self) -> None:
        transport = self._replies.link.transport
        self._news.clear()
        if self._failure is not None:
            raise self._failure
        part = self._tail[:PART_CHARS]
        if transport is None:
            await self._news.wait()
        elif self._finish is not None and not part:
            await self._say_finish()
        elif transport is not self._on or (part and transport.kind != "websocket"):
            await self._say_begin(part)
        elif part:
            transport.write(self._append(part))
            self._go_to(self._sent + len(part))
            if transport.unwritten > UNWRITTEN:
                await transport.written()
        else:
            try:
                async with asyncio.timeout(None if transport.kind == "websocket" else RENEW_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                self._on = None

    def _go_to(self, sent: int) -> None:
        ahead = sent - self._sent
        self._tail = self._tail[ahead:] if ahead >= 0 else "".join(self._pieces)[sent:]
        self._sent = sent

    def _append(self, part: str) -> bytes:
        command: Data = {"type": "append", "room": self.room, "stream": self.id, "offset": self._sent, "text": part}
        if self._gen:
            command["gen"] = self._gen
        return self._replies.codec.encode(command)

    async def _say_begin(self, part: str) -> None:
        """With the next part of the text: a request needs both, and a WebSocket need not wait."""
        link = self._replies.link
        on = link.transport
        payloads = [self._replies.codec.encode(self._begin)]
        if part:
            payloads.append(self._append(part))
        ack = await self._replies.outbound.ask(self.room, self.id, *payloads)
        if ack.get("held"):
            raise Held(ErrorCode.CONFLICT, f"message {ack['seq']} of {self.room} is held by another replica")
        self.seq = ack["seq"]
        self.reason = ack.get("reason")
        self._begin.pop("take_over", None)
        if self.reason is not None:
            return
        gen, length = ack["gen"], ack["length"]
        # What was said along was taken if it begins within what is there.
        fits = self._gen in (0, gen) and self._sent <= length
        self._go_to(max(length, self._sent + len(part)) if fits else length)
        self._gen = gen
        self._on = on

    async def _say_finish(self) -> None:
        assert self._finish is not None
        finish = {**self._finish, "length": self.length}
        begin = self._replies.codec.encode(self._begin)
        try:
            await self._replies.outbound.ask(self.room, finish["id"], begin, self._replies.codec.encode(finish))
        except ChatError as error:
            if error.code is not ErrorCode.CONFLICT:
                raise
            await self._say_begin("")
        else:
            self.reason = self._wanted


def _reason_of(error: BaseException | None) -> Reason:
    if error is None:
        return "done"
    if isinstance(error, Stopped):
        return "stopped"
    return "interrupted" if isinstance(error, asyncio.CancelledError) else "error"
