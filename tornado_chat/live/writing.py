"""What one connection writes of messages that grow.

`begin` and `finish` go through the log like anything that is published, and `append` does not: what comes before its
`begin` is answered waits. The server takes what begins at the end of the text, drops what it has, and tells of a gap
once. Of a message that is not here any more the log tells whether and why it has ended. A `begin` that takes a message
from another process is answered when that has handed over what it had.
"""

from __future__ import annotations

from time import monotonic
from typing import Protocol

import orjson

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, Conflict, ErrorCode
from tornado_chat.live.context import Context
from tornado_chat.live.growing import STREAM_CHARS, Growing
from tornado_chat.live.growing_messages import Name
from tornado_chat.live.limits import BEGIN_BYTES, FRAME_BYTES
from tornado_chat.log import Appended, Entry
from tornado_chat.log.growing import Begin as BeginEntry
from tornado_chat.log.growing import Finish as FinishEntry
from tornado_chat.wire import replies
from tornado_chat.wire.commands import Actor, Append, Begin, Finish, Growth


class Writer(Protocol):
    """Whose messages they are: a Session, or a Request."""

    user: str
    identity: Identity
    context: Context

    @property
    def gone(self) -> bool:
        """Its connection has ended: somebody else may go on."""

    def check_room(self, room: str) -> None: ...

    def check_actor(self, actor: Actor) -> None: ...

    def charge_bytes(self, count: int) -> None: ...

    def hear(self, stop: replies.Stop) -> None: ...

    def submitted(self, entry: Entry) -> None:
        """`entry` is on its way through the log; `answered` is to follow, in the order of these."""

    def waits(self, entry: Entry) -> None:
        """The answer to `entry` comes later than the log's: those of what was submitted behind it wait, in its room."""

    def answered(self, entry: Entry, outcome: replies.Ack | ChatError | None) -> None: ...

    def flush_replies(self) -> None: ...

    def resume(self) -> None: ...

    def fail(self) -> None: ...


STREAMS = 1024
"""Messages whose `gen` a connection remembers, besides those that grow; of an older one `append` has to give it."""


class Writing:
    """The Sender of its writer's `begin` and `finish`; it exists from the first of them on."""

    __slots__ = ("_asked", "_beginning", "_finishing", "_gens", "_left", "_writer", "user")

    def __init__(self, writer: Writer) -> None:
        self.user = writer.user
        self._writer = writer
        self._beginning: set[Name] = set()  # whose `begin` is not answered
        self._gens: dict[Name, int] = {}  # what the last `begin` of each was answered
        self._finishing: dict[Entry, Name] = {}  # whose `finish` is not answered
        self._asked: set[Entry] = set()  # what is to tell why an `append` is not taken
        self._left: tuple[Name, Conflict | None] | None = None  # what that was about last, and the answer

    def take(self, command: Growth) -> bool:
        """Carry out `command`; False if its turn has not come. ChatError."""
        self._writer.check_room(command.room)
        if command.as_ is not None:
            self._writer.check_actor(command.as_)
        name = self.name_of(command)
        if name in self._beginning or self._left == (name, None):
            return False  # the log is about to tell
        if isinstance(command, Append) and not self._has_left(command, name):
            try:
                self._append(command, name)
            except ChatError:
                self._writer.charge_bytes(FRAME_BYTES)  # only what is taken costs less than other frames
                raise
            return True
        publisher = self._writer.context.publisher
        waiting = publisher.congestion(command.room)
        if waiting is not None:
            waiting[self] = None
            return False
        entry: Entry
        if isinstance(command, Begin):
            entry = self._begin(command, name)
        elif isinstance(command, Finish):
            entry = self._finish(command, name)
        else:
            entry = self._ask(command, name)
        self._writer.submitted(entry)
        publisher.submit(self, entry)
        return True

    def name_of(self, command: Growth) -> Name:
        """Which message it is about."""
        user = self.user if command.as_ is None else command.as_.user
        return command.room, user, command.id if isinstance(command, Begin) else command.stream

    def messages(self) -> list[Growing]:
        """Those that were begun here and grow in this process."""
        found = self._writer.context.growing.by_name
        return [found[name] for name in self._gens if name in found]

    def end(self, patience: float = 0.0) -> None:
        """The connection has ended; for `patience` seconds its user counts as connected nevertheless."""
        for message in self.messages():
            self._writer.context.growing.let_go(message, self._writer, patience)

    def _begin(self, command: Begin, name: Name) -> Entry:
        writer = self._writer
        writer.context.growing.reserve(name)
        writer.charge_bytes(BEGIN_BYTES)
        self._beginning.add(name)
        return BeginEntry(
            *self._author(command),
            id=command.id,
            home=writer.context.growing.home,
            replica=command.replica,
            take_over=bool(command.take_over),
            reply_to=command.reply_to,
            meta=_json(command.meta),
            agent=writer.identity.agent,
        )

    def _append(self, command: Append, name: Name) -> None:
        messages = self._writer.context.growing
        message = messages.by_name.get(name)
        gen = command.gen or self._gens.get(name)
        if message is None or message.ending or gen is None or gen < message.gen or self._is_anothers(message):
            why = self._left[1] if message is None and self._left is not None and self._left[0] == name else None
            raise why or self._conflict(name, message)
        if gen > message.gen or command.offset > message.length:
            if not message.gap:
                message.gap = True
                raise self._conflict(name, message)
            return
        text = command.text[message.length - command.offset :]
        if not text:
            return
        message.gap = False
        if message.writer is None and name in self._gens:  # a later connection of its author has ended
            messages.come_back(message, self._writer)
        if message.length + len(text) > STREAM_CHARS:
            text = text[: STREAM_CHARS - message.length]
            message.gap = True  # what follows is beyond the end
            if text:
                messages.add(message, text)
            raise ChatError(
                ErrorCode.TOO_LARGE, f"text: a message that grows has at most {STREAM_CHARS:,} characters: finish it"
            )
        messages.add(message, text)

    def _finish(self, command: Finish, name: Name) -> Entry:
        writer = self._writer
        messages = writer.context.growing
        message = messages.by_name.get(name)
        gen = self._gens.get(name)
        text, seq = "", 0
        if message is not None:
            if gen is None:
                gen = message.gen
            if gen < message.gen or command.length > message.length or self._is_anothers(message):
                raise self._conflict(name, message)
            if not message.ending:
                messages.end(message, command.length)
            text, seq = message.text(), message.seq
        else:
            writer.charge_bytes(BEGIN_BYTES)
        entry = FinishEntry(
            *self._author(command),
            key=command.id or writer.context.hidden_key(),
            id=command.id,
            target=seq,
            text=text,
            reason=command.reason,
            stream=command.stream,
            gen=gen or 0,
            home=messages.home,
            meta=_json(command.meta),
        )
        self._finishing[entry] = name
        return entry

    def _has_left(self, command: Append, name: Name) -> bool:
        """Whether it is for a message that has grown and is not here, and nobody has looked for it yet."""
        messages = self._writer.context.growing
        if name in messages.by_name or name in messages.ended or (self._left is not None and self._left[0] == name):
            return False
        return command.gen is not None or name in self._gens

    def _ask(self, command: Append, name: Name) -> Entry:
        """A `finish` that no message can have: it is refused with the reason that the message has ended for."""
        writer = self._writer
        writer.charge_bytes(BEGIN_BYTES)
        self._left = name, None
        entry = FinishEntry(
            *self._author(command),
            key=writer.context.hidden_key(),
            id=command.id,
            target=0,
            text="",
            reason="interrupted",
            stream=command.stream,
            gen=0,
            home=writer.context.growing.home,
        )
        self._asked.add(entry)
        return entry

    def _author(self, command: Growth) -> tuple[str, str, str]:
        """The room, the user and the name that its event will have."""
        actor = command.as_
        if actor is None:
            return command.room, self.user, self._writer.identity.name
        return command.room, actor.user, actor.name or actor.user

    def _is_anothers(self, message: Growing) -> bool:
        """Whether a connection that lives has begun it after this one."""
        return message.writer is not None and message.writer is not self._writer

    def _conflict(self, name: Name, message: Growing | None) -> Conflict:
        id = name[2]
        if message is not None and not message.ending and self._is_anothers(message):
            return Conflict(
                "another connection goes on with it: `begin` it to take it back",
                stream=id,
                gen=message.gen,
                length=message.length,
            )
        if message is not None and not message.ending:
            return Conflict(
                f"the text has {message.length} characters: go on from there",
                stream=id,
                gen=message.gen,
                length=message.length,
            )
        ended = self._writer.context.growing.ended.get(name)
        if ended is not None:
            gen, length, reason = ended
            return Conflict(f"it has ended ({reason})", stream=id, gen=gen, length=length, reason=reason)
        if message is not None:
            return Conflict("it is being finished", stream=id, gen=message.gen, length=message.length)
        return Conflict("no such message of yours grows here: `begin` it", stream=id)

    def _why_left(self, entry: FinishEntry, outcome: Appended | ChatError) -> Conflict:
        """Why the `append` that has asked was not taken."""
        name = entry.room, entry.user, entry.stream
        if isinstance(outcome, Conflict) and outcome.reason is not None:
            why = Conflict(outcome.message, stream=entry.stream, reason=outcome.reason)
        else:
            why = self._conflict(name, None)
        if self._left is not None and self._left[0] == name:
            self._left = name, why
        return why

    # Sender

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        """As `Sender.published` says."""
        messages = self._writer.context.growing
        ack: replies.Ack | None = None
        if isinstance(entry, BeginEntry):
            try:
                message = self._begun(entry, outcome) if isinstance(outcome, Appended) else None
            finally:
                messages.unreserve(entry.room, entry.user)
            if message is not None and monotonic() < message.handed_by:  # later on nobody hands anything over
                self._writer.waits(entry)
                messages.when_handed(message, lambda: self._begun_elsewhere(entry, outcome))
                return
            self._beginning.discard((entry.room, entry.user, entry.key))
            if isinstance(outcome, Appended):
                ack = self._begin_ack(entry, outcome)
            elif isinstance(outcome, Conflict):
                self._correct(entry, outcome)
        elif isinstance(entry, FinishEntry) and entry in self._asked:
            self._asked.discard(entry)
            outcome = self._why_left(entry, outcome)
        elif isinstance(entry, FinishEntry):
            name = self._finishing.pop(entry)
            message = messages.by_name.get(name)
            if not entry.target and isinstance(outcome, ChatError) and outcome.code is ErrorCode.NOT_FOUND:
                outcome = self._conflict(name, None)  # nor was it a resend
            elif isinstance(outcome, Conflict):
                outcome.stream = name[2]
            if message is not None and entry.target:  # else it has come here meanwhile, and goes on
                messages.answered(message, outcome, entry.reason)
            if isinstance(outcome, Appended) and entry.id is not None:
                ack = replies.Ack(
                    id=entry.id, room=entry.room, seq=outcome.seq, ts=outcome.ts, duplicate=outcome.duplicate
                )
        self._writer.answered(entry, outcome if isinstance(outcome, ChatError) else ack)

    def _begun(self, entry: BeginEntry, outcome: Appended) -> Growing | None:
        """The message that grows here from now on, written by our writer."""
        writer = self._writer
        present = None if writer.gone else writer
        self._left = None
        message = writer.context.growing.begun(entry, outcome, present)
        if message is not None:
            if len(self._gens) >= STREAMS:
                oldest = next(iter(self._gens))
                known = self._gens.pop(oldest)
                if oldest in writer.context.growing.by_name:
                    self._gens[oldest] = known  # it is let go of when the connection ends
            self._gens[entry.room, entry.user, entry.key] = message.gen
            if present is None:
                writer.context.growing.let_go(message, None)
        return message

    def _begun_elsewhere(self, entry: BeginEntry, outcome: Appended | ChatError) -> None:
        """The process that had the message has handed it over."""
        assert isinstance(outcome, Appended)
        self._beginning.discard((entry.room, entry.user, entry.key))
        self._writer.answered(entry, self._begin_ack(entry, outcome))
        self._writer.flush_replies()

    def _correct(self, entry: BeginEntry, refused: Conflict) -> None:
        """The log knows the checkpoints only."""
        message = self._writer.context.growing.by_name.get((entry.room, entry.user, entry.key))
        if message is not None:
            refused.gen, refused.length = message.gen, message.length

    def _begin_ack(self, entry: BeginEntry, outcome: Appended) -> replies.Ack:
        claim = outcome.claim
        assert claim is not None
        messages, name = self._writer.context.growing, (entry.room, entry.user, entry.key)
        gen, length, message = claim.gen or 1, claim.length, messages.by_name.get(name)
        if claim.reason is not None:  # the log does not keep it
            gen = messages.ended[name].gen if name in messages.ended else 1
        elif message is not None:
            gen, length = message.gen, message.length
        return replies.Ack(
            id=entry.key,
            room=entry.room,
            seq=outcome.seq,
            ts=outcome.ts,
            duplicate=outcome.duplicate,
            gen=gen,
            length=length,
            held=claim.held,
            reason=claim.reason,
        )

    def flush_replies(self) -> None:
        self._writer.flush_replies()

    def resume(self) -> None:
        """As `Sender.resume` says."""
        self._writer.resume()

    def fail(self) -> None:
        """As `Sender.fail` says."""
        self._writer.fail()


def _json(meta: object) -> bytes | None:
    return None if meta is None else bytes(memoryview(orjson.dumps(meta)))
