"""A connection to one Redis that is made again whenever it dies, with the channels that this process hears there.

A channel has three states: whether a room here wants it, what the last command asked of Redis, and how many of Redis's
confirmations are still to come. Each flush asks for what is wanted and was not asked for yet. So a room that opens,
closes and opens again is heard in the end, in whatever order the confirmations of its commands arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from typing import Any, Protocol

from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError

from tornado_chat.broker.redis_address import HostPort, RedisAddress
from tornado_chat.broker.redis_socket import News, RedisSocket, pack
from tornado_chat.tasks import Tasks

logger = logging.getLogger(__name__)

PROBE_SECONDS = 2.0
"""How often a link hears itself; one that does not within this time is deaf."""

LATE_SECONDS = 0.2
"""A probe may be this much later: it has come, and this process has not read it."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Between two attempts to connect, before the jitter."""

COMMAND_SECONDS = 2.0

QUEUE_BYTES = 4 << 20
"""Publishes that wait for a socket that takes no bytes; the next ones are refused."""

SUBSCRIBE_CHANNELS = 1000
"""In one command: about 1 ms of Redis."""

PROBE_BYTES = 8
"""At random, so that only Redis can know what the next probe will be."""

CHANGED = -1
"""Stands for the seq of a publish that tells of a change of presence."""

ANCHOR = "@"
"""A name like a room's that no room has; see `RedisLink.anchors`."""


class Deaf(ConnectionError):
    """The connection is open, and does not carry what was published on it."""


class RedisLinkOwner(Protocol):
    """What a link tells of itself; plain calls on the event loop."""

    def on_payload(self, room: str, payload: bytes) -> None:
        """A message of another process; does not raise."""

    def on_link(self, *, again: bool) -> None:
        """It hears: all that is wanted is subscribed. `again`: it did before."""

    def on_lost(self, *, deaf: bool) -> None:
        """It does not hear, or not yet: said for each attempt that failed. `deaf`: since when is not known."""

    def on_room_to_write(self) -> None:
        """Publishes that were refused may be tried again."""

    def on_unsent(self, room: str, seq: int) -> None:
        """The link was lost with a publish of events up to `seq`, or CHANGED; whether others got it is not known."""


class Channel:
    """A room here, as Redis has been told of it."""

    __slots__ = ("asked", "confirmed", "pending", "room", "wanted")

    def __init__(self, room: str) -> None:
        self.room = room
        self.wanted = False
        self.asked = False  # what the last command for it made it, or will
        self.pending = 0  # confirmations to come
        self.confirmed: asyncio.Future[None] | None = None  # those who wait for it to be heard


class RedisLink:
    """See RedisAddress for the servers. `find` names the one to connect to.

    `origin` begins each payload of this process, and what begins with it is dropped. `sharded`: pub/sub of a cluster,
    where channels of one slot only share a command, and where `probe` has to name a channel of this server.
    """

    def __init__(
        self,
        address: RedisAddress,
        find: Callable[[], Awaitable[HostPort]],
        owner: RedisLinkOwner,
        origin: bytes,
        *,
        sharded: bool,
        probe: Callable[[], bytes],
    ) -> None:
        self.hears = False
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._find = find
        self._owner = owner
        self._origin = origin
        self._sharded = sharded
        letter = b"S" if sharded else b""
        self._subscribe, self._unsubscribe = letter + b"SUBSCRIBE", letter + b"UNSUBSCRIBE"
        self._publish = letter + b"PUBLISH"
        self._prefix = channel_of(address.epoch, "")
        self._name_probe = probe
        self._probe_channel = b""
        self._probe = b""
        self._probe_heard: asyncio.Future[None] = self._loop.create_future()
        self._channels: dict[bytes, Channel] = {}
        self._changed: dict[bytes, Channel] = {}  # those whose `wanted` and `asked` may differ
        self._commands: list[bytes] = []  # of this loop turn, or for as long as the socket is not writable
        self._news: list[News] = []  # one for each of them
        self._queued = 0  # bytes of them
        self._refused = False  # since there was room
        self._flush_due = False
        self._socket: RedisSocket | None = None
        self._tasks = Tasks()
        self._where = address.shown
        self._ever_heard = False
        self._told_lost = False

    def start(self) -> None:
        self._tasks.spawn(self._run())

    async def close(self) -> None:
        """Write what waits, then leave nothing open."""
        self._flush()
        await self._tasks.stop()

    # Subscriptions

    def want(self, room: str) -> asyncio.Future[None] | None:
        """Hear `room`; what to wait for, None if it is heard already or the link is away."""
        name = self._prefix + room.encode()
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(room)
        channel.wanted = True
        if not channel.asked:
            self._change(name, channel)
        if self._socket is None or (channel.asked and not channel.pending):
            return None
        if channel.confirmed is None:
            channel.confirmed = self._loop.create_future()
        return channel.confirmed

    def unwant(self, room: str) -> None:
        name = self._prefix + room.encode()
        channel = self._channels.get(name)
        if channel is not None:
            channel.wanted = False
            _settle(channel)
            if channel.asked:
                self._change(name, channel)
            else:
                self._forget(name, channel)

    def _change(self, name: bytes, channel: Channel) -> None:
        if self._socket is not None:
            self._changed[name] = channel
            self._flush_soon()

    def _forget(self, name: bytes, channel: Channel) -> None:
        if not (channel.wanted or channel.asked or channel.pending):
            self._channels.pop(name, None)
            self._changed.pop(name, None)

    def _on_confirmed(self, name: bytes) -> None:
        channel = self._channels.get(name)
        if channel is None:
            if name != self._probe_channel:
                raise ConnectionError(f"a subscription changed that nobody asked for: {name!r}")
            return
        channel.pending -= 1
        if channel.pending < 0:  # how a cluster tells that the slot has moved to another server
            raise ConnectionError(f"{self._where} does not serve {channel.room} any more")
        if not channel.pending:
            if channel.asked:
                _settle(channel)
            self._forget(name, channel)

    def _subscriptions(self) -> bytes:
        """The commands that make `asked` what is wanted."""
        verbs = defaultdict[tuple[bytes, int], list[bytes]](list)
        for name, channel in self._changed.items():
            if channel.wanted != channel.asked:
                channel.asked = channel.wanted
                channel.pending += 1
                verb = self._subscribe if channel.wanted else self._unsubscribe
                verbs[verb, key_slot(name) if self._sharded else 0].append(name)
        self._changed = {}
        return b"".join(self._command(verb, names) for (verb, _), names in verbs.items())

    def _command(self, verb: bytes, names: list[bytes]) -> bytes:
        assert self._socket is not None
        self._socket.unconfirmed += len(names)
        parts = range(0, len(names), SUBSCRIBE_CHANNELS)
        return b"".join(pack((verb, *names[at : at + SUBSCRIBE_CHANNELS])) for at in parts)

    # Publishing

    def publish(self, room: str, payload: bytes, seq: int) -> bool:
        """Send `payload` with those of this loop turn; False: refused.

        It tells of events up to `seq`, or is CHANGED, or 0: a signal, which may be lost.
        """
        if not self.hears:
            return False
        command = pack((self._publish, self._prefix + room.encode(), payload))
        if self._queued + len(command) > QUEUE_BYTES:
            self._refused = True
            return False
        self._queued += len(command)
        self._commands.append(command)
        self._news.append((room, seq))
        if not self._flush_due:
            self._flush_soon()
        return True

    @property
    def anchors(self) -> list[str]:
        """Names to give to `command` in place of a room's, one for each server: it keeps what is kept there."""
        return [ANCHOR]

    async def command(self, room: str, *arguments: str | bytes | int) -> Any:
        """The reply to any other command; RedisError, or TimeoutError, if there is none. `room`: see RedisCluster."""
        socket = self._socket
        if socket is None or not self.hears:
            raise ConnectionError(f"the link to {self._where} is away")
        reply: asyncio.Future[Any] = self._loop.create_future()
        encoded = tuple(part if isinstance(part, bytes) else str(part).encode() for part in arguments)
        socket.write(pack(encoded), [reply])
        async with asyncio.timeout(COMMAND_SECONDS):
            return await reply

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        socket = self._socket
        if socket is None or not socket.writable:
            return
        if self._changed and (commands := self._subscriptions()):
            socket.write(commands, ())
        if self._commands:
            commands, news = b"".join(self._commands), self._news
            self._commands, self._news, self._queued = [], [], 0
            socket.write(commands, news)
            if self._refused:
                self._refused = False
                self._owner.on_room_to_write()

    def on_writable(self) -> None:
        self._flush()

    # The connection

    def on_push(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"message" or kind == b"smessage":
            payload = push[2]
            if payload.startswith(self._origin):
                if payload == self._probe and push[1] == self._probe_channel and not self._probe_heard.done():
                    self._probe_heard.set_result(None)
                return
            channel = self._channels.get(push[1])
            if channel is not None and channel.wanted:
                self._owner.on_payload(channel.room, payload)
        elif kind in (b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe"):
            if self._socket is not None:
                self._socket.unconfirmed -= 1
            self._on_confirmed(push[1])

    async def _run(self) -> None:
        failures = 0
        while True:
            began = monotonic()
            try:
                await self._converse()
            except (RedisError, OSError) as error:
                self._tell_lost(error)
                self._owner.on_lost(deaf=isinstance(error, Deaf))
            except Exception:
                logger.exception("redis link failed where=%s", self._where)
            if monotonic() - began > LONGEST_PAUSE:
                failures = 0
            await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0**failures)))
            failures = min(failures + 1, 30)

    async def _converse(self) -> None:
        """Connect, subscribe, and hear until the link is lost: RedisError or OSError says why."""
        server = await self._find()
        self._where = f"{server[0]}:{server[1]}"
        socket = self._socket = RedisSocket(await self._address.connect(server), self)
        watch = self._tasks.spawn(self._watch(socket, server)) if self._address.service else None
        try:
            self._probe_channel = self._name_probe()
            self._changed = dict(self._channels)
            socket.write(self._command(self._subscribe, [self._probe_channel]) + self._subscriptions(), ())
            await self._hear_self(socket)  # what was written before it has been done, too
            self._tell_back()
            while True:
                await asyncio.wait([socket.ended], timeout=PROBE_SECONDS)
                await self._hear_self(socket)
        except Deaf as error:
            socket.end(error)  # what it has not written, it will not
            raise
        finally:
            self._take_back(socket)
            if watch is not None:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            await socket.close()

    async def _hear_self(self, socket: RedisSocket) -> None:
        """Send a probe and wait until it is back; Deaf if it is not, and what `socket` ended with if it has."""
        if socket.ended.done():
            socket.ended.result()
        self._probe = self._origin + secrets.token_bytes(PROBE_BYTES)
        heard = self._probe_heard = self._loop.create_future()
        socket.write(pack((self._publish, self._probe_channel, self._probe)), [("", 0)])
        for patience in (PROBE_SECONDS, LATE_SECONDS):
            await asyncio.wait([heard, socket.ended], timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if socket.ended.done():
                socket.ended.result()
            if heard.done():
                return
        raise Deaf(f"it is deaf: a probe did not come back within {PROBE_SECONDS:g} s")

    async def _watch(self, socket: RedisSocket, server: HostPort) -> None:
        """End `socket` when the Sentinels name another primary: the old one may live on, alone."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            with contextlib.suppress(RedisError, OSError):  # no Sentinel answers: nothing is known
                if await self._find() != server:
                    socket.end(ConnectionError("the Sentinels name another primary"))

    def _take_back(self, socket: RedisSocket) -> None:
        """The link is lost: nobody waits for it, and the owner gets what may not have arrived."""
        self.hears = False
        self._socket = None
        for name, channel in list(self._channels.items()):
            channel.asked, channel.pending = False, 0
            _settle(channel)
            self._forget(name, channel)
        self._changed = {}
        replies: Iterable[News | asyncio.Future[Any]] = [*socket.replies, *self._news]
        self._commands, self._news, self._queued, self._refused = [], [], 0, False
        for news in replies:
            if isinstance(news, tuple) and news[1]:
                self._owner.on_unsent(*news)

    def _tell_lost(self, reason: Exception) -> None:
        if not self._told_lost:
            self._told_lost = True
            text = str(reason) or type(reason).__name__
            logger.warning("redis is away, messages between processes are late where=%s reason=%s", self._where, text)

    def _tell_back(self) -> None:
        self.hears = True
        if self._told_lost:
            logger.info("redis is back where=%s", self._where)
        self._told_lost = False
        again, self._ever_heard = self._ever_heard, True
        self._owner.on_link(again=again)


def channel_of(epoch: str, room: str) -> bytes:
    """The log's epoch keeps installations apart that share a Redis: each numbers the events of its own rooms."""
    return f"tornado_chat:{epoch}:{room}".encode()


def _settle(channel: Channel) -> None:
    if channel.confirmed is not None:
        if not channel.confirmed.done():
            channel.confirmed.set_result(None)
        channel.confirmed = None
