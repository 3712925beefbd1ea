"""What one connection writes of messages that grow.

`begin` and `finish` go through the log like anything that is published, and `append` does not: what comes before its
`begin` is answered waits. The server takes what begins at the end of the text, drops what it has, and tells of a gap
once.
"""

from __future__ import annotations

from typing import Protocol

import orjson

from tornado_chat.auth import Identity
from tornado_chat.errors import ChatError, Conflict, ErrorCode
from tornado_chat.live.context import Context
from tornado_chat.live.growing import STREAM_CHARS, Growing
from tornado_chat.live.limits import BEGIN_BYTES
from tornado_chat.log import Appended, Entry
from tornado_chat.log.growing import Begin as BeginEntry
from tornado_chat.log.growing import Finish as FinishEntry
from tornado_chat.wire import replies
from tornado_chat.wire.commands import Append, Begin, Finish, Growth


class Writer(Protocol):
    """Whose messages they are: a Session, or a Request."""

    user: str
    identity: Identity
    context: Context

    @property
    def gone(self) -> bool:
        """Its connection has ended: somebody else may go on."""

    def check_room(self, room: str) -> None: ...

    def charge_bytes(self, count: int) -> None: ...

    def submitted(self, entry: Entry) -> None:
        """`entry` is on its way through the log; `answered` is to follow, in the order of these."""

    def answered(self, entry: Entry, outcome: replies.Ack | ChatError | None) -> None: ...

    def flush_replies(self) -> None: ...

    def resume(self) -> None: ...

    def fail(self) -> None: ...


STREAMS = 1024
"""Messages whose `gen` a connection remembers; of an older one `append` has to give it."""


class Writing:
    """The Sender of its writer's `begin` and `finish`; it exists from the first of them on."""

    __slots__ = ("_beginning", "_gens", "_refused", "_writer", "user")

    def __init__(self, writer: Writer) -> None:
        self.user = writer.user
        self._writer = writer
        self._beginning: dict[tuple[str, str], int] = {}  # room and id of each `begin` that is not answered
        self._gens: dict[tuple[str, str], int] = {}  # what the last `begin` of each was answered
        self._refused: tuple[str, str, int] | None = None  # the `append` that was refused last

    def take(self, command: Growth) -> bool:
        """Carry out `command`; False if its turn has not come. ChatError."""
        self._writer.check_room(command.room)
        if isinstance(command, Append):
            return self._append(command)
        if (command.room, command.id if isinstance(command, Begin) else command.stream) in self._beginning:
            return False
        publisher = self._writer.context.publisher
        waiting = publisher.congestion(command.room)
        if waiting is not None:
            waiting[self] = None
            return False
        entry = self._begin(command) if isinstance(command, Begin) else self._finish(command)
        self._writer.submitted(entry)
        publisher.submit(self, entry)
        return True

    def has_begun(self, room: str, id: str) -> bool:
        """Whether its `begin` was said here."""
        return (room, id) in self._beginning or (room, id) in self._gens

    def messages(self) -> list[Growing]:
        """Those that were begun here and grow in this process."""
        found = self._writer.context.growing.by_name
        names = [(room, self.user, id) for room, id in self._gens]
        return [found[name] for name in names if name in found]

    def end(self, patience: float = 0.0) -> None:
        """The connection has ended; for `patience` seconds its user counts as connected nevertheless."""
        for message in self.messages():
            self._writer.context.growing.let_go(message, self._writer, patience)

    def _begin(self, command: Begin) -> Entry:
        writer = self._writer
        writer.context.growing.check_open(command.room, self.user, command.id)
        writer.charge_bytes(BEGIN_BYTES)
        self._beginning[command.room, command.id] = 1
        return BeginEntry(
            command.room,
            self.user,
            writer.identity.name,
            id=command.id,
            home=writer.context.growing.home,
            replica=command.replica,
            take_over=bool(command.take_over),
            reply_to=command.reply_to,
            meta=_json(command.meta),
        )

    def _append(self, command: Append) -> bool:
        name = command.room, command.stream
        if name in self._beginning:
            return False
        messages = self._writer.context.growing
        message = messages.by_name.get((command.room, self.user, command.stream))
        gen = command.gen or self._gens.get(name)
        if message is None or message.ending or gen is None or gen < message.gen:
            said = (*name, gen or 0)
            if said != self._refused:
                self._refused = said
                raise self._conflict(command, message)
            return True
        if gen > message.gen or command.offset > message.length:
            if not message.gap:
                message.gap = True
                raise self._conflict(command, message)
            return True
        text = command.text[message.length - command.offset :]
        if not text:
            return True
        message.gap = False
        if message.length + len(text) > STREAM_CHARS:
            text = text[: STREAM_CHARS - message.length]
            message.gap = True  # what follows is beyond the end
            if text:
                messages.add(message, text)
            raise ChatError(
                ErrorCode.TOO_LARGE, f"text: a message that grows has at most {STREAM_CHARS:,} characters: finish it"
            )
        messages.add(message, text)
        return True

    def _finish(self, command: Finish) -> Entry:
        writer = self._writer
        messages = writer.context.growing
        message = messages.by_name.get((command.room, self.user, command.stream))
        gen = self._gens.get((command.room, command.stream))
        text, seq = "", 0
        if message is not None:
            if gen is None:
                gen = message.gen
            if gen < message.gen or command.length > message.length:
                raise self._conflict(command, message)
            messages.end(message, command.length)
            text, seq = message.text(), message.seq
        else:
            ended = messages.ended.get((command.room, self.user, command.stream))
            if ended is not None:
                seq = ended[0].seq
        return FinishEntry(
            command.room,
            self.user,
            writer.identity.name,
            key=command.id or writer.context.hidden_key(),
            id=command.id,
            target=seq,
            text=text,
            reason=command.reason,
            gen=gen or 0,
            home=messages.home,
            stream=command.stream,
            meta=_json(command.meta),
        )

    def _conflict(self, command: Append | Finish, message: Growing | None) -> Conflict:
        id = command.stream
        if message is not None and not message.ending:
            return Conflict(
                f"the text has {message.length} characters: go on from there",
                stream=id,
                gen=message.gen,
                length=message.length,
            )
        ended = self._writer.context.growing.ended.get((command.room, self.user, id))
        if ended is not None:
            return Conflict(
                f"it has ended ({ended[1]})",
                stream=id,
                gen=ended[0].gen or None,
                length=ended[0].length,
                reason=ended[1],
            )
        if message is not None:
            return Conflict("it is being finished", stream=id, gen=message.gen, length=message.length)
        return Conflict("no such message of yours grows here: `begin` it", stream=id)

    # Sender

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        """As `Sender.published` says."""
        messages = self._writer.context.growing
        ack: replies.Ack | None = None
        if isinstance(entry, BeginEntry):
            del self._beginning[entry.room, entry.key]
            if isinstance(outcome, Appended):
                ack = self._begun(entry, outcome)
        elif isinstance(entry, FinishEntry):
            message = messages.find(entry.room, entry.target or 0)
            if message is not None:
                messages.answered(message, outcome, entry.reason)
            if isinstance(outcome, Appended) and entry.id is not None:
                ack = replies.Ack(
                    id=entry.id, room=entry.room, seq=outcome.seq, ts=outcome.ts, duplicate=outcome.duplicate
                )
            if isinstance(outcome, Conflict):
                outcome.stream = entry.stream
            elif isinstance(outcome, ChatError) and outcome.code is ErrorCode.NOT_FOUND and not entry.target:
                outcome = Conflict("no such message of yours grows here: `begin` it", stream=entry.stream)
        self._writer.answered(entry, outcome if isinstance(outcome, ChatError) else ack)

    def _begun(self, entry: BeginEntry, outcome: Appended) -> replies.Ack:
        writer, claim = self._writer, outcome.claim
        assert claim is not None
        present = None if writer.gone else writer
        self._refused = None
        message = writer.context.growing.begun(entry, outcome, present)
        gen, length = claim.gen or None, claim.length
        if message is not None:
            gen, length = message.gen, message.length
            if len(self._gens) >= STREAMS:
                del self._gens[next(iter(self._gens))]
            self._gens[entry.room, entry.key] = gen
            if present is None:
                writer.context.growing.let_go(message, None)
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
