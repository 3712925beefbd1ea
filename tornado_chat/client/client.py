"""A client for asyncio, which reconnects, gets what it missed, and sends again what was not acknowledged.

    async with Client("http://127.0.0.1:8080", name="alice") as chat:
        await chat.join("lobby", last=20)
        await chat.send("lobby", "hello")
        async for event in chat:
            print(event)

1. Events of a room come out in the order of `seq`, each once, none missing, whatever happens to the connection.
2. Commands of one room are sent in the order of the calls. One that was not answered when the connection broke is sent
   again with the same `id` on the next, so that the log holds it once. One that was answered with `rate_limited` (after
   the time asked for), `unavailable` or `overloaded` (after a back-off) is sent again, too; the room's later ones wait.
   Where the server limits the rate of sends, a room has one command on its way at a time, since a refused one would be
   overtaken by the next. Elsewhere commands that are on their way may overtake one that was answered `unavailable`:
   a caller who needs the order awaits each send.
3. Whichever transport it is, and however often that changes, all of this holds.
4. Nothing grows without a bound. A full queue of events stops the reading from the socket, and answers stand behind
   events: who joins a room has to iterate. With `max_commands` commands unanswered, the next call waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from tornado_chat.client.answers import SILENCE_SECONDS, Answer, Answers, Failed, room_for
from tornado_chat.client.ends import Closed, Refused
from tornado_chat.client.link import Link, Token
from tornado_chat.client.outbound import Outbound, new_id
from tornado_chat.client.replies import Held, Replies, Reply, Stopped
from tornado_chat.client.rooms import Rooms
from tornado_chat.client.transport import Choice, TransportKind
from tornado_chat.wire.codec import JSON, Codec
from tornado_chat.wire.commands import StepState, parse
from tornado_chat.wire.events import Data

__all__ = ["Ack", "Answer", "Client", "Closed", "Failed", "Held", "Refused", "Reply", "Stopped"]

log = logging.getLogger(__name__)

T = TypeVar("T")

TEXT_CHARS = 1_000_000  # where `welcome` does not tell: no server takes more


@dataclass(frozen=True, slots=True)
class Ack:
    """What a `send`, `edit`, `delete` or `react` became: the event's `seq` and `ts` (ms since 1970).

    `duplicate`: the log held the `id` already, so these are the first one's.
    """

    seq: int
    ts: int
    duplicate: bool


class Client:
    """A chat client; use it as an async context manager, on a running asyncio loop.

    `url` is the server's address (http, https, ws or wss), with or without `/ws`. `token` is a JWT, or a coroutine
    function that fetches one: it is called for the first connection and when a token is refused that was good before.
    Without a token the client is a guest called `name`, and the same guest after reconnecting, unless the server was
    away for so long (30 days) that it does not know the guest any more. When the client comes back as another user,
    calls that the server may have heard raise ChatError (unauthorized).

    `transport`: `websocket`, `stream` (server-sent events, and requests for the commands), `poll` (long polls, and such
    requests), or `auto`: the first of them that passes. A WebSocket has 2.5 s, and a stream 5 s, to bring a `welcome`
    before the next is tried beside it; where something on the way refuses it, that is tried at once. One that is cut
    off, or brings no heartbeat, twice within 30 s of its beginning is left for the next. After 10 minutes a better one
    is tried beside the one in use; after 5 s, and then ever more rarely, where it was good before or nobody answered.
    Polls bring no signals, and `joined` is then without `read`.

    A call that is not answered within `timeout` seconds (None: no limit), reconnecting included, raises TimeoutError:
    whether a `send` was kept is then not known, and sending again with the same `id` is safe. So is cancelling a call.
    A connection must be made within `connect_timeout` s; one that is silent for `ping_interval` s is pinged and, after
    as much silence again, given up. `backoff` gives the bounds in seconds of the pauses between attempts, which grow
    exponentially with full jitter; a pause that the server asks for (`retry_after_ms`, `Retry-After`) comes first.
    `notify` gets a line for people when the connection is lost, when it is back, and when the transport is another.

    When the server will not have the client (401, 403, 4001 ...) every call and the iteration raise Refused.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: Choice = "auto",
        token: Token = None,
        name: str | None = None,
        codec: Codec = JSON,
        timeout: float | None = 60.0,
        connect_timeout: float = 10.0,
        ping_interval: float = 20.0,
        backoff: tuple[float, float] = (0.2, 10.0),
        max_events: int = 1000,
        max_commands: int = 256,
        notify: Callable[[str], None] = log.info,
    ) -> None:
        self._link = Link(
            url,
            transport=transport,
            token=token,
            name=name,
            codec=codec,
            connect_timeout=connect_timeout,
            ping_interval=ping_interval,
            backoff=backoff,
            notify=notify,
        )
        self._codec = codec
        self._timeout = timeout
        self._max_commands = max_commands
        self._outbound = Outbound(self._link, max_commands)
        self._replies = Replies(self._link, self._outbound, codec, self._check, self._in_time)
        self._answers = Answers(self.stop, lambda room: self._rooms.release(room))
        self._rooms = Rooms(self._link, self._outbound, self._replies, self._answers, max_events)
        self._task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None  # why it ended
        self._closed = False

    async def __aenter__(self) -> Client:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def welcome(self) -> Data:
        """The last connection's `welcome`: `user`, `name`, `limits` ...; empty before the first."""
        return self._rooms.welcome

    @property
    def transport(self) -> TransportKind | None:
        """By which transport the client is connected; None while it is not."""
        return None if self._link.transport is None else self._link.transport.kind

    async def close(self) -> None:
        """Close the connection and wait until it is; calls that wait for an answer raise Closed.

        An attempt to connect that does not end within 1 s is left to end by itself, within `connect_timeout`.
        """
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._end(Closed("the client was closed"))

    async def _run(self) -> None:
        try:
            await self._link.run(self._rooms)
        except Exception as error:
            self._end(error)

    def _end(self, failure: Exception) -> None:
        """Nothing will be answered any more: whoever waits, calls or iterates gets `failure`, the first one."""
        if self._failure is None:
            self._failure = failure
        self._outbound.end(self._failure)
        self._rooms.end(self._failure)
        self._answers.end(self._failure)
        self._replies.end(self._failure)

    # What a user may say.

    async def join(
        self, room: str, *, after: int | None = None, last: int | None = None, epoch: str | None = None
    ) -> Data:
        """Join `room` and return `joined`; its events and signals come out of the iteration from the cursor on.

        `after`: the last seq that is held already (with the `epoch` that it came from, if that was kept),
        or `last`: a count; neither: from now on. The room stays joined until `leave`, over all reconnections.
        The room `~` is the log of one's own, whose `joined` has its `state`.
        """
        self._check({"type": "join", "room": room, "after": after, "last": last})
        joining = self._rooms.join(room, after, last, epoch)
        try:
            return await self._in_time(joining, f"join {room}")
        except (TimeoutError, asyncio.CancelledError):
            self._rooms.give_up(room, joining)
            raise

    async def leave(self, room: str) -> None:
        """Leave `room`: nothing of it comes out of the iteration any more."""
        self._rooms.leave(room)

    async def send(
        self,
        room: str,
        text: str,
        *,
        reply_to: int | None = None,
        meta: Data | None = None,
        mentions: Sequence[str] | None = None,
        mark: bool = True,
        id: str | None = None,
        as_user: str | None = None,
        as_name: str | None = None,
    ) -> Ack:
        """Returns when the message is in the log; ChatError if the server refuses it.

        `mentions`: the ids of users who are told so in the logs of their own. `mark`: it moves the user's read mark.
        `as_user`, and perhaps `as_name`: for whom, if the token's claim `acts_as` covers that user; else `forbidden`.
        """
        fields: Data = {"text": text, "reply_to": reply_to, "meta": meta}
        if mentions is not None:
            fields["mentions"] = list(mentions)
        if not mark:
            fields["mark"] = False
        return _ack(await self._ask("send", room, id, **fields, **_acting(as_user, as_name)))

    def stream(
        self,
        room: str,
        *,
        reply_to: int | None = None,
        meta: Data | None = None,
        id: str | None = None,
        replica: str | None = None,
        take_over: bool = False,
    ) -> Reply:
        """A message that grows while it is written, whatever happens to the connection meanwhile:

            async with chat.stream("lobby", reply_to=41) as reply:
                async for token in model:
                    await reply.write(token)

        Others see what was written at once. At the end it is finished (`done`), which returns when the log has all of
        it; an exception ends it as `error`, a cancellation as `interrupted`. Where somebody stops it, `write` raises
        Stopped, which ends the `async with` and goes no further; `reply.reason` is `stopped` then.

        With an `id` of one's own, who was killed writes it again from its first word: the server drops what it has. If
        it has ended meanwhile, `reply.reason` tells so at once, and `write` raises ChatError (conflict), or Stopped.
        `replica` is what each of several processes of one user calls itself: only one has the message, the others get
        Held as they enter. `take_over`: from a replica whose connection has ended; then it begins again.
        """
        begin: Data = {"type": "begin", "id": new_id() if id is None else id, "room": room}
        given: Data = {"reply_to": reply_to, "meta": meta, "replica": replica}
        begin |= {key: value for key, value in given.items() if value is not None}
        if take_over:
            begin["take_over"] = True
        self._check(begin)
        return Reply(self._replies, begin)

    async def ask(
        self,
        agent: str,
        text: str,
        *,
        room: str | None = None,
        reply_to: int | None = None,
        meta: Data | None = None,
        id: str | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> Answer:
        """Ask `agent`, a user id, in `room`, or in a new one, which nobody knows; returns when the question is there:

            answer = await chat.ask("helper", "What is the time?")
            async for piece in answer:
                print(piece, end="")

        The answer is followed to its end without the room being joined, and without anybody iterating over the client.
        `answer.room` is where it is said; ask there again, and the agent knows what was said before.
        With an `id` of one's own that was asked before, the answer is the one to that, from its first word on: so who
        was killed while it came has it again. Without a sign of the agent for `silence` seconds it ends as
        TimeoutError; an agent that comes later answers in the room all the same.
        """
        room = room_for(agent) if room is None else room
        id = new_id() if id is None else id
        self._check({"type": "send", "room": room, "text": text, "mentions": [agent], "id": id})
        answer = Answer(self._answers, room, agent, id, silence)
        self._answers.open(answer)
        try:
            await self._in_time(self._rooms.listen(room), f"join {room}")
            ack = await self.send(room, text, reply_to=reply_to, meta=meta, mentions=[agent], id=id)
        except BaseException:
            self._answers.close(answer)
            raise
        answer.follow(ack.seq)
        self._rooms.retell(room, ack.seq - 1)
        return answer

    async def stop(self, room: str, seq: int | None = None) -> None:
        """End a message that grows, or all in `room` that one may stop; returns when that is in the log.

        ChatError: `not_found`, there is none; `forbidden`, it is neither one's own nor an answer to one.
        """
        await self._ask("stop", room, None, seq=seq)

    async def fetch(self, room: str, seq: int, *, offset: int = 0) -> Data:
        """What there is of a message's text from the code point `offset` on: `text`, `gen`, `done` (it has ended)."""
        return await self._ask("fetch", room, None, seq=seq, offset=offset)

    async def edit(
        self,
        room: str,
        seq: int,
        text: str,
        *,
        id: str | None = None,
        as_user: str | None = None,
        as_name: str | None = None,
    ) -> Ack:
        """ChatError: `forbidden` (another's message) or `not_found` (no message, or deleted); as for `delete`."""
        return _ack(await self._ask("edit", room, id, seq=seq, text=text, **_acting(as_user, as_name)))

    async def delete(
        self, room: str, seq: int, *, id: str | None = None, as_user: str | None = None, as_name: str | None = None
    ) -> Ack:
        return _ack(await self._ask("delete", room, id, seq=seq, **_acting(as_user, as_name)))

    async def react(
        self,
        room: str,
        seq: int,
        emoji: str,
        on: bool = True,
        *,
        id: str | None = None,
        as_user: str | None = None,
        as_name: str | None = None,
    ) -> Ack:
        return _ack(await self._ask("react", room, id, seq=seq, emoji=emoji, on=on, **_acting(as_user, as_name)))

    async def history(self, room: str, *, before: int | None = None, limit: int | None = None) -> Data:
        """A page of messages as they are now: `messages` in ascending seq, and `more`: older ones exist."""
        return await self._ask("history", room, None, before=before, limit=limit)

    async def presence(self, room: str) -> Data:
        """Who has joined `room`: the `count` of the users, and `users`, up to 200 of them, with `user` and `name`."""
        return await self._ask("presence", room, None)

    async def read(self, room: str, seq: int, *, as_user: str | None = None, as_name: str | None = None) -> None:
        """Move the user's read mark of `room`."""
        await self._ask("read", room, None, seq=seq, **_acting(as_user, as_name))

    async def follow(
        self, room: str, level: str = "everything", *, as_user: str | None = None, as_name: str | None = None
    ) -> None:
        """Follow `room`; `level`: `everything`, `mentions` or `nothing`. ChatError: `too_large`, one too many."""
        await self._ask("follow", room, None, level=level, **_acting(as_user, as_name))

    async def unfollow(self, room: str, *, as_user: str | None = None, as_name: str | None = None) -> None:
        await self._ask("unfollow", room, None, **_acting(as_user, as_name))

    async def invite(self, room: str, user: str, *, as_user: str | None = None, as_name: str | None = None) -> None:
        """Let another user follow `room`. ChatError: `too_large`, so many have invited them that nobody else can."""
        await self._ask("invite", room, None, user=user, **_acting(as_user, as_name))

    async def typing(self, room: str, on: bool = True) -> None:
        """A signal: dropped where it cannot be sent at once."""
        self._signal({"type": "typing", "room": room, "on": on})

    async def status(self, room: str, text: str, *, seq: int | None = None) -> None:
        """What the user does, such as `searching`, perhaps about the message `seq`; "": nothing any more.

        A signal like `typing`: it lapses after 6 s. ChatError: `text` has more than 200 characters.
        """
        told: Data = {"type": "status", "room": room, "text": text}
        self._signal(told if seq is None else told | {"seq": seq})

    async def step(
        self,
        room: str,
        seq: int,
        *,
        id: str,
        name: str,
        state: StepState,
        input: str | None = None,
        output: str | None = None,
    ) -> None:
        """How it stands with a step towards one's own message `seq`: a tool's run called `id`, of the tool `name`.

        A signal like `typing`. ChatError: `id` or `name` has more than 64 characters, `input` or `output` 1,000.
        """
        step = {"id": id, "name": name, "state": state, "input": input, "output": output}
        step = {key: value for key, value in step.items() if value is not None}
        self._signal({"type": "step", "room": room, "seq": seq, "step": step})

    # What comes out.

    def __aiter__(self) -> Client:
        return self

    async def __anext__(self) -> Data:
        """The next event or signal of a joined room, by docs/protocol.md, with `synced` and `behind`; besides:

        `{"type": "reset", "room", "epoch"}`: another log has taken the place of the one that the room's events came
        from; forget them, the room comes again from its first event on.
        `{"type": "state", "room", "cursor", "state"}`: the log of one's own goes on from there, what was held is void.
        `{"type": "grown", "room", "seq", "offset", "text"}`: the message `seq`, which is `streaming`, has this `text`
        from the code point `offset` on, and nothing behind it. Polls bring none. Its `finished` has all of the `text`.
        `{"type": "left", "room", "code", "message"}`: the server refused to join the room again after a reconnection.

        Ends when the client is closed; raises why it gave up if it did.
        """
        while not self._rooms.inbox:
            if self._closed:
                raise StopAsyncIteration
            self._check_open()
            await self._rooms.arrival()
        return self._rooms.take()

    # How it is asked.

    async def _ask(self, type: str, room: str, id: str | None, **fields: object) -> Data:
        id = new_id() if id is None else id
        given = {key: value for key, value in fields.items() if value is not None}
        command = {"type": type, "room": room, **given, "id": id}
        self._check(command)
        answer = self._outbound.ask(room, id, self._codec.encode(command))
        return await self._in_time(answer, f"{type} {id} in {room}")

    def _signal(self, command: Data) -> None:
        """Drop it where it cannot be sent at once."""
        parse(command, TEXT_CHARS)
        transport = self._link.transport
        if transport is not None and transport.unwritten < self._max_commands:
            transport.write(self._codec.encode(command))

    def _check(self, command: Data) -> None:
        """ChatError for what the server would not take either, before anything waits for its answer."""
        self._check_open()
        parse(command, self.welcome.get("limits", {}).get("text_chars", TEXT_CHARS))

    async def _in_time(self, answer: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except TimeoutError:
            raise TimeoutError(f"{what}: no answer within {self._timeout:g} s") from None

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._task is None:
            raise Closed("the client is not open: use it with `async with`")


def _acting(user: str | None, name: str | None) -> Data:
    """The field of a command that is another user's."""
    given = {key: value for key, value in (("user", user), ("name", name)) if value is not None}
    return {"as": given} if given else {}


def _ack(reply: Data) -> Ack:
    return Ack(reply["seq"], reply["ts"], reply.get("duplicate", False))
