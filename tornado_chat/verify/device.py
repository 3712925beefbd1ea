"""One observing device: it takes what comes as it comes, tells the ledger, and always comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from tornado_chat.verify.codecs import Data
from tornado_chat.verify.commands import Commands
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.frames import ABNORMAL, NORMAL, Broken
from tornado_chat.verify.handshake import Offer, Refused, ServerAddress, connect
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.messages import (
    CLOSES,
    ERRORS,
    EVENTS,
    RETRY_CLOSES,
    TRANSIENT_STATUSES,
    malformed,
    retry_after,
)
from tornado_chat.verify.questions import Questions
from tornado_chat.verify.websocket import Ended, WebSocket
from tornado_chat.verify.witness import Witness

LONGEST_PAUSE = 2.0
LONGEST_ASKED = 30.0
"""Longest pause that a server may ask for, in seconds; a longer one is cut to it."""

COMMON = frozenset({NORMAL, *RETRY_CLOSES})


class Device:
    """A user's device in some rooms, from their first event on. `run` is its one task."""

    def __init__(
        self,
        name: str,
        rooms: Sequence[str],
        ledger: Ledger,
        address: ServerAddress,
        *,
        token: str | None,
        offer: Offer,
        dice: random.Random,
        last: bool = False,
    ) -> None:
        """`last`: it reads after everything else has happened, so that no erased text may be left."""
        self.name = name
        self.ledger = ledger
        self.dice = dice
        self.last = last
        self.user = ""
        self.limits: Data = {}
        self.rooms = {room: Witness() for room in rooms}
        self.commands = Commands(self)
        self.questions = Questions(self)
        self.refusal: Exception | None = None  # why the first connection was not made
        self.welcomed = asyncio.Event()
        self.resumed = 0.0  # when it read again after it had stopped
        self._address = address
        self._token = token
        self._offer = offer
        self._socket: WebSocket | None = None  # open and welcomed
        self._stopped_until = 0.0
        self._pause = 0.0  # before the next connection, of our own will
        self._away: dict[str, float] = {}  # by room that it leaves: seconds until it joins it again
        self._cut = False
        self._failures = 0  # connections since the last that was welcomed

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def waits(self) -> tuple[str, int, str] | None:
        """The room, the seq and in words what this device still waits for; None: it holds everything."""
        if self._socket is None:
            return "", 0, "not connected"
        for room, witness in self.rooms.items():
            head = self.ledger.records[room].head
            if not witness.synced or witness.cursor < head:
                state = "live" if witness.synced else "catching up" if witness.joined else "not joined"
                return room, witness.cursor + 1, f"{state} at {witness.cursor}, while the head is {head}"
        unanswered = self.commands.unanswered
        if unanswered:
            sent = next(iter(unanswered.values()))
            return sent.room, 0, f"{len(unanswered)} commands without an answer, the first is {sent.id}"
        asked = self.questions.waits()
        return None if asked is None else (asked, 0, "a history or presence without an answer")

    # What it does.

    def send(self, command: Data) -> None:
        """Write `command` to the connection, if there is one."""
        if self._socket is not None:
            self._socket.send(command)

    def stop_reading(self, seconds: float) -> None:
        if self._pause == 0.0:  # nor while it goes away
            self._stopped_until = time.monotonic() + seconds

    def cut(self, command: Data | None, part: float) -> None:
        """Break the connection, where there is a `command` in the middle of its frame."""
        if self._socket is None:
            return
        self._cut = True
        if command is not None:
            self._socket.send_half(self.commands.make(command).command, part)
        self._socket.cut()

    def go_away(self, seconds: float) -> None:
        """Close in good order, and come back after `seconds`; not while it does not read, or it would see no answer."""
        if self._socket is not None and self._stopped_until < time.monotonic():
            self._pause = seconds
            self._socket.close()

    def join_again(self, room: str, back: int) -> None:
        """On the same connection, from `back` events before its cursor on."""
        witness = self.rooms[room]
        if witness.settled:
            self._join(room, max(0, witness.cursor - back))

    def leave(self, room: str, seconds: float) -> None:
        """Leave `room`, and join it again so long after the server has said that it is left."""
        witness = self.rooms[room]
        if witness.settled:
            witness.leave()
            self._away[room] = seconds
            self.send({"type": "leave", "room": room, "id": f"leave {room}"})

    def _join(self, room: str, after: int) -> None:
        if self._socket is not None:
            self.ledger.users[room].add(self.user)
            self.rooms[room].ask(after)
            self.send({"type": "join", "room": room, "after": after, "id": f"join {room}"})

    def _join_on(self, room: str) -> None:
        self._join(room, self.rooms[room].cursor)

    # Its connections.

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            wait: float | None = None
            try:
                await self._converse()
            except Ended as end:
                wait = self._count_end(end)
            except Broken as error:
                self.violation(Finding("protocol", str(error)))
                self._give_up(error)
            except Refused as error:
                self.ledger.counts["refused"] += 1
                wait = error.retry_after
                if error.status not in TRANSIENT_STATUSES:
                    self._give_up(error)
                    if self.welcomed.is_set():
                        self.violation(Finding("error", f"a handshake like others before was refused: {error}"))
                    wait = LONGEST_PAUSE
            except OSError as error:  # TimeoutError is one
                self._give_up(error)
            pause = self.dice.uniform(0, min(LONGEST_PAUSE, 0.1 * 2.0 ** min(self._failures, 10)))
            self._failures += 1
            await asyncio.sleep(min(wait, LONGEST_ASKED) if wait is not None else self._pause + pause)
            self._pause = 0.0

    def _give_up(self, error: Exception) -> None:
        if not self.welcomed.is_set():
            self.refusal = error

    async def _converse(self) -> NoReturn:
        socket = await connect(self._address, self._token, self._offer)
        self._cut = False
        try:
            while True:
                for message in await socket.read():
                    self.take(socket, message)
                await self._idle()
        finally:
            self._socket = None
            self.commands.close()
            self.questions.close()
            await socket.hang_up()

    async def _idle(self) -> None:
        """Not read on while the reader is stopped; then, what comes late is not the server's fault."""
        wait = self._stopped_until - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
            self.resumed = time.monotonic()
            for room, witness in self.rooms.items():
                witness.counted_from = self.ledger.records[room].head

    def _count_end(self, end: Ended) -> float | None:
        """What a connection's end counts as; the pause in seconds that it asks for."""
        if self._cut:
            return None  # our own doing, whatever it looks like
        name = str(end.code)
        if end.code == ABNORMAL and self.ledger.harmed:
            name += " (after harm)"
        elif end.code not in COMMON:
            self.ledger.note(f"{self.name}: connection closed with {end}")
        self.ledger.closes[name] += 1
        wait = retry_after(end.reason)
        if end.code != ABNORMAL and not CLOSES.get(end.code, False):
            self.violation(Finding("error", f"closed with {end}, though nothing was wrong"))
        elif end.code in RETRY_CLOSES and wait is None:
            self.violation(Finding("protocol", f"closed with {end}: its reason must be retry_after_ms=N"))
        return wait

    # What it is told.

    def take(self, socket: WebSocket, message: Data) -> None:
        """A message from `socket`; Broken if it is none of the protocol's."""
        wrong = malformed(message)
        if wrong is not None:
            raise Broken(wrong)
        kind: str = message["type"]
        if self._socket is None:
            if kind != "welcome":
                raise Broken(f"the first message is {kind}, not welcome")
            self._on_welcome(socket, message)
            return
        if kind == "error":
            self._on_error(message)
            return
        witness = self.rooms.get(message.get("room", ""))
        if witness is None:
            raise Broken(f"a message that belongs to no room of ours: {str(message)[:200]}")
        room: str = message["room"]
        finding: Finding | None = None
        if kind in EVENTS:
            self._on_event(room, witness, message)
        elif kind == "ack":
            sent = self.commands.take_ack(room, witness, message)
            if sent is not None:
                self.questions.take_ack(sent)
        elif kind == "joined":
            finding = witness.take_joined(message["cursor"])
            witness.counted_from = max(message["head"], self.ledger.records[room].head)
            self.ledger.take_epoch(message["epoch"], self.name)
        elif kind == "synced":
            finding = witness.take_synced(message["seq"])
        elif kind == "behind":
            self.ledger.counts["behind"] += 1
            finding = witness.take_behind(message["seq"])
        elif kind == "left":
            self.ledger.counts["left"] += 1
            finding = witness.take_left()
            self.later(self._away.pop(room, 0.0), lambda: self._join_on(room))
        elif kind == "history":
            self.questions.take_history(room, message)
        elif kind == "presence" and message.get("id") is not None:
            self.questions.take_presence(room, message)
        else:
            self.ledger.counts["signals"] += 1
            finding = witness.take_signal()
        if finding is not None:
            self.violation(finding, room, message.get("seq", 0))

    def _on_welcome(self, socket: WebSocket, welcome: Data) -> None:
        self._socket = socket
        self._failures = 0
        self.ledger.counts["connects"] += 1
        self.ledger.take_epoch(welcome["epoch"], self.name)
        if self.user and self.user != welcome["user"]:
            self.violation(Finding("error", f"came back as {welcome['user']} in place of {self.user}"))
        self.user, self.limits = welcome["user"], welcome["limits"]
        self._token = welcome.get("token") or self._token
        self._away.clear()
        for room, witness in self.rooms.items():
            witness.open()
            self._join_on(room)
        self.commands.open()
        self.welcomed.set()

    def _on_event(self, room: str, witness: Witness, event: Data) -> None:
        now = time.monotonic()
        seq: int = event["seq"]
        record = self.ledger.records[room]
        self.ledger.counts["delivered"] += 1
        finding = witness.take_event(seq)
        if finding is not None:
            self.violation(finding, room, seq)
        finding, late = record.see(event, self.name, now)
        if finding is None and self.last:
            finding = record.survives(event)
        if finding is not None:
            self.violation(finding, room, seq)
        if witness.synced and seq > witness.counted_from:
            self.ledger.take_late(late, room, seq, self.name)
        self.questions.take_event(room, seq)

    def _on_error(self, error: Data) -> None:
        code, id = error["code"], error.get("id")
        self.ledger.errors[code] += 1
        wait = error.get("retry_after") or self.dice.uniform(0.2, 1.0)
        kind, named, room = (id or "").partition(" ")
        if id is None and ERRORS[code]:
            return  # of a typing or a read
        if not named:
            sent = self.commands.take_error(error, wait)
            if sent is not None:
                self.questions.take_failure(sent)
        elif room not in self.rooms:
            self.violation(Finding("error", f"{code}: {error['message']}: of {id}, which was not sent"))
        elif kind == "join":
            self._on_refused_join(room, error, wait)
        elif kind in ("history", "presence"):
            self.questions.take_error(kind, room, error, wait)
        else:
            self.violation(Finding("error", f"{kind}: {code}: {error['message']}"), room)

    def _on_refused_join(self, room: str, error: Data, wait: float) -> None:
        text, witness = f"{error['code']}: {error['message']}", self.rooms[room]
        if not witness.asked:
            self.violation(Finding("error", f"{text}: of a join that was not sent"), room)
        elif not ERRORS[error["code"]]:
            self.violation(Finding("error", f"join: {text}"), room)
        else:
            witness.asked.popleft()
            self.later(wait, lambda: self._join_on(room))

    def audit(self) -> None:
        """At the end, when all is known."""
        self.commands.audit()
        self.questions.audit()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Unless the connection is another by then: a new one sends everything again by itself."""
        socket = self._socket

        def fire() -> None:
            if self._socket is socket:
                call()

        asyncio.get_running_loop().call_later(min(seconds, LONGEST_ASKED), fire)

    def violation(self, finding: Finding, room: str = "", seq: int = 0) -> None:
        self.ledger.report(finding, room=room, seq=seq, device=self.name)
