"""The records of presence in Redis: for each room and process the users there, which lapse unless they are renewed.

For a room there is a set of the processes that have users in it, and for each of those a hash from user id to name;
its field "" is the record's version. Both lie on the room's own server, in a cluster in the room's slot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from redis.exceptions import RedisError

from tornado_chat.broker import LAPSE_SECONDS, Change, Records
from tornado_chat.broker.redis_link import channel_of
from tornado_chat.tasks import Tasks

logger = logging.getLogger(__name__)

CHANGES = 10_000
"""Records that are being written; further changes are left to the next renewal, which writes them whole."""

# KEYS: the record, the room's processes. ARGV: process, seconds, version, the one before (0: all anew), how many users
# have left, those, then ids and names of those who joined. 1 if it was written, 0 if the record was not as expected.
WRITE = b"""
local record, processes = KEYS[1], KEYS[2]
if ARGV[4] == '0' then
    redis.call('DEL', record)
elseif redis.call('HGET', record, '') ~= ARGV[4] then
    return 0
end
local joined = 6 + ARGV[5]
for i = 6, joined - 1 do redis.call('HDEL', record, ARGV[i]) end
if ARGV[4] == '0' and not ARGV[joined] then
    redis.call('SREM', processes, ARGV[1])
    return 1
end
for i = joined, #ARGV, 2 do redis.call('HSET', record, ARGV[i], ARGV[i + 1]) end
redis.call('HSET', record, '', ARGV[3])
redis.call('EXPIRE', record, ARGV[2])
redis.call('SADD', processes, ARGV[1])
redis.call('EXPIRE', processes, ARGV[2] * 2)
return 1
"""


# KEYS: the record, the room's processes. ARGV: process. Who has no record any more is not looked for again.
FORGET = b"if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[1]) end"


class Ask(Protocol):
    async def __call__(self, room: str, *arguments: str | bytes | int) -> Any:
        """The reply of the room's server; RedisError or TimeoutError if there is none."""


class RedisPresence:
    """The records, written and read by `ask`."""

    def __init__(self, ask: Ask, epoch: str) -> None:
        self._ask = ask
        self._epoch = epoch
        self._writing = Tasks()

    def write(self, room: str, change: Change) -> None:
        """Begin to bring the record up to date; one that fails is found by `renew`."""
        if len(self._writing) < CHANGES:
            self._writing.spawn(self._write(room, change))

    async def _write(self, room: str, change: Change) -> None:
        users = [part for user in change.joined.items() for part in user]
        head = (change.worker, LAPSE_SECONDS, change.version, change.after, len(change.left))
        keys = (self._record(room, change.worker), self._processes(room))
        with _unanswered(room):
            await self._ask(room, "EVAL", WRITE, 2, *keys, *head, *change.left, *users)

    async def read(self, rooms: Mapping[str, Mapping[str, int]]) -> dict[str, Records]:
        """As `Broker.presence` says."""
        found = await asyncio.gather(*(self._read(room, known) for room, known in rooms.items()))
        return {room: records for room, records in zip(rooms, found, strict=True) if records is not None}

    async def _read(self, room: str, known: Mapping[str, int]) -> Records | None:
        """None if Redis did not answer all that was asked: what is not known is not nobody."""
        with _unanswered(room):
            members = await self._ask(room, "SMEMBERS", self._processes(room))
            workers = [member.decode() for member in members]
            found = await asyncio.gather(*(self._read_one(room, worker, known.get(worker)) for worker in workers))
            return {worker: record for worker, record in zip(workers, found, strict=True) if record is not None}
        return None

    async def _read_one(self, room: str, worker: str, known: int | None) -> tuple[int, dict[str, str] | None] | None:
        """One process's version and users; None if its record has lapsed."""
        record = self._record(room, worker)
        version = await self._ask(room, "HGET", record, "")
        if version is not None and int(version) == known:
            return known, None
        if version is not None:
            users = _pairs(await self._ask(room, "HGETALL", record))
            version = users.pop("", None)
            if version is not None:
                return int(version), users
        await self._ask(room, "EVAL", FORGET, 2, record, self._processes(room), worker)
        return None

    async def renew(self, worker: str, rooms: Mapping[str, int]) -> list[str]:
        """As `Broker.renew_presence` says."""
        good = await asyncio.gather(*(self._renew(worker, room, version) for room, version in rooms.items()))
        return [room for room, is_good in zip(rooms, good, strict=True) if not is_good]

    async def _renew(self, worker: str, room: str, version: int) -> bool:
        record, processes = self._record(room, worker), self._processes(room)
        with _unanswered(room):
            *_, found = await asyncio.gather(
                self._ask(room, "EXPIRE", record, LAPSE_SECONDS),
                self._ask(room, "EXPIRE", processes, LAPSE_SECONDS * 2),
                self._ask(room, "HGET", record, ""),
            )
            return found is not None and int(found) == version
        return True  # nothing can be told there either

    def _record(self, room: str, worker: str) -> str:
        return f"{self._processes(room)}:{worker}"

    def _processes(self, room: str) -> str:
        # What stands in braces is hashed: in a cluster the slot of the room's channel, and so the same link.
        return f"{{{channel_of(self._epoch, room).decode()}}}:presence"

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._writing.finished()


@contextmanager
def _unanswered(room: str) -> Iterator[None]:
    """No answer is no harm: the next renewal finds what is wrong then."""
    try:
        yield
    except (RedisError, OSError) as error:  # TimeoutError is one
        logger.debug("presence not exchanged room=%s reason=%s", room, error)


def _pairs(reply: Any) -> dict[str, str]:
    """HGETALL's answer: a map by RESP 3, a flat list by RESP 2."""
    if isinstance(reply, list):
        reply = dict(zip(reply[::2], reply[1::2], strict=True))
    return {key.decode(): value.decode() for key, value in (reply or {}).items()}
