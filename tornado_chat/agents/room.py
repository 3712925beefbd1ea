"""A room in which an agent answers: what its log tells, and the replies that are given from here."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tornado_chat.agents.message import Reaction, message_of, reaction_of
from tornado_chat.agents.places import Process
from tornado_chat.agents.question import Question, Rules
from tornado_chat.agents.questions import MINUTE, Questions
from tornado_chat.agents.turn import Turn
from tornado_chat.agents.turns import Turns
from tornado_chat.errors import ChatError, Reason
from tornado_chat.logs import Repeated
from tornado_chat.wire.events import Data

logger = logging.getLogger(__name__)

SAID = 256
"""Messages of the agent to which a reply is a question."""

AGAIN_SECONDS, AGAIN = 4.0, 3
"""After so long it is tried again to take a reply over, so many times: an author that ended together with the server's
process is said to be there for 7 s more, and nobody may tell when it is not."""


class Owner(Process, Protocol):
    """Whose rooms these are."""

    turns: Turns

    def now(self) -> int:
        """ms since 1970, by the server's clock."""

    def rules(self, concerns: Callable[[Data], bool]) -> Rules: ...

    def spawn(self, work: Awaitable[None]) -> None: ...

    def react(self, room: AgentRoom, reaction: Reaction) -> None:
        """Tell the handler of it, if there is one."""


class AgentRoom:
    """Events come in by `on_event`; `look` begins and ends replies by what they mean."""

    def __init__(self, life: Owner, name: str, level: str, handled: int) -> None:
        """`handled`: the agent's mark, up to which all was seen to."""
        self.life = life
        self.name = name
        self.level = level
        self.marked = handled
        self.state: dict[str, Any] = {}  # the handlers'
        self.settled = asyncio.Event()  # it is joined, or cannot be
        self.turns: dict[int, Turn] = {}  # by question
        self.heard_at = asyncio.get_running_loop().time()
        self._questions: Questions | None = None  # until it is joined
        self._early: list[Data] = []  # what came before that
        self._since = 0  # only what names the agent is a question up to here
        self._live = False
        self._replaced = False  # another log has taken the place of this one, and is not read yet
        self._said: deque[int] = deque(maxlen=SAID)  # the agent's last messages
        self._reacted_at: deque[int] = deque(maxlen=life.agent.replies_a_minute)  # ms
        self._tried: dict[tuple[int, int], float] = {}  # attempts, and when they may be tried again
        self._timer: asyncio.TimerHandle | None = None
        self._again: dict[int, asyncio.TimerHandle] = {}  # by the seq of a reply that is to be taken over
        self._soon = False  # `look` will be called
        self._recalling = False
        self._passed = asyncio.Event()
        self._dropping = Repeated(logger)
        self._failing = Repeated(logger)

    def start(self, cursor: int, since: int) -> None:
        """It is joined, from `cursor` on."""
        self._since = since
        self._questions = Questions(self.life.rules(self._concerns), cursor, self.marked)
        self.settled.set()
        early, self._early = self._early, []
        for event in early:
            self.on_event(event)

    def close(self) -> None:
        """It is left: what is said there from here ends."""
        self._stop_timer()
        self._forget_orphans()
        self._live = False
        for turn in self.turns.values():
            turn.end()

    def _forget_orphans(self) -> None:
        for timer in self._again.values():
            timer.cancel()
        self._again.clear()

    def mark(self) -> int:
        """The last event before the oldest question without an answer."""
        return self._questions.mark(self.life.now()) if self._questions is not None else 0

    # What comes

    def on_event(self, event: Data) -> None:
        questions, kind = self._questions, event["type"]
        if questions is None:
            if not self._replaced:
                self._early.append(event)
            elif kind == "synced":  # of what another log holds nothing is asked here
                self._replaced = False
                self.start(event["seq"], event["seq"])
                self._live = True
            return
        if kind == "synced":
            self._live = True
            for question in questions.open():  # whose author may be gone: the server knows
                self._take_over(question)
        elif kind == "reset":
            self._questions, self._live, self._replaced, self.marked = None, False, True, 0
            self._forget_orphans()
        elif "seq" in event and "ts" in event:
            self._feed(questions, event)
        self._look_soon()

    @property
    def is_idle(self) -> bool:
        """All that was asked there is answered."""
        return self._live and not self.turns and self._questions is not None and not self._questions.pending()

    def _feed(self, questions: Questions, event: Data) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        if event["type"] == "message" and event["user"] == self.life.user:
            self._said.append(event["seq"])
        dropped = questions.dropped
        questions.feed(event)
        if questions.dropped != dropped:
            self._dropping.warning("too many questions wait, one is left alone room=%s", self.name)
        if questions.strangers and not self._recalling:
            self._recalling = True
            self.life.spawn(self._recall(questions))
        if event["type"] == "reacted" and self._live and event["user"] != self.life.user:
            self._on_reacted(event)
        self._passed.set()
        self._passed = asyncio.Event()

    def _on_reacted(self, event: Data) -> None:
        times = self._reacted_at
        if len(times) == times.maxlen and times[0] > event["ts"] - MINUTE:
            self._dropping.warning("too many reactions in a minute, one is left alone room=%s", self.name)
        else:
            times.append(event["ts"])
            self.life.react(self, reaction_of(event))

    def on_orphaned(self, seq: int) -> None:
        """The connection of whoever writes the attempt `seq` has ended."""
        if self._questions is None:
            return
        for question in self._questions.open():
            if question.open == seq:
                self._take_over(question)

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until `holds` is true, which is asked with each event."""
        while not holds():
            await self._passed.wait()

    async def reached(self, seq: int) -> None:
        """Wait until the log was read here up to `seq`."""
        await self.until(lambda: self._questions is not None and self._questions.seq >= seq)

    def addressed(self, event: Data) -> bool:
        """Whether the message names the agent, or answers what it has said lately."""
        return self.life.names.addressed(event) or event.get("reply_to") in self._said

    # What is done about it

    def goes_on(self, question: Question, number: int) -> bool:
        """Whether the attempt is still wanted."""
        return self._questions is not None and self._questions.goes_on(question.seq, number)

    def found(self, question: Question, number: int, at: int, reason: Reason) -> None:
        """The attempt `number`, whose message is `at`, was there already, and has ended."""
        if self._questions is not None:
            self._questions.found(question.seq, number, at, reason)

    def give_up(self, question: Question) -> None:
        if self._questions is not None:
            self._questions.give_up(question.seq)

    def look(self) -> None:
        """End the replies that are not wanted any more, begin those that are due."""
        self._soon = False
        questions = self._questions
        if questions is None or not self._live:
            return
        for turn in self.turns.values():
            if turn.began and turn.seen and not questions.goes_on(turn.question.seq, turn.number):
                turn.end()
        while questions.leavings:  # whoever gave them may be gone; the id makes it one deletion
            self.life.spawn(self.delete(questions.leavings.popleft()))
        now = asyncio.get_running_loop().time()
        again = math.inf
        due = questions.due(self.life.now())
        wanted = {(question.seq, question.next) for question in due}
        self._tried = {attempt: at for attempt, at in self._tried.items() if attempt in wanted}
        for question in due:
            at = self._tried.get((question.seq, question.next), 0.0)
            if question.seq in self.turns:
                continue
            if at > now:
                again = min(again, at)
            elif not self.life.turns.has_place(question.user):
                self.life.turns.hunger(self)
            else:
                self._begin(Turn(self, question, question.next))
        if questions.limited_until is not None:
            again = min(again, now + (questions.limited_until - self.life.now()) / 1000 + 0.01)
        self._stop_timer()
        if again < math.inf:
            self._timer = asyncio.get_running_loop().call_at(again, self.look)

    def on_end(self, turn: Turn) -> None:
        """`turn` is over; who it was tells the log."""
        if self.turns.get(turn.question.seq) is turn:
            del self.turns[turn.question.seq]
        if not turn.took_over and turn.retry is not None:
            self._tried[turn.question.seq, turn.number] = turn.retry
        self._look_soon()

    def _try_again(self, question: Question, seq: int, again: int) -> None:
        """The author of the reply `seq` is said to be there: look later whether that was true."""
        if question.open != seq or not again or seq in self._again or not self._live:
            return

        def take_over() -> None:
            del self._again[seq]
            if question.open == seq:
                self._take_over(question, again - 1)

        self._again[seq] = asyncio.get_running_loop().call_later(AGAIN_SECONDS, take_over)

    def _begin(self, turn: Turn, then: Callable[[], None] | None = None) -> None:
        self.turns[turn.question.seq] = turn

        def on_end() -> None:
            self.on_end(turn)
            if then is not None:
                then()

        self.life.turns.begin(turn, on_end)

    def _take_over(self, question: Question, again: int = AGAIN) -> None:
        if question.seq in self.turns or not self._live:
            return
        if not question.wanted or question.begun < question.first:
            self.life.spawn(self.stop(question.open))
        elif self.life.turns.has_place(question.user):
            seq, turn = question.open, Turn(self, question, question.begun, take_over=True)
            self._begin(turn, lambda: None if turn.began else self._try_again(question, seq, again))

    async def stop(self, seq: int) -> None:
        """End an attempt that nobody wants any more, and whose author may be gone."""
        try:
            await self.life.client.stop(self.name, seq)
        except ChatError as error:
            logger.debug("not stopped room=%s seq=%d reason=%s", self.name, seq, error)

    async def delete(self, seq: int) -> None:
        """Take back what the agent has said."""
        try:
            await self.life.client.delete(self.name, seq, id=f"gone:{seq}")
        except ChatError as error:  # somebody else was quicker
            logger.debug("not deleted room=%s seq=%d reason=%s", self.name, seq, error)

    async def _recall(self, questions: Questions) -> None:
        """Look up what was asked again and is not remembered, one after another."""
        try:
            while questions is self._questions and questions.strangers:
                seq = next(iter(questions.strangers))
                try:
                    found = (await self.life.client.history(self.name, before=seq + 1, limit=1))["messages"]
                except ChatError as error:  # it may not read there any more
                    logger.warning("what is asked again was not found room=%s seq=%d reason=%s", self.name, seq, error)
                    found = []
                if found and found[0]["seq"] == seq and "text" in found[0] and self._concerns(found[0]):
                    questions.recall(found[0])
                else:
                    questions.forget(seq)
                self._look_soon()
        finally:
            self._recalling = False

    def _concerns(self, event: Data) -> bool:
        if self.level == "nothing":
            return False
        life, message = self.life, message_of(event, self.life.names)
        everything = self.level == "everything" and event["seq"] > self._since
        try:
            return life.agent.handler_for(message, addressed=self.addressed(event), everything=everything) is not None
        except Exception as error:  # of a `when`: one message must not end an agent that is in other rooms, too
            self._failing.warning("when failed, a message is left alone room=%s error=%r", self.name, error)
            return False

    def _look_soon(self) -> None:
        """What comes in one turn of the loop is looked at once."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self.look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
