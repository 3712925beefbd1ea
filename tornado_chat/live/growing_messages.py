"""The messages that grow in this process: who writes each, what the log has of it, and how it ends, whoever dies.

An author that is away for LEASE_SECONDS is given up, and so is one that was asked to stop for STOP_SECONDS; what other
processes left behind is finished from its checkpoints. A clock that ticks does all of it: nothing has a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from time import monotonic
from typing import NamedTuple

from tornado_chat.errors import ChatError, Conflict, ErrorCode, LogUnavailable, Reason
from tornado_chat.live.growing import STREAM_CHARS, Growing, Hearer, snapshot
from tornado_chat.live.hub import Hub
from tornado_chat.live.publisher import Publisher
from tornado_chat.log import Appended, Entry, own
from tornado_chat.log.growing import (
    HAND_OVER_SECONDS,
    LEASE_SECONDS,
    RENEW_SECONDS,
    STOP_SECONDS,
    Begin,
    Checkpoint,
    Finish,
    Grown,
    Open,
)
from tornado_chat.wire.replies import Orphaned, Stop, Stream

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.4
"""How often the log is asked what was stopped elsewhere, and looked at what has waited long enough."""

KEEP_SECONDS, KEEP_CHARS = 2.0, 4096
"""A checkpoint is due so long after the first text that the log has not, or with so much of it."""

LAPSED_SECONDS = 2.0
"""How often the log is asked for what nobody finishes any more. An answer that took longer than half of this is not
heeded: while the log was away leases ran out, and who has the messages is to renew them first."""

ORPHAN_SECONDS = 5.0
"""How long the authors at a process that has ended may take to come back before others are told that they are gone:
it was the process that died, or that had to stop."""

STOPS = 10_000
"""Messages of which is remembered that their authors' users were told to stop."""

OPEN_MESSAGES = 128
"""Messages of one user that may grow here at once."""

ROOM_MESSAGES = 1000
"""Messages that may grow in one room as far as this process knows: who joins is told each of them."""

GROWN_CHARS = 64 * 1024 * 1024
"""With so many characters in all messages that grow here no other begins."""

ENDING_CHARS, END_CHARS = 4 * STREAM_CHARS, 4096
"""Code points of what the server finishes itself that are on their way through the log, each end counting as some
more: others write to it, too."""

ENDED = 10_000
"""Messages that ended here and are remembered, for what their authors say too late."""

HANDED_SECONDS, HANDED_TICK = 1.0, 0.05
"""How long a `begin` that takes a message from another process waits for what that hands over, and how often the log is
asked for it. Unless it has died, that process looks each TICK_SECONDS."""

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
        self._open: dict[str, int] = {}  # how many of each user grow, and how many `begin` are on their way
        self._begins: dict[str, int] = {}  # how many `begin` of each room are on their way
        self._handing: list[tuple[Growing, float, Callable[[], None]]] = []  # until when each waits, and for what
        self._stops: dict[tuple[str, int], None] = {}  # rooms and seqs of those told of, oldest first
        self._orphans: set[tuple[str, int]] = set()  # of other processes, as the log was last seen
        self._ending: dict[Finish, Growing | None] = {}  # what is being finished here; None: it grew elsewhere
        self._chars = 0  # about, of all that grow here
        self._ending_chars = 0  # of those, as ENDING_CHARS counts them
        self._checkpoint_due = asyncio.Event()
        self._looked = 0.0
        hub.writers = self
        hub.elsewhere.on_rows, hub.elsewhere.on_moved = self._on_rows, self.on_moved

    # What their authors do

    def reserve(self, name: Name) -> None:
        """A `begin` is on its way: `unreserve` follows. ChatError: it would be one too many."""
        room, user, _ = name
        if name not in self.by_name:
            if self._open.get(user, 0) >= OPEN_MESSAGES:
                raise ChatError(
                    ErrorCode.TOO_LARGE, f"{OPEN_MESSAGES} messages of yours may grow at once: finish one first"
                )
            growing = self._hub.growing.get(room)
            if (len(growing.messages) if growing is not None else 0) + self._begins.get(room, 0) >= ROOM_MESSAGES:
                raise ChatError(
                    ErrorCode.TOO_LARGE, f"{ROOM_MESSAGES} messages grow in {room} already: wait until one has ended"
                )
            if self._chars >= GROWN_CHARS:
                raise ChatError(ErrorCode.OVERLOADED, "too much grows in this process: try again", retry_after=5.0)
        _count(self._open, user, 1)
        _count(self._begins, room, 1)

    def unreserve(self, room: str, user: str) -> None:
        """The `begin` is answered."""
        _count(self._open, user, -1)
        _count(self._begins, room, -1)

    def find(self, room: str, seq: int) -> Growing | None:
        """The message, if it grows here."""
        growing = self._hub.growing.get(room)
        message = growing.messages.get(seq) if growing is not None else None
        return message if message is not None and message.here and not message.over else None

    def begun(self, entry: Begin, outcome: Appended, writer: Hearer | None) -> Growing | None:
        """The log has answered: the message grows here, written by `writer`; None if it does not."""
        claim = outcome.claim
        if claim is None or claim.held:
            return None
        name = entry.room, entry.user, entry.key
        if not claim.gen:
            assert claim.reason is not None
            if name not in self.ended:
                self._remember_end(name, Ended(1, claim.length, claim.reason))
            return None
        message = self.by_name.get(name) or self._take_up(name, entry, outcome.seq, claim.gen)
        if message.gen < claim.gen:
            message.begin(claim.gen, claim.text)
        else:
            message.extend(claim.gen, 0, claim.text)  # perhaps there is more here: it was told, and not kept
        message.kept = claim.length
        message.gap = False  # who begins is told the length
        if claim.before:
            if claim.gen == 1 or not entry.take_over:
                message.handed_by = monotonic() + HAND_OVER_SECONDS
            self._hub.broker.publish_moved(claim.before)
        if message.told < message.length:
            self._hub.grow(entry.room).want()
        self.come_back(message, writer)
        message.linked = True  # the claim has said so
        message.kept_at = monotonic()
        return message

    def when_handed(self, message: Growing, then: Callable[[], None]) -> None:
        """Call `then` when the process that had the message has handed it over, or has not in HANDED_SECONDS."""
        self._handing.append((message, monotonic() + HANDED_SECONDS, then))
        self._checkpoint_due.set()

    def _tell_handed(self) -> None:
        waiting, self._handing = self._handing, []
        for message, until, then in waiting:
            if monotonic() < min(until, message.handed_by) and message.here and not message.over:
                self._handing.append((message, until, then))
                continue
            try:
                then()
            except Exception:
                logger.exception("begin not answered room=%s", message.room)

    def _take_up(self, name: Name, entry: Begin, seq: int, gen: int) -> Growing:
        """The message is here from now on; what a copy of it holds is its text."""
        growing = self._hub.grow(entry.room)
        message = growing.messages.get(seq)
        if message is not None and not message.over:
            self._hub.elsewhere.adopt(message)
            message.user, message.name, message.id = entry.user, entry.name, entry.key
        else:
            message = growing.messages[seq] = Growing(entry.room, seq, entry.user, entry.name, entry.key, gen, "")
        self.by_name[name] = message
        _count(self._open, entry.user, 1)
        return message

    def add(self, message: Growing, text: str) -> None:
        """Some more of its text has come."""
        if message.length == message.kept:
            message.kept_at = monotonic()
        first = not message.length
        message.add(text)
        self._chars += len(text)
        if message.length - message.kept >= KEEP_CHARS:
            self._checkpoint_due.set()
        self._hub.grow(message.room).want(first=first)

    def end(self, message: Growing, length: int) -> None:
        """Its `finished`, with so many code points, is on its way: the last of them are told with it here."""
        message.ending = True
        message.cut(length)
        growing = self._hub.grow(message.room)
        if growing.has_others:
            growing.want_now()

    def answered(self, message: Growing, outcome: Appended | ChatError, reason: Reason) -> None:
        """The log has answered its `finished`."""
        if isinstance(outcome, Appended):
            message.kept = message.length
            self._drop(message, reason)
        elif isinstance(outcome, Conflict) and outcome.reason is not None:  # another process has ended it
            self._drop(message, outcome.reason)
        elif isinstance(outcome, Conflict):  # another process has it
            self._hub.tasks.spawn(self._hand_over_late(self._let_go_of([message])))
        else:
            message.ending = False

    def come_back(self, message: Growing, writer: Hearer | None) -> None:
        """`writer` is who writes it now."""
        message.writer = writer
        if message.end_reason == "interrupted":
            message.ends_at = None

    def let_go(self, message: Growing, writer: Hearer | None, patience: float = 0.0) -> None:
        """The connection of `writer` has ended: somebody has LEASE_SECONDS to come back.

        For `patience` seconds it counts as connected nevertheless.
        """
        if message.writer is writer:
            message.writer = None
            message.unlinks_at = monotonic() + patience
            if message.ends_at is None:
                message.ends_at = monotonic() + LEASE_SECONDS
                message.end_reason = "interrupted"
            self._checkpoint_due.set()

    def _drop(self, message: Growing, reason: Reason | None) -> None:
        name = message.room, message.user, message.id
        if self.by_name.get(name) is not message:
            return
        del self.by_name[name]
        _count(self._open, message.user, -1)
        message.writer = None
        message.over = True
        if message.done is not None and not message.done.done():
            message.done.set_result(None)
        message.done = None
        if reason is not None:
            self._remember_end(name, Ended(message.gen, message.length, reason))
        growing = self._hub.growing.get(message.room)
        if growing is None or growing.messages.get(message.seq) is not message:
            return  # another process has finished it, and its room was told before this one knew
        # Where the room is open the flush of the `finished` lets go of it: its last chunk goes before.
        if not growing.is_open:
            growing.remove(message.seq)
        elif reason is None:
            message.over = message.ending = False
            self._hub.elsewhere.release(message)  # those who are here go on to hear of it

    def _remember_end(self, name: Name, ended: Ended) -> None:
        self.ended[name] = ended
        if len(self.ended) > ENDED:
            del self.ended[next(iter(self.ended))]

    # Stopping

    def stop(self, room: str, seq: int, by: str) -> None:
        """Whoever writes it is told, and has STOP_SECONDS; nothing if it is not here, or was stopped before."""
        message = self.find(room, seq)
        if message is None or message.end_reason == "stopped":
            return
        message.end_reason = "stopped"
        now = monotonic()
        message.ends_at = now + STOP_SECONDS if message.writer is not None or now < message.unlinks_at else now
        self._checkpoint_due.set()
        told = Stop(room=room, seq=seq, by=by)
        self.tell_stop(message.user, told)
        if message.writer is not None and message.writer.user != message.user:  # it acts for that user
            message.writer.hear(told)

    def tell_stop(self, user: str, told: Stop) -> None:
        """Tell all sessions of the user here, once."""
        name = told.room, told.seq
        if name not in self._stops:
            self._stops[name] = None
            if len(self._stops) > STOPS:
                del self._stops[next(iter(self._stops))]
            self.tell_user(user, told)

    # Reading

    async def fetch(self, room: str, seq: int, offset: int, id: str | None) -> Stream:
        """The message's text from `offset` on, as the answer to the command `id`; ChatError (not_found)."""
        message = self._hub.elsewhere.find(room, seq)
        if message is not None and (message.here or message.length >= message.known):
            return snapshot(message, offset, id)
        log = self._hub.log
        (open_one,) = await log.open(room, seq) or (None,)
        if open_one is not None:
            if message is not None and message.told > len(open_one.text):
                return snapshot(message, offset, id)
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
                async with asyncio.timeout(HANDED_TICK if self._handing else TICK_SECONDS):
                    await self._checkpoint_due.wait()
            self._checkpoint_due.clear()
            try:
                await self._turn()
            except LogUnavailable as error:
                self._looked = monotonic()
                logger.debug("growing messages not kept reason=%s", error)  # the server's watch has told already
                await asyncio.sleep(TICK_SECONDS)
            except Exception:
                logger.exception("growing messages not kept")
                await asyncio.sleep(TICK_SECONDS)
            self._tell_handed()

    async def _turn(self) -> None:
        if self.by_name:
            await self._look_at_held()
        now = monotonic()
        self._chars = sum(message.length for message in self.by_name.values())
        for message in list(self.by_name.values()):
            if self._ending_chars >= ENDING_CHARS:
                break  # the first answer is followed by another turn
            if message.ends_at is not None and now >= max(message.ends_at, message.handed_by) and not message.ending:
                self._finish(message)
        await self.checkpoint(now)
        if now - self._looked >= LAPSED_SECONDS:
            self._looked = asked = monotonic()
            lapsed = await self._hub.log.lapsed()
            if monotonic() - asked < LAPSED_SECONDS / 2:
                for one in lapsed:
                    self._finish_left(one)

    async def checkpoint(self, now: float | None = None, only: Collection[Growing] | None = None) -> None:
        """Keep what is due by `now`, or all there is; of all messages, or of some."""
        parts: list[Checkpoint] = []
        messages: list[Growing] = []
        moment = monotonic()
        for message in self.by_name.values() if only is None else only:
            linked = message.writer is not None or moment < message.unlinks_at
            new = message.length - message.kept
            age = now - message.kept_at if now is not None else 0.0
            if (
                now is None
                or new >= KEEP_CHARS
                or (new and (age >= KEEP_SECONDS or message.ends_at is not None))  # another process may end it
                or linked != message.linked
                or (linked and age >= RENEW_SECONDS)
            ):
                text = message.since(message.kept) if new else ""
                part = Checkpoint(message.room, message.seq, message.gen, message.kept, text, linked=linked)
                part.cut = message.cut_short
                parts.append(part)
                messages.append(message)
        if not parts:
            return
        kept = await self._hub.log.checkpoint(self.home, parts)
        for message, part, ok in zip(messages, parts, kept, strict=True):
            if ok and message.gen == part.gen:
                message.kept = min(part.start + len(part.text), message.length)
                message.kept_at = monotonic()
                if message.linked and not part.linked:
                    self._tell_orphaned(message.room, message.seq, message.user, message.id)
                message.linked = part.linked
        if not all(kept):
            await self._look_at_held()

    def _let_go_of(self, moved: Sequence[Growing]) -> list[Checkpoint]:
        """Other processes have these messages, or have ended them: what was told here, and not kept."""
        parts = [
            Checkpoint(message.room, message.seq, message.gen, message.kept, message.since(message.kept), linked=False)
            for message in moved
        ]
        for message in moved:
            self._drop(message, None)
        return parts

    async def _hand_over(self, parts: Sequence[Checkpoint]) -> None:
        if parts:
            await self._hub.log.hand_over(self.home, parts)

    async def _hand_over_late(self, parts: Sequence[Checkpoint]) -> None:
        try:
            await self._hand_over(parts)
        except LogUnavailable as error:
            logger.debug("growing messages not handed over reason=%s", error)  # the server's watch has told already

    async def leave(self) -> None:
        """Keep all there is and let go of it: this process ends, and the authors go on elsewhere."""
        await self.checkpoint()
        for message in list(self.by_name.values()):
            self._drop(message, None)
        self._tell_handed()  # they go on elsewhere

    async def _look_at_held(self) -> None:
        """What was stopped, taken over, or handed over, by another process."""
        before, asked = list(self.by_name.values()), monotonic()
        held = {(one.room, one.seq): one for one in await self._hub.log.held(self.home)}
        moved: list[Growing] = []
        behind: list[Growing] = []
        for message in before:
            one = held.get((message.room, message.seq))
            is_here = self.by_name.get((message.room, message.user, message.id)) is message and not message.ending
            if one is None or one.gen != message.gen:
                if is_here and message.kept_at <= asked:  # it may have come back since
                    moved.append(message)
                continue
            if one.stopped is not None:
                self.stop(one.room, one.seq, one.stopped)
            if is_here and message.length < one.length and not message.cut_short:
                behind.append(message)
        await self._hand_over(self._let_go_of(moved))
        await self._take_over(behind)
        for message in before:
            one = held.get((message.room, message.seq))
            if one is None or one.former is not None or message.kept_at > asked:
                continue
            if message.length >= one.length or message.cut_short:  # else something came between: the next look takes it
                message.handed_by = 0.0

    async def _take_over(self, behind: Sequence[Growing]) -> None:
        """The log has more of these than is known here: the process that had them before has handed it over.

        What their authors have said here counts, where it is not the same.
        """
        parts = [(message.room, message.seq, message.gen, message.kept) for message in behind]
        for message, part, text in zip(behind, parts, await self._hub.log.parts(parts) if parts else (), strict=True):
            *_, gen, start = part
            if message.ending or message.over or not message.here or (message.gen, message.kept) != (gen, start):
                continue
            if text.startswith(message.since(start)):
                message.extend(gen, start, text)
                self._hub.grow(message.room).want()
            else:
                message.cut_short = True

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
        self._submit(entry, message)

    def _submit(self, entry: Finish, message: Growing | None) -> None:
        self._ending[entry] = message
        self._ending_chars += len(entry.text or "") + END_CHARS
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
        self._submit(entry, None)

    # What other processes tell

    def on_wanted(self, room: str, seq: int, gen: int, offset: int) -> None:
        """As `Receiver.on_wanted` says."""
        message = self.find(room, seq)
        if message is not None:
            message.sent = min(message.sent, offset if gen == message.gen else 0)
            self._hub.grow(room).want()

    def on_moved(self) -> None:
        """As `Receiver.on_moved` says; or another process has told of a message that this one has."""
        self._checkpoint_due.set()

    def on_stop(self, user: str, told: Stop) -> None:
        """As `Receiver.on_stop` says; whether it is true the log tells who has the message."""
        self.tell_stop(user, told)
        if self.find(told.room, told.seq) is not None:
            self._checkpoint_due.set()

    def on_died(self, worker: str) -> None:
        """The process `worker` is known to have ended, and with it the connections of those who wrote there."""
        self._hub.tasks.spawn(self._orphan(worker))

    async def _orphan(self, worker: str) -> None:
        await asyncio.sleep(ORPHAN_SECONDS)
        try:
            for one in await self._hub.log.orphan(worker):
                self._tell_orphaned(one.room, one.seq, one.user, one.id)
        except LogUnavailable as error:
            logger.debug("links not ended reason=%s", error)  # their leases run out

    def _tell_orphaned(self, room: str, seq: int, user: str, id: str) -> None:
        self._hub.signal(own.room_of(user), Orphaned(room=room, seq=seq, id=id))

    def _on_rows(self, rows: Sequence[Grown]) -> None:
        """What grows elsewhere, as the log has it: without a broker nobody else tells of stops and dead links."""
        orphans: set[tuple[str, int]] = set()
        for one in rows:
            if one.stopped is not None:
                self.tell_stop(one.user, Stop(room=one.room, seq=one.seq, by=one.stopped))
            if not one.linked:
                orphans.add((one.room, one.seq))
                if (one.room, one.seq) not in self._orphans and not self._hub.broker.available:
                    told = Orphaned(room=one.room, seq=one.seq, id=one.id)
                    self._hub.on_signal(own.room_of(one.user), told, None)
        self._orphans = orphans

    # Sender

    def published(self, entry: Entry, outcome: Appended | ChatError) -> None:
        """As `Sender.published` says."""
        assert isinstance(entry, Finish)
        if self._ending_chars >= ENDING_CHARS:
            self._checkpoint_due.set()
        self._ending_chars -= len(entry.text or "") + END_CHARS
        message = self._ending.pop(entry)
        if message is not None:
            self.answered(message, outcome, entry.reason)

    def flush_replies(self) -> None: ...

    def resume(self) -> None: ...

    def fail(self) -> None: ...


def _count(counts: dict[str, int], key: str, more: int) -> None:
    """So many more of `key`; those of which there are none are not kept."""
    count = counts.get(key, 0) + more
    if count:
        counts[key] = count
    else:
        del counts[key]


def _tell_nobody(user: str, told: Stop) -> None:
    """There is no server."""
