"""Questions to agents, as who asks them follows the answers: each is put together of its room's events.

The answer to the message SEQ is the agent's message with the id `re:SEQ`, then `re:SEQ:2` and `re:SEQ:3` where one was
cut off (docs/protocol.md, Agents). So whoever reads the room can follow it, whatever breaks, also from long after.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable

from tornado_chat.errors import ChatError, ErrorCode, Reason
from tornado_chat.wire.attempts import ATTEMPTS, ask_of, attempt_of
from tornado_chat.wire.events import Data

SILENCE_SECONDS = 120.0
"""Without a sign of the agent in the room: then its answer is not waited for any longer."""

ANSWERS = 256
"""That a client waits for at a time: a further question is refused."""

SIGNS = frozenset({"typing", "status", "step"})


class Failed(Exception):
    """The agent's answer has ended without being one: its text is a sentence that says how."""


class Answer:
    """The answer to one question, which grows; see Client.ask. It is followed whether or not somebody iterates."""

    def __init__(self, answers: Answers, room: str, agent: str, id: str, silence: float) -> None:
        self.room = room
        self.agent = agent
        self.id = id
        """Of the question; asked again with it, the answer is the same one."""
        self.question = 0
        """The seq of the question."""
        self.reply = 0
        """The seq of the agent's message; 0: it has not begun."""
        self.text = ""
        """What it has said so far; begins anew where a reply that was cut off is given again."""
        self.meta: Data = {}
        """Of the reply: `steps`, its tools' runs, when it has ended."""
        self.asks = ""
        """What the agent wants to know meanwhile: say it in the room."""
        self.reason: Reason | None = None
        """Why it has ended; None while it is waited for."""
        self.failure: Exception | None = None
        """Why the answer is none."""
        self.version = 0
        """Grows with every change."""
        self._answers = answers
        self._attempt = 0
        self._growing = False
        self._silence = silence
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    # For who asks

    @property
    def ended(self) -> bool:
        return self.reason is not None or self.failure is not None

    def __aiter__(self) -> Pieces:
        """The text in pieces, from its first word on, however often it is asked for.

        Raises what `whole` does. A reply that is given again in other words comes wholly, after an empty line.
        """
        return Pieces(self)

    async def whole(self) -> str:
        """Wait for the end; the text: as far as it came, if somebody has stopped it.

        Failed: the agent could not answer. TimeoutError: there was no sign of it. ChatError: the room was lost.
        """
        while not self.ended:
            await self.change(self.version)
        if self.failure is not None:
            raise self.failure
        return self.text

    async def stop(self) -> None:
        """End the reply, as soon as it has begun; returns when it has ended. It keeps what it has said."""
        while not self.ended:
            version, reply = self.version, self.reply
            if self._growing:
                await self._answers.stop(self.room, reply)
            await self.change(version)

    async def change(self, version: int) -> int:
        """Wait until `version` is another, or the answer has ended; the version."""
        while self.version == version and not self.ended:
            await self._changed.wait()
        return self.version

    # What the client tells

    def follow(self, question: int) -> None:
        """The question is there: from now on the silence counts."""
        self.question = question
        self._heard = self._loop.time()
        self._look()

    def heed(self, item: Data, user: str) -> None:
        """An event or a signal of the room; `user` is who asked."""
        kind = item["type"]
        if kind in ("reset", "left"):
            self.fail(_lost(item))
        elif item.get("user") == self.agent and kind in SIGNS:
            self._heard = self._loop.time()
        elif kind == "message" and item["user"] == user:
            if item.get("id") == self.id:
                self.question = item["seq"]
            self.asks = ""
        elif kind == "message" and item["user"] == self.agent:
            self._on_message(item)
        elif kind == "finished" and item["target"] == self.reply:
            self._on_finished(item)
        elif kind == "deleted" and item["target"] == self.question and not self.reply:
            self.fail(Failed(f"message {self.question} of {self.room}, the question, was deleted"))

    def grow(self, seq: int, text: str) -> None:
        """All of the text of the message `seq`."""
        if seq == self.reply and not self.ended:
            self._heard = self._loop.time()
            self.text = text
            self._tell()

    def fail(self, failure: Exception) -> None:
        if not self.ended:
            self.failure = failure
            self._tell()

    # How it is put together

    def _on_message(self, message: Data) -> None:
        self._heard = self._loop.time()
        id = message.get("id", "")
        asked = ask_of(id)
        if asked is not None and asked[:2] == (self.question, self._attempt):
            self.asks = message.get("text", "")
            self._tell()
        found = attempt_of(id)
        if found is None or found[0] != self.question:
            return
        number = found[1]
        if number > self._attempt and not self.ended:
            self._attempt, self.reply, self.text = number, message["seq"], message.get("text", "")
            self.meta = message.get("meta", {})
            self._growing = message.get("streaming", False)
            if not self._growing:
                self.reason = "done"
            self._tell()

    def _on_finished(self, finished: Data) -> None:
        self._heard = self._loop.time()
        if self.ended:
            return
        self._growing = False
        self.text = finished.get("text", "")
        self.meta = finished.get("meta", self.meta)
        reason: Reason = finished["reason"]
        if reason == "interrupted" and self._attempt < ATTEMPTS:
            pass  # it is given again
        else:
            if reason == "error":
                self.failure = Failed(f"{self.agent} could not answer message {self.question} of {self.room}")
            elif reason == "interrupted":
                text = f"the answer of {self.agent} to message {self.question} of {self.room} was cut off each time"
                self.failure = Failed(text)
            self.reason = reason  # last: another thread that sees it sees the rest
        self._tell()

    def _tell(self) -> None:
        self.version += 1
        if self.ended:
            self._answers.close(self)
            if self._timer is not None:
                self._timer.cancel()
        self._changed.set()
        self._changed = asyncio.Event()

    def _look(self) -> None:
        """Whether it is silent for too long."""
        if self.ended:
            return
        left = self._heard + self._silence - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            text = (
                f"no sign of {self.agent} in {self.room} within {self._silence:g} s, to answer message {self.question}"
            )
            self.fail(TimeoutError(text))


class Pieces:
    """One reading of an answer."""

    __slots__ = ("_answer", "_told")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._told = ""  # what the pieces of the present attempt make together

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> str:
        answer = self._answer
        while True:
            version = answer.version
            piece = self.next()
            if piece:
                return piece
            if answer.failure is not None:
                raise answer.failure
            if answer.ended:
                raise StopAsyncIteration
            await answer.change(version)

    def next(self) -> str:
        """What has come since the last time, perhaps nothing."""
        told, text = self._told, self._answer.text
        if text.startswith(told):
            self._told = text
            return text[len(told) :]
        if told.startswith(text):  # it is given again, and has not come so far; or its end was cut
            return ""
        self._told = text
        return "\n\n" + text


class Answers:
    """Those that a client waits for, by room; the client's Rooms tell it what comes."""

    __slots__ = ("_count", "_idle", "rooms", "stop")

    def __init__(self, stop: Callable[[str, int], Awaitable[None]], idle: Callable[[str], None]) -> None:
        """`stop` is Client.stop; `idle` is told of a room in which no answer is waited for any more."""
        self.stop = stop
        self._idle = idle
        self.rooms: dict[str, list[Answer]] = {}
        self._count = 0

    def open(self, answer: Answer) -> None:
        if self._count >= ANSWERS:
            raise ChatError(ErrorCode.OVERLOADED, f"{ANSWERS} answers are waited for already")
        self._count += 1
        self.rooms.setdefault(answer.room, []).append(answer)

    def close(self, answer: Answer) -> None:
        here = self.rooms.get(answer.room, [])
        if answer in here:
            self._count -= 1
            here.remove(answer)
            if not here:
                del self.rooms[answer.room]
                self._idle(answer.room)

    def heed(self, item: Data, user: str) -> None:
        for answer in list(self.rooms.get(item["room"], ())):
            answer.heed(item, user)

    def grow(self, room: str, seq: int, text: str) -> None:
        for answer in self.rooms.get(room, ()):
            answer.grow(seq, text)

    def end(self, failure: Exception) -> None:
        for here in list(self.rooms.values()):
            for answer in list(here):
                answer.fail(failure)


def room_for(agent: str) -> str:
    """The name of a new room, which nobody can guess."""
    name = re.sub(r"[^a-z0-9._-]", "", agent.lower()).lstrip("._-")[:37]
    return f"{name or 'agent'}-{secrets.token_hex(13)}"


def _lost(item: Data) -> ChatError:
    room = item["room"]
    if item["type"] == "left":
        code = next((code for code in ErrorCode if code == item["code"]), ErrorCode.BAD_REQUEST)
        return ChatError(code, f"{room} cannot be read any more: {item['message']}")
    return ChatError(ErrorCode.NOT_FOUND, f"another log has taken the place of that of {room}; ask again")
