"""One observing device: it takes what comes as it comes, tells the ledger, and always comes back."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NoReturn

from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.authoring import Authoring
from tornado_chat.verify.codecs import Data
from tornado_chat.verify.commands import Commands
from tornado_chat.verify.endings import ABNORMAL, NORMAL, Broken, Ended, Refused
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.handshake import Offer
from tornado_chat.verify.ledger import Ledger
from tornado_chat.verify.messages import (
    CLOSES,
    ERRORS,
    EVENTS,
    OWN,
    RETRY_CLOSES,
    TRANSIENT_STATUSES,
    malformed,
    retry_after,
)
from tornado_chat.verify.own_log import Known, OwnLog
from tornado_chat.verify.poll_transport import PollTransport
from tornado_chat.verify.questions import Questions
from tornado_chat.verify.reading import Reading
from tornado_chat.verify.record import Record
from tornado_chat.verify.socket_transport import SocketTransport
from tornado_chat.verify.speaker import Done
from tornado_chat.verify.stream_transport import StreamTransport
from tornado_chat.verify.transport import Listener, Transport
from tornado_chat.verify.witness import Witness

TRANSPORTS: Mapping[str, Callable[[Listener], Transport]] = {
    "websocket": SocketTransport,
    "stream": StreamTransport,
    "poll": partial(PollTransport, waits=True),
    "http": partial(PollTransport, waits=False),
}
"""The ways in, by what they are called."""

LONGEST_PAUSE = 2.0
LONGEST_ASKED = 30.0
"""Longest pause that a server may ask for, in seconds; a longer one is cut to it."""

SIGNALS_AHEAD = 1000
"""So many events a signal may be ahead of what anybody was shown."""

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
        kind: str,
        token: str | None,
        offer: Offer,
        dice: random.Random,
        last: bool = False,
        agent: bool = False,
    ) -> None:
        """`kind` is one of TRANSPORTS, until `change`. `agent`: so says the `token`.

        `last`: it reads after everything else has happened, so that no erased text may be left.
        """
        self.name = name
        self.ledger = ledger
        self.dice = dice
        self.last = last
        self.user = ""
        self.agent = agent
        self.limits: Data = {}
        self.rooms = {room: Witness() for room in rooms}
        self.commands = Commands(self)
        self.questions = Questions(self)
        self.authoring = Authoring(self, self.commands)
        self.reading = Reading(self)
        self.refusal: Exception | None = None  # why the first connection was not made
        self.welcomed = asyncio.Event()
        self.resumed = 0.0 if address.via is None else math.inf
        self.kind = kind
        self.token = token
        self.address = address
        self.offer = offer
        self.last_event_id = ""
        self._transport: Transport | None = None  # open and welcomed
        self._answers = object()  # another one when what was asked will not be answered any more
        self._stopped_until = 0.0
        self._pause = 0.0  # before the next connection, of our own will
        self._away: dict[str, float] = {}  # by room that it leaves: seconds until it joins it again
        self._cut = False
        self._resting = False  # the server has told it to come back later
        self._back_to: int | None = None  # its own log is to be read from there, where it was begun anew
        self._failures = 0  # connections since the last that was welcomed

    @property
    def connected(self) -> bool:
        return self._transport is not None

    @property
    def one_worker(self) -> bool:
        return self._transport is not None and self._transport.one_worker

    def waits(self) -> tuple[str, int, str] | None:
        """The room, the seq and in words what this device still waits for; None: it holds everything."""
        if self._transport is None and not self._resting:
            return "", 0, f"not connected ({self.kind})"
        for room, witness in self.rooms.items():
            head = self._record(room).head
            if (not witness.synced and not self._resting) or witness.cursor < head:
                state = "live" if witness.synced else "catching up" if witness.joined else "not joined"
                return room, witness.cursor + 1, f"{state} at {witness.cursor}, while the head is {head}"
        unanswered = self.commands.unanswered
        if unanswered:
            sent = next(iter(unanswered.values()))
            return sent.room, 0, f"{len(unanswered)} commands without an answer, the first is {sent.id}"
        if self._back_to is not None:
            return OWN, self._back_to + 1, "the own log is not read from there on"
        left = (
            (self.questions.waits(), "a history or presence without an answer"),
            (self.authoring.waits(), "a message that its author has not finished, or a stop without an answer"),
            (self.reading.waits(), "a text that grew and is not complete"),
        )
        return next(((where, 0, what) for where, what in left if where is not None), None)

    @property
    def watched(self) -> bool:
        return self.address.via is None

    @property
    def own(self) -> OwnLog:
        return self.ledger.own_log(self.user)

    @property
    def spoken(self) -> list[str]:
        """The rooms in which it may say something."""
        return [room for room in self.rooms if room != OWN]

    def _record(self, room: str) -> Record:
        return self.own.record if room == OWN else self.ledger.records[room]

    # What it does.

    def send(self, command: Data) -> None:
        """Write `command` to the connection, if there is one."""
        if self._transport is not None:
            self._transport.send(command)

    def send_together(self, commands: list[Data], done: Done | None) -> None:
        if self._transport is not None:
            self._transport.send_together(commands, done)

    def stop_reading(self, seconds: float) -> None:
        if self._pause == 0.0:  # nor while it goes away
            self._stopped_until = time.monotonic() + seconds

    def cut(self, command: Data | None, part: float) -> None:
        """Break the connection, where there is a `command` in the middle of what carries it."""
        if self._transport is not None:
            made = None if command is None else self.commands.make(command).command
            self._cut = self._transport.cut(made, part) or self._cut

    def die_writing(self) -> None:
        """Whoever writes here what grows is gone, and with them the connection."""
        if self.connected and self.authoring.die():
            self.ledger.counts["dead authors"] += 1
            if self.one_worker:
                self.cut(None, 0.0)

    def go_away(self, seconds: float) -> None:
        """Close in good order, and come back after `seconds`; not while it does not read, or it would see no answer."""
        if self._transport is not None and self._stopped_until < time.monotonic():
            self._pause = seconds
            self._transport.close()

    def change(self, kind: str) -> None:
        """Go on as `kind`, which is another, from where it is: in good order where it can, else cut off."""
        if self._transport is not None and self._stopped_until < time.monotonic():
            self.kind = kind
            self.ledger.counts["changes"] += 1
            if self.dice.random() < 0.5:
                self.cut(None, 0.0)
            self.go_away(0.0)

    def join_again(self, room: str, back: int) -> None:
        """From `back` events before its cursor on."""
        witness = self.rooms[room]
        if witness.settled and self._transport is not None:
            self._transport.join_again(room, max(0, witness.cursor - back))

    def begin_anew(self) -> None:
        """Join the own log without a cursor, for its state; then from where it was, so that nothing stays unseen."""
        witness = self.rooms[OWN]
        if witness.settled and self._transport is not None and self._back_to is None:
            self._back_to = witness.cursor
            self._transport.join_again(OWN, None)

    def leave(self, room: str, seconds: float) -> None:
        """Leave `room`, where that can be said, and join it again so long after the server has said that it is left."""
        if self.rooms[room].settled and self._transport is not None and self._transport.leave(room):
            self._away[room] = seconds

    def _join_on(self, room: str) -> None:
        if self._transport is not None:
            self._transport.join_again(room, self.rooms[room].cursor)

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
            self._resting = wait is not None
            await asyncio.sleep(min(wait, LONGEST_ASKED) if wait is not None else self._pause + pause)
            self._resting = False
            self._pause = 0.0

    def _give_up(self, error: Exception) -> None:
        if not self.welcomed.is_set():
            self.refusal = error

    async def _converse(self) -> NoReturn:
        self._cut = False
        try:
            await TRANSPORTS[self.kind](self).run()
        finally:
            self._transport = None
            self._close()

    async def idle(self) -> None:
        """Not read on while the reader is stopped; then, what comes late is not the server's fault."""
        wait = self._stopped_until - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
            self.resumed = max(self.resumed, time.monotonic())
            for room, witness in self.rooms.items():
                witness.counted_from = self._record(room).head

    def opening(self) -> dict[str, int | None]:
        after: dict[str, int | None] = {}
        for room, witness in self.rooms.items():
            after[room] = witness.wanted
            if room == OWN and self._back_to is not None and after[room] is not None:
                after[room], self._back_to = self._back_to, None
            witness.open()
            self.ask(room, after[room])
        return after

    def ask(self, room: str, after: int | None) -> None:
        self.rooms[room].ask(after, self.known(room))

    def known(self, room: str) -> object:
        """For one's own log a Known, else the user's mark at least."""
        if not self.user:
            return None
        return self.own.known(self.ledger.records) if room == OWN else self.own.marks.get(room, 0)

    def lose_answers(self) -> None:
        self._close()
        for witness in self.rooms.values():
            witness.lose_answers()
        self._answers = object()
        self._open()

    def _close(self) -> None:
        self.commands.close()
        self.questions.close()
        self.authoring.close()
        self.reading.close()

    def _open(self) -> None:
        self.commands.open()
        self.authoring.connect()
        self.reading.connect()

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

    def take(self, transport: Transport, message: Data) -> None:
        wrong = malformed(message)
        if wrong is not None:
            raise Broken(wrong)
        kind: str = message["type"]
        if self._transport is None:
            if kind != "welcome":
                raise Broken(f"the first message is {kind}, not welcome")
            self.limits = message["limits"]
            self.ledger.take_epoch(message["epoch"], self.name)
            self.enter(transport, message["user"], message.get("token"))
            return
        if kind == "error":
            self._on_error(message)
            return
        if kind == "stop":  # to all sessions of its author's user, wherever they are
            self.authoring.take_stop(message)
            return
        if kind == "orphaned" and OWN in self.rooms:  # in the own log, of a room that this device need not be in
            self.authoring.take_orphaned(message)
            return
        witness = self.rooms.get(message.get("room", ""))
        if witness is None:
            raise Broken(f"a message that belongs to no room of ours: {str(message)[:200]}")
        room: str = message["room"]
        finding: Finding | None = None
        if kind in EVENTS:
            self._on_event(room, witness, message)
        elif kind == "ack" and message["id"].startswith("stop "):
            self.authoring.take_stopped(room)
        elif kind == "ack":
            sent = self.commands.take_ack(room, witness, message)
            if sent is not None:
                self.questions.take_ack(sent)
            begun = self.commands.all_begun.get(message["id"])
            if begun is not None:
                self.authoring.take_begun(begun, message)
        elif kind == "stream":
            self._judge(room, self.reading.take_stream(message))
            finding = witness.take_signal(kind) if message.get("id") is None else None
        elif kind == "joined":
            finding = self._on_joined(room, witness, message)
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
            finding = witness.take_signal(kind)
            if finding is None and kind == "appended":
                self._judge(room, self.reading.take_chunks(room, message["chunks"], witness.cursor))
            if finding is None and kind == "read":
                finding = self._on_read(room, message["user"], message["seq"])
        if finding is not None:
            self.violation(finding, room, message.get("seq", 0))

    def enter(self, transport: Transport, user: str, token: str | None) -> None:
        self._transport = transport
        self._answers = object()
        self._failures = 0
        self.ledger.counts["connects"] += 1
        if self.user and self.user != user:
            self.violation(Finding("error", f"came back as {user} in place of {self.user}"))
        self.user = user
        self.token = token or self.token
        self._away.clear()
        for room in self.spoken:
            self.ledger.users[room].add(user)
        transport.begin()
        self._open()
        self.welcomed.set()

    def _on_read(self, room: str, user: str, seq: int) -> Finding | None:
        own = self.ledger.own.get(user)
        if own is None or (own.may_mark(room, seq) and seq <= self.ledger.records[room].head + SIGNALS_AHEAD):
            return None
        return Finding("mark", f"a signal that {user} has read up to it, who has not said so")

    def _on_joined(self, room: str, witness: Witness, joined: Data) -> Finding | None:
        state, cursor, head = joined.get("state"), joined["cursor"], joined["head"]
        self.ledger.take_epoch(joined["epoch"], self.name)
        witness.counted_from = max(head, self._record(room).head)
        anew = room == OWN and state is not None
        finding = witness.take_joined(cursor, anew=anew)
        if finding is not None:
            return finding
        if state is None:
            if room != OWN and isinstance(witness.known, int) and joined["read"] < witness.known:
                return Finding("mark", f"joined with the mark {joined['read']}, which was {witness.known} before")
            return None
        if not anew or cursor != head:
            return Finding("protocol", f"joined with a state and the cursor {cursor}, while the head is {head}")
        self.take_state(cursor, state)
        return None

    def take_state(self, cursor: int, state: Data) -> None:
        witness = self.rooms[OWN]
        self.ledger.counts["states"] += 1
        known = witness.known if isinstance(witness.known, Known) else Known(0, {}, {})
        for finding in self.own.take_state(cursor, state, self.name, known, after=witness.after, now=time.monotonic()):
            self.violation(finding, OWN, cursor)
        if self._back_to is not None and witness.after is None:
            asyncio.get_running_loop().call_later(self.dice.uniform(0.0, 1.0), self._go_back)

    def _go_back(self) -> None:
        if self._back_to is not None and self._transport is not None:  # else the next connection does
            back, self._back_to = self._back_to, None
            self._transport.join_again(OWN, back)

    def _on_event(self, room: str, witness: Witness, event: Data) -> None:
        now = time.monotonic()
        seq: int = event["seq"]
        self.ledger.counts["delivered"] += 1
        finding = witness.take_event(seq)
        if finding is not None:
            self.violation(finding, room, seq)
        if room == OWN:
            self.ledger.counts[event["type"]] += 1
            found, late = self.own.see(event, self.name, now)
            for finding in found:
                self.violation(finding, room, seq)
        else:
            record = self.ledger.records[room]
            if self.ledger.answers is not None and not record.is_known(seq):
                self._judge(room, self.ledger.answers.see(room, event, now), seq)
            finding, late = record.see(event, self.name, now)
            if finding is None and self.last:
                finding = record.survives(event)
            if finding is not None:
                self.violation(finding, room, seq)
            elif event["type"] == "finished":
                self._judge(room, self.reading.take_finished(event, live=witness.synced), seq)
            elif event["type"] == "message" and event.get("streaming") is True:
                self.reading.take_message(event)
        if witness.synced and seq > witness.counted_from and self.resumed < math.inf:
            if self._transport is not None and self._transport.prompt:
                self.ledger.take_late(late, room, seq, self.name)
            elif self.kind == "poll":
                self.ledger.polled.add(late)
        self.questions.take_event(room, seq)

    def _judge(self, room: str, findings: Iterable[Finding], seq: int = 0) -> None:
        for finding in findings:
            self.violation(finding, room, seq)

    def _on_error(self, error: Data) -> None:
        code, id = error["code"], error.get("id")
        self.ledger.errors[code] += 1
        wait = error.get("retry_after") or self.dice.uniform(0.2, 1.0)
        kind, named, room = (id or "").partition(" ")
        if id is None and code == "conflict" and error.get("stream") is not None:
            self.authoring.take_conflict(error)  # of an append
            return
        if id is None and ERRORS[code]:
            return  # of a signal, a read or an append
        if kind == "fetch":
            room, _, seq = room.partition(" ")
            self.reading.take_error(room, int(seq), error, wait)
        elif kind == "stop":
            self.authoring.take_refused_stop(room, error)
        elif not named:
            sent = self.commands.take_error(error, wait)
            if sent is not None:
                self.questions.take_failure(sent)
                if sent.growth is not None and code == "conflict":
                    self.authoring.take_conflict(error | {"stream": sent.growth.id})
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
            if witness.take_refusal() is None:
                self._back_to = None
            self.later(wait, lambda: self._join_on(room))

    def audit(self) -> None:
        """At the end, when all is known."""
        self.commands.audit()
        self.questions.audit()
        self.reading.audit()
        self.authoring.audit()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Unless what was sent is not answered any more by then: all of it is then sent again anyway."""
        answers = self._answers

        def fire() -> None:
            if self._transport is not None and self._answers is answers:
                call()

        asyncio.get_running_loop().call_later(min(seconds, LONGEST_ASKED), fire)

    def violation(self, finding: Finding, room: str = "", seq: int = 0) -> None:
        self.ledger.report(finding, room=room, seq=seq, device=self.name)
