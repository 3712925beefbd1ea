"""Questions to agents that are asked from inside of this process, and the answers as they come.

A question is an ordinary `send` that mentions the agent, and who follows its answer is a member of the room on a line
of this process (`Ear`). So recovery, other workers and a Redis that is away are what they are for anybody in the room.
Nothing waits here for who reads slowly: the text so far is all that is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import NamedTuple

import msgspec
import orjson
from msgspec import Raw

from tornado_chat.auth import Identity
from tornado_chat.bridges.answer import Answer
from tornado_chat.bridges.ear import LINES, Ear
from tornado_chat.bridges.telling import Begun, End, Mark, Telling, Told
from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.live.context import Context
from tornado_chat.live.limits import rate_limited
from tornado_chat.live.member import Member, Memberships
from tornado_chat.live.request import Answer as Reply
from tornado_chat.live.request import Request
from tornado_chat.wire import replies
from tornado_chat.wire.attempts import ask_of
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import Command, Edit, History, Join, Send, check_user_id, read
from tornado_chat.wire.events import Data

logger = logging.getLogger(__name__)

SIGN_SECONDS = 30.0
"""How long the agent may be silent before an attempt to answer begins, and after one was interrupted."""

ASKS, USER_ASKS = 1000, 64
"""Answers that are followed at a time in a process, and for one user. Each holds a text of up to 262,144 characters."""

AGAIN_SECONDS = 1.0
"""After the room could not be joined, or a text not be fetched."""

LOOK_EVENTS, LOOK_BYTES, LOOK_PAGES = 500, 256 * 1024, 20
"""What of a room behind a question is read at once, and how often at most, to tell what became of it."""

BACK = 50
"""Messages in which the last question of a user is looked for."""


class _Saying(Request):
    """All that it says is charged, but for the first what is not there is owed: a conversation may come as a whole."""

    __slots__ = ("_charged",)

    def begin(self, size: int) -> None:
        self._charged = False
        super().begin(size)

    def charge(self, along: int = 0) -> None:
        if not self._charged:
            self._charged = True
            super().charge(along)
        else:
            limits = self.context.limits
            self.account.event_count += 1
            self.address.event_count += 1
            limits.users.owe_events(self.account, 1 + along)
            if self.identity.guest:
                limits.addresses.owe_events(self.address, 1 + along)


class Asker(NamedTuple):
    """Who asks, from where."""

    identity: Identity
    address: str

    @property
    def user(self) -> str:
        return self.identity.user


class Askings:
    """Those of one server."""

    __slots__ = ("_by_user", "context", "open", "sign_seconds")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.open: set[Asking] = set()
        self.sign_seconds = SIGN_SECONDS
        self._by_user: Counter[str] = Counter()

    def drain(self) -> None:
        """This process ends: who follows is to come back."""
        for asking in list(self.open):
            asking.wake()

    def check(self, user: str) -> None:
        """Raise `rate_limited` or `overloaded` if nobody may follow another answer."""
        if self._by_user[user] >= USER_ASKS:
            raise rate_limited(f"{USER_ASKS} answers to you are on their way, which is the limit", 5.0)
        if len(self.open) >= ASKS:
            raise ChatError(ErrorCode.OVERLOADED, "this server follows as many answers as it can: come later", 5.0)

    async def say(self, asker: Asker, commands: list[Command], size: int) -> list[replies.Ack]:
        """Carry out what makes events; ChatError, of the first that was not done."""
        acks = []
        for reply in await self._carry_out(asker, commands, size):
            if isinstance(reply, replies.Error):
                raise ChatError(ErrorCode(reply.code), reply.message, reply.retry_after)
            assert isinstance(reply, replies.Ack)
            acks.append(reply)
        return acks

    async def history(self, asker: Asker, room: str, before: int | None, limit: int) -> list[Data]:
        """Messages of the room, oldest first, as they are now; ChatError."""
        (reply,) = await self._carry_out(asker, [History(room=room, before=before, limit=limit)], 0)
        if isinstance(reply, replies.Error):
            raise ChatError(ErrorCode(reply.code), reply.message, reply.retry_after)
        assert isinstance(reply, Raw)
        messages: list[Data] = orjson.loads(bytes(reply))["messages"]
        return messages

    async def _carry_out(self, asker: Asker, commands: list[Command], size: int) -> list[Reply]:
        context = self.context
        outcome: asyncio.Future[list[Reply] | ChatError] = asyncio.get_running_loop().create_future()

        def done(found: list[Reply] | ChatError) -> None:
            if not outcome.done():
                outcome.set_result(found)

        account = context.limits.addresses.enter(asker.address)
        request = _Saying(context, asker.identity, account, iter(commands), JSON, done)
        request.begin(size)
        try:
            found = await outcome
        finally:
            request.abandon()
        if isinstance(found, ChatError):
            raise found
        return found

    async def ask(
        self, asker: Asker, agent: str, room: str, text: str, id: str, before: list[Send] | None = None
    ) -> Asking:
        """Ask, unless it was asked under this `id` already; `before`: what is said in front of it. ChatError."""
        send = question(room, agent, text, id, self.context.settings.text_chars)
        said = [*(before or ()), send]
        with self.reserved(asker.user):
            acks = await self.say(asker, list(said), sum(len(one.text) for one in said))
            return await self.answer_to(asker, agent, room, acks[-1])

    async def answer_to(self, asker: Asker, agent: str, room: str, ack: replies.Ack) -> Asking:
        """Follow the answer to the message that was acknowledged so; ChatError."""
        assert ack.seq is not None
        assert ack.ts is not None
        earlier = await self._asked_by(asker, agent, room, ack.seq)
        return Asking(self, asker, room, earlier or Answer(agent, asker.user, ack.seq, ack.ts))

    async def _asked_by(self, asker: Asker, agent: str, room: str, seq: int) -> Answer | None:
        """The answer that waited for message `seq`, since the agent had asked for that; it may be over by now."""
        for message in reversed(await self.history(asker, room, seq, BACK)):
            if message["user"] == asker.user:
                return None
            asked = ask_of(message.get("id", "")) if message["user"] == agent else None
            if asked is not None and asker.user in message.get("mentions", ()):
                break
        else:
            return None
        answer = await self.look(asker, agent, room, asked[0], until=seq - 1)
        if answer is None or answer.over or not answer.grows or not answer.asks:
            return None
        answer.asks = ""  # that has its answer now
        return answer

    async def ask_again(self, asker: Asker, agent: str, room: str, seq: int, text: str, id: str) -> Asking:
        """Edit the question `seq`, which asks it again; ChatError."""
        await self.say(asker, [Edit(id=id, room=room, seq=seq, text=text)], len(text))
        answer = await self.look(asker, agent, room, seq)
        if answer is None:
            raise ChatError(ErrorCode.NOT_FOUND, f"message {seq} of room {room} is no question to {agent!r}")
        return Asking(self, asker, room, answer)

    async def find(self, asker: Asker, room: str, seq: int, agent: str | None = None) -> Asking:
        """Follow the answer to the question `seq`, which may be over. ChatError: there is no such question."""
        self.check(asker.user)
        asker.identity.check_room(room)
        answer = await self.look(asker, agent, room, seq)
        if answer is None:
            raise ChatError(ErrorCode.NOT_FOUND, f"message {seq} of room {room} is no question to an agent")
        return Asking(self, asker, room, answer)

    async def look(
        self, asker: Asker, agent: str | None, room: str, seq: int, until: int | None = None
    ) -> Answer | None:
        """What became of the question `seq` up to now, or to event `until`; None: it is none.

        The text of an answer that grows is left out. Without `agent` it is the first whom it mentions. It costs the
        asker what a `history` does. ChatError, LogUnavailable.
        """
        log, after = self.context.hub.log, seq
        (event,) = await self.history(asker, room, seq + 1, 1) or (None,)
        if event is None or event["seq"] != seq:
            return None
        mentions = event.get("mentions") or ()
        if agent is None:
            agent = mentions[0] if mentions else None
        if agent is None:
            return None
        answer = Answer(agent, event["user"], seq, event["ts"])
        answer.withdrawn = "deleted" in event
        for _ in range(LOOK_PAGES):
            if answer.over and answer.asked_for >= event.get("edited", 0):
                break  # the rest of the room is about something else
            page = await log.read(room, after, max_events=LOOK_EVENTS, max_bytes=LOOK_BYTES)
            for event_ in page:
                if until is not None and event_.seq > until:
                    return answer
                answer.feed(event_.data)
            if not page:
                break
            after = page[-1].seq
        return answer

    async def last_question(self, asker: Asker, agent: str, room: str) -> int | None:
        """The last message in which the user asks the agent; ChatError."""
        for message in reversed(await self.history(asker, room, None, BACK)):
            if message["user"] == asker.user and agent in message.get("mentions", ()):
                seq: int = message["seq"]
                return seq
        return None

    def is_due(self, answer: Answer) -> bool:
        """Whether an answer may still come."""
        return answer.grows or (
            not answer.over and time.time() - answer.asked_at / 1000 < self.sign_seconds  # by the log's clock and ours
        )

    async def stop(self, asker: Asker, room: str, seq: int | None) -> None:
        """End what grows there and answers the user, or one message; ChatError."""
        asker.identity.check_room(room)
        await self.context.stopping.stop(room, seq, asker.user, moderator=asker.identity.moderator)

    async def give_up(self, asking: Asking) -> None:
        """Nobody wants the answer any more: end it as soon as it has begun."""
        asker, room, answer = asking.asker, asking.room, asking.answer
        self.context.requests += 1  # a server that stops waits for it
        try:
            if self.context.draining:  # nothing more is heard of the room
                answer = await self.look(asker, answer.agent, room, answer.question) or answer
            again = Asking(self, asker, room, answer)
            async with aclosing(again.told()) as told:
                async for one in told:
                    if isinstance(one, Begun):
                        await self.stop(asker, room, one.seq)
                        return
        except (ChatError, LogUnavailable, TimeoutError) as error:
            logger.debug("answer not stopped room=%s reason=%s", room, error)
        finally:
            self.context.requests -= 1

    @contextmanager
    def reserved(self, user: str) -> Iterator[None]:
        """A place among the answers that are followed, before the question is said. ChatError."""
        self.check(user)
        self._by_user[user] += 1
        try:
            yield
        finally:
            self._release(user)

    def enter(self, asking: Asking) -> None:
        self.check(asking.asker.user)
        self.open.add(asking)
        self._by_user[asking.asker.user] += 1

    def leave(self, asking: Asking) -> None:
        if asking in self.open:
            self.open.discard(asking)
            self._release(asking.asker.user)

    def _release(self, user: str) -> None:
        self._by_user[user] -= 1
        if not self._by_user[user]:
            del self._by_user[user]


class Asking:
    """One answer, followed from the last event that was seen. `told` may be iterated once; `leave` ends that."""

    __slots__ = ("_askings", "_left", "_lost", "_stirred", "_task", "_woken", "answer", "asker", "room")

    def __init__(self, askings: Askings, asker: Asker, room: str, answer: Answer) -> None:
        self._askings = askings
        self._left = False
        self._lost = False  # what was heard last may not be all
        self._stirred = asyncio.Event()  # something is to be done about it
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.asker = asker
        self.room = room
        self.answer = answer

    @property
    def agent(self) -> str:
        return self.answer.agent

    @property
    def question(self) -> int:
        return self.answer.question

    def wake(self) -> None:
        self._woken.set()

    def leave(self) -> None:
        """Nobody waits any more."""
        self._left = True
        self.wake()

    async def told(self, mark: Mark | None = None) -> AsyncGenerator[Told, None]:
        """What there is to tell to who has the text up to `mark`; the last is an End, if nobody leaves before.

        ChatError: the agent is not there, the session is not good any more, or this process ends.
        """
        askings, answer = self._askings, self.answer
        askings.enter(self)
        try:
            if not answer.over or answer.lacking:
                self._task = asyncio.create_task(self._follow())
                self._task.add_done_callback(lambda _: self.wake())
            telling = Telling(answer, mark)
            signs, waits_until = -1, 0.0
            loop = asyncio.get_running_loop()
            while not self._left:
                for one in telling.news():
                    yield one
                    if isinstance(one, End):
                        return
                self._check()
                if answer.signs != signs or answer.grows:
                    signs, waits_until = answer.signs, loop.time() + askings.sign_seconds
                try:
                    async with asyncio.timeout_at(waits_until):
                        await self._woken.wait()
                except TimeoutError:
                    if answer.signs == signs and not answer.grows and not await self._is_busy():
                        yield self._give_up()
                        return
                    waits_until = loop.time() + askings.sign_seconds
                self._woken.clear()
        finally:
            askings.leave(self)
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait({self._task})

    async def _is_busy(self) -> bool:
        """Whether the agent gives another answer in the room, behind which this one may have its turn."""
        try:
            found = await self._askings.context.hub.log.open(self.room)
        except LogUnavailable:
            return False
        return any(one.user == self.agent for one in found)

    def _give_up(self) -> End:
        """The agent did not come, or did not come back."""
        if self.answer.reason == "interrupted":
            return End("interrupted")
        raise ChatError(
            ErrorCode.UNAVAILABLE,
            f"the agent {self.agent!r} has not begun to answer within {self._askings.sign_seconds:g} s: "
            f"it has to run, and to be let into the room {self.room}",
            retry_after=5.0,
        )

    def _check(self) -> None:
        """Raise ChatError if nobody may be told any more, or nothing more can be."""
        context, identity = self._askings.context, self.asker.identity
        if context.draining:
            raise ChatError(ErrorCode.OVERLOADED, "this server is stopping, and the answer goes on: come back", 1.0)
        context.revocations.check(identity.jti)
        if time.time() >= identity.expires_at:
            raise ChatError(ErrorCode.UNAUTHORIZED, "the token does not check: it has expired; sign in again")
        if self._task is not None and self._task.done():
            self._task.result()

    # The room

    async def _follow(self) -> None:
        """Be in the room until the answer is over; come back to it where that fails."""
        while not self.answer.over or self.answer.lacking:
            try:
                await self._listen()
            except (ChatError, LogUnavailable, TimeoutError) as error:
                logger.debug("answer not followed for now room=%s reason=%s", self.room, error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _listen(self) -> None:
        context, identity, answer = self._askings.context, self.asker.identity, self.answer
        self._lost = False
        address = context.limits.addresses.enter(self.asker.address)
        memberships = Memberships()
        ear = Ear(self._hear, self._lose)
        member = Member(ear, identity.user, identity.name, LINES)
        try:
            context.limits.check_join(address)
            await context.hub.admit(member, Join(room=self.room, after=answer.seen), 0, memberships, address)
            while not self._lost and not (answer.over and not answer.lacking):
                if answer.lacking:
                    told = await context.growing.fetch(self.room, answer.seq, 0, None)
                    answer.fetched(msgspec.to_builtins(told))
                    self.wake()
                self._stirred.clear()
                if not self._lost and not answer.lacking:
                    await self._stirred.wait()
        finally:
            ear.closing = True
            context.hub.leave(self.room, memberships, address)
            address.connections -= 1

    def _hear(self, told: Data) -> None:
        self.answer.feed(told)
        self.wake()
        if self.answer.lacking or self.answer.over:
            self._stirred.set()

    def _lose(self) -> None:
        self._lost = True
        self._stirred.set()


def question(room: str, agent: str, text: str, id: str | None, text_chars: int) -> Send:
    """The message that asks the agent; ChatError (bad_request)."""
    check_user_id(agent)
    return read({"room": room, "text": text, "id": id, "mentions": [agent]}, Send, text_chars)
