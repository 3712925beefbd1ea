"""The many: who they are, what they say, and whether all of them hold everything in the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jwt

from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.answers import Answers
from tornado_chat.verify.asking import Asking
from tornado_chat.verify.codecs import JSON, MSGPACK, Data
from tornado_chat.verify.commands import MAX_UNANSWERED, Sent
from tornado_chat.verify.device import Device
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.growth import Growth
from tornado_chat.verify.handshake import Offer
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.messages import HISTORY_MAX, LEVELS, MENTIONS_MAX, OWN
from tornado_chat.verify.pouring import Pouring
from tornado_chat.verify.record import shape_of

TOKEN_TTL = 30 * 86400
START_SECONDS = 30.0
STOP_SECONDS = 5.0
"""For a device that is cancelled to end; then it is cancelled again."""
TICK = 0.02
"""The sends of so many seconds go out together."""
ASKING = 0.02
"""So many of the commands are for the agent, where there is one."""
ANSWERS_PATIENCE = 3
"""Times the patience, for its last answers: one that is given again after a lease, and others behind it."""
AGENTS = 8
"""One of so many users is an agent."""
ROOMS_EACH = 3
GROWING, GROWING_EACH = 0.02, 3
"""So many of the commands begin a message that grows; and how many of one device may grow at once."""
POURED = 0.2
"""So many of these are the body of one request."""
STUCK_SHOWN = 20
OWN_LOGS_READ = 100
"""Of so many users the own log is read in the end."""
SCROLLED_ROOMS, SCROLLED_PAGES = 20, 10
"""Of so many rooms so many pages are read back in the end, when nothing goes on any more."""
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
    """The first device was not let in; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many of everything, and which harm is done.

    `rate` is in commands a second, all devices together; `transports` take turns.
    """

    devices: int
    rooms: int
    rate: float
    transports: Sequence[str]
    faults: Sequence[str]


class Crowd:
    """`secret` signs a token for each user, `token` is everybody's; with neither they are guests.

    A third of the devices connect `through` a port of 127.0.0.1 that leads to the server, if there is one.
    """

    def __init__(
        self,
        address: ServerAddress,
        plan: Plan,
        ledger: Ledger,
        dice: random.Random,
        *,
        secret: bytes | None,
        token: str | None,
        through: int | None,
        agent: bool = False,
    ) -> None:
        self.ledger = ledger
        self.dice = dice
        self._address = address
        self._plan = plan
        self._secret = secret
        self._token = token
        self._through = through
        self.transports = list(plan.transports)
        self._run = f"{dice.getrandbits(32):08x}"
        self._users = max(1, plan.devices // 2)  # each has two devices
        self._absent = f"verify-{self._run}-absent"  # who is named, and has never come
        self.agent = f"verify-{self._run}-agent"
        """The user whom all may ask, if `agent`."""
        self._asking: Asking | None = None
        if agent:
            ledger.answers = Answers(self.agent, ledger.grow)
            self._asking = Asking(ledger.answers, self._run, random.Random(dice.getrandbits(64)))
            for users in ledger.users.values():
                users.add(self.agent)
        self.devices = [self._device(number) for number in range(plan.devices)]
        self.began_as = self.kinds()
        self._ending = False
        self._pours = 0
        self._pouring: set[Pouring] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def _device(self, number: int) -> Device:
        user = number % self._users
        agent = self._secret is not None and user % AGENTS == AGENTS // 2
        nth = number // len(self.transports)  # of those of its kind
        dice = random.Random(self.dice.getrandbits(64))
        rooms = list(self.ledger.records)
        kind = self.transports[number % len(self.transports)]
        # In one room only some have a stream or a page of its own address. One of a user's is in the own log always.
        alone = kind in ("stream", "poll") and nth % 3 == 0 and number >= self._users
        mine = [rooms[(user + step) % len(rooms)] for step in range(1 if alone else min(ROOMS_EACH, len(rooms)))]
        mine = mine if alone and nth % 2 else [OWN] if alone else [*mine, OWN]
        return Device(
            f"c{number + 1}",
            mine,
            self.ledger,
            self._address.through(self._through) if self._through is not None and nth % 3 == 2 else self._address,
            kind=kind,
            token=self.credential(f"verify-{self._run}-{user + 1}", agent=agent),
            offer=Offer(
                MSGPACK if nth % 3 == 1 else JSON,
                window_bits={2: 15, 6: 10}.get(nth % 8),
                small=nth % 2 == 1,
            ),
            dice=dice,
            agent=agent,
        )

    def credential(self, user: str, *, agent: bool = False) -> str | None:
        """A token, made as the protocol tells the makers of tokens."""
        if self._secret is None:
            return self._token
        claims: Data = {"sub": user, "exp": int(time.time()) + TOKEN_TTL}
        return jwt.encode(claims | ({"agent": True} if agent else {}), self._secret, "HS256")

    async def start(self) -> None:
        """Returns when everybody was welcomed once; NotStarted if the first is not let in."""
        first = self.devices[0]
        self._spawn(first)
        deadline = time.monotonic() + START_SECONDS
        while not first.welcomed.is_set():
            if first.refusal is not None or time.monotonic() > deadline:
                why = first.refusal or "no welcome"
                raise NotStarted(f"cannot connect to {self._address.authority} ({first.kind}): {why}")
            await asyncio.sleep(0.01)
        for device in self.devices[1:]:
            self._spawn(device)
            await asyncio.sleep(0.002)
        self._tasks.add(asyncio.create_task(self._write()))
        await self._wait(lambda: all(device.welcomed.is_set() for device in self.devices), START_SECONDS)

    def kinds(self) -> Counter[str]:
        """How many devices are of which kind just now."""
        return Counter(device.kind for device in self.devices)

    def _spawn(self, device: Device) -> None:
        task = asyncio.create_task(device.run())
        self._tasks.add(task)

    async def stop(self) -> None:
        """Leaves no socket and no task."""
        left, self._tasks = self._tasks, set()
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=STOP_SECONDS)

    def fault(self) -> BaseException | None:
        """Why a device's task ended, which none should."""
        ended = [task for task in self._tasks if task.done() and not task.cancelled()]
        return next((error for task in ended if (error := task.exception()) is not None), None)

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
        limit = self.devices[0].limits.get("send_rate") or 0
        users = len({device.user for device in self.devices})
        return min(self._plan.rate, limit * users * 0.8) if limit else self._plan.rate

    async def _write(self) -> None:
        """Messages that grow go on, and end when all is to end."""
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            for device in self.devices:
                if device.authoring.open:
                    device.authoring.turn(now, ending=self._ending)

    def _one(self) -> None:
        device = self.dice.choice(self.devices)
        if device.connected and device.spoken and len(device.commands.unanswered) < MAX_UNANSWERED:
            if self.dice.random() < GROWING and device.authoring.open < GROWING_EACH:
                self._begin_growing(device)
                return
            if self._asking is not None and not device.agent and self.dice.random() < ASKING:
                self._asking.do(device)
                return
            command = self.command(device)
            device.commands.speak(command)
            self._aside(device, command["room"])

    def _begin_growing(self, device: Device) -> None:
        """Half of them answer somebody."""
        dice = self.dice
        command: Data = {"type": "begin", "room": dice.choice(device.spoken)}
        other, asker = dice.choice(self.devices), None
        asked = [seq for room, seq in other.commands.messages if room == command["room"]]
        if asked and dice.random() < 0.5:
            command["reply_to"], asker = dice.choice(asked), other.user
        if dice.random() < 0.1:
            command["meta"] = {"model": "é"}
        if dice.random() < 0.2:
            command["replica"] = device.name
        text = " ".join(dice.choices(_WORDS, k=dice.choice((0, 1, 20, 100, 100, 300, 2000))))
        if text and dice.random() < POURED:
            self._pour(device, command, text, asker)
        else:
            device.authoring.begin(command, text, asker)

    def _pour(self, device: Device, command: Data, text: str, asker: str | None) -> None:
        """By a request of its own, which is nobody's connection."""
        self._pours += 1
        growth = Growth(command["room"], device.user, f"{device.name}.p{self._pours}", text, asker=asker, watched=False)
        self.ledger.grow(growth)
        self.ledger.records[growth.room].unmarked.add((growth.user, growth.id))
        self.ledger.counts["poured"] += 1
        faults = self._plan.faults
        pouring = Pouring(
            growth,
            device.address,
            device.token,
            command.get("reply_to"),
            self.dice,
            self._report_of_pouring,
            cuts="cuts" in faults,
            deaths="authors" in faults,
        )
        self._pouring.add(pouring)
        task = asyncio.create_task(pouring.run())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._poured(pouring, done))

    def _poured(self, pouring: Pouring, task: asyncio.Task[None]) -> None:
        self._pouring.discard(pouring)
        if not task.cancelled() and task.exception() is None:
            self._tasks.discard(task)

    def _report_of_pouring(self, finding: Finding, growth: Growth) -> None:
        self.ledger.report(finding, room=growth.room, seq=growth.seq, device=growth.id)

    def _aside(self, device: Device, room: str) -> None:
        """Now and then what makes no event; right after what does, so that their order is tried."""
        dice = self.dice
        kind = dice.random()
        if kind < 0.01:
            device.send({"type": "typing", "room": room, "on": True})
        elif kind < 0.015:
            device.send({"type": "status", "room": room, "text": "é" * 200 if kind < 0.014 else ""})
        elif kind < 0.02:
            step = {"id": "s", "name": "search", "state": "running" if kind < 0.018 else "done", "input": "é" * 1000}
            device.send({"type": "step", "room": room, "seq": device.rooms[room].cursor or 1, "step": step})
        elif kind < 0.03 and (seq := device.rooms[room].cursor):
            device.own.ask_mark(room, seq, seq)
            device.send({"type": "read", "room": room, "seq": seq})
        elif kind < 0.04:
            device.questions.ask_presence(room)
        elif kind < 0.06:
            head = self.ledger.records[room].head
            before = dice.randint(1, head + 1) if dice.random() < 0.3 else None
            device.questions.ask_history(room, before, dice.choice((1, 10, 50, HISTORY_MAX)))

    def command(self, device: Device) -> Data:
        """Something that `device` may say, without an id."""
        dice = self.dice
        room = dice.choice(device.spoken)
        kind = dice.random()
        if kind > 0.92 and (own := self._about_own(device, room, kind)) is not None:
            return own
        if kind < 0.08 and device.commands.messages:
            room, seq = dice.choice(device.commands.messages)
            return {"type": "edit", "room": room, "seq": seq, "text": self._text()}
        if kind < 0.002 or (0.08 < kind < 0.082):
            growing = [
                one
                for one in self.ledger.still_growing()
                if one.user == device.user and one.room in device.rooms and not one.deleting
            ]
            if growing:
                return self._disturb(dice.choice(growing), edit=kind < 0.01)
        if kind < 0.12 and device.commands.messages:
            room, seq = device.commands.messages[at := dice.randrange(len(device.commands.messages))]
            del device.commands.messages[at]
            return {"type": "delete", "room": room, "seq": seq}
        if kind < 0.15 and device.commands.reactions:
            given = device.commands.reactions[at := dice.randrange(len(device.commands.reactions))]
            del device.commands.reactions[at]
            return {key: value for key, value in given.items() if key != "id"} | {"on": False}
        others = dice.choice(self.devices).commands.messages
        if kind < 0.25 and others:
            theirs, seq = dice.choice(others)
            if theirs in device.rooms:
                emoji, on = dice.choice(_EMOJI), dice.random() < 0.7
                return {"type": "react", "room": theirs, "seq": seq, "emoji": emoji, "on": on}
        command: Data = {"type": "send", "room": room, "text": self._text()}
        if dice.random() < 0.1:
            command["meta"] = {"n": dice.randrange(1000), "of": [None, True, "é"]}
        if dice.random() < 0.1 and device.rooms[room].cursor:
            command["reply_to"] = device.rooms[room].cursor
        if dice.random() < 0.1:
            command["mentions"] = self._named()
        if dice.random() < 0.1:
            command["mark"] = False
        return command

    def _named(self) -> list[str]:
        """Users whom a message mentions, perhaps its sender, or one twice; half of the time the first of all."""
        count = self.dice.choice((1, 1, 2, 3, MENTIONS_MAX))
        named = [self.dice.choice(self.devices).user for _ in range(min(count, len(self.devices)))]
        if self.dice.random() < 0.5:
            named[0] = self.devices[0].user
        if self._secret is not None and self.dice.random() < 0.3:
            named[-1] = self._absent
        return [user for user in named if user] or [self._absent]

    def _about_own(self, device: Device, room: str, kind: float) -> Data | None:
        """A mark, a room that is followed, an invitation; None where the one before has no answer yet."""
        dice, seq = self.dice, device.rooms[room].cursor
        if kind > 0.96 and seq:
            # Most have said something since what is far behind, and their mark stands there already.
            read = dice.choices((seq, dice.randint(1, seq), seq + 2**40), (5, 4, 1))[0]
            return {"type": "read", "room": room, "seq": read}
        if kind < 0.94:
            user = dice.choice(self.devices).user or device.user
            if user == device.user or room in self.ledger.own_log(user).busy:
                return None
            return {"type": "invite", "room": room, "user": user}
        if room in device.own.busy:
            return None
        if kind < 0.95:
            return {"type": "unfollow", "room": room}
        return {"type": "follow", "room": room, "level": dice.choice(LEVELS)}

    def _disturb(self, growth: Growth, *, edit: bool) -> Data:
        """What changes a message that is there: the first is refused while it grows, the other stops it before."""
        if edit:
            return {"type": "edit", "room": growth.room, "seq": growth.seq, "text": self._text()}
        growth.stopped = growth.deleting = True
        return {"type": "delete", "room": growth.room, "seq": growth.seq}

    def _text(self) -> str:
        size = self.dice.choice((1, 3, 8, 8, 20)) if self.dice.random() < 0.8 else 400
        return f"{self.dice.getrandbits(64):016x} {' '.join(self.dice.choices(_WORDS, k=size))}"[:LONG_TEXT]

    def sibling(self, device: Device) -> Device:
        """Another device of the same user, or the same where there is none."""
        others = [one for one in self.devices if one is not device and one.user == device.user]
        return self.dice.choice(others) if others else device

    def old(self, device: Device) -> Sent | None:
        """Something that was acknowledged, perhaps long ago, or is on its way at this moment."""
        commands = device.commands
        if commands.unanswered and self.dice.random() < 0.3:
            return self.dice.choice(list(commands.unanswered.values()))
        return self.dice.choice(commands.acked) if commands.acked else None

    # The end.

    async def settle(self, patience: float) -> None:
        """Wait until everybody holds everything, read the whole log, and hold all to it; `patience` is in seconds."""
        self._ending = True
        for pouring in self._pouring:
            pouring.ending = True
        deadline = time.monotonic() + patience
        if self._asking is not None:
            await self._wait(self._all_answered, ANSWERS_PATIENCE * patience)
            deadline = max(deadline, time.monotonic() + patience / 2)
        await self._wait(self._all_hold, deadline - time.monotonic())
        reader = Device(
            "reader",
            list(self.ledger.records),
            self.ledger,
            self._address,
            kind="websocket" if "websocket" in self.transports else "http",
            token=self.credential(f"verify-{self._run}-reader"),
            offer=Offer(JSON),
            dice=self.dice,
            last=self._all_hold(),
        )
        self._spawn(reader)
        # Who reads last may find what nobody was told of; then the others must find it too.
        deadline = max(deadline, time.monotonic() + patience / 2)
        held = await self._wait(lambda: reader.waits() is None and self._all_hold(), deadline - time.monotonic())
        own_readers = await self._read_own_logs(patience) if held else []
        if held:
            rooms = list(self.ledger.records)
            for room in self.dice.sample(rooms, min(SCROLLED_ROOMS, len(rooms))):
                reader.questions.ask_history(room, None, HISTORY_MAX, SCROLLED_PAGES)
                reader.questions.ask_presence(room)
            held = await self._wait(
                lambda: all(one.waits() is None for one in (reader, *own_readers)) and self._all_hold(), patience
            )
        every = () if held else (*self.devices, reader, *own_readers)
        stuck = [(device, waits) for device in every if (waits := device.waits()) is not None]
        for device, (room, seq, why) in stuck[:STUCK_SHOWN]:
            finding = Finding("stuck", f"{patience:g} s after the last fault: {why}")
            self.ledger.report(finding, room=room, seq=seq, device=device.name)
        if len(stuck) > STUCK_SHOWN:
            self.ledger.report(Finding("stuck", f"and {len(stuck) - STUCK_SHOWN} clients more"))
        self._audit(reader)

    async def _read_own_logs(self, patience: float) -> list[Device]:
        """Of some users the whole own log, and its state, now that nothing goes on; also of one who has never come."""
        tokens = {device.user: device.token for device in self.devices}
        users = self.dice.sample(sorted(tokens), min(len(tokens), OWN_LOGS_READ))
        if self._secret is not None:
            users.append(self._absent)
        readers: list[Device] = []
        for number, user in enumerate(users):
            kind = self.transports[number % len(self.transports)]
            token = self.credential(user) if self._secret is not None else tokens[user]
            readers.append(
                Device(
                    f"own{number + 1}",
                    [OWN],
                    self.ledger,
                    self._address,
                    kind=kind,
                    token=token,
                    offer=Offer(JSON),
                    dice=self.dice,
                )
            )
            self._spawn(readers[-1])
        await self._wait(lambda: all(one.waits() is None for one in readers), patience)
        for one in readers:
            one.begin_anew()
        return readers

    def _all_answered(self) -> bool:
        return self.ledger.answers is None or self.ledger.answers.waiting() is None

    def _all_hold(self) -> bool:
        return (
            not self._pouring
            and self._all_answered()
            and not self.ledger.still_growing()
            and all(device.waits() is None for device in self.devices)
        )

    def _audit(self, reader: Device) -> None:
        commands = [device.commands for device in self.devices]
        left = [sent.event for one in commands for sent in (*one.unanswered.values(), *one.given_up)]
        unanswered = {shape_of(event) for event in left if event is not None}
        for room, record in self.ledger.records.items():
            witness = reader.rooms[room]
            if not witness.synced:
                continue  # reported as stuck: the rest of its log was not seen
            for seq, finding in record.audit(witness.cursor, unanswered):
                self.ledger.report(finding, room=room, seq=seq, device=reader.name)
        counts = {room: record.counts() for room, record in self.ledger.records.items()}
        for user, own in self.ledger.own.items():
            for finding in own.audit(self.ledger.records, counts):
                self.ledger.report(finding, room=OWN, device=user)
        sound = not self.ledger.faults["postgresql-restart"]
        for room, record in self.ledger.records.items():
            for growth in record.saying.values():
                for finding in growth.audit(self.ledger.breaks, sound=sound):
                    self.ledger.report(finding, room=room, device=growth.user)
        for device in self.devices:
            device.audit()
        if self.ledger.answers is not None:
            for room, finding in self.ledger.answers.audit():
                self.ledger.report(finding, room=room, device=self.agent)
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
