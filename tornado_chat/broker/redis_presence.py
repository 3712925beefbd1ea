"""Presence in Redis: for each room the records of the processes that have users in it, and each process's sign of life.

A room is a hash from process to record: the version, when it was written, and the names of the users by id. A record
stays for an hour, and its process writes it anew before that. It counts while its process gives signs of life: one key
on each server, which lapses in seconds. So a process with many rooms renews one key, and not all rooms.

Records and signs are sealed. An old one that somebody writes back is told by its version from what was known already;
who knew nothing may believe an old record until its process writes it anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from struct import Struct
from typing import Any, Protocol

import msgspec
import orjson
from redis.exceptions import RedisError

from tornado_chat.broker import LAPSE_SECONDS, Change, Records
from tornado_chat.broker.news import FORMAT, Name, UserId
from tornado_chat.broker.redis_link import channel_of
from tornado_chat.broker.seal import MAC_BYTES, Seal
from tornado_chat.tasks import Tasks

logger = logging.getLogger(__name__)

RECORD_SECONDS = 3600
"""How long a record stays that its process does not write anew; it does so each REFRESH_SECONDS (live/presence.py)."""

CHANGES = 10_000
"""Records that are being written, and rooms whose record is to be written again; others wait for their refresh."""

REWRITTEN = 1000
"""Records that could not be written and are tried again at one renewal."""

HEADER = Struct(">BQQ")
"""Of a record: the format, its version, and when it was written (ms since 1970). Then come the users as JSON."""

SIGN = Struct(">BQ")
"""The format, and the version that the process had reached."""

_decode_users = msgspec.json.Decoder(dict[UserId, Name]).decode


class Place(Protocol):
    """A RedisLink, or a RedisCluster."""

    @property
    def anchors(self) -> list[str]: ...

    async def command(self, room: str, *arguments: str | bytes | int) -> Any: ...


class RedisPresence:
    """What one place has of presence. `refuse` is told of what is not ours, with the room, or an anchor."""

    def __init__(self, place: Place, epoch: str, seal: Seal, refuse: Callable[[str, Exception], None]) -> None:
        self._place = place
        self._epoch = epoch
        self._seal = seal
        self._refuse = refuse
        self._writing = Tasks()
        self._unwritten: dict[str, None] = {}  # rooms whose record, or the news of it, was perhaps not written

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._writing.finished()

    # Records

    def write(self, room: str, change: Change, users: Mapping[str, str]) -> None:
        """Begin to write the record of the process of `change`: it has `users` now."""
        if len(self._writing) >= CHANGES:
            self.on_unsent(room)
            return
        key = self._key(room)
        record = b""
        if users:
            text = HEADER.pack(FORMAT, change.version, _now()) + orjson.dumps(users)
            record = self._seal.close(_place(key, change.worker), text)
        self._writing.spawn(self._write(room, key, change, record))

    async def _write(self, room: str, key: str, change: Change, record: bytes) -> None:
        try:
            if record:
                await self._place.command(room, "HSET", key, change.worker, record)
                if not change.after:  # as each refresh is
                    await self._place.command(room, "EXPIRE", key, RECORD_SECONDS)
            else:
                await self._place.command(room, "HDEL", key, change.worker)
        except (RedisError, OSError) as error:  # TimeoutError is one
            logger.debug("presence not written room=%s reason=%s", room, error)
            self.on_unsent(room)

    def on_unsent(self, room: str) -> None:
        """What was to be written of `room`, or told, was perhaps not."""
        if len(self._unwritten) < CHANGES:
            self._unwritten[room] = None

    def take_unwritten(self) -> list[str]:
        """Rooms whose records are to be written anew, some at a time."""
        rooms = list(islice(self._unwritten, REWRITTEN))
        for room in rooms:
            del self._unwritten[room]
        return rooms

    async def read(self, rooms: Mapping[str, Mapping[str, int]]) -> dict[str, Records]:
        """As `Broker.presence` says."""
        found = await asyncio.gather(*(self._read(room, known) for room, known in rooms.items()))
        return {room: records for room, records in zip(rooms, found, strict=True) if records is not None}

    async def _read(self, room: str, known: Mapping[str, int]) -> Records | None:
        """None if Redis did not answer: what is not known is not nobody."""
        key = self._key(room)
        try:
            found = _pairs(await self._place.command(room, "HGETALL", key))
            records: Records = {}
            old = []
            for field, sealed in found.items():
                try:
                    worker = field.decode()
                    version, users, written = self._open(key, worker, sealed, known.get(worker))
                except ValueError as error:
                    self._refuse(room, error)
                    continue
                if abs(_now() - written) > RECORD_SECONDS * 1000:
                    old.append(field)
                else:
                    records[worker] = version, users
            if old:  # of processes that died: while the room is in use, its hash does not lapse
                await self._place.command(room, "HDEL", key, *old)
        except (RedisError, OSError) as error:
            logger.debug("presence not read room=%s reason=%s", room, error)
            return None
        return records

    def _open(self, key: str, worker: str, sealed: bytes, known: int | None) -> tuple[int, dict[str, str] | None, int]:
        """A record's version, its users (None if it is the version that is known), and when it was written."""
        text = sealed[MAC_BYTES:]
        if len(text) < HEADER.size or text[0] != FORMAT:
            raise ValueError("a record of presence that this version cannot read")
        _, version, written = HEADER.unpack_from(text)
        if version == known:
            return version, None, written
        self._seal.open(_place(key, worker), sealed)
        return version, _decode_users(text[HEADER.size :]), written

    # Signs of life

    async def renew(self, worker: str, version: int) -> bool:
        """Give a sign of `worker`; True if a server has lost the last one, and so perhaps the records."""
        return any(await asyncio.gather(*(self._renew(anchor, worker, version) for anchor in self._place.anchors)))

    async def _renew(self, anchor: str, worker: str, version: int) -> bool:
        key = self._sign(anchor, worker)
        sign = self._seal.close(key.encode(), SIGN.pack(FORMAT, version))
        try:
            before, _ = await asyncio.gather(
                self._place.command(anchor, "GET", key),
                self._place.command(anchor, "SET", key, sign, "EX", LAPSE_SECONDS),
            )
        except (RedisError, OSError) as error:
            logger.debug("sign of life not given where=%s reason=%s", anchor, error)
            return False
        return before is None

    async def signs(self, workers: Collection[str]) -> dict[str, int] | None:
        """As `Broker.signs` says; the greatest of what the servers tell."""
        told = await asyncio.gather(*(self._signs(anchor, workers) for anchor in self._place.anchors))
        answers = [signs for signs in told if signs is not None]
        if not answers:
            return None
        return {worker: max(signs.get(worker, 0) for signs in answers) for worker in set().union(*answers)}

    async def _signs(self, anchor: str, workers: Collection[str]) -> dict[str, int] | None:
        keys = [self._sign(anchor, worker) for worker in workers]
        try:
            found = await self._place.command(anchor, "MGET", *keys)
        except (RedisError, OSError) as error:
            logger.debug("signs of life not read where=%s reason=%s", anchor, error)
            return None
        signs = {}
        for worker, key, sealed in zip(workers, keys, found, strict=True):
            if sealed is not None:
                try:
                    text = self._seal.open(key.encode(), sealed)
                    if len(text) != SIGN.size or text[0] != FORMAT:
                        raise ValueError("a sign of life that this version cannot read")
                except ValueError as error:
                    self._refuse(anchor, error)
                else:
                    signs[worker] = SIGN.unpack(text)[1]
        return signs

    # Keys: what stands in braces is hashed, in a cluster to the slot of the room's channel, and so to the same link.

    def _key(self, room: str) -> str:
        return f"{{{channel_of(self._epoch, room).decode()}}}:records"

    def _sign(self, anchor: str, worker: str) -> str:
        return f"{{{channel_of(self._epoch, anchor).decode()}}}:alive:{worker}"


def _place(key: str, worker: str) -> bytes:
    return f"{key} {worker}".encode()


def _now() -> int:
    """Ms since 1970."""
    return time.time_ns() // 1_000_000


def _pairs(reply: Any) -> dict[bytes, bytes]:
    """HGETALL's answer: a map by RESP 3, a flat list by RESP 2."""
    if isinstance(reply, list):
        return dict(zip(reply[::2], reply[1::2], strict=True))
    return reply or {}
