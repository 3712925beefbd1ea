"""A Redis Cluster as the one place of its rooms: sharded pub/sub over one link to each primary."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError

from tornado_chat.broker.redis_address import HostPort, RedisAddress
from tornado_chat.broker.redis_link import ANCHOR, RedisLink, RedisLinkOwner, channel_of
from tornado_chat.tasks import Tasks

logger = logging.getLogger(__name__)

SLOTS = 16384
READ_SECONDS = 0.5
"""Between two readings of the topology, at least; it is read while a link is away, and not otherwise."""

CONFIRM_SECONDS = 2.0


class RedisCluster:
    """Has the calls of a RedisLink, and finds the link for each room; what its links tell goes to `owner`."""

    def __init__(self, address: RedisAddress, owner: RedisLinkOwner, origin: bytes, *, probe: bytes) -> None:
        self._address = address
        self._owner = owner
        self._origin = origin
        self._probe = probe
        self._links: dict[HostPort, RedisLink] = {}
        self._slots: list[RedisLink | None] = [None] * SLOTS
        self._covered = False
        self.anchors: list[str] = []  # as RedisLink.anchors says
        self._rooms: dict[str, int] = {}  # those wanted, with their slots
        self._stale = asyncio.Event()
        self._told = False  # that the cluster cannot be read
        self._tasks = Tasks()

    @property
    def hears(self) -> bool:
        return self._covered and all(link.hears for link in self._links.values())

    def start(self) -> None:
        self._stale.set()
        self._tasks.spawn(self._run())

    async def close(self) -> None:
        await self._tasks.stop()
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def want(self, room: str) -> asyncio.Future[None] | None:
        slot = self._rooms[room] = self._slot(room)
        link = self._slots[slot]
        return None if link is None else link.want(room)

    def unwant(self, room: str) -> None:
        slot = self._rooms.pop(room, None)
        if slot is not None and (link := self._slots[slot]) is not None:
            link.unwant(room)

    def publish(self, room: str, payload: bytes, seq: int) -> bool:
        link = self._slots[self._slot(room)]
        return link is not None and link.publish(room, payload, seq)

    async def command(self, room: str, *arguments: str | bytes | int) -> Any:
        """Asks the server of `room`, which has the keys that begin with the room's channel in braces."""
        link = self._slots[self._slot(room)]
        if link is None:
            raise ConnectionError(f"no server of the cluster {self._address.shown} is known for {room}")
        return await link.command(room, *arguments)

    def _slot(self, room: str) -> int:
        return key_slot(channel_of(self._address.epoch, room))

    # RedisLinkOwner: what the links tell

    def on_payload(self, room: str, payload: bytes) -> None:
        self._owner.on_payload(room, payload)

    def on_link(self, *, again: bool) -> None:
        self._owner.on_link(again=again)

    def on_lost(self, *, deaf: bool) -> None:
        self._stale.set()
        self._owner.on_lost(deaf=deaf)

    def on_room_to_write(self) -> None:
        self._owner.on_room_to_write()

    def on_unsent(self, room: str, seq: int) -> None:
        self._owner.on_unsent(room, seq)

    # Topology

    async def _run(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                self._apply(await self._read())
            except (RedisError, OSError) as error:
                self._stale.set()
                self._owner.on_lost(deaf=False)
                if not self._told:
                    self._told = True
                    logger.warning("redis cluster is away where=%s reason=%s", self._address.shown, error)
            except Exception:
                self._stale.set()
                logger.exception("redis cluster not understood where=%s", self._address.shown)
            else:
                if self._told:
                    self._told = False
                    logger.info("redis cluster is back where=%s", self._address.shown)
            await asyncio.sleep(READ_SECONDS)

    async def _read(self) -> list[tuple[int, int, HostPort]]:
        """Ranges of slots with their primaries, from the first server that answers; those that hear come first."""
        known = sorted(self._links, key=lambda server: not self._links[server].hears)
        reason: Exception = ConnectionError("it has no slots")
        for server in dict.fromkeys([*known, *self._address.servers]):
            try:
                found = await self._address.ask(server, "CLUSTER", "SLOTS")
            except (RedisError, OSError) as error:
                reason = error
                continue
            if found:
                # A server that does not know its own name leaves it out.
                return [
                    (first, last, (primary[0].decode() or server[0], primary[1])) for first, last, primary, *_ in found
                ]
        raise reason

    def _apply(self, ranges: list[tuple[int, int, HostPort]]) -> None:
        """Make the links those to the primaries, and let each wanted room be heard where its slot is."""
        slots: list[RedisLink | None] = [None] * SLOTS
        primaries = {server for _, _, server in ranges}
        gone = [self._links.pop(server) for server in list(self._links) if server not in primaries]
        new = [self._new_link(server) for server in primaries if server not in self._links]
        for first, last, server in ranges:
            slots[first : last + 1] = [self._links[server]] * (last + 1 - first)
        before, self._slots = self._slots, slots
        self._covered = None not in slots
        self.anchors = [self._anchor(server) for server in sorted(primaries)]
        confirmations = []
        for room, slot in self._rooms.items():
            old, link = before[slot], slots[slot]
            if link is not old:
                if old is not None:
                    old.unwant(room)
                if link is not None and (confirmation := link.want(room)) is not None:
                    confirmations.append(confirmation)
        for link in new:
            link.start()
        for link in gone:
            self._tasks.spawn(link.close())
        if confirmations:  # by links that hear already; a new one tells of itself
            self._tasks.spawn(self._tell_moved(confirmations))

    def _new_link(self, server: HostPort) -> RedisLink:
        find: Callable[[], Awaitable[HostPort]] = partial(_found, server)
        probe = partial(self._probe_on, server)
        link = RedisLink(self._address, find, self, self._origin, sharded=True, probe=probe)
        self._links[server] = link
        return link

    def _probe_on(self, server: HostPort) -> bytes:
        """A channel whose slot this server has: about as many tries as there are servers."""
        link = self._links.get(server)
        for number in range(SLOTS * 16):
            channel = b"%b:%d" % (self._probe, number)
            if link is not None and self._slots[key_slot(channel)] is link:
                return channel
        raise ConnectionError(f"{server[0]}:{server[1]} has no slots")

    def _anchor(self, server: HostPort) -> str:
        """The first name whose slot `server` has: every process that knows these slots finds the same."""
        names = (f"{ANCHOR}{number}" for number in range(SLOTS * 16))
        return next(name for name in names if self._slots[self._slot(name)] is self._links[server])

    async def _tell_moved(self, confirmations: list[asyncio.Future[None]]) -> None:
        await asyncio.wait(confirmations, timeout=CONFIRM_SECONDS)
        self._owner.on_link(again=False)


async def _found(server: HostPort) -> HostPort:
    return server
