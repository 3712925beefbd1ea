"""The commands of one request, which needs no stream: carried out in their order, and answered all at once.

What is to be published is submitted in order and pipelined: it joins the next commit as far as that has room. What asks
something about a room waits until all before it is answered, and is waited for by all that comes after it. Whoever asks
again with the same ids, of any process, gets the same events: so nothing is kept for a request but while it runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from time import monotonic
from typing import Any

from msgspec import Raw

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, Conflict, ErrorCode, LogUnavailable
from tornado_chat.live import questions
from tornado_chat.live.author import Author
from tornado_chat.live.context import Context
from tornado_chat.live.growing import Growing
from tornado_chat.live.growing_messages import Name
from tornado_chat.live.limits import AddressAccount, rate_limited
from tornado_chat.live.writing import Writing
from tornado_chat.log import Appended, Entry
from tornado_chat.log.kinds import Publishing
from tornado_chat.wire import replies
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.commands import (
    Append,
    Begin,
    Command,
    Delete,
    Edit,
    Fetch,
    Finish,
    Follow,
    Growth,
    History,
    Invite,
    Join,
    Leave,
    Ping,
    Presence,
    React,
    Read,
    Send,
    Signalling,
    Status,
    Step,
    Stop,
    Typing,
    Unfollow,
    Unparsed,
    subject,
)

logger = logging.getLogger(__name__)

REQUEST_BYTES = 1024
"""Each request counts as so many bytes more than its body has. What a frame counts by its cost would be 16 times that;
but who sends as many events as they may, each by a request, is not to owe anything."""

OWED_SECONDS = 10.0
"""A request waits for so long at most until its user, and its address, have paid for their bytes."""

LONG_BYTES = 64 * 1024
"""A longer body is not kept while what came before it is paid."""

CARRY_OUT_SECONDS = 20.0
"""A request is answered within this time, whatever its commands wait for."""

BETWEEN_SECONDS = 5.0
"""How long who writes a message by requests counts as connected after each of them."""

TURN_SECONDS = 0.001
"""Of a loop turn that one request takes."""

TOKEN_NEEDED = "to say something a token is needed, by which a resend is recognised: POST /v1/session gives one"

_NOT_IN_TIME = ChatError(
    ErrorCode.UNAVAILABLE, "this was not done in time: send it again with the same id", retry_after=1.0
)

Answer = replies.Reply | replies.Presence | Raw | None
Done = Callable[[list[Answer] | ChatError], None]


class Request(Author):
    """The commands of one request, and the Sender of what they publish."""

    __slots__ = (
        "_answers",
        "_asking",
        "_begins",
        "_begun",
        "_codec",
        "_commands",
        "_counted",
        "_done",
        "_ended",
        "_going_on",
        "_held",
        "_history_bytes",
        "_kept",
        "_late",
        "_submitted",
        "_timer",
        "_writing",
    )

    def __init__(
        self,
        context: Context,
        identity: Identity,
        address: AddressAccount,
        commands: Iterator[Command | Unparsed],
        codec: Codec,
        done: Done,
    ) -> None:
        """`address` is the account that the request was entered into; a command is decoded when its turn has come.

        `done` is called once: with an answer for each command, None where it has none, or with what keeps all of them
        from being carried out. `codec` is that of the answers.
        """
        super().__init__(context, identity, address)
        self._commands = commands
        self._codec = codec
        self._done = done
        self._held: Command | Unparsed | None = None  # taken, and its turn has not come
        self._begun = False  # all of them
        self._begins: set[Name] = set()  # messages whose `begin` was said
        self._ended = False
        self._counted = False  # among those under way: what waits to be paid need not be waited for
        self._going_on: asyncio.Handle | None = None
        self._answers: list[Answer] = []  # of those that were begun
        self._submitted: deque[tuple[int, str, str | None]] = deque()  # place, room and id of those not answered
        self._late: dict[str | None, int] = {}  # places, by id, of what waits for the end of a message that grows
        self._writing: Writing | None = None  # of messages that grow
        self._kept = False  # or about to be: what was appended
        self._asking: asyncio.Task[None] | None = None
        self._history_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, size: int) -> None:
        """Carry out the commands, which came in `size` bytes."""
        owed = self.owe_bytes(0) if size > LONG_BYTES else 0.0
        wait = self.owe_bytes(size + REQUEST_BYTES)
        if owed or wait > OWED_SECONDS:
            self._end(rate_limited("you have sent more bytes than you may", wait))
            return
        loop = self.context.hub.shared.loop
        if wait:
            self.context.hub.metrics.throttles += 1
            self._going_on = loop.call_later(wait, self._go_on)
        else:
            self._go_on()
        if not self._ended:
            self._timer = loop.call_later(CARRY_OUT_SECONDS, self._give_up)

    def abandon(self) -> None:
        """Nobody waits for the answer any more: what was not begun is not carried out."""
        if not self._ended:
            self._commands = iter(())
            self._held = None
            if self._going_on is not None:
                self._going_on.cancel()
            self._go_on()

    def _go_on(self) -> None:
        """Begin the commands whose turn has come, and end with the last one."""
        self._going_on = None
        if not self._counted:
            self._counted = True
            self.context.requests += 1
        started = monotonic()
        while not self._ended and self._asking is None:
            command = self._held or next(self._commands, None)
            if command is None:
                self._begun = True
                break
            self._held = None
            if not self._begin(command):
                self._held = command
                break
            if monotonic() - started > TURN_SECONDS:
                self._going_on = self.context.hub.shared.loop.call_soon(self._go_on)
                return
        if self._begun and not self._submitted and not self._late and self._asking is None:
            grown = self._writing.messages() if self._writing is not None and not self._kept else None
            if grown:
                self._kept = True
                self._asking = self.context.hub.tasks.spawn(self._keep_growing(grown))
            else:
                self._end(self._answers)

    def _end(self, outcome: list[Answer] | ChatError) -> None:
        if self._ended:
            return
        self._ended = True
        if self._writing is not None:
            self._writing.end(BETWEEN_SECONDS)
        self.end()
        if self._counted:
            self.context.requests -= 1
        for handle in (self._timer, self._going_on, self._asking):
            if handle is not None:
                handle.cancel()
        self._done(outcome)

    def _begin(self, command: Command | Unparsed) -> bool:
        """Begin to carry out `command`; False if its turn has not come."""
        try:
            if isinstance(command, Unparsed):
                raise command
            return _HANDLERS[type(command)](self, command)
        except ChatError as error:
            where = (command.room, command.stream) if isinstance(command, Unparsed) else subject(command)
            self._answers.append(self._refusal(error, command.id, *where))
            return True
        except Exception:
            logger.exception("command failed user=%s", self.user)
            self.fail()
            return True

    def _refusal(
        self, error: ChatError, id: str | None, room: str | None = None, stream: str | None = None
    ) -> replies.Error:
        """`room` and `stream`: those of the `subject` of the command."""
        self.context.hub.metrics.errors[error.code] += 1
        return replies.error(error, id, room, stream)

    def _check_known(self) -> bool:
        """Whether the user can be recognised, or else nothing of the request is carried out."""
        if self.identity.new:
            self._end(ChatError(ErrorCode.UNAUTHORIZED, TOKEN_NEEDED))
        return not self._ended

    def _give_up(self) -> None:
        """What was submitted may still be kept; what was not begun is not."""
        for place, id in (
            *((place, id) for place, _, id in self._submitted),
            *((place, id) for id, place in self._late.items()),
        ):
            self._answers[place] = self._refusal(_NOT_IN_TIME, id)
        overloaded = ChatError(ErrorCode.OVERLOADED, "its turn did not come in time: try again", retry_after=1.0)
        while (command := self._held or next(self._commands, None)) is not None:
            self._held = None
            self._answers.append(self._refusal(overloaded, command.id))
        self._end(self._answers)

    # Publishing

    def _publish(self, command: Publishing | Read) -> bool:
        if not self._check_known():
            return True
        if command.id is None and not isinstance(command, Read):
            raise ChatError(
                ErrorCode.BAD_REQUEST,
                f"id: is missing; {type(command).__name__.lower()} needs one here, by which a resend is recognised",
            )
        if not self.publish(command, self):
            return False
        self._submitted.append((len(self._answers), command.room, command.id))
        self._answers.append(None)
        return True

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        """As `Sender.published` says."""
        if self._ended:  # it was given up, or failed: places may be wrong
            return
        late = self._late.pop(entry.id, None)
        place = self._place_of(entry) if late is None else late
        if isinstance(outcome, Conflict) and entry.type == "deleted":
            self._late[entry.id] = place
            self.context.stopping.delete(entry, self)
        elif isinstance(outcome, ChatError):
            self._answers[place] = self._refusal(outcome, entry.id)
        elif entry.id is not None:
            self._answers[place] = questions.ack(entry, entry.id, outcome)

    def _place_of(self, entry: Entry) -> int:
        """Where the answer to what was submitted stands; that of another room may have come before those behind it."""
        name = entry.about or entry.room, entry.id
        for found in self._submitted:
            if found[1:] == name:
                self._submitted.remove(found)
                return found[0]
        raise LookupError(f"{entry.type} of {entry.room} was not submitted")

    def flush_replies(self) -> None:
        """Go on with what waited for the log's answers, or end."""
        self.resume()

    def resume(self) -> None:
        """As `Sender.resume` says."""
        if not self._ended and self._going_on is None:
            self._go_on()

    def fail(self) -> None:
        """As `Sender.fail` says."""
        self._end(ChatError(ErrorCode.UNAVAILABLE, "the server failed on this request: send it again", 1.0))

    # Messages that grow

    def _write_growth(self, command: Growth) -> bool:
        """An `append` belongs to a request that has the `begin` of its message before it."""
        if not self._check_known():
            return True
        if isinstance(command, Finish) and command.id is None:
            raise ChatError(ErrorCode.BAD_REQUEST, "id: is missing; finish needs one here")
        if self._writing is None:
            self._writing = Writing(self)
        name = self._writing.name_of(command)
        if not isinstance(command, Append):
            taken = self._writing.take(command)
            if taken and isinstance(command, Begin):
                self._begins.add(name)
            return taken
        if name not in self._begins:
            raise Conflict(
                "a request that has an `append` has the `begin` of its message before", stream=command.stream
            )
        place = len(self._answers)
        if not self._writing.take(command):
            return False
        if len(self._answers) == place:  # else the log is asked about it
            self._answers.append(None)
        return True

    @property
    def gone(self) -> bool:
        """As `Writer.gone` says."""
        return self._ended

    def charge_bytes(self, count: int) -> None:
        self.owe_bytes(count)

    def hear(self, stop: replies.Stop) -> None:
        """As `Hearer.hear` says; a request hears nothing but its answers."""

    def submitted(self, entry: Entry) -> None:
        """As `Writer.submitted` says."""
        self._submitted.append((len(self._answers), entry.room, entry.id))
        self._answers.append(None)

    def waits(self, entry: Entry) -> None:
        """As `Writer.waits` says: each answer has its place."""

    def answered(self, entry: Entry, outcome: replies.Ack | ChatError | None) -> None:
        """As `Writer.answered` says."""
        if not self._ended:
            found = self._place_of(entry)
            if isinstance(outcome, ChatError):
                self._answers[found] = self._refusal(outcome, entry.id, entry.room)
            else:
                self._answers[found] = outcome

    async def _keep_growing(self, grown: list[Growing]) -> None:
        """What was appended is in the log; else none of the request counts as done."""
        wanted = [(message, message.length) for message in grown]
        try:
            await self.context.growing.checkpoint(only=grown)
            if left := [message for message in grown if message.here and message.kept < message.length]:
                await self.context.growing.checkpoint(only=left)  # the process before has just handed something over
            # Another process may have the message now, or have ended it, and not know what was said here.
            sound = all(message.kept >= length for message, length in wanted)
        except LogUnavailable as error:
            self.context.log_warning.warning("log unavailable reason=%s", error)
            sound = False
        if not sound:
            self._answers = [
                self._refusal(_NOT_IN_TIME, None) if answer is None else answer for answer in self._answers
            ]
        self._asking = None
        self._end(self._answers)

    def _stop(self, command: Stop) -> bool:
        if not self._check_known():
            return True
        if self._submitted:
            return False
        self.check_room(command.room)
        if command.as_ is not None:
            self.check_actor(command.as_)
        self.charge()
        self._ask(partial(self._end_growth, command), command)
        return True

    async def _end_growth(self, command: Stop) -> Answer:
        user = self.user if command.as_ is None else command.as_.user
        await self.context.stopping.stop(command.room, command.seq, user, moderator=self.identity.moderator)
        return None if command.id is None else replies.Ack(id=command.id, room=command.room)

    def _fetch(self, command: Fetch) -> bool:
        if self._submitted:
            return False
        self.check_room(command.room)
        self.charge()
        questions.check_unread(self.context, 0)
        growing = self.context.growing
        self._ask(partial(growing.fetch, command.room, command.seq, command.offset, command.id), command)
        return True

    # Questions

    def _history(self, command: History) -> bool:
        if self._submitted:
            return False
        self.check_room(command.room)
        self.charge()
        questions.check_unread(self.context, 0)
        self._ask(partial(self._look_back, command), command)
        return True

    async def _look_back(self, command: History) -> Answer:
        room = max(1, questions.HISTORY_BYTES - self._history_bytes)
        encoded = self._codec.encode(await questions.history(self.context, command, room))
        self._history_bytes += len(encoded)
        questions.check_unread(self.context, len(encoded))
        return Raw(encoded)

    def _presence(self, command: Presence) -> bool:
        if self._submitted:
            return False
        self.check_room(command.room)
        self.charge()
        room = self.context.hub.rooms.get(command.room)
        if room is not None:
            self._answers.append(questions.present(command, room.presence))
        else:
            self._ask(partial(questions.presence, self.context, command), command)
        return True

    def _ask(self, question: Callable[[], Coroutine[Any, Any, Answer]], command: Command) -> None:
        self._answers.append(replies.error(_NOT_IN_TIME, command.id, *subject(command)))  # if it should be given up
        self._asking = self.context.hub.tasks.spawn(self._wait(question, command))

    async def _wait(self, question: Callable[[], Coroutine[Any, Any, Answer]], command: Command) -> None:
        try:
            self._answers[-1] = await question()
        except (LogUnavailable, TimeoutError) as error:
            self.context.log_warning.warning("log unavailable reason=%s", error)
            unavailable = ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: try again", retry_after=1.0)
            self._answers[-1] = self._refusal(unavailable, command.id, *subject(command))
        except ChatError as error:
            self._answers[-1] = self._refusal(error, command.id, *subject(command))
        except Exception:
            logger.exception("command failed user=%s", self.user)
            self._asking = None
            self.fail()
            return
        self._asking = None
        self._go_on()

    # Signals and the rest

    def _signal(self, command: Signalling) -> bool:
        if not self._check_known():
            return True
        self.signal(command, None)
        self._answers.append(None)
        return True

    def _ping(self, command: Ping) -> bool:
        self._answers.append(replies.Pong(id=command.id))
        return True

    def _refuse_line(self, command: Join | Leave) -> bool:
        raise ChatError(
            ErrorCode.BAD_REQUEST,
            f"type: {type(command).__name__.lower()} is for a WebSocket; over HTTP a room is read by "
            "GET /v1/rooms/{room}/events",
        )


_HANDLERS: dict[type[Command], Callable[[Request, Any], bool]] = {
    Join: Request._refuse_line,
    Leave: Request._refuse_line,
    Send: Request._publish,
    Edit: Request._publish,
    Delete: Request._publish,
    React: Request._publish,
    History: Request._history,
    Read: Request._publish,
    Follow: Request._publish,
    Unfollow: Request._publish,
    Invite: Request._publish,
    Typing: Request._signal,
    Status: Request._signal,
    Step: Request._signal,
    Presence: Request._presence,
    Ping: Request._ping,
    Begin: Request._write_growth,
    Append: Request._write_growth,
    Finish: Request._write_growth,
    Stop: Request._stop,
    Fetch: Request._fetch,
}
"""Each begins one command and keeps a place for its answer, or returns False if its turn has not come."""
