"""What one client may say, and the order in which it takes effect.

A session's commands take effect in the order sent. What is to be published (`send`, `edit`, `delete`, `react`, `read`)
is pipelined: it joins the next commit and is answered after it. What asks something about a room (`join`, `leave`,
`history`, `presence`) waits until all that was published before it is answered, and is waited for by all that comes
after it. A client with too much unfinished is not read until it has less.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, CloseCode, Conflict, ErrorCode, LogUnavailable
from tornado_chat.live import questions
from tornado_chat.live.author import Author
from tornado_chat.live.context import Context
from tornado_chat.live.flood import Flood
from tornado_chat.live.limits import (
    APPEND_BYTES,
    APPEND_CHAR_BYTES,
    APPEND_FRAME_BYTES,
    FRAME_BYTES,
    AddressAccount,
)
from tornado_chat.live.line import Line
from tornado_chat.live.lookup import Question
from tornado_chat.live.member import Member, Memberships
from tornado_chat.live.writing import Writing
from tornado_chat.log import Appended, Entry, own
from tornado_chat.log.kinds import Publishing
from tornado_chat.log.sweeping import Mark
from tornado_chat.wire import replies
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
    decode,
    subject,
)
from tornado_chat.wire.encodings import Encoding

logger = logging.getLogger(__name__)

C = TypeVar("C", Join, History, Presence, Fetch)

UNFINISHED = 64
"""Commands of one client that are not answered yet; it is read again when there are half as many."""

HELD_BYTES = 16 * 1024
"""Of the commands that wait for their turn, as they came; with more of them the client is not read. (A command of 2 KiB
may be 50 KiB of objects.)"""

UNCHARGED_BYTES = 16 * 1024
"""Bytes that came are charged when they are so many: most messages then cost one addition."""

STOPS = 16
"""`stop` commands of one connection that wait for the end of what they stop; nothing else waits for them."""

ROOMS = 1000
"""Rooms that one connection may be in."""


class Session(Author):
    """One signed-in device on a line: its Listener, and the Sender of what it publishes."""

    __slots__ = (
        "asking",
        "encoding",
        "flood",
        "held",
        "held_bytes",
        "late",
        "line",
        "members",
        "paying",
        "replies",
        "stops",
        "unanswered",
        "uncharged",
        "writing",
    )

    line: Line

    def __init__(self, context: Context, identity: Identity, address: AddressAccount, encoding: Encoding) -> None:
        """`address` is the account that this connection was entered into."""
        super().__init__(context, identity, address)
        self.encoding = encoding
        self.members = Memberships()
        self.unanswered = 0  # entries on their way through the log
        self.held: list[tuple[Command, int]] | None = None  # commands that wait for their turn, with their bytes
        self.held_bytes = 0
        self.asking: asyncio.Task[None] | Question[Mark] | None = None  # the question that waits for an answer
        self.replies: list[bytes] | None = None  # of the commit that is being announced
        self.flood: Flood | None = None  # of refusals
        self.uncharged = 0  # bytes that came
        self.paying: asyncio.TimerHandle | None = None  # nothing is read until what came is paid
        self.stops = 0  # `stop` commands under way
        self.writing: Writing | None = None  # of messages that grow
        # By room, in order: a `begin` whose answer waits, and all that was submitted behind it; None: not answered yet.
        self.late: dict[str, dict[Entry, Callable[[], None] | None]] | None = None

    def begin(self, line: Line, answer: bytes, token: str | None, joins: Sequence[Join]) -> None:
        """Belong to `line` from now on: write the `answer` to its request and `welcome`, and carry out its `joins`.

        `token` is what makes a guest's next connection the same user.
        """
        self.line = line
        self.context.hub.metrics.handshakes += 1
        hello = answer + self.encoding.frame(self._welcome(token))
        if not joins:
            line.write(hello)
            return
        line.cork()
        try:
            line.write(hello)
            self._join(joins[0], unmarked=self.identity.new)
        except Exception as error:
            self._fail_on(joins[0], error)
        finally:
            line.uncork()
        for join in joins[1:]:
            self.take(join, 0)

    def _welcome(self, token: str | None) -> replies.Welcome:
        return replies.Welcome(
            user=self.user,
            name=self.identity.name,
            device=self.identity.device or "",
            token=token,
            epoch=self.context.hub.log.epoch,
            server_time=time.time_ns() // 1_000_000,
            limits=self.context.welcome_limits,
            ping_interval=self.context.settings.ping_interval,
        )

    def answer(self, reply: replies.Reply | replies.Presence | replies.Stop) -> None:
        self._write(self.encoding.frame(reply))

    def _write(self, data: bytes) -> None:
        line = self.line
        line.write(data)
        if line.outbox_bytes:
            line.asked_bytes += len(data)

    # Listener: what the line tells

    def on_message(self, payload: bytes) -> None:
        size = len(payload)
        self.uncharged += size + FRAME_BYTES
        if self.uncharged > UNCHARGED_BYTES:
            self._charge_bytes()
        try:
            command = decode(self.encoding.codec, payload, self.context.settings.text_chars)
        except Unparsed as error:
            self._refuse(error, error.id, error.room, error.stream)
        else:
            if command.__class__ is Append:
                chars = len(command.text)
                needed = min(size, APPEND_FRAME_BYTES + APPEND_CHAR_BYTES * chars)
                self.uncharged += chars + APPEND_BYTES - needed - FRAME_BYTES
            self.take(command, size)

    def on_overhead(self, size: int) -> None:
        self.uncharged += size
        if self.uncharged > UNCHARGED_BYTES:
            self._charge_bytes()

    def _charge_bytes(self) -> None:
        """Let the user and the address pay for what came; while one of them owes, the client is not read."""
        wait = self.owe_bytes(self.uncharged)
        self.uncharged = 0
        if wait and not self.line.closing:
            self.context.hub.metrics.throttles += 1
            self.line.pause_reading()
            if self.paying is not None:
                self.paying.cancel()
            self.paying = self.context.hub.shared.loop.call_later(wait, self._paid)

    def _paid(self) -> None:
        self.paying = None
        self._read_on()

    @property
    def unfinished(self) -> bool:
        """Something that was read is not answered yet. What waits for the client to read answers does not count."""
        if self.held and self.line.outbox_bytes <= self.context.settings.high_water_mark:
            return True
        return bool(self.unanswered or self.asking)

    def on_drained(self) -> None:
        self.context.hub.drained(self.members)
        self.resume()

    def on_closed(self, code: int, reason: str) -> None:
        hub = self.context.hub
        for member in list(self.members):
            hub.leave(member.room, self.members, self.address)
        self.held = None
        if self.writing is not None:
            self.writing.end()
        if self.asking is not None:
            self.asking.cancel()
            self.asking = None
        if self.paying is not None:
            self.paying.cancel()
        if self.uncharged:
            self.owe_bytes(self.uncharged)
        self.end()
        logger.debug("closed user=%s code=%d reason=%s", self.user, code, reason)

    # Order and back-pressure

    def take(self, command: Command, size: int) -> None:
        """Carry out `command`, which came in `size` bytes, when its turn has come."""
        if self.held or not self._begin(command):
            if self.held is None:
                self.held = []
            self.held.append((command, size))
            self.held_bytes += size
            if self.held_bytes > HELD_BYTES:
                self.line.pause_reading()
        if self.unanswered + len(self.held or ()) >= UNFINISHED:
            self.line.pause_reading()

    def _begin(self, command: Command) -> bool:
        """Begin to carry out `command`; False if its turn has not come."""
        if self.asking is not None:
            return False
        try:
            return _HANDLERS[type(command)](self, command)
        except ChatError as error:
            self._refuse(error, command.id, *subject(command))
            return True

    def resume(self) -> None:
        """Something that commands waited for has happened: go on with them, and read on."""
        line = self.line
        while self.held and not line.closing:
            if line.outbox_bytes > self.context.settings.high_water_mark:
                line.want_drained()  # answers fill an outbox like anything else
                break
            command, size = self.held[0]
            if not self._begin(command):
                break
            del self.held[0]
            self.held_bytes -= size
        self._read_on()

    def _read_on(self) -> None:
        """Read the client again, unless something still speaks against it."""
        held = len(self.held) if self.held else 0
        if (
            self.unanswered + held <= UNFINISHED // 2
            and self.held_bytes <= HELD_BYTES // 2
            and self.paying is None
            and not self.context.draining
        ):
            self.line.resume_reading()

    def _refuse(self, error: ChatError, id: str | None, room: str | None = None, stream: str | None = None) -> None:
        """`room` and `stream`: those of the `subject` of the command."""
        self.context.hub.metrics.errors[error.code] += 1
        self.answer(replies.error(error, id, room, stream))
        if error.code is ErrorCode.RATE_LIMITED or (error.code in OWN_FAULTS and self.context.settings.send_rate):
            if self.flood is None:
                self.flood = Flood()
            if self.flood.goes_on(self.context.limits.time()):
                self.line.close(CloseCode.POLICY_VIOLATION, "too many refusals: see the errors, and retry_after")

    # Publishing

    def _publish(self, command: Publishing | Read) -> bool:
        if not self.publish(command, self):
            return False
        self.unanswered += 1
        if self.flood is not None:
            self.flood.forgive()
        return True

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        """As `Sender.published` says."""
        self.unanswered -= 1
        if self.late is not None and self._is_late(entry, partial(self._answer_published, entry, outcome)):
            return
        self._answer_published(entry, outcome)

    def _answer_published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        if self.line.closing:
            return
        if isinstance(outcome, ChatError):
            if isinstance(outcome, Conflict) and entry.type == "deleted":
                self.unanswered += 1
                self.context.stopping.delete(entry, self)
            else:
                self._refuse(outcome, entry.id)
        elif entry.id is not None:
            self._reply(questions.ack(entry, entry.id, outcome))

    def _reply(self, ack: replies.Ack) -> None:
        """`ack` goes with the others of its commit."""
        frame = self.encoding.frame(ack)
        if self.replies is None:
            self.replies = [frame]
        else:
            self.replies.append(frame)

    def fail(self) -> None:
        """As `Sender.fail` says."""
        self.line.close(CloseCode.INTERNAL_ERROR, "the server failed on a command")

    def flush_replies(self) -> None:
        """Write the acks of a commit at once, and go on with what waited for them."""
        if self.replies is not None:
            made, self.replies = self.replies, None
            self._write(b"".join(made) if len(made) > 1 else made[0])
        self.resume()

    # Messages that grow

    def _write_growth(self, command: Growth) -> bool:
        if self.writing is None:
            self.writing = Writing(self)
        return self.writing.take(command)

    @property
    def gone(self) -> bool:
        """As `Writer.gone` says."""
        return self.line.closing

    def charge_bytes(self, count: int) -> None:
        self.uncharged += count

    def hear(self, stop: replies.Stop) -> None:
        """As `Hearer.hear` says."""
        self.answer(stop)

    def submitted(self, entry: Entry) -> None:
        """As `Writer.submitted` says."""
        self.unanswered += 1

    def waits(self, entry: Entry) -> None:
        """As `Writer.waits` says."""
        if self.late is None:
            self.late = {}
        self.late.setdefault(entry.room, {})[entry] = None  # a `begin` is about no other room

    def _is_late(self, entry: Entry, answer: Callable[[], None]) -> bool:
        """Whether another answer of its room comes first: `answer` is then called behind it."""
        assert self.late is not None
        room = entry.about or entry.room
        waiting = self.late.get(room)
        if waiting is None:
            return False
        waiting[entry] = answer
        while waiting and (first := waiting[next(iter(waiting))]) is not None:
            del waiting[next(iter(waiting))]
            first()
        if not waiting:
            del self.late[room]
            if not self.late:
                self.late = None
        return True

    def answered(self, entry: Entry, outcome: replies.Ack | ChatError | None) -> None:
        """As `Writer.answered` says."""
        self.unanswered -= 1
        if self.late is not None and self._is_late(entry, partial(self._answer_growth, entry, outcome)):
            return
        self._answer_growth(entry, outcome)

    def _answer_growth(self, entry: Entry, outcome: replies.Ack | ChatError | None) -> None:
        if self.line.closing:
            return
        if isinstance(outcome, ChatError):
            self._refuse(outcome, entry.id, entry.room)
        elif outcome is not None:
            self._reply(outcome)

    def _stop(self, command: Stop) -> bool:
        self.check_room(command.room)
        if command.as_ is not None:
            self.check_actor(command.as_)
        self.charge()
        if self.stops >= STOPS:
            raise ChatError(ErrorCode.RATE_LIMITED, f"{STOPS} of your `stop` are under way", retry_after=2.0)
        self.stops += 1
        self.context.hub.tasks.spawn(self._await_end(command))
        return True

    async def _await_end(self, command: Stop) -> None:
        try:
            user = self.user if command.as_ is None else command.as_.user
            await self.context.stopping.stop(command.room, command.seq, user, moderator=self.identity.moderator)
        except Exception as error:
            if not self.line.closing:
                self._fail_on(command, error)
        else:
            if command.id is not None and not self.line.closing:
                self.answer(replies.Ack(id=command.id, room=command.room))
        finally:
            self.stops -= 1

    def _fetch(self, command: Fetch) -> bool:
        self.check_room(command.room)
        self.charge()
        questions.check_unread(self.context, 0)
        self.asking = self.context.hub.tasks.spawn(self._ask(self._fetch_text, command))
        return True

    async def _fetch_text(self, command: Fetch) -> None:
        reply = await self.context.growing.fetch(command.room, command.seq, command.offset, command.id)
        self._write(self.encoding.plain.frame(reply))

    # Questions

    async def _ask(self, ask: Callable[[C], Coroutine[object, object, None]], command: C) -> None:
        try:
            await ask(command)
        except Exception as error:
            self._fail_on(command, error)
        finally:
            self.asking = None
        self.resume()

    def _fail_on(self, command: Command, error: Exception) -> None:
        """Tell why `command` was not carried out; the client is cut off if that is a fault of the server."""
        if isinstance(error, LogUnavailable | TimeoutError):
            self.context.log_warning.warning("log unavailable reason=%s", error)
            error = ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: try again", retry_after=1.0)
        if isinstance(error, ChatError):
            self._refuse(error, command.id, *subject(command))
        else:
            logger.error("command failed user=%s", self.user, exc_info=error)
            self.fail()

    def _join(self, command: Join, *, unmarked: bool = False) -> bool:
        """`unmarked`: the user is known to have no read mark anywhere, so none is looked up."""
        if self.unanswered:
            return False
        is_own = command.room == own.NAME
        self.check_room(command.room)
        if len(self.members) >= ROOMS and self.members.get(self.inner(command.room)) is None:
            raise ChatError(ErrorCode.TOO_LARGE, f"a connection may be in {ROOMS:,} rooms: leave one first")
        self.context.limits.check_join(self.address)
        if self.flood is not None:
            self.flood.forgive()
        if is_own:
            self.asking = self.context.hub.tasks.spawn(self._ask(self._join_own, command))
        elif unmarked:
            self._enter(command, 0)
        else:
            self.asking = self.context.hub.marks.ask((command.room, self.user), partial(self._marked, command))
        return True

    def _marked(self, command: Join, mark: int | Exception) -> None:
        """The log has told the user's read mark in the room, or failed to."""
        self.asking = None
        try:
            if isinstance(mark, Exception):
                raise mark
            self._enter(command, mark)
        except Exception as error:
            self._fail_on(command, error)
        self.resume()

    def _enter(self, command: Join, mark: int) -> None:
        hub = self.context.hub
        member = Member(self.line, self.user, self.identity.name, self.encoding)
        if not hub.admit_at_once(member, command, mark, self.members, self.address):
            self.asking = hub.tasks.spawn(self._ask(partial(self._wait, member, mark), command))

    async def _wait(self, member: Member, mark: int, command: Join) -> None:
        await self.context.hub.admit(member, command, mark, self.members, self.address)

    async def _join_own(self, command: Join) -> None:
        hub = self.context.hub
        after, state = await questions.own_log(self.context, self.identity, command.after)
        member = Member(self.line, self.user, self.identity.name, self.encoding)
        join = Join(id=command.id, room=own.room_of(self.user), after=after)
        await hub.admit(member, join, 0, self.members, self.address, state)

    def _leave(self, command: Leave) -> bool:
        if self.unanswered:  # its ack would come after `left`
            return False
        self.context.hub.leave(self.inner(command.room), self.members, self.address)
        self.answer(replies.Left(id=command.id, room=command.room))
        return True

    def _history(self, command: History) -> bool:
        if self.unanswered:
            return False
        self.check_room(command.room)
        self.charge()
        questions.check_unread(self.context, 0)
        self.asking = self.context.hub.tasks.spawn(self._ask(self._recount, command))
        return True

    async def _recount(self, command: History) -> None:
        reply = await questions.history(self.context, command)
        # Not deflated: a mebibyte takes 15 ms, for which everybody else would wait.
        frame = self.encoding.plain.frame(reply)
        questions.check_unread(self.context, len(frame))  # many may have been asked for at once
        self._write(frame)

    def _presence(self, command: Presence) -> bool:
        if self.unanswered:
            return False
        self.check_room(command.room)
        self.charge()
        room = self.context.hub.rooms.get(command.room)
        if room is not None:
            self.answer(questions.present(command, room.presence))
        else:
            self.asking = self.context.hub.tasks.spawn(self._ask(self._look_up_presence, command))
        return True

    async def _look_up_presence(self, command: Presence) -> None:
        self.answer(await questions.presence(self.context, command))

    # Signals and the rest

    def _signal(self, command: Signalling) -> bool:
        self.signal(command, self.line)
        return True

    def _ping(self, command: Ping) -> bool:
        self.answer(replies.Pong(id=command.id))
        return True


OWN_FAULTS = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.TOO_LARGE})
"""Refusals of what a sound client does not send."""

_HANDLERS: dict[type[Command], Callable[[Session, Any], bool]] = {
    Join: Session._join,
    Leave: Session._leave,
    Send: Session._publish,
    Edit: Session._publish,
    Delete: Session._publish,
    React: Session._publish,
    History: Session._history,
    Read: Session._publish,
    Follow: Session._publish,
    Unfollow: Session._publish,
    Invite: Session._publish,
    Typing: Session._signal,
    Status: Session._signal,
    Step: Session._signal,
    Presence: Session._presence,
    Ping: Session._ping,
    Begin: Session._write_growth,
    Append: Session._write_growth,
    Finish: Session._write_growth,
    Stop: Session._stop,
    Fetch: Session._fetch,
}
"""Each carries out one command, or returns False if its turn has not come."""
