"""What one endpoint is told, as long as this process delivers to it: each room in its order, several rooms at a time.

Of a room one event at a time is under way, and the next one is sent when that was taken. Where it is refused, the room
waits, ever longer, and the others go on. Where nothing at all is taken the endpoint is *failing*: then one attempt at a
time is made, of the rooms in turn, until one succeeds.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable

from tornado_chat.errors import LogUnavailable
from tornado_chat.log import Log
from tornado_chat.log.webhooks import ACTIVE, GIVEN_UP, Behind, Webhook, Webhooks
from tornado_chat.tasks import Tasks
from tornado_chat.webhooks.posting import Outcome, Poster
from tornado_chat.webhooks.signing import signed
from tornado_chat.webhooks.telling import body_of, id_of, is_told
from tornado_chat.wire.events import Data, Event

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Rooms of which an event is under way."""

ROOMS = 1000
"""Rooms that are behind and known here; the others are found when these have caught up."""

WARM = 1000
"""Rooms that had something to tell lately, and are looked at each time."""

LOOK_SECONDS, LEAST_LOOKED = 0.05, 1000
"""A look at more rooms than this that takes longer is followed by one at half of them."""

PAGE_EVENTS, PAGE_BYTES = 64, 256 << 10
"""Of a room, before it is another one's turn."""

MESSAGE_BYTES = 1 << 20
"""For the one message that a `finished` is about."""

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 300.0
"""Seconds between two attempts for one event, doubled each time; a quarter more or less. The longest that a
`Retry-After` is heeded, too."""

LONGEST_PROBE = 30.0
"""Seconds between two attempts at an endpoint that takes nothing, unless it asks for more."""

LOG_PAUSE = 1.0
"""Seconds until a room is looked at again when the log did not answer."""

GIVE_UP_SECONDS = 86400.0
"""How long one event is tried."""

LEAST_REFUSALS = 10
"""So many has a process heard before it gives something up: while none ran, nothing was tried."""

STOP_SECONDS = 3.0
"""For the attempts under way when the process ends."""


class Endpoint:
    """Made when this process begins to deliver to `webhook`, and ended by `stop`, or when it is `lost`.

    `clock` tells ms since 1970, for how long to be patient. `may_send` says whether an attempt that is begun now ends
    while the endpoint is still ours.
    """

    def __init__(
        self,
        webhook: Webhook,
        store: Webhooks,
        log: Log,
        poster: Poster,
        may_send: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self.webhook = webhook
        self.lost = False  # it is another process's now, or was given up
        self._store = store
        self._log = log
        self._poster = poster
        self._may_send = may_send
        self._clock = clock
        self._tasks = Tasks()
        self._rooms: dict[int, Behind] = {}  # all that are behind, as far as is known
        self._ready: deque[Behind] = deque()  # of these, those whose turn comes
        self._waiting: dict[int, Behind] = {}  # those that were refused
        self._warm: dict[int, None] = {}  # the oldest first
        self._moved: dict[int, Behind] = {}  # those of which the log does not know how far they are
        self._failing, self._error, self._state = webhook.failing, webhook.error, ACTIVE
        self._kept = self._failing, self._error
        self._streak = 0  # attempts since the last success
        self._refusals = 0
        self._probe_at = 0.0
        self._after = 0  # the room's id up to which this round has looked
        self._rounds = 1  # that have to come to their end until nothing can have been missed
        self._limit = LEAST_LOOKED
        self._left_out = False  # this round has found more than there was place for
        self._newest = 0
        self._stopping = False

    # What is to be told

    async def turn(self, *, changed: bool, limit: int) -> None:
        """Keep how far it is, look into so many rooms if the log has `changed`, and begin what can be begun."""
        await self.keep()
        if self.lost:
            return
        if changed:
            self._rounds = 2 if self._after else 1
        if self._rounds:
            await self._look(limit)
        self._begin()

    async def _look(self, limit: int) -> None:
        newest = self._newest or 1 << 62  # in the first round all are looked at in any case
        began = time.monotonic()
        limit = min(limit, self._limit)
        found = await self._store.behind(self.webhook, self._after, limit, newest, self._warm)
        slow = time.monotonic() - began > LOOK_SECONDS
        self._limit = max(LEAST_LOOKED, limit // 2) if slow else 2 * limit
        for room in found.rooms:
            known = self._rooms.get(room.id)
            moved = self._moved.get(room.id)
            if known is not None:
                known.head = room.head
            elif moved is not None and moved.given_up is not None:
                continue  # the log does not know it yet
            elif len(self._rooms) < ROOMS:
                if moved is not None:
                    room.seq = moved.seq
                self._rooms[room.id] = room
                if room.attempts:
                    self._waiting[room.id] = room
                else:
                    self._ready.append(room)
            else:
                self._left_out = True
        self._newest = found.newest if self._newest or found.last is None else 0
        if found.last is None:
            self._after = 0
            self._rounds = max(self._rounds - 1, int(self._left_out))
            self._left_out = False
        else:
            self._after = found.last

    def _begin(self) -> None:
        now = self._clock()
        for room in [room for room in self._waiting.values() if room.retry_at <= now]:
            del self._waiting[room.id]
            self._ready.append(room)
        while self._ready and self._goes_on():
            if self._failing is not None and (len(self._tasks) or now < self._probe_at):
                break
            if len(self._tasks) >= AT_ONCE:
                break
            task = self._tasks.spawn(self._tell(self._ready.popleft()))
            task.add_done_callback(lambda _: self._begin())  # it is none of `_tasks` any more then

    def _goes_on(self) -> bool:
        return not (self._stopping or self.lost) and self._state == ACTIVE and self._may_send()

    async def _tell(self, room: Behind) -> None:
        """Tell of the next events of `room`, until one is refused or it is another room's turn."""
        try:
            await self._tell_page(room)
        except Exception as error:
            if isinstance(error, LogUnavailable):
                logger.debug("room not read webhook=%d room=%s reason=%s", self.webhook.id, room.name, error)
            else:  # the others go on
                logger.exception("room not told webhook=%d room=%s", self.webhook.id, room.name)
            room.retry_at = int(self._clock() + LOG_PAUSE * 1000)
            self._waiting[room.id] = room

    async def _tell_page(self, room: Behind) -> None:
        events = await self._log.read(room.name, room.seq, max_events=PAGE_EVENTS, max_bytes=PAGE_BYTES)
        for event in events:
            if not self._goes_on():
                break
            if is_told(event.data, self.webhook.events):
                outcome = await self._post(room, event)
                if outcome.error is not None:
                    self._refused(room, event, outcome)
                    return
                self._took(room)
            room.seq = event.seq
            self._moved[room.id] = room
        if room.seq < room.head and events:
            self._ready.append(room)
        else:
            del self._rooms[room.id]
            self._warm.pop(room.id, None)
            self._warm[room.id] = None
            if len(self._warm) > WARM:
                del self._warm[next(iter(self._warm))]

    async def _post(self, room: Behind, event: Event) -> Outcome:
        data = event.data
        message: Data | None = None
        if data["type"] == "finished":
            target = data["target"]
            page = await self._log.read(room.name, target - 1, before=target + 1, max_events=1, max_bytes=MESSAGE_BYTES)
            message = page[0].data if page else None
        webhook, now = self.webhook, time.time()
        keys = [webhook.secret]
        if webhook.former_secret is not None and now * 1000 < (webhook.former_until or 0):
            keys.append(webhook.former_secret)
        body = body_of(data, message)
        headers = signed(id_of(self._log.epoch, webhook, room.name, event.seq), int(now), body, keys)
        return await self._poster.post(webhook.url, headers, body)

    # What came of it

    def _took(self, room: Behind) -> None:
        room.attempts, room.failing, room.retry_at = 0, None, 0
        if self._failing is not None:
            logger.info("webhook takes again webhook=%d url=%s", self.webhook.id, self.webhook.url)
            if self._streak > 1:  # it was away: what was refused meanwhile need not wait any longer
                soon = self._clock() + 1000 * SHORTEST_PAUSE
                for other in self._waiting.values():
                    other.retry_at = min(other.retry_at, int(soon))
        self._failing = self._error = None
        self._streak, self._probe_at = 0, 0.0

    def _refused(self, room: Behind, event: Event, outcome: Outcome) -> None:
        now = int(self._clock())
        self._error = outcome.error
        room.attempts += 1
        if room.failing is None:
            room.failing = now
        if self._failing is None:
            self._failing = now
            facts = self.webhook.id, self.webhook.url, room.name, event.seq, outcome.error
            logger.warning("webhook refused webhook=%d url=%s room=%s seq=%d reason=%s", *facts)
        asked = min(outcome.retry_after, LONGEST_PAUSE)
        room.retry_at = now + int(1000 * max(asked, _pause(room.attempts, LONGEST_PAUSE)))
        if now >= self._probe_at:  # else it was under way already when another one was refused
            self._streak += 1
            pause = _pause(self._streak, LONGEST_PROBE)
            if self._streak > 1:  # the first may speak of its room only
                pause = max(asked, pause)
            self._probe_at = now + 1000 * pause
        self._moved[room.id] = room
        self._refusals += 1
        tried = self._refusals >= LEAST_REFUSALS
        if outcome.gone or (tried and now - self._failing >= GIVE_UP_SECONDS * 1000):
            self._give_up(outcome)
        elif tried and now - room.failing >= GIVE_UP_SECONDS * 1000:
            self._give_up_room(room, event)
        else:
            self._waiting[room.id] = room

    def _give_up(self, outcome: Outcome) -> None:
        self._state = GIVEN_UP
        how = "it wants no more" if outcome.gone else f"it took nothing for {GIVE_UP_SECONDS / 3600:g} hours"
        facts = self.webhook.id, self.webhook.url, how, outcome.error, _resume(self.webhook.id)
        logger.error("webhook given up webhook=%d url=%s why=%s reason=%s go_on_with=%s", *facts)

    def _give_up_room(self, room: Behind, event: Event) -> None:
        room.given_up = int(self._clock())
        self._rooms.pop(room.id, None)
        facts = self.webhook.id, self.webhook.url, room.name, event.seq, self._error, _resume(self.webhook.id)
        logger.error("room given up webhook=%d url=%s room=%s seq=%d reason=%s go_on_with=%s", *facts)

    async def keep(self) -> None:
        """Let the log know how far it is, unless it is another process's now."""
        moved, self._moved = self._moved, {}
        state = self._failing, self._error
        if (not moved and state == self._kept and self._state == ACTIVE) or self.lost:
            return
        failing, error = state
        try:
            kept = await self._store.move(
                self.webhook, list(moved.values()), failing=failing, error=error, state=self._state
            )
        except BaseException:  # told again would do, but need not be
            self._moved = moved | self._moved
            raise
        self._kept = state
        if not kept or self._state != ACTIVE:
            self.lost = True
            await self._tasks.stop()

    async def stop(self) -> None:
        """Begin nothing more, wait a little for what is under way, and keep how far it is."""
        self._stopping = True
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._tasks.finished()
        except TimeoutError:
            await self._tasks.stop()
        try:
            await self.keep()
        except LogUnavailable as error:
            logger.warning("not kept how far it is, some is told again webhook=%d reason=%s", self.webhook.id, error)


def _pause(attempts: int, longest: float) -> float:
    """Seconds before the next attempt after so many."""
    pause = min(longest, SHORTEST_PAUSE * 2.0 ** min(attempts - 1, 30))
    return pause * random.uniform(0.75, 1.25)


def _resume(id: int) -> str:
    return f"tornado-chat webhook resume {id}"
