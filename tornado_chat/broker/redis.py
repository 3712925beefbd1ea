"""The news between processes over Redis pub/sub: a channel for each room that has members here.

A payload is the origin (8 bytes, of one process), one letter, and a body:

    e  JSON list of events (`data` as clients get it), ascending and without holes
    h  the seq that the log holds events up to, in place of events that were too big, too many or not sent in time
    c  JSON list of what changed in the presence: worker, version, the one before, names by id, ids that left
    s  JSON list of the user a signal is not for (or null) and its data
    p  a link's probe to itself
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from time import monotonic
from typing import Any

import msgspec
import orjson

from tornado_chat.broker import Change, Receiver, Records
from tornado_chat.broker.redis_address import RedisAddress
from tornado_chat.broker.redis_cluster import RedisCluster
from tornado_chat.broker.redis_link import RedisLink
from tornado_chat.broker.redis_presence import RedisPresence
from tornado_chat.wire.codec import JSON, Encoded
from tornado_chat.wire.events import Data, Event
from tornado_chat.wire.replies import Signal

logger = logging.getLogger(__name__)

ORIGIN_BYTES = 8
EVENTS, HEAD, SIGNAL, CHANGE = b"ehsc"

PAYLOAD_BYTES = 64 * 1024
"""An event that is bigger is fetched from the log by those who need it."""

START_SECONDS = 2.0
SUBSCRIBE_SECONDS = 2.0

MISSED_ROOMS = 10_000
"""Rooms that were committed to while their link was away; of further ones others learn by polling the log."""

COMPLAINT_SECONDS = 10.0


class RedisBroker:
    """`Broker` over one or several Redis, each a `--redis` URL; several share the rooms. ConfigError for a bad URL.

    `published` and `received` count messages, `dropped` the events and signals that were not sent as such,
    `refused` what others sent that is not ours, `reconnects` the links that came back.
    """

    def __init__(self, urls: Sequence[str], epoch: str) -> None:
        """`epoch` is that of the log; only processes with the same one hear each other."""
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
        self._presence = RedisPresence(self.command, epoch)
        self._missed: dict[str, int] = {}  # head of each room whose events were not sent
        self._heard = asyncio.Event()
        self._complained = 0.0

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
        await self._presence.close()
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

    async def command(self, room: str, *arguments: str | bytes | int) -> Any:
        """The reply of the Redis that has `room`; RedisError, or TimeoutError, if there is none in time.

        The keys have to begin with the room's channel in braces: so a cluster keeps them where it keeps the room.
        """
        return await self._places[self._place(room)].command(room, *arguments)

    # Publishing

    def publish_events(self, room: str, events: Sequence[Event]) -> None:
        head = events[-1].seq
        try:
            body = b"[" + b",".join(JSON.encode(event.data) for event in events) + b"]"
        except TypeError:  # what orjson does not take, as an integer past 64 bits, is in the log all the same
            body = b""
        if body and len(body) <= PAYLOAD_BYTES:
            if self._publish(room, self._origin + b"e" + body, head):
                return
        elif len(events) > 1:
            middle = len(events) // 2
            self.publish_events(room, events[:middle])
            self.publish_events(room, events[middle:])
            return
        self.dropped += len(events)
        self._refer(room, head)

    def publish_signal(self, room: str, signal: Signal, not_for: str | None) -> None:
        if not self._publish(room, self._origin + b"s" + msgspec.json.encode((not_for, signal)), 0):
            self.dropped += 1

    # Presence

    def publish_presence(self, room: str, change: Change) -> None:
        self._presence.write(room, change)
        body = orjson.dumps([change.worker, change.version, change.after, change.joined, list(change.left)])
        if len(body) > PAYLOAD_BYTES or not self._publish(room, self._origin + b"c" + body, 0):
            self.dropped += 1  # they read the record in time

    async def presence(self, rooms: Mapping[str, Mapping[str, int]]) -> dict[str, Records]:
        return await self._presence.read(rooms)

    async def renew_presence(self, worker: str, rooms: Mapping[str, int]) -> list[str]:
        return await self._presence.renew(worker, rooms)

    def _publish(self, room: str, payload: bytes, seq: int) -> bool:
        place = self._places.get(self._place(room))
        if place is None or not place.publish(room, payload, seq):
            return False
        self.published += 1
        return True

    def _refer(self, room: str, head: int) -> None:
        """Say where the log stands; later if it cannot be said now."""
        if not self._publish(room, self._origin + b"h%d" % head, head):
            self.on_unsent(room, head)

    # RedisLinkOwner: what the links tell

    def on_unsent(self, room: str, seq: int) -> None:
        if room in self._missed or len(self._missed) < MISSED_ROOMS:
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
            kind = payload[ORIGIN_BYTES]
            body = payload[ORIGIN_BYTES + 1 :]
            if kind == EVENTS:
                events = _events(room, body)
            elif kind == HEAD:
                head = _head(body)
            elif kind == SIGNAL:
                signal, not_for = _signal(room, body)
            elif kind == CHANGE:
                change = _change(body)
            else:
                raise ValueError(f"no kind {kind}")
        except (ValueError, TypeError, LookupError) as error:
            self._refuse(room, error)
            return
        try:
            if kind == EVENTS:
                receiver.on_events(room, events)
            elif kind == HEAD:
                receiver.on_head(room, head)
            elif kind == CHANGE:
                receiver.on_presence(room, change)
            else:
                receiver.on_signal(room, signal, not_for)
        except Exception:
            logger.exception("news not taken room=%s", room)

    def _refuse(self, room: str, error: Exception) -> None:
        """Of a stranger's payload, or another version's; told of once in a while."""
        self.refused += 1
        if monotonic() > self._complained + COMPLAINT_SECONDS:
            self._complained = monotonic()
            logger.warning("redis message not understood room=%s reason=%s refused=%d", room, error, self.refused)


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


def _events(room: str, body: bytes) -> list[Data]:
    events: list[Data] = orjson.loads(body)
    seq = events[0]["seq"]
    if type(seq) is not int:
        raise ValueError("no seq")
    for event in events:
        if event["seq"] != seq or event["room"] != room:
            raise ValueError("events of another room, or with a hole among them")
        seq += 1
        if "meta" in event:
            event["meta"] = Encoded(orjson.dumps(event["meta"]))
    return events


def _change(body: bytes) -> Change:
    worker, version, after, joined, left = orjson.loads(body)
    if not isinstance(joined, dict) or not isinstance(left, list) or not isinstance(worker, str):
        raise ValueError("not a change of presence")
    return Change(worker, int(version), int(after), joined, left)


def _head(body: bytes) -> int:
    if not body.isdigit() or len(body) > 18:
        raise ValueError("no seq")
    return int(body)


_decode_signal = msgspec.json.Decoder(tuple[str | None, Signal]).decode


def _signal(room: str, body: bytes) -> tuple[Signal, str | None]:
    not_for, signal = _decode_signal(body)
    if signal.room != room:
        raise ValueError("a signal of another room")
    return signal, not_for
