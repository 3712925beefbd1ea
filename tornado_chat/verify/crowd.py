"""The many: who they are, what they say, and whether all of them hold everything in the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tornado_chat.auth import mint
from tornado_chat.verify.checks import Finding, shape_of
from tornado_chat.verify.device import MAX_UNANSWERED, Device, Sent
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.websocket import ServerAddress
from tornado_chat.wire.codec import JSON, MSGPACK
from tornado_chat.wire.events import Data

TOKEN_TTL = 30 * 86400.0
START_SECONDS = 30.0
TICK = 0.02
"""The sends of so many seconds go out together."""
ROOMS_EACH = 3
STUCK_SHOWN = 20
LONG_TEXT = 4000
_WORDS = (
    "to",
    "be",
    "or",
    "not",
    "in",
    "the",
    "quiet",
    "water",
    "über",
    "naïve",
    "水",
    "🦊",
    "again",
    "without",
    "end",
)
_EMOJI = ("👍", "🎉", "❤️", "eyes")


class NotStarted(Exception):
    """The first client was not let in; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many of everything. `rate` is in commands a second, all clients together."""

    clients: int
    rooms: int
    rate: float


class Crowd:
    """`secret` signs a token for each user, `token` is everybody's; with neither they are guests."""

    def __init__(
        self,
        address: ServerAddress,
        plan: Plan,
        ledger: Ledger,
        dice: random.Random,
        *,
        secret: bytes | None,
        token: str | None,
    ) -> None:
        self.ledger = ledger
        self.dice = dice
        self._address = address
        self._plan = plan
        self._secret = secret
        self._token = token
        self._run = f"{dice.getrandbits(32):08x}"
        self._users = max(1, plan.clients // 2)  # each has two devices
        self.clients = [self._client(number) for number in range(plan.clients)]
        self._tasks: set[asyncio.Task[None]] = set()

    def _client(self, number: int) -> Device:
        user = number % self._users
        dice = random.Random(self.dice.getrandbits(64))
        rooms = list(self.ledger.records)
        mine = [rooms[(user + step) % len(rooms)] for step in range(min(ROOMS_EACH, len(rooms)))]
        return Device(
            f"c{number + 1}",
            mine,
            self.ledger,
            self._address,
            token=self._credential(f"verify-{self._run}-{user + 1}"),
            codec=MSGPACK if number % 3 == 1 else JSON,
            compressed=number % 4 == 2,
            small=number % 2 == 1,
            dice=dice,
        )

    def _credential(self, user: str) -> str | None:
        return self._token if self._secret is None else mint(self._secret, user, ttl=TOKEN_TTL)

    async def start(self) -> None:
        """Returns when everybody was welcomed once; NotStarted if the first is not let in."""
        first = self.clients[0]
        self._spawn(first)
        deadline = time.monotonic() + START_SECONDS
        while not first.welcomed.is_set():
            if first.refusal is not None or time.monotonic() > deadline:
                where = f"{self._address.authority}{self._address.target}"
                raise NotStarted(f"cannot connect to {where}: {first.refusal or 'no welcome'}")
            await asyncio.sleep(0.01)
        for client in self.clients[1:]:
            self._spawn(client)
            await asyncio.sleep(0.002)
        await self._wait(lambda: all(client.welcomed.is_set() for client in self.clients), START_SECONDS)

    def _spawn(self, client: Device) -> None:
        task = asyncio.create_task(client.run())
        self._tasks.add(task)

    async def stop(self) -> None:
        """Leaves no socket and no task."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()

    def fault(self) -> BaseException | None:
        """Why a client's task ended, which none should."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                return task.exception()
        return None

    # What they say.

    async def talk(self, stopped: asyncio.Event) -> None:
        """Send at the plan's rate until `stopped`; what could not be sent in time is left out, not made up for."""
        rate = self._rate()
        began, due = time.monotonic(), 0.0
        while not stopped.is_set():
            await asyncio.sleep(TICK)
            now = time.monotonic()
            due = min(due + (now - began) * rate, rate)
            began = now
            while due >= 1.0:
                due -= 1.0
                self._one()

    def _rate(self) -> float:
        """The plan's, or four fifths of what the server's limits let these users send."""
        limit = self.clients[0].limits.get("send_rate") or 0
        users = len({client.user for client in self.clients})
        return min(self._plan.rate, limit * users * 0.8) if limit else self._plan.rate

    def _one(self) -> None:
        client = self.dice.choice(self.clients)
        if client.connected and len(client.unanswered) < MAX_UNANSWERED:
            if self.dice.random() < 0.03:
                client.whisper({"type": "typing", "room": self.dice.choice(list(client.rooms)), "on": True})
            client.speak(self.command(client))

    def command(self, client: Device) -> Data:
        """Something that `client` may say, without an id."""
        dice = self.dice
        room = dice.choice(list(client.rooms))
        kind = dice.random()
        if kind < 0.08 and client.messages:
            room, seq = dice.choice(client.messages)
            return {"type": "edit", "room": room, "seq": seq, "text": self._text()}
        if kind < 0.12 and client.messages:
            room, seq = client.messages[at := dice.randrange(len(client.messages))]
            del client.messages[at]
            return {"type": "delete", "room": room, "seq": seq}
        others = dice.choice(self.clients).messages
        if kind < 0.25 and others:
            theirs, seq = dice.choice(others)
            if theirs in client.rooms:
                emoji, on = dice.choice(_EMOJI), dice.random() < 0.7
                return {"type": "react", "room": theirs, "seq": seq, "emoji": emoji, "on": on}
        command: Data = {"type": "send", "room": room, "text": self._text()}
        if dice.random() < 0.1:
            command["meta"] = {"n": dice.randrange(1000), "of": [None, True, "é"]}
        if dice.random() < 0.1 and client.rooms[room].cursor:
            command["reply_to"] = client.rooms[room].cursor
        return command

    def _text(self) -> str:
        size = self.dice.choice((1, 3, 8, 8, 20)) if self.dice.random() < 0.8 else 400
        return f"{self.dice.getrandbits(64):016x} {' '.join(self.dice.choices(_WORDS, k=size))}"[:LONG_TEXT]

    def sibling(self, client: Device) -> Device:
        """Another device of the same user, or the same where there is none."""
        others = [one for one in self.clients if one is not client and one.user == client.user]
        return self.dice.choice(others) if others else client

    def old(self, client: Device) -> Sent | None:
        """Something that was acknowledged, perhaps long ago, or is on its way at this moment."""
        if client.unanswered and self.dice.random() < 0.3:
            return self.dice.choice(list(client.unanswered.values()))
        return self.dice.choice(client.acked) if client.acked else None

    # The end.

    async def settle(self, patience: float) -> None:
        """Wait until everybody holds everything, read the whole log, and hold all to it; `patience` is in seconds."""
        deadline = time.monotonic() + patience
        await self._wait(self._all_hold, deadline - time.monotonic())
        reader = Device(
            "reader",
            list(self.ledger.records),
            self.ledger,
            self._address,
            token=self._credential(f"verify-{self._run}-reader"),
            codec=JSON,
            compressed=False,
            small=False,
            dice=self.dice,
            last=self._all_hold(),
        )
        self._spawn(reader)
        # Who reads last may find what nobody was told of; then the others must find it too.
        deadline = max(deadline, time.monotonic() + patience / 2)
        await self._wait(lambda: reader.waits() is None and self._all_hold(), deadline - time.monotonic())
        stuck = [(client, waits) for client in (*self.clients, reader) if (waits := client.waits()) is not None]
        for client, (room, seq, why) in stuck[:STUCK_SHOWN]:
            finding = Finding("stuck", f"{patience:g} s after the last fault: {why}")
            self.ledger.report(finding, room=room, seq=seq, client=client.name)
        if len(stuck) > STUCK_SHOWN:
            self.ledger.report(Finding("stuck", f"and {len(stuck) - STUCK_SHOWN} clients more"))
        self._audit(reader)

    def _all_hold(self) -> bool:
        return all(client.waits() is None for client in self.clients)

    def _audit(self, reader: Device) -> None:
        unanswered = {shape_of(sent.event) for client in self.clients for sent in client.unanswered.values()}
        for room, record in self.ledger.records.items():
            witness = reader.rooms[room]
            if not witness.synced:
                continue  # reported as stuck: the rest of its log was not seen
            for seq, finding in record.audit(witness.cursor, unanswered):
                self.ledger.report(finding, room=room, seq=seq, client=reader.name)
        for client in self.clients:
            client.audit()
        if not self.ledger.counts["acked"] or not self.ledger.counts["delivered"]:
            self.ledger.report(Finding("stuck", "nothing was acknowledged, or nothing delivered: nothing was verified"))
        error = self.fault()
        if error is not None:
            raise error

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True
