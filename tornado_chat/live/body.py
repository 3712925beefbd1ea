"""A message that grows by the body of one request: what is piped in is its text, and shown as it comes.

The author is whoever sends the body. It hears nothing but the answer, so what somebody stops ends here at once. The
message begins with the first character: what breaks off, or is refused, before that leaves nothing behind. A body that
breaks off later leaves its message as any author's connection does that dies: the same `id` goes on with it.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import Callable
from typing import NoReturn

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, Conflict, ErrorCode, Reason
from tornado_chat.live.author import Author
from tornado_chat.live.context import Context
from tornado_chat.live.growing import Growing
from tornado_chat.live.limits import APPEND_BYTES, AddressAccount
from tornado_chat.live.writing import Writing
from tornado_chat.log import Entry
from tornado_chat.wire import replies
from tornado_chat.wire.commands import Append, Begin, Finish, Growth

LOG_SECONDS = 20.0
"""How long the log may take for the beginning, and for the end."""

AGAIN_SECONDS = 0.5
"""How long to wait after the log has not answered."""

NO_TEXT = "body: must be the text of the message"

PAY_SECONDS = 10.0
"""No more of a body is read for so long at most, until what came is paid; the rest then."""


class Body(Author):
    """A Writer with one message. Calls come one after another; `end` is the last, at any time."""

    __slots__ = (
        "_begin", "_decoder", "_end_id", "_ended", "_ending", "_growing", "_offset", "_on_over", "_outcome", "_stopper",
        "_turn", "_writing", "ack",
    )  # fmt: skip

    ack: replies.Ack | None
    """What the `begin` was answered."""

    def __init__(
        self,
        context: Context,
        identity: Identity,
        address: AddressAccount,
        begin: Begin,
        end_id: str,
        on_over: Callable[[ChatError], None],
    ) -> None:
        """`end_id` is that of the `finish`; `on_over` is told why nothing more is taken, when nobody has called.

        `address` is the account that the request was entered into.
        """
        super().__init__(context, identity, address)
        self.ack = None
        self._begin = begin
        self._end_id = end_id
        self._on_over = on_over
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._offset = 0  # code points that came
        self._stopper: str | None = None  # who has ended it
        self._growing: Growing | None = None
        self._ending = False  # its `finish` is said
        self._ended = False
        self._writing = Writing(self)
        self._turn = asyncio.Event()  # there may be room for what could not be submitted
        self._outcome: asyncio.Future[replies.Ack | ChatError | None] | None = None  # of what was
        context.bodies.add(self)

    @property
    def was_there(self) -> bool:
        """All of it was said before: what comes is dropped."""
        return self.ack is not None and self.ack.reason == "done"

    async def _begin_growing(self) -> None:
        """The first characters are here; ChatError."""
        if self.context.draining:
            raise self._why_over()
        try:
            async with asyncio.timeout(LOG_SECONDS):
                ack = await self._submit(self._begin)
        except TimeoutError:
            raise ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: try again", 1.0) from None
        assert ack is not None
        self.ack = ack
        if self.was_there:
            return
        growing = self.context.growing.by_name.get((self._begin.room, self.user, self._begin.id))
        if growing is None:
            raise self._why_over()
        self._growing = growing
        if growing.done is None:
            growing.done = asyncio.get_running_loop().create_future()
        growing.done.add_done_callback(self._on_done)

    async def add(self, data: bytes) -> None:
        """Some more of the body has come; returns when it is time for more. ChatError."""
        self._check_session()
        if self._ending or self.was_there:
            return
        wait = self.owe_bytes(len(data) + APPEND_BYTES)
        fault = ""
        try:
            text = self._decoder.decode(data)
        except UnicodeDecodeError as error:
            text, fault = error.object[: error.start].decode(), "body: must be UTF-8"
        if "\0" in text:
            text, fault = text.partition("\0")[0], "body: must not hold U+0000"
        if text:
            if self.ack is None:
                await self._begin_growing()
                if self.was_there:
                    return
            await self._append(text)
        if fault:
            await self._fail(fault)
        if wait:
            self.context.hub.metrics.throttles += 1
            await asyncio.sleep(min(wait, PAY_SECONDS))

    async def _append(self, text: str) -> None:
        begin = self._begin
        if (begin.room, self.user, begin.id) not in self.context.growing.by_name:
            raise self._why_over()
        command = Append(room=begin.room, stream=begin.id, offset=self._offset, text=text)
        self._offset += len(text)
        try:
            self._writing.take(command)
        except Conflict:
            raise self._why_over() from None
        except ChatError as error:
            await self._fail(error.message, error.code)

    async def finish(self, reason: Reason = "done") -> None:
        """All of the body has come: returns when the whole message is on the disk. ChatError."""
        if self.was_there:
            return
        if self._ending or (self._growing is not None and self._growing.over):
            raise self._why_over()
        if reason == "done" and self._decoder.getstate()[0]:
            await self._fail("body: must be UTF-8; it ends within a character")
        if self._growing is None:
            raise ChatError(ErrorCode.BAD_REQUEST, NO_TEXT)
        growing = self._growing
        self._ending = True
        self.context.requests += 1
        try:
            async with asyncio.timeout(LOG_SECONDS):
                while not await self._end_with(reason, min(self._offset, growing.length)):  # noqa: ASYNC110 - of a log
                    await asyncio.sleep(AGAIN_SECONDS)
        except TimeoutError:
            raise ChatError(
                ErrorCode.UNAVAILABLE, "the log did not answer: send all of it again with the same id", 1.0
            ) from None
        finally:
            self.context.requests -= 1

    async def _end_with(self, reason: Reason, length: int) -> bool:
        """Whether the log has it; ChatError."""
        begin = self._begin
        try:
            await self._submit(Finish(id=self._end_id, room=begin.room, stream=begin.id, length=length, reason=reason))
        except Conflict:
            raise self._why_over() from None
        except ChatError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
            return False
        return True

    def hear(self, stop: replies.Stop) -> None:
        """Somebody wants a message of the user's to end: this one does at once, for its author cannot hear."""
        if self._growing is not None and (stop.room, stop.seq) == (self._begin.room, self._growing.seq):
            self.context.hub.tasks.spawn(self._stop(stop.by))

    async def _stop(self, by: str) -> None:
        if self._ending:
            return
        assert self.ack is not None
        self._stopper = by
        try:
            await self.finish("stopped")
        except ChatError as error:
            self._on_over(error)
        else:
            self._on_over(Conflict(f"message {self.ack.seq} was stopped by {by}", reason="stopped"))

    def leave(self) -> None:
        """As `Pouring.leave` says."""
        if self._growing is None:  # else it is told when its message has been let go of
            self._on_over(self._why_over())

    def end(self) -> None:
        """The request is answered, or the client has gone."""
        if not self._ended:
            self._ended = True
            self.context.bodies.discard(self)
            self._writing.end()
            super().end()

    async def _fail(self, message: str, code: ErrorCode = ErrorCode.BAD_REQUEST) -> NoReturn:
        """End the message with what was good, if there was any, and raise ChatError."""
        if self._growing is not None:
            await self.finish("error")
        raise ChatError(code, message)

    def _on_done(self, _: asyncio.Future[None]) -> None:
        """The message does not grow here any more."""
        if not self._ending and not self._ended:
            self._on_over(self._why_over())

    def _why_over(self) -> ChatError:
        """Why nothing more can be said."""
        begin = self._begin
        if self.context.draining:
            return ChatError(
                ErrorCode.UNAVAILABLE, "this server is stopping: send all of it again with the same id", 1.0
            )
        assert self.ack is not None
        message, growing = f"message {self.ack.seq}", self._growing
        ended = self.context.growing.ended.get((begin.room, self.user, begin.id))
        reason = self.ack.reason if ended is None else ended.reason
        if reason is not None:
            return Conflict(f"{message} has ended ({reason})", reason=reason)
        if self._stopper is not None:
            return Conflict(f"{message} is being stopped by {self._stopper}")
        if growing is not None and growing.ending:
            return Conflict(f"{message} is being finished ({growing.end_reason})")
        if self.ack.gen is None:
            return Conflict(f"the id is that of event {self.ack.seq}, which is no message that grows")
        return Conflict(f"another connection goes on with {message}, or it has ended elsewhere")

    def _check_session(self) -> None:
        """Raise `unauthorized` if the token is not good any more."""
        self.context.revocations.check(self.identity.jti)
        if time.time() >= self.identity.expires_at:
            raise ChatError(ErrorCode.UNAUTHORIZED, "the token does not check: it has expired; sign in again")

    async def _submit(self, command: Growth) -> replies.Ack | None:
        """What the log answers; ChatError."""
        self._outcome = asyncio.get_running_loop().create_future()
        while not self._writing.take(command):
            self._turn.clear()
            await self._turn.wait()
        outcome = await self._outcome
        if isinstance(outcome, ChatError):
            raise outcome
        return outcome

    # Writer

    @property
    def gone(self) -> bool:
        """As `Writer.gone` says."""
        return self._ended

    def charge_bytes(self, count: int) -> None:
        self.owe_bytes(count)

    def submitted(self, entry: Entry) -> None:
        """As `Writer.submitted` says."""

    def answered(self, entry: Entry, outcome: replies.Ack | ChatError | None) -> None:
        """As `Writer.answered` says."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

    def flush_replies(self) -> None: ...

    def resume(self) -> None:
        """As `Sender.resume` says."""
        self._turn.set()

    def fail(self) -> None:
        """As `Sender.fail` says."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(
                ChatError(ErrorCode.UNAVAILABLE, "the server failed on this request: send it again", 1.0)
            )
