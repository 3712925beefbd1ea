"""Messages that grow in other processes, as copies in the rooms that are open here.

The news bring what is new. What is missing (some news were lost, or the room was opened later) is asked for once for
this process: of the process that has the message, and if that does not answer in time, of the log's checkpoints. The
log is looked at in any case, now and then: it tells of what no news came, and without a broker of everything, later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import monotonic

from tornado_chat.errors import LogUnavailable
from tornado_chat.live.growing import STREAM_CHARS, Growing, Pace, RoomGrowing
from tornado_chat.live.room import Room
from tornado_chat.live.shared import Shared
from tornado_chat.log.growing import GROWING, Grown
from tornado_chat.wire.events import Data
from tornado_chat.wire.replies import Chunk

logger = logging.getLogger(__name__)

LOOK_SECONDS, OFTEN_SECONDS = 2.0, 1.0
"""How often the log is asked what grows elsewhere; while no broker tells that, often."""

ANSWER_SECONDS = 1.0
"""How long the process that has a message may take to tell what is missing here; then the log is asked."""

PAUSE_SECONDS = 0.25
"""Between two looks at the log for one room."""

AGAIN_SECONDS = 0.01
"""How often it is asked whether another look has ended."""

COPIED_CHARS = 64 * 1024 * 1024
"""Code points of all copies; what would be more is told with the end of its message."""

MISSED = 3
"""A copy that so many looks at the log did not find is none any more, whatever its room was told."""


def _look_at_nothing(rows: Sequence[Grown]) -> None:
    """There is nobody who writes here."""


class GrowingElsewhere:
    """Made by the hub; `run` is its task."""

    def __init__(
        self, shared: Shared, rooms: Mapping[str, Room], growing: dict[str, RoomGrowing], pace: Pace, home: str
    ) -> None:
        """`rooms` are open here, `growing` is what grows, here too, by room; `home` names this process in the log."""
        self.chars = 0  # of all copies
        self.on_rows: Callable[[Sequence[Grown]], None] = _look_at_nothing  # what a look found of other processes
        self._shared = shared
        self._rooms = rooms
        self._growing = growing
        self._pace = pace
        self._home = home
        self._looking: dict[str, bool] = {}  # rooms for which the log is looked at; whether once more

    # Rooms

    def grow(self, name: str) -> RoomGrowing:
        """What grows in the room."""
        growing = self._growing.get(name)
        if growing is None:
            broker = self._shared.broker
            publish = partial(broker.publish_appended, name, self._home) if broker.carries else None
            growing = RoomGrowing(self._shared.loop, self._pace, name, self._ungrow, self._copy_gone, publish)
            self._growing[name] = growing
            room = self._rooms.get(name)
            if room is not None:
                self.open(room)
        return growing

    def open(self, room: Room) -> None:
        """The room is open here now; if something grows there, its flushes tell that."""
        growing = self._growing.get(room.name)
        if growing is not None:
            room.growing = growing
            growing.open(room.flush_soon, room.size)

    def _ungrow(self, name: str) -> None:
        del self._growing[name]
        room = self._rooms.get(name)
        if room is not None:
            room.growing = None

    # Copies

    def find(self, room: str, seq: int) -> Growing | None:
        """The message as it is known here, be it a copy."""
        growing = self._growing.get(room)
        message = growing.messages.get(seq) if growing is not None else None
        if growing is None or message is None or message.over or message.deaf:
            return None
        if not growing.is_open:
            message.tell()  # there is nobody to be told
        return message

    def begin(self, room: Room, data: Data) -> None:
        """The event `data`, which was not delivered yet, begins a message elsewhere."""
        self._copy(self.grow(room.name), data["seq"], 1, "")

    def adopt(self, message: Growing) -> None:
        """The copy is the message itself from now on."""
        self._count(message, 0)
        message.here, message.deaf = True, False
        message.sent = message.length

    def release(self, message: Growing) -> None:
        """The message is a copy from now on: it has moved."""
        message.here, message.home = False, ""
        message.missed = 0
        self._count(message, message.length)

    def _count(self, message: Growing, chars: int) -> None:
        """The copy has so many code points."""
        self.chars += chars - message.counted
        message.counted = chars

    def _copy(self, growing: RoomGrowing, seq: int, gen: int, home: str) -> Growing:
        message = growing.messages.get(seq)
        if message is None:
            message = growing.messages[seq] = Growing(growing.room, seq, "", "", "", gen, "", here=False)
        if home and not message.here:
            message.home = home
        return message

    def _copy_gone(self, message: Growing) -> None:
        self._count(message, 0)

    def _extend(self, message: Growing, gen: int, start: int, text: str) -> bool:
        """Take what is new; False if something before it is missing."""
        if message.deaf or start + len(text) > STREAM_CHARS:
            return True
        whole = message.extend(gen, start, text)
        self._count(message, message.length)
        if self.chars > COPIED_CHARS:
            self._count(message, 0)
            message.begin(message.gen)
            message.deaf = True
            logger.warning("too much grows elsewhere, its text comes with its end room=%s", message.room)
            return True
        return whole

    # The news

    def on_appended(self, room: Room, worker: str, chunks: Iterable[Chunk]) -> None:
        """As `Receiver.on_appended` says."""
        if room.head < 0:
            return  # it is being opened, and then asks for what it lacks
        growing = self._growing.get(room.name)
        grew = False
        for seq, gen, offset, text in chunks:
            message = growing.messages.get(seq) if growing is not None else None
            if message is None:
                self._look_soon(room.name)
            elif not message.here and gen >= message.gen:
                message.home = worker
                grew = True
                if not self._extend(message, gen, offset, text):
                    self._ask(message)
        if growing is not None and grew:
            growing.want()

    def _ask(self, message: Growing) -> None:
        """Something before what was told is missing."""
        now = monotonic()
        if now >= message.asked_at + ANSWER_SECONDS:
            message.asked_at = now
            self._shared.metrics.holes += 1
            self._want(message)
            self._shared.loop.call_later(ANSWER_SECONDS, self._look_if_missing, message, message.gen, message.known)

    def _want(self, message: Growing) -> None:
        if message.home and self._shared.broker.available:
            self._shared.broker.publish_wanted(message.home, message.room, message.seq, message.gen, message.length)

    def _look_if_missing(self, message: Growing, gen: int, known: int) -> None:
        growing = self._growing.get(message.room)
        is_here = growing is not None and growing.messages.get(message.seq) is message
        if is_here and not message.here and message.gen == gen and message.length < known:
            self._look_soon(message.room)

    # The log

    async def load(self, room: Room) -> None:
        """The room is to be opened, and something grows there: who comes is told what the checkpoints hold."""
        await self._look(room)
        if room.growing is not None:
            for message in room.growing.messages.values():
                message.tell()

    def _look_soon(self, name: str) -> None:
        if name in self._looking:
            self._looking[name] = True
        else:
            self._looking[name] = True
            self._shared.tasks.spawn(self._look_until_seen(name))

    async def _look_until_seen(self, name: str) -> None:
        try:
            while self._looking[name]:
                self._looking[name] = False
                room = self._rooms.get(name)
                if room is not None and room.head >= 0:
                    await self._look(room)
                await asyncio.sleep(PAUSE_SECONDS)
        except LogUnavailable as error:
            logger.debug("growing messages not read room=%s reason=%s", name, error)  # the watch has told already
        finally:
            del self._looking[name]

    async def _look(self, room: Room) -> None:
        """Take what the checkpoints hold of what grows elsewhere in the room, and ask for what is behind that."""
        log = self._shared.log
        # The other look is two calls of the log, each with its time limit.
        while (growing := self.grow(room.name)).ended is not None:  # noqa: ASYNC110 - seldom: the room was closed and opened
            await asyncio.sleep(AGAIN_SECONDS)
        growing.ended = set()
        try:
            rows = [one for one in await log.growing(room.name) if one.home != self._home]
            starts = [self._lacking(growing, one) for one in rows]
            texts = await log.parts(
                [(one.room, one.seq, one.gen, start) for one, start in zip(rows, starts, strict=True)]
            )
            if not room.closed:
                for one, start, text in zip(rows, starts, texts, strict=True):
                    if one.seq not in growing.ended:
                        self._take(growing, one, start, text)
                growing.want()
        finally:
            growing.ended = None
            if self._growing.get(room.name) is growing:
                growing.release()

    def _lacking(self, growing: RoomGrowing, one: Grown) -> int:
        message = growing.messages.get(one.seq)
        return message.length if message is not None and message.gen == one.gen else 0

    def _take(self, growing: RoomGrowing, one: Grown, start: int, text: str) -> None:
        message = self._copy(growing, one.seq, one.gen, one.home)
        if not message.here:
            self._extend(message, one.gen, start, text)
            self._want(message)

    async def run(self) -> None:
        """Look at the log now and then."""
        broker = self._shared.broker
        while True:
            await asyncio.sleep(LOOK_SECONDS if broker.available else OFTEN_SECONDS)
            if broker.available and not broker.carries:
                continue  # this process is alone
            try:
                self._compare(await self._shared.log.growing())
            except LogUnavailable as error:
                logger.debug("growing messages not read reason=%s", error)  # the server's watch has told already
            except Exception:
                logger.exception("growing messages not read")

    def _compare(self, rows: Sequence[Grown]) -> None:
        """Look at the rooms here of which the log has more than is known here, and forget what does not grow."""
        others = [one for one in rows if one.home != self._home]
        self.on_rows(others)
        found = {(one.room, one.seq) for one in rows}
        for one in others:
            room = self._rooms.get(one.room)
            if room is None or room.head < 0:
                continue
            message = room.growing.messages.get(one.seq) if room.growing is not None else None
            if message is None or message.gen < one.gen:
                self._look_soon(one.room)
            elif not message.here:
                message.home = one.home
                if message.gen == one.gen and message.length < one.length and not message.deaf:
                    self._look_soon(one.room)
        if len(rows) == GROWING:
            return  # there may be more
        for growing in list(self._growing.values()):
            for message in [message for message in growing.messages.values() if not message.here]:
                message.missed = 0 if (message.room, message.seq) in found else message.missed + 1
                if message.missed >= MISSED:
                    growing.remove(message.seq)
