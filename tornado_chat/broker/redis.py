"""The news between processes over Redis pub/sub: a channel for each room that has members here.

A payload is the origin (8 bytes, of one process) and a sealed text (news.py says what is in it). What does not carry
the seal of this installation, or says what this version cannot read, is counted and dropped; the log is then asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from time import monotonic

from tornado_chat.broker import EVERYBODY, Change, Receiver, Records, channel_to, news
from tornado_chat.broker.news import NEVER, TEXT_BYTES, Tell
from tornado_chat.broker.redis_address import RedisAddress
from tornado_chat.broker.redis_cluster import RedisCluster
from tornado_chat.broker.redis_link import CHANGED, RedisLink, channel_of
from tornado_chat.broker.redis_presence import RedisPresence
from tornado_chat.broker.seal import MAC_BYTES, Seal
from tornado_chat.wire.events import Event
from tornado_chat.wire.replies import Chunk, Signal, Stop

logger = logging.getLogger(__name__)

ORIGIN_BYTES = 8

PAYLOAD_BYTES = ORIGIN_BYTES + MAC_BYTES + TEXT_BYTES
"""What is longer was not published by this program."""

START_SECONDS = 2.0
SUBSCRIBE_SECONDS = 2.0

MISSED_ROOMS = 10_000
"""Rooms that were committed to while their link was away; of further ones others learn by polling the log."""

COMPLAINT_SECONDS = 10.0

ASK_SECONDS = 1.0
"""Whatever is refused, the log is asked for the heads no more often than this."""


class RedisBroker:
    """`Broker` over one or several Redis, each a `--redis` URL; several share the rooms. ConfigError for a bad URL.

    `published` and `received` count messages, `dropped` the events and signals that were not sent as such,
    `refused` what others sent that is not ours, `reconnects` the links that came back.
    """

    def __init__(self, urls: Sequence[str], epoch: str, secret: bytes) -> None:
        """`epoch` is that of the log; only processes with the same one and the same `secret` hear each other."""
        self.published = 0
        self.received = 0
        self.dropped = 0
        self.refused = 0
        self.reconnects = 0
        self._addresses = {address.name: address for address in (RedisAddress(url, epoch) for url in urls)}
        self._origin = secrets.token_bytes(ORIGIN_BYTES)
        self._places: dict[str, RedisLink | RedisCluster] = {}  # of each address, by its name
        self._place = place_of(self._addresses)
        self._receiver: Receiver | None = None
        self._epoch = epoch
        self._seal = Seal(secret)
        self._channels = channel_of(epoch, "")  # what the names of all channels begin with
        self._own_channels = self._origin + self._channels
        self._presences: dict[str, RedisPresence] = {}  # of each address, by its name
        self._missed: dict[str, int] = {}  # head of each room whose events were not sent
        self._heard = asyncio.Event()
        self._complained = 0.0
        self._asked = 0.0  # when the receiver was told of something refused, or will be
        self._asking: asyncio.TimerHandle | None = None

    @property
    def carries(self) -> bool:
        return True

    def counts(self) -> dict[str, int]:
        return {
            "published": self.published,
            "received": self.received,
            "dropped": self.dropped,
            "refused": self.refused,
        }

    @property
    def available(self) -> bool:
        return bool(self._places) and all(place.hears for place in self._places.values())

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        for name, address in self._addresses.items():
            place = self._places[name] = self._open(address)
            self._presences[name] = RedisPresence(place, self._epoch, self._seal, self._refuse)
            place.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await self._heard.wait()

    def _open(self, address: RedisAddress) -> RedisLink | RedisCluster:
        probe = b"tornado_chat:probe:" + self._origin.hex().encode()
        if address.is_cluster:
            return RedisCluster(address, self, self._origin, probe=probe)
        return RedisLink(address, address.primary, self, self._origin, sharded=False, probe=lambda: probe)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        await asyncio.gather(*(presence.close() for presence in self._presences.values()))
        places, self._places = self._places, {}
        await asyncio.gather(*(place.close() for place in places.values()))
        self._receiver = None

    async def subscribe(self, room: str) -> None:
        place = self._places.get(self._place(room))
        if place is not None and (confirmation := place.want(room)) is not None:
            await asyncio.wait([confirmation], timeout=SUBSCRIBE_SECONDS)

    def unsubscribe(self, room: str) -> None:
        place = self._places.get(self._place(room))
        if place is not None:
            place.unwant(room)

    # Publishing

    def publish_events(self, room: str, events: Sequence[Event]) -> None:
        head = events[-1].seq
        try:
            text = news.events_text(events)
        except TypeError:  # it is in the log all the same
            text = b""
        if text and len(text) <= TEXT_BYTES:
            if self._publish(room, text, head):
                return
        elif len(events) > 1:
            middle = len(events) // 2
            self.publish_events(room, events[:middle])
            self.publish_events(room, events[middle:])
            return
        self.dropped += len(events)
        self._refer(room, head)

    def publish_signal(self, room: str, signal: Signal, not_for: str | None) -> None:
        self._publish_once(room, news.signal_text(signal, not_for))

    def publish_appended(self, room: str, worker: str, chunks: Sequence[Chunk]) -> None:
        text = news.appended_text(worker, chunks)
        if len(text) > TEXT_BYTES:
            for part in news.parted(chunks):
                self.publish_appended(room, worker, part)
        else:
            self._publish_once(room, text)

    def publish_wanted(self, worker: str, room: str, seq: int, gen: int, offset: int) -> None:
        self._publish_once(channel_to(worker), news.wanted_text(room, seq, gen, offset))

    def publish_moved(self, worker: str) -> None:
        self._publish_once(channel_to(worker), news.moved_text())

    def publish_stop(self, user: str, told: Stop) -> None:
        self._publish_once(EVERYBODY, news.stop_text(user, told))

    def _publish_once(self, room: str, text: bytes) -> None:
        """Publish what may be lost."""
        if not self._publish(room, text, 0):
            self.dropped += 1

    # Presence

    def publish_presence(self, room: str, change: Change, users: Mapping[str, str]) -> None:
        presence = self._presences.get(self._place(room))
        if presence is None:
            return
        presence.write(room, change, users)
        text = news.change_text(change)
        if len(text) > TEXT_BYTES:
            text = news.change_text(Change(change.worker, change.version, NEVER, {}, ()))
        if not self._publish(room, text, CHANGED):
            self.dropped += 1
            presence.on_unsent(room)

    async def presence(self, rooms: Mapping[str, Mapping[str, int]]) -> dict[str, Records]:
        by_place = defaultdict[str, dict[str, Mapping[str, int]]](dict)
        for room, known in rooms.items():
            by_place[self._place(room)][room] = known
        asked = (self._presences[name].read(part) for name, part in by_place.items() if name in self._presences)
        return {room: records for found in await asyncio.gather(*asked) for room, records in found.items()}

    async def renew_presence(self, worker: str, version: int, rooms: Collection[str]) -> list[str]:
        lost = await asyncio.gather(*(presence.renew(worker, version) for presence in self._presences.values()))
        places = {name for name, is_lost in zip(self._presences, lost, strict=True) if is_lost}
        anew = {room for presence in self._presences.values() for room in presence.take_unwritten()}
        if places:
            anew.update(room for room in rooms if self._place(room) in places)
        return list(anew)

    async def signs(self, workers: Collection[str]) -> dict[str, int] | None:
        told = await asyncio.gather(*(presence.signs(workers) for presence in self._presences.values()))
        answers = [signs for signs in told if signs is not None]
        if not answers:
            return None
        return {worker: max(signs.get(worker, 0) for signs in answers) for worker in set().union(*answers)}

    def _publish(self, room: str, text: bytes, seq: int) -> bool:
        place = self._places.get(self._place(room))
        sealed = self._seal.close(self._own_channels + room.encode(), text)
        if place is None or not place.publish(room, self._origin + sealed, seq):
            return False
        self.published += 1
        return True

    def _refer(self, room: str, head: int) -> None:
        """Say where the log stands; later if it cannot be said now."""
        if not self._publish(room, news.head_text(head), head):
            self.on_unsent(room, head)

    # RedisLinkOwner: what the links tell

    def on_unsent(self, room: str, seq: int) -> None:
        if seq == CHANGED:
            self._presences[self._place(room)].on_unsent(room)
        elif room in self._missed or len(self._missed) < MISSED_ROOMS:
            self._missed[room] = max(seq, self._missed.get(room, 0))

    def on_room_to_write(self) -> None:
        missed, self._missed = self._missed, {}
        for room, head in missed.items():
            self._refer(room, head)

    def on_link(self, *, again: bool) -> None:
        self.reconnects += again
        if self.available:
            self._heard.set()
        self.on_room_to_write()
        self._tell_link()

    def on_lost(self, *, deaf: bool) -> None:
        if deaf:
            self._tell_link()

    def _tell_link(self) -> None:
        if self._receiver is not None:
            try:
                self._receiver.on_link()
            except Exception:
                logger.exception("link not taken")

    def on_payload(self, room: str, payload: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            return
        self.received += 1
        try:
            tell = self._read(room, payload)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            self._refuse(room, error)
            return
        try:
            tell(receiver)
        except Exception:
            logger.exception("news not taken room=%s", room)

    def _read(self, room: str, payload: bytes) -> Tell:
        if len(payload) > PAYLOAD_BYTES:
            raise ValueError(f"it has {len(payload)} bytes")
        origin = payload[:ORIGIN_BYTES]
        return news.read(room, self._seal.open(origin + self._channels + room.encode(), payload[ORIGIN_BYTES:]))

    def _refuse(self, room: str, error: Exception) -> None:
        """Of a stranger's payload or record, or another version's: told of once in a while, and the log is asked."""
        self.refused += 1
        now = monotonic()
        if now > self._complained + COMPLAINT_SECONDS:
            self._complained = now
            logger.warning("redis message refused room=%s reason=%s refused=%d", room, error, self.refused)
        if self._asking is None:
            wait = max(0.0, self._asked + ASK_SECONDS - now)
            self._asked = now + wait
            self._asking = asyncio.get_running_loop().call_later(wait, self._tell_refused)

    def _tell_refused(self) -> None:
        self._asking = None
        if self._receiver is not None:
            self._receiver.on_refused()


def place_of(names: Sequence[str] | dict[str, RedisAddress]) -> Callable[[str], str]:
    """Which of `names` has a room: the one with the highest hash (rendezvous hashing).

    The order of the names does not matter, and one more takes its share out of all the others, about evenly.
    """
    if len(names) == 1:
        (only,) = names
        return lambda room: only

    @lru_cache(MISSED_ROOMS)
    def place(room: str) -> str:
        return max(names, key=lambda name: (hashlib.blake2b(f"{room} {name}".encode(), digest_size=8).digest(), name))

    return place
