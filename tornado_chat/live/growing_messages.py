"""The messages that grow in this process: who writes each, what the log has of it, and how it ends, whoever dies.

An author that is away for LEASE_SECONDS is given up, and so is one that was asked to stop for STOP_SECONDS; what other
processes left behind is finished from its checkpoints. A clock that ticks does all of it: nothing has a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from time import monotonic
from typing import NamedTuple

from tornado_chat.errors import ChatError, Conflict, ErrorCode, LogUnavailable, Reason
from tornado_chat.live.growing import Growing, snapshot
from tornado_chat.live.hub import Hub
from tornado_chat.live.line import Sender
from tornado_chat.live.publisher import Publisher
from tornado_chat.log import Appended, Entry
from tornado_chat.log.growing import LEASE_SECONDS, STOP_SECONDS, Begin, Checkpoint, Finish, Open
from tornado_chat.wire.replies import Stop, Stream

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.4
"""How often the log is asked what was stopped elsewhere, and looked at what has waited long enough."""

KEEP_SECONDS, KEEP_CHARS = 2.0, 4096
"""A checkpoint is due so long after the first text that the log has not, or with so much of it."""

RENEW_SECONDS = 5.0
"""A lease is renewed so often where no text comes."""

LAPSED_SECONDS = 2.0
"""How often the log is asked for what nobody finishes any more."""

OPEN_MESSAGES = 128
"""Messages of one user that may grow here at once."""

ENDED = 10_000
"""Messages that ended here and are remembered, for what their authors say too late."""

END_SECONDS, LOOK_SECONDS = 10.0, 0.25
"""How long a `stop` waits for the end, and how often it looks for one in another process."""

Name = tuple[str, str, str]
"""room, user, id of the `begin`."""


class Ended(NamedTuple):
    """How a message ended that grew here: its text is the log's."""

    gen: int
    length: int
    reason: Reason


class GrowingMessages:
    """Made once; `run` is its task. It is the Sender of what the server finishes itself."""

    def __init__(self, hub: Hub, publisher: Publisher, home: str, key: Callable[[], str]) -> None:
        """`home` names this process in the log, `key` makes hidden keys. `tell_user` is the server's to set."""
        self.user = ""
        self.home = home
        self.by_name: dict[Name, Growing] = {}
        self.ended: dict[Name, Ended] = {}  # the last ones, oldest first
        self._hub = hub
        self._publisher = publisher
        self._key = key
        self.tell_user: Callable[[str, Stop], None] = _tell_nobody  # to all sessions of a user
        self._open: dict[str, int] = {}  # how many of each user grow
        self._checkpoint_due = asyncio.Event()
        self._looked = 0.0

    # What their authors do

    def check_open(self, name: Name) -> None:
        """Raise `too_large` if another message of the user's would be one too many."""
        if name not in self.by_name and self._open.get(name[1], 0) >= OPEN_MESSAGES:
            raise ChatError(
                ErrorCode.TOO_LARGE, f"{OPEN_MESSAGES} messages of yours may grow at once: finish one first"
            )

    def find(self, room: str, seq: int) -> Growing | None:
        """The message, if it grows here."""
        growing = self._hub.growing.get(room)
        message = growing.messages.get(seq) if growing is not None else None
        return message if message is not None and not message.over else None

    def begun(self, entry: Begin, outcome: Appended, writer: object) -> Growing | None:
        """The log has answered: the message grows here, written by `writer`; None if it does not."""
        claim = outcome.claim
        if claim is None or claim.held or not claim.gen:
            return None
        name = entry.room, entry.user, entry.key
        message = self.by_name.get(name)
        if message is None:
            message = Growing(entry.room, outcome.seq, entry.user, entry.name, entry.key, claim.gen, claim.text)
            self.by_name[name] = message
            self._open[entry.user] = self._open.get(entry.user, 0) + 1
            growing = self._hub.grow(entry.room)
            growing.messages[outcome.seq] = message
            if claim.text:
                growing.want()
        elif message.gen != claim.gen or message.length < claim.length:
            message.begin(claim.gen, claim.text)
            self._hub.grow(entry.room).want()
        else:
            message.kept = claim.length  # another process may have kept more meanwhile
        message.writer = writer
        if message.end_reason == "interrupted":
            message.ends_at = None
        message.linked = True  # the claim has said so
        message.kept_at = monotonic()
        return message

    def add(self, message: Growing, text: str) -> None:
        """Some more of its text has come."""
        if message.length == message.kept:
            message.kept_at = monotonic()
        first = not message.length
        message.add(text)
        if message.length - message.kept >= KEEP_CHARS:
            self._checkpoint_due.set()
        self._hub.grow(message.room).want(first=first)

    def end(self, message: Growing, length: int) -> None:
        """Its `finished`, with so many code points, is on its way: the last of them are told with it."""
        message.ending = True
        message.cut(length)

    def answered(self, message: Growing, outcome: Appended | ChatError, reason: Reason) -> None:
        """The log has answered its `finished`."""
        if isinstance(outcome, Appended):
            self._drop(message, reason)
        elif isinstance(outcome, Conflict):  # another process has it, or has ended it
            self._drop(message, outcome.reason)
        else:
            message.ending = False

    def let_go(self, message: Growing, writer: object) -> None:
        """The connection of `writer` has ended: somebody has LEASE_SECONDS to come back."""
        if message.writer is writer:
            message.writer = None
            if message.ends_at is None:
                message.ends_at = monotonic() + LEASE_SECONDS
                message.end_reason = "interrupted"
            self._checkpoint_due.set()

    def _drop(self, message: Growing, reason: Reason | None) -> None:
        name = message.room, message.user, message.id
        if self.by_name.get(name) is not message:
            return
        del self.by_name[name]
        left = self._open[message.user] - 1
        if left:
            self._open[message.user] = left
        else:
            del self._open[message.user]
        message.writer = None
        message.over = True
        if message.done is not None and not message.done.done():
            message.done.set_result(None)
        if reason is not None:
            self.ended[name] = Ended(message.gen, message.length, reason)
            if len(self.ended) > ENDED:
                del self.ended[next(iter(self.ended))]
        growing = self._hub.growing.get(message.room)
        # Where the room is open the flush of the `finished` lets go of it: its last chunk goes before.
        if growing is not None and (reason is None or not growing.is_open):
            growing.remove(message.seq)

    # Stopping

    async def stop(self, room: str, seq: int | None, user: str, *, moderator: bool) -> None:
        """End what `user` may stop in the room, or one message; returns when that is committed.

        ChatError: there is none (`not_found`), or it is not theirs (`forbidden`).
        """
        log = self._hub.log
        found = [one for one in await log.open(room) if seq in (None, one.seq)]
        theirs = [one for one in found if moderator or user in (one.user, one.asker)]
        if not theirs:
            if found and seq is not None:
                raise ChatError(
                    ErrorCode.FORBIDDEN, f"message {seq} of room {room} is neither yours nor an answer to you"
                )
            if seq is not None and await self._has_ended(room, seq):
                return
            what = "no message that you may stop" if seq is None else f"no message {seq} that"
            raise ChatError(ErrorCode.NOT_FOUND, f"{what} grows in room {room}")
        seqs = {one.seq for one in theirs}
        await log.stop(room, seqs, user)
        for one in theirs:
            self._stop(room, one.seq, user)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._wait_for_ends(room, seqs)
        except TimeoutError:
            raise ChatError(ErrorCode.UNAVAILABLE, "it was told to stop, and has not ended yet", 1.0) from None

    async def _has_ended(self, room: str, seq: int) -> bool:
        events = await self._hub.log.read(room, seq - 1, max_events=1, max_bytes=1)
        return bool(events) and "streaming" in events[0].data

    def _stop(self, room: str, seq: int, by: str) -> None:
        """Whoever writes it is told, and has STOP_SECONDS; nothing if it is not here, or was stopped before."""
        message = self.find(room, seq)
        if message is None or message.end_reason == "stopped":
            return
        message.end_reason = "stopped"
        message.ends_at = monotonic() + (STOP_SECONDS if message.writer is not None else 0)
        told = Stop(room=room, seq=seq, by=by)
        self.tell_user(message.user, told)

    async def _wait_for_ends(self, room: str, seqs: set[int]) -> None:
        for seq in seqs:
            message = self.find(room, seq)
            if message is not None and (message.room, message.user, message.id) in self.by_name:
                if message.done is None:
                    message.done = self._hub.shared.loop.create_future()
                await asyncio.shield(message.done)
        while seqs & {one.seq for one in await self._hub.log.open(room)}:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(LOOK_SECONDS)

    def delete(self, entry: Entry, sender: Sender) -> None:
        """Stop the message that `entry` deletes, then submit it; `sender` is answered in the end, whatever comes."""
        self._hub.tasks.spawn(self._delete(entry, sender))

    async def _delete(self, entry: Entry, sender: Sender) -> None:
        try:
            await self.stop(entry.room, entry.target, entry.user, moderator=False)
        except ChatError as error:
            sender.published(entry, ChatError(ErrorCode.UNAVAILABLE, error.message, 1.0))
        except (LogUnavailable, TimeoutError):
            sender.published(entry, ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: try again", 1.0))
        else:
            self._publisher.submit(sender, entry)
            return
        sender.flush_replies()

    # Reading

    async def fetch(self, room: str, seq: int, offset: int, id: str | None) -> Stream:
        """The message's text from `offset` on, as the answer to the command `id`; ChatError (not_found)."""
        message = self.find(room, seq)
        if message is not None:
            return snapshot(message, offset, id)
        log = self._hub.log
        (open_one,) = [one for one in await log.open(room) if one.seq == seq][:1] or (None,)
        if open_one is not None:
            text, gen = open_one.text, open_one.gen
        else:
            found, _ = await log.history(room, before=seq + 1, limit=1, max_bytes=1)
            if not found or found[0]["seq"] != seq or "text" not in found[0]:
                raise ChatError(ErrorCode.NOT_FOUND, f"seq {seq} of room {room} is no message, or it was deleted")
            text = found[0]["text"]
            ended = self.ended.get((room, found[0]["user"], found[0].get("id", "")))
            gen = 1 if ended is None else ended.gen
        offset = min(offset, len(text))
        return Stream(id=id, room=room, seq=seq, gen=gen, offset=offset, text=text[offset:], done=open_one is None)

    # What goes on by itself

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._checkpoint_due.wait()
            self._checkpoint_due.clear()
            try:
                await self._turn()
            except LogUnavailable as error:
                logger.debug("growing messages not kept reason=%s", error)  # the server's watch has told already
                await asyncio.sleep(TICK_SECONDS)
            except Exception:
                logger.exception("growing messages not kept")
                await asyncio.sleep(TICK_SECONDS)

    async def _turn(self) -> None:
        now = monotonic()
        for message in list(self.by_name.values()):
            if message.ends_at is not None and now >= message.ends_at and not message.ending:
                self._finish(message)
        await self.checkpoint(now)
        if self.by_name:
            await self._look_at_held()
        if now - self._looked >= LAPSED_SECONDS:
            self._looked = now
            for one in await self._hub.log.lapsed():
                self._finish_left(one)

    async def checkpoint(self, now: float | None = None, only: Collection[Growing] | None = None) -> None:
        """Keep what is due by `now`, or all there is; of all messages, or of some."""
        parts: list[Checkpoint] = []
        messages: list[Growing] = []
        for message in self.by_name.values() if only is None else only:
            linked = message.writer is not None
            new = message.length - message.kept
            age = now - message.kept_at if now is not None else 0.0
            if (
                now is None
                or new >= KEEP_CHARS
                or (new and age >= KEEP_SECONDS)
                or linked != message.linked
                or (linked and age >= RENEW_SECONDS)
            ):
                text = message.text()[message.kept :] if new else ""
                parts.append(Checkpoint(message.room, message.seq, message.gen, message.kept, text, linked=linked))
                messages.append(message)
        if not parts:
            return
        kept = await self._hub.log.checkpoint(self.home, parts)
        for message, part, ok in zip(messages, parts, kept, strict=True):
            if not ok:
                if not message.ending and message.gen == part.gen:
                    self._drop(message, None)  # it has moved
            elif message.gen == part.gen:
                message.kept = min(part.start + len(part.text), message.length)
                message.linked = part.linked
                message.kept_at = monotonic()

    async def leave(self) -> None:
        """Keep all there is and let go of it: this process ends, and the authors go on elsewhere."""
        await self.checkpoint()
        for message in list(self.by_name.values()):
            self._drop(message, None)

    async def _look_at_held(self) -> None:
        """What was stopped, or taken over, by another process."""
        before = list(self.by_name.values())
        held = {(one.room, one.seq): one for one in await self._hub.log.held(self.home)}
        for message in before:
            one = held.get((message.room, message.seq))
            if one is None or one.gen != message.gen:
                if not message.ending and self.by_name.get((message.room, message.user, message.id)) is message:
                    self._drop(message, None)
            elif one.stopped is not None:
                self._stop(one.room, one.seq, one.stopped)

    def _finish(self, message: Growing) -> None:
        self.end(message, message.length)
        entry = Finish(
            message.room,
            message.user,
            message.name,
            key=self._key(),
            target=message.seq,
            text=message.text(),
            reason=message.end_reason,
            gen=message.gen,
            home=self.home,
        )
        self._publisher.submit(self, entry)

    def _finish_left(self, one: Open) -> None:
        """Finish what another process left behind, or this one before it came to be."""
        if one.home == self.home and self.find(one.room, one.seq) is not None:
            return
        entry = Finish(
            one.room,
            one.user,
            one.name,
            key=self._key(),
            target=one.seq,
            text=one.text,
            reason="interrupted" if one.stopped is None else "stopped",
            gen=one.gen,
            home=one.home,
            lapsed=True,
        )
        self._publisher.submit(self, entry)

    # Sender

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        """As `Sender.published` says."""
        assert isinstance(entry, Finish)
        message = self.find(entry.room, entry.target or 0)
        if message is not None and entry.home == self.home and not entry.lapsed:
            self.answered(message, outcome, entry.reason)

    def flush_replies(self) -> None: ...

    def resume(self) -> None: ...

    def fail(self) -> None: ...


def _tell_nobody(user: str, told: Stop) -> None:
    """There is no server."""
