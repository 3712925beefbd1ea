"""Pages of the log: each is read once for all who ask for it at the same time, and fills a ring where it fits."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import NamedTuple, Protocol

from tornado_chat.errors import LogUnavailable
from tornado_chat.live.hub import Hub
from tornado_chat.live.ring import erase_if
from tornado_chat.live.room import Room
from tornado_chat.wire.events import Event

logger = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024
"""Of one page, and of one answer to a poll; the last event may go beyond."""


class Page(NamedTuple):
    """Events from the log, and how many erasures the room had had when they were read."""

    events: list[Event]
    erasures: int


class PageReader(Protocol):
    """Who waits for a page (Poll)."""

    over: bool
    """It waits no more."""

    def take(self, name: str, page: Page | Exception) -> None: ...


class Pages:
    """Those that are being read in one process."""

    __slots__ = ("_hub", "_reading")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # Who waits for a page: room, the seq before it, how many events, and whether all of them come from the log.
        self._reading: dict[tuple[str, int, int, bool], list[PageReader]] = {}

    def read(
        self, reader: PageReader, name: str, room: Room | None, after: int, most_events: int, *, all_of_it: bool
    ) -> None:
        """Give `reader` the page after `after`, in a loop turn to come; who asks the same gets the same.

        It ends where the room's ring begins, unless `all_of_it` is to come from the log.
        """
        key = name, after, most_events, all_of_it
        readers = self._reading.get(key)
        if readers is None:
            self._reading[key] = [reader]
            self._hub.tasks.spawn(self._read(key, room))
        else:
            readers.append(reader)

    async def _read(self, key: tuple[str, int, int, bool], room: Room | None) -> None:
        name, after, limit, all_of_it = key
        shared = self._hub.shared
        outcome: Page | Exception = LogUnavailable("nobody waits for it any more")
        async with shared.page_reads:
            try:
                if any(not reader.over for reader in self._reading[key]):
                    outcome = await self._fetch(name, room, after, limit, all_of_it=all_of_it)
            except Exception as error:
                outcome = error
            takes = [partial(reader.take, name, outcome) for reader in self._reading.pop(key)]
            taken: asyncio.Future[None] = shared.loop.create_future()
            # A queue of its own: while the page waits for its turn it keeps the permit, which others want.
            shared.turns.polls.add("page of " + name, *takes, partial(_settle, taken))
            await taken

    async def _fetch(self, name: str, room: Room | None, after: int, limit: int, *, all_of_it: bool) -> Page:
        """The page after `after`; empty if the room's ring has it now."""
        log = self._hub.log
        if room is None:
            events = await log.read(name, after, max_events=limit, max_bytes=MOST_BYTES)
            return Page(_some(name, after, events), 0)
        ring, watch = room.ring, room.watched()
        before = ring.first if len(ring) and not all_of_it else None
        if before is not None and before <= after + 1:
            return Page([], watch.erasures)
        watch.reads += 1
        try:
            events = await log.read(name, after, before=before, max_events=limit, max_bytes=MOST_BYTES)
            for target in watch.erased:
                for event in events:
                    erase_if(event, target)
        finally:
            watch.reads -= 1
            if not watch.reads:
                watch.erased.clear()
        delivered = [event for event in _some(name, after, events) if event.seq <= room.head]
        following = ring.first if len(ring) else room.head + 1
        if delivered and delivered[-1].seq + 1 == following and not room.closed:
            ring.prepend(delivered)
        return Page(events, watch.erasures)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _some(name: str, after: int, events: list[Event]) -> list[Event]:
    """`events`, of which the log must have some."""
    if not events:
        logger.error("log lost events room=%s after=%d", name, after)
        raise LogUnavailable("it has no such events")
    if events[0].seq != after + 1:  # those of a log of one's own have gone meanwhile
        raise LogUnavailable("it has no such events any more: ask again")
    return events
