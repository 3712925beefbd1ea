"""One observing client: it takes what comes as it comes, tells the ledger, and always comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NoReturn

from tornado_chat.errors import FINAL_CLOSES, TRANSIENT_ERRORS, TRANSIENT_STATUSES, CloseCode, ErrorCode, retry_after
from tornado_chat.verify.checks import EVENTS, SIGNALS, Finding, Witness, malformed, promised
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.websocket import Broken, Ended, Refused, ServerAddress, WebSocket, connect
from tornado_chat.wire.codec import Codec
from tornado_chat.wire.events import Data
from tornado_chat.wire.frames import ABNORMAL

MAX_UNANSWERED = 32
"""Commands of one client on their way; the server takes 64 before it stops reading."""
ACKED_KEPT = 200
MESSAGES_KEPT = 50
LONGEST_PAUSE = 2.0
LONGEST_ASKED = 30.0
"""Longest pause that a server may ask for, in seconds; a longer one is cut to it."""

COMMON = frozenset({CloseCode.NORMAL, CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER})


class Sent:
    """A command that must become one event, however often it is sent."""

    __slots__ = ("command", "event", "id", "room", "seq", "since", "writes")

    def __init__(self, command: Data, user: str) -> None:
        self.command = command
        self.event = promised(command, user)
        self.id: str = command["id"]
        self.room: str = command["room"]
        self.seq = 0  # 0: not acknowledged yet
        self.since = 0.0  # when it was written last
        self.writes = 0


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
        codec: Codec,
        compressed: bool,
        small: bool,
        dice: random.Random,
        last: bool = False,
    ) -> None:
        """`last`: it reads after everything else has happened, so that no erased text may be left."""
        self.name = name
        self.ledger = ledger
        self.dice = dice
        self.user = ""
        self.limits: Data = {}
        self.rooms = {room: Witness() for room in rooms}
        self.unanswered: dict[str, Sent] = {}  # by id, in the order of their first sending
        self.acked: list[Sent] = []  # a sample of all that were, to be sent again
        self.messages: deque[tuple[str, int]] = deque(maxlen=MESSAGES_KEPT)  # its own, not deleted
        self.refusal: Exception | None = None  # why the first connection was not made
        self.welcomed = asyncio.Event()
        self._address = address
        self._token = token
        self._codec = codec
        self._compressed = compressed
        self._small = small
        self._last = last
        self._socket: WebSocket | None = None  # open and welcomed
        self._sending: dict[str, Sent] = {}  # by id: what this connection's answers are for
        self._count = 0
        self._acks = 0
        self._stopped_until = 0.0
        self._resumed = 0.0  # when it read again
        self._pause = 0.0  # before the next connection, of our own will
        self._cut = False
        self._failures = 0  # connections since the last that was welcomed
        self._not_found: list[Sent] = []

    @property
    def connected(self) -> bool:
        return self._socket is not None

    def waits(self) -> tuple[str, int, str] | None:
        """The room, the seq and in words what this client still waits for; None: it holds everything."""
        if self._socket is None:
            return "", 0, "not connected"
        for room, witness in self.rooms.items():
            head = self.ledger.records[room].head
            if not witness.synced or witness.cursor < head:
                state = "live" if witness.synced else "catching up" if witness.joined else "not joined"
                return room, witness.cursor + 1, f"{state} at {witness.cursor}, while the head is {head}"
        if self.unanswered:
            sent = next(iter(self.unanswered.values()))
            return sent.room, 0, f"{len(self.unanswered)} commands without an answer, the first is {sent.id}"
        return None

    # What it does.

    def speak(self, command: Data) -> None:
        """Give `command` an id and send it until it is answered."""
        self._count += 1
        sent = Sent(command | {"id": f"{self.name}.{self._count}"}, self.user)
        self.unanswered[sent.id] = sent
        self.ledger.counts["sent"] += 1
        self._write(sent)

    def whisper(self, command: Data) -> None:
        """A command that becomes no event."""
        if self._socket is not None:
            self._socket.send(command)

    def repeat(self, sent: Sent) -> None:
        """Send once more what this user has sent before, from this device or another."""
        if self._socket is not None and sent.id not in self._sending:
            self.ledger.counts["resent"] += 1
            self._write(sent)

    def stop_reading(self, seconds: float) -> None:
        if self._pause == 0.0:  # nor while it goes away
            self._stopped_until = time.monotonic() + seconds

    def cut(self, command: Data | None, part: float) -> None:
        """Break the connection, where there is a `command` in the middle of its frame."""
        if self._socket is None:
            return
        self._cut = True
        if command is not None:
            self._count += 1
            sent = Sent(command | {"id": f"{self.name}.{self._count}"}, self.user)
            self.unanswered[sent.id] = sent
            self.ledger.counts["sent"] += 1
            self._socket.send_half(sent.command, part)
        self._socket.cut()

    def go_away(self, seconds: float) -> None:
        """Close in good order, and come back after `seconds`; not while it does not read, or it would see no answer."""
        if self._socket is not None and self._stopped_until < time.monotonic():
            self._pause = seconds
            self._socket.close()

    def join_again(self, room: str, back: int) -> None:
        """On the same connection, from `back` events before its cursor on."""
        witness = self.rooms[room]
        if self._socket is not None and witness.joined and not witness.asked:
            self._join(room, max(0, witness.cursor - back))

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
                self._violation(Finding("protocol", str(error)))
                self._give_up(error)
            except Refused as error:
                self.ledger.counts["refused"] += 1
                wait = error.retry_after
                if error.status not in TRANSIENT_STATUSES:
                    self._give_up(error)
                    if self.welcomed.is_set():
                        self._violation(Finding("error", f"a handshake like others before was refused: {error}"))
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
        socket = await connect(
            self._address,
            token=self._token,
            codec=self._codec,
            compressed=self._compressed,
            small=self._small,
        )
        self._cut = False
        try:
            while True:
                for message in await socket.read():
                    self.take(socket, message)
                await self._idle()
        finally:
            self._socket = None
            self._sending.clear()
            await socket.hang_up()

    async def _idle(self) -> None:
        """Not read on while the reader is stopped; then, what comes late is not the server's fault."""
        wait = self._stopped_until - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
            self._resumed = time.monotonic()
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
        if end.code in FINAL_CLOSES:
            self._violation(Finding("error", f"closed with {end}, though nothing was wrong"))
        return retry_after(end.reason)

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
            self._on_ack(room, witness, message)
        elif kind == "joined":
            finding = witness.take_joined(message["cursor"])
            witness.counted_from = max(message["head"], self.ledger.records[room].head)
            self.ledger.take_epoch(message["epoch"], self.name)
        elif kind == "synced":
            finding = witness.take_synced(message["seq"])
        elif kind == "behind":
            self.ledger.counts["behind"] += 1
            finding = witness.take_behind()
        elif kind in SIGNALS:
            self.ledger.counts["signals"] += 1
            finding = witness.take_signal()
        if finding is not None:
            self._violation(finding, room, message.get("seq", 0))

    def _on_welcome(self, socket: WebSocket, welcome: Data) -> None:
        self._socket = socket
        self._failures = 0
        self.ledger.counts["connects"] += 1
        self.ledger.take_epoch(welcome["epoch"], self.name)
        if self.user and self.user != welcome["user"]:
            self._violation(Finding("error", f"came back as {welcome['user']} in place of {self.user}"))
        self.user, self.limits = welcome["user"], welcome["limits"]
        self._token = welcome.get("token", self._token)
        for room, witness in self.rooms.items():
            witness.open()
            self._join(room, witness.cursor)
        for sent in list(self.unanswered.values()):
            self._write(sent)
        self.welcomed.set()

    def _on_event(self, room: str, witness: Witness, event: Data) -> None:
        now = time.monotonic()
        seq: int = event["seq"]
        record = self.ledger.records[room]
        self.ledger.counts["delivered"] += 1
        finding = witness.take_event(seq)
        if finding is not None:
            self._violation(finding, room, seq)
        finding, late = record.see(event, self.name, now)
        if finding is None and self._last:
            finding = record.survives(event)
        if finding is not None:
            self._violation(finding, room, seq)
        if witness.synced and seq > witness.counted_from:
            self.ledger.take_late(late, room, seq, self.name)

    def _on_ack(self, room: str, witness: Witness, ack: Data) -> None:
        id, seq = ack["id"], ack["seq"]
        finding = witness.take_ack(id, seq, ack.get("duplicate") is True)
        sent = self._sending.get(id)
        if finding is not None:
            self._violation(finding, room, seq)
        if sent is None or sent.room != room:
            return
        if id not in witness.pending:
            del self._sending[id]
        self.unanswered.pop(id, None)
        now = time.monotonic()
        if sent.seq:
            self.ledger.counts["duplicates"] += 1
            if sent.seq != seq:
                self._violation(Finding("ack", f"{id}: acknowledged with {sent.seq} before"), room, seq)
            return
        sent.seq = seq
        self.ledger.counts["acked"] += 1
        if sent.since > self._resumed:
            self.ledger.answer.add(now - sent.since)
        finding = self.ledger.records[room].acknowledge(seq, sent.event, now)
        if finding is not None:
            self._violation(Finding(finding.kind, f"{id}: {finding.text}"), room, seq)
        self._keep(sent)
        if sent.command["type"] == "send":
            self.messages.append((room, seq))

    def _keep(self, sent: Sent) -> None:
        """A sample in which every ack so far is as likely: some are sent again long after."""
        self._acks += 1
        if len(self.acked) < ACKED_KEPT:
            self.acked.append(sent)
        elif (at := self.dice.randrange(self._acks)) < ACKED_KEPT:
            self.acked[at] = sent

    def _on_error(self, error: Data) -> None:
        code, id = error["code"], error.get("id")
        self.ledger.errors[code] += 1
        text = f"{code}: {error['message']}"
        wait = error.get("retry_after") or self.dice.uniform(0.2, 1.0)
        if isinstance(id, str) and id.startswith("join "):
            room = id.removeprefix("join ")
            witness = self.rooms.get(room)
            if witness is None or not witness.asked:
                self._violation(Finding("error", f"{text}: of a join that was not sent"))
            elif code not in TRANSIENT_ERRORS:
                self._violation(Finding("error", f"join: {text}"), room)
            else:
                witness.asked.popleft()
                self._later(wait, lambda: self._join(room, self.rooms[room].cursor))
            return
        if id is None and code in TRANSIENT_ERRORS:
            return  # of a whisper
        sent = self._sending.get(id) if isinstance(id, str) else None
        if sent is None:
            self._violation(Finding("error", f"{text} ({id!r}, which nothing sent on this connection has)"))
            return
        witness = self.rooms[sent.room]
        finding = witness.take_error(sent.id)
        if finding is not None:
            self._violation(finding, sent.room)
        if sent.id not in witness.pending:
            del self._sending[sent.id]
        if code in TRANSIENT_ERRORS:
            self._later(wait, lambda: self._retry(sent))
        elif code == ErrorCode.NOT_FOUND and sent.command["type"] in ("edit", "react") and not sent.seq:
            self.unanswered.pop(sent.id, None)
            self._not_found.append(sent)
        else:
            self.unanswered.pop(sent.id, None)
            self._violation(Finding("error", f"{sent.id}: {text}"), sent.room, sent.command.get("seq", 0))

    def audit(self) -> None:
        """At the end: what was not found must have been deleted."""
        for sent in self._not_found:
            target = sent.command["seq"]
            if target not in self.ledger.records[sent.room].deleted:
                finding = Finding("error", f"{sent.id}: answered with not_found, but nobody deleted the message")
                self._violation(finding, sent.room, target)

    # Sending.

    def _join(self, room: str, after: int) -> None:
        if self._socket is not None:
            self.rooms[room].ask(after)
            self._socket.send({"type": "join", "room": room, "after": after, "id": f"join {room}"})

    def _write(self, sent: Sent) -> None:
        if self._socket is not None:
            sent.writes += 1
            sent.since = time.monotonic()
            self._sending[sent.id] = sent
            self.rooms[sent.room].pending.append(sent.id)
            self._socket.send(sent.command)

    def _retry(self, sent: Sent) -> None:
        if sent.id in self.unanswered and sent.id not in self._sending:
            self._write(sent)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        """Unless the connection is another by then: a new one sends everything again by itself."""
        socket = self._socket

        def fire() -> None:
            if self._socket is socket:
                call()

        asyncio.get_running_loop().call_later(min(seconds, LONGEST_ASKED), fire)

    def _violation(self, finding: Finding, room: str = "", seq: int = 0) -> None:
        self.ledger.report(finding, room=room, seq=seq, client=self.name)
