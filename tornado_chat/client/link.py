"""The client's way to the server: one transport at a time, and another when that is lost or a better one passes."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from asyncio import FIRST_COMPLETED
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from tornado_chat.client.ends import LONGEST_WAIT, Lost, Refused
from tornado_chat.client.ladder import Ladder
from tornado_chat.client.poll import PollTransport
from tornado_chat.client.stream import StreamTransport
from tornado_chat.client.transport import CHOICES, KINDS, Choice, Target, Transport, TransportKind, split
from tornado_chat.client.websocket import WebSocketTransport
from tornado_chat.errors import CloseCode
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.events import Data

log = logging.getLogger(__name__)

Token = str | Callable[[], Awaitable[str]] | None

UNAUTHORIZED = frozenset({401, CloseCode.TOKEN_EXPIRED, CloseCode.SESSION_REVOKED})

MAKERS: dict[TransportKind, Callable[[Target], Transport]] = {
    "websocket": WebSocketTransport,
    "stream": StreamTransport,
    "poll": PollTransport,
}

HEAD_START: dict[TransportKind, float] = {"websocket": 2.5, "stream": 5.0}
"""s, that a transport has for its `welcome` before the next one is tried beside it."""

IN_WORDS: dict[TransportKind, str] = {"websocket": "a WebSocket", "stream": "a stream", "poll": "long polls"}


class LinkOwner(Protocol):
    def joins(self) -> list[Data]:
        """The joins that will come after the next `welcome`, as yet without an `id`."""

    def on_welcome(self, welcome: Data) -> None:
        """A connection is open and may be written to."""

    async def on_message(self, message: Data) -> None:
        """What comes after `welcome`; see Listener."""

    def on_lost(self) -> None:
        """The connection that was welcomed is over; what was written last may not have arrived."""


class Link:
    """See Client for the parameters. `run` is its one task."""

    def __init__(
        self,
        url: str,
        *,
        transport: Choice,
        token: Token,
        name: str | None,
        codec: Codec,
        connect_timeout: float,
        ping_interval: float,
        backoff: tuple[float, float],
        notify: Callable[[str], None],
    ) -> None:
        if transport not in CHOICES:
            raise ValueError(f"transport: must be one of {', '.join(CHOICES)}; got {transport!r}")
        self._owner: LinkOwner  # of `run`
        self._url = split(url)
        self._tls = ssl.create_default_context() if self._url.scheme == "https" else None
        self._ladder = Ladder(KINDS if transport == "auto" else [transport])
        self._fetch = token if callable(token) else None
        self._token = token if isinstance(token, str) else None
        self._accepted = False  # the token was good for a connection
        self._welcomed = False  # ever
        self._guest = False
        self._name = name
        self._codec = codec
        self._connect_timeout = connect_timeout
        self._ping_interval = ping_interval
        self._backoff = backoff
        self._notify = notify
        self._told: TransportKind = self._ladder.kinds[0]  # what the user takes it to be
        self._away = False  # the user was told that the connection is lost
        self._transport: Transport | None = None  # open and welcomed
        self._closing: set[asyncio.Task[None]] = set()  # of transports that are not used any more

    @property
    def transport(self) -> Transport | None:
        """The one that may be written to; what is written to it may be lost with it."""
        return self._transport

    async def run(self, owner: LinkOwner) -> None:
        """Stay connected until cancelled, which leaves no socket and no task, or until Refused; tell `owner`."""
        self._owner = owner
        failures = 0
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                try:
                    await self._connect_and_listen()
                except Lost as error:
                    lost = error
                except Refused as refused:
                    if not self._renew(refused.code):
                        raise
                    lost = Lost(f"the token is not taken any more: {refused}")
                if loop.time() - began > self._longest_pause(failures):
                    failures = 0
                delay = self.pause(failures) if lost.wait is None else min(lost.wait, LONGEST_WAIT)
                failures += 1
                self._away = True
                self._notify(f"{lost}, retrying in {delay:.1f} s")
                await asyncio.sleep(delay)
        finally:
            while self._closing:
                await asyncio.wait(self._closing)

    def pause(self, failures: int) -> float:
        """Exponential back-off with full jitter, so that clients cut off together do not come back together."""
        return random.uniform(0, self._longest_pause(failures))

    def _longest_pause(self, failures: int) -> float:
        shortest, longest = self._backoff
        return min(longest, shortest * 2.0 ** min(failures, 30))

    # Which transport

    async def _connect_and_listen(self) -> None:
        """Until the connection is lost, and none has taken its place: Lost or Refused."""
        await self._find_token()
        try:
            transport, welcome = await self._race(self._ladder.kinds)
        except (Lost, Refused) as error:
            # Those above were not tried; or what passed before is blocked now, which may not be for long.
            go_on = error.suspect and (self._ladder.better or self._welcomed)
            self._ladder.on_nothing(suspect=error.suspect)
            if go_on and isinstance(error, Refused):
                raise Lost(str(error)) from error
            raise
        while True:
            transport, welcome = await self._listen(transport, welcome)

    async def _race(self, kinds: Sequence[TransportKind]) -> tuple[Transport, Data]:
        """The first of `kinds` to be welcomed, and its `welcome`. If one is late or suspect the next is tried, too."""
        waiting = deque(kinds)
        attempts: dict[asyncio.Task[Data], Transport] = {}
        ends: list[Lost | Refused] = []
        start = True
        head_start: float | None = None
        try:
            while True:
                if start and waiting:
                    kind = waiting.popleft()
                    transport = MAKERS[kind](self._target())
                    attempts[asyncio.create_task(transport.open(self._owner.joins()))] = transport
                    head_start = HEAD_START.get(kind)
                if not attempts:
                    raise min(ends, key=lambda end: (isinstance(end, Refused), end.suspect))  # what leaves most hope
                await asyncio.wait(attempts, timeout=head_start if waiting else None, return_when=FIRST_COMPLETED)
                done = [task for task in attempts if task.done()]
                start = not done
                for task in done:
                    try:
                        welcome = task.result()
                    except (Lost, Refused) as end:
                        if isinstance(end, Refused) and not end.suspect:
                            raise
                        ends.append(end)
                        self._let_go(attempts.pop(task))
                        if end.suspect:
                            start = True
                        else:  # nobody is there: no other way leads there
                            waiting.clear()
                    else:
                        return attempts.pop(task), welcome
        finally:
            for task, transport in attempts.items():
                task.cancel()
                self._let_go(transport, task)

    async def _listen(self, transport: Transport, welcome: Data) -> tuple[Transport, Data]:
        """Be connected by `transport` until it ends (Lost, Refused), or a better one is there: that, with `welcome`."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._ladder.on_opened(transport.kind, began)
        self._accept(welcome)
        self._transport = transport
        reading = asyncio.create_task(transport.run(self._on_message))
        upgrade: asyncio.Task[tuple[Transport, Data]] | None = None
        try:
            self._owner.on_welcome(welcome)
            self._tell(transport.kind)
            while True:
                at = self._ladder.upgrade_at
                timeout = None if at is None or upgrade is not None else max(0.0, at - loop.time())
                tasks = [reading] if upgrade is None else [reading, upgrade]
                await asyncio.wait(tasks, timeout=timeout, return_when=FIRST_COMPLETED)
                if reading.done():
                    reading.result()
                if upgrade is None:
                    self._ladder.on_upgrade()
                    upgrade = asyncio.create_task(self._race(self._ladder.better))
                elif upgrade.done():
                    done, upgrade = upgrade, None
                    try:
                        return done.result()
                    except (Lost, Refused) as end:
                        log.info("no better transport reason=%s", end)
                        self._ladder.on_no_upgrade(loop.time())
        except (Lost, Refused) as end:
            silent = isinstance(end, Lost) and end.silent
            self._ladder.on_died(transport.heard - began, loop.time(), suspect=end.suspect, silent=silent)
            if isinstance(end, Refused) and end.suspect:  # it was good before
                raise Lost(str(end), suspect=True) from end
            raise
        finally:
            self._transport = None
            reading.cancel()
            # Else it might go on while the next one begins further back, which would look like a hole.
            await asyncio.wait({reading})
            self._owner.on_lost()
            self._let_go(transport, reading)
            if upgrade is not None:
                upgrade.cancel()
                self._spawn(self._waste(upgrade))

    def _let_go(self, transport: Transport, task: asyncio.Task[Any] | None = None) -> None:
        """Close `transport`, whose `task` nobody waits for any more."""
        if task is not None:
            task.cancel()
        self._spawn(_close(transport, task))

    async def _waste(self, upgrade: asyncio.Task[tuple[Transport, Data]]) -> None:
        await asyncio.wait({upgrade})
        if not upgrade.cancelled() and upgrade.exception() is None:
            await upgrade.result()[0].close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _tell(self, kind: TransportKind) -> None:
        if self._away:
            self._away = False
            self._notify("back")
        if self._told != kind:
            self._told = kind
            self._notify(f"connected by {IN_WORDS[kind]} now")

    async def _on_message(self, message: Data) -> None:
        if message["type"] == "welcome":
            self._accept(message)
        else:
            await self._owner.on_message(message)

    # Who comes

    def _target(self) -> Target:
        return Target(
            url=self._url,
            tls=self._tls,
            token=self._token,
            name=self._name,
            codec=self._codec,
            connect_timeout=self._connect_timeout,
            ping_interval=self._ping_interval,
            longest_pause=self._backoff[1],
        )

    async def _find_token(self) -> None:
        if self._token is None and self._fetch is not None:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    self._token = await self._fetch()
            except OSError as error:  # TimeoutError is one
                raise Lost(f"no token: {str(error) or 'timed out'}") from error

    def _accept(self, welcome: Data) -> None:
        self._accepted = self._welcomed = True
        self._guest = "token" in welcome
        self._token = welcome.get("token", self._token)

    def _renew(self, code: int) -> bool:
        """Whether another token may do where the present one, good before, is refused; a revoked guest stays out."""
        can_renew = self._fetch is not None or (self._guest and code != CloseCode.SESSION_REVOKED)
        if code not in UNAUTHORIZED or not can_renew or not self._accepted:
            return False
        self._token, self._accepted = None, False
        return True


async def _close(transport: Transport, task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
    await transport.close()
