"""Feeding the members of a room that are behind: recovery, scroll-back streaming and slow consumers.

A member is fed from its cursor, out of the room's ring or else from the log a page at a time, and only as fast as its
socket takes the bytes. It becomes live when its cursor is the room's `flushed`. Members at the same cursor share one
query; those of one encoding share the bytes, too.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from tornado_chat.errors import CloseCode, LogUnavailable, retry_reason
from tornado_chat.live.member import CATCHING, Member, Page
from tornado_chat.live.ring import Chunk, erase_if
from tornado_chat.wire.events import Event

if TYPE_CHECKING:
    from tornado_chat.live.room import Room

logger = logging.getLogger(__name__)

CHUNK_EVENTS = 256
"""At most this many events are written to one member in a loop turn; `Shared.batch_bytes` bounds their bytes."""

PAGE_EVENTS, PAGE_BYTES = 512, 128 * 1024
"""One query of the log."""

RETRY_SECONDS = 1.0
"""How long a member waits after the log did not answer."""


class CatchingUp:
    """The members of one room that are behind; it exists while there are any."""

    __slots__ = ("erased", "members", "pages", "readers", "room")

    def __init__(self, room: Room) -> None:
        self.room = room
        self.members: set[Member] = set()
        self.readers: dict[int, set[Member]] = {}  # who waits for the page after this seq
        self.pages: set[Page] = set()  # those that members hold
        self.erased: set[int] = set()  # targets that were erased while pages were on their way

    def feed(self, member: Member) -> None:
        """Write the next chunk to `member`, or ask the log for it, or let it go live."""
        room, line = self.room, member.line
        full = line.outbox_bytes > room.shared.high_water_mark // 2
        if member.cursor == room.flushed and not (full and room.growing):
            room.go_live(member)
            return
        if full:
            member.drop_page()  # the line may stand still for long: the page is read again when it goes on
            line.want_drained()
            return
        made = room.ring.chunk(member.encoding, member.cursor) or self._make_chunk(member)
        if made is None:
            member.drop_page()  # who waits for a page holds none: there are few permits
            self._ask(member)
            return
        data, member.cursor, count = made
        room.shared.metrics.deliveries += count
        room.shared.metrics.writes += 1
        room.shared.metrics.bytes_out += len(data)
        if member.cursor == room.flushed:
            line.cork()
            try:
                line.write(data)
                room.go_live(member)
            finally:
                line.uncork()
            return
        line.write(data)
        if member.page is not None and not member.page.after(member.cursor, member.cursor + 1):
            member.drop_page()
        room.feed_soon(member)

    def _make_chunk(self, member: Member) -> Chunk | None:
        """The chunk after the member's cursor; None if only the log has it."""
        room, cursor, encoding = self.room, member.cursor, member.encoding
        last = min(room.flushed, cursor + CHUNK_EVENTS)
        events = room.ring.after(cursor, last)
        if events is None:
            events = member.page.after(cursor, last) if member.page is not None else []
            if not events:
                return None
        frames: list[bytes] = []
        size = 0
        for event in events:
            frame = event.frames.get(encoding)
            if frame is None:
                room.ring.encode(event, (encoding,))
                frame = event.frames[encoding]
            size += max(len(frame), len(event.data.get("text", "")))  # deflating a long text takes its time
            if size > room.shared.batch_bytes and frames:
                break
            frames.append(frame)
        made = b"".join(frames), cursor + len(frames), len(frames)
        room.ring.keep_chunk(encoding, cursor, made)
        return made

    def _ask(self, member: Member) -> None:
        readers = self.readers.get(member.cursor)
        if readers is None:
            self.readers[member.cursor] = {member}
            self.room.shared.tasks.spawn(self._read(member.cursor))
        else:
            readers.add(member)

    async def _read(self, after: int) -> None:
        """Fetch the page after `after`, up to where the ring begins, for all who wait for it."""
        room, permits = self.room, self.room.shared.page_reads
        await permits.acquire()
        page = Page(permits, self.pages)
        try:
            if any(member.state == CATCHING for member in self.readers[after]):
                page.events = await self._fetch(after)
        finally:
            waiting = self.readers.pop(after)
            if room.catching is self:  # else this one is over, and later erasures are not in `erased`
                self._hand_out(page, waiting)
            if not page.holders:
                permits.release()

    async def _fetch(self, after: int) -> list[Event]:
        """The page after `after`; empty, after a pause, if the log did not give it."""
        room = self.room
        before = room.ring.first if len(room.ring) else None
        if before is not None and before <= after + 1:
            return []  # another page was put into the ring meanwhile
        try:
            page = await room.shared.log.read(
                room.name, after, before=before, max_events=PAGE_EVENTS, max_bytes=PAGE_BYTES
            )
            if page and page[0].seq == after + 1:
                return page
            if page:
                self._turn_away(after)
                return []
            logger.error("log lost events room=%s after=%d before=%s", room.name, after, before)
        except LogUnavailable as error:
            room.shared.page_warning.warning(
                "page not read, trying again soon room=%s after=%d reason=%s", room.name, after, error
            )
        except Exception:
            logger.exception("page not read, trying again soon room=%s after=%d", room.name, after)
        await asyncio.sleep(RETRY_SECONDS)
        return []

    def _turn_away(self, after: int) -> None:
        """The log of one's own has no events behind `after` any more: whoever comes back gets its state."""
        for member in self.readers[after]:
            member.line.close(CloseCode.SERVICE_RESTART, retry_reason(0))

    def _hand_out(self, page: Page, waiting: set[Member]) -> None:
        room = self.room
        events = page.events = [event for event in page.events if event.seq <= room.head]
        for target in self.erased:
            for event in events:
                erase_if(event, target)
        if not self.readers:
            self.erased.clear()
        if events and events[-1].seq + 1 == (room.ring.first if len(room.ring) else room.head + 1):
            room.ring.prepend(events)
        for member in waiting:
            if member.state == CATCHING:
                if events:
                    member.take_page(page)
                room.feed_soon(member)

    def erase(self, target: int) -> None:
        """A `deleted` was delivered: its texts leave the pages that are held or on their way."""
        if self.readers:
            self.erased.add(target)
        for page in self.pages:
            for event in page.events:
                erase_if(event, target)
