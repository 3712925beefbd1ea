"""The life of an agent in one process: its connection, its inbox `~`, its rooms, and how much it does at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from tornado_chat.agents import commands
from tornado_chat.agents.declaration import Declaration
from tornado_chat.agents.handlers import Handler, pieces
from tornado_chat.agents.message import Names, Reaction
from tornado_chat.agents.question import Rules
from tornado_chat.agents.reactions import Reacting
from tornado_chat.agents.room import AgentRoom
from tornado_chat.agents.turns import Turns
from tornado_chat.client import Client, Closed
from tornado_chat.errors import ChatError
from tornado_chat.logs import Repeated
from tornado_chat.tasks import Tasks
from tornado_chat.wire.events import Data

logger = logging.getLogger(__name__)

OWN = "~"
"""The log of one's own."""

OWN_BACK = 900, 300, 100, 30, 10
"""How far behind its head the inbox is read at the start: the most of these for which it still has the events."""

ROOMS = 999
"""Besides `~`: a connection may be in so many. For a further one it leaves the room where it is named only and nothing
has been said for longest."""

INVITED = 500
"""Rooms to which it was invited, and hears all of: to a further one it comes as if it had been named there. So people
who invite it everywhere leave it the other half for those who name it."""

JOINS = 20
"""Rooms that are being joined at once."""

BACK, FURTHEST = 200, 10_000
"""Events behind a room's head at which it is joined: so that what is asked again is known; and at most, where a
question further back has no answer."""

BACKOFF = 0.2, 3.0
"""Bounds of the pauses between attempts to connect, in seconds: people wait for its answers."""

MARK_SECONDS = 30.0
"""How often the marks are moved, where something was handled."""
MARK_PAUSE = 0.5
"""Between two of them: an agent in many rooms has its rate for its replies."""

JOINED_SECONDS = 10.0
"""The agent is said to answer when it is in its own rooms, or after this time."""

HOOK_SECONDS = 10.0
"""For `on_stop`."""


def new_replica() -> str:
    """A name for this process among those that are the same agent."""
    return secrets.token_hex(8)


class Life:
    """`run` is its life; a Life lives once."""

    def __init__(self, agent: Declaration, replica: str) -> None:
        self.agent = agent
        self.replica = replica
        self._tasks = Tasks()
        self.turns = Turns(agent.max_open, self._tasks)
        self.rooms: dict[str, AgentRoom] = {}
        self.client: Client
        self.user = ""
        self.names: Names
        self._ahead = 0.0  # s, of the server's clock
        self._joining = asyncio.Semaphore(JOINS)
        self._levels: dict[str, str] = {}  # of the rooms that it follows
        self._replayed = 0  # the events of `~` up to here are older than its state
        self._called: dict[str, int] = {}  # rooms not joined in which it was named, and the first message that does
        self._invited: dict[str, str] = {}  # rooms that it has not taken up yet, and the level
        self._heeding = False  # the inbox is read from where it has to be
        self._inbox_read = asyncio.Event()
        self._answering = False
        self._reacting = 0
        self._dropping = Repeated(logger)

    async def run(self, url: str, token: str | Callable[[], Awaitable[str]]) -> None:
        """Until cancelled; Refused."""
        client = Client(
            url, transport=self.agent.transport, token=token, timeout=None, backoff=BACKOFF, notify=logger.info
        )
        async with client:
            self.client = client
            reading = asyncio.create_task(self._read())
            living = asyncio.create_task(self._live())
            try:
                await asyncio.wait({reading, living}, return_when=asyncio.FIRST_COMPLETED)
                for task in (living, reading):
                    if task.done():
                        task.result()
            finally:
                for task in (living, reading):
                    task.cancel()
                await asyncio.wait({living, reading})
                await self._tasks.stop()
                for room in self.rooms.values():
                    room.close()
                if self.agent.stop is not None and self._answering:
                    await self._call(self.agent.stop)

    async def _live(self) -> None:
        joined = await self.client.join(OWN)
        welcome = self.client.welcome
        self._ahead = welcome["server_time"] / 1000 - time.time() if "server_time" in welcome else 0.0
        self.user = welcome["user"]
        agent = self.agent
        self.names = Names(self.user, welcome["name"])
        if agent.start is not None:
            await self._call(agent.start)
        self._answering = True
        for state in joined["state"]["rooms"]:
            self._levels[state["room"]] = state["level"]
            self._enter_followed(state)
        await self._inbox_read.wait()
        await self._read_back(joined["cursor"])
        for name in agent.rooms:
            if name not in self._levels:
                self._invited[name] = "everything"
            elif self._levels[name] == "mentions":  # it came there before, as it was named
                self.spawn(self.client.follow(name, "everything"))
        self._heed_calls()
        self.spawn(commands.tell(self.client, self.user, agent.commands))
        await self._settled()
        logger.info("agent answers user=%s replica=%s rooms=%d", self.user, self.replica, len(self.rooms))
        while True:
            await asyncio.sleep(MARK_SECONDS)
            for name in list(self.rooms):
                await self._move_mark(name)

    async def _settled(self) -> None:
        """Wait until it hears the rooms that it follows from its start on."""
        await asyncio.sleep(0)  # they are entered meanwhile
        rooms = [self.rooms[name] for name in self.agent.rooms if name in self.rooms]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOINED_SECONDS):
                for room in rooms:
                    await room.settled.wait()

    async def _call(self, hook: Handler) -> None:
        """Of one that says nothing; its failure is logged."""
        try:
            async with asyncio.timeout(HOOK_SECONDS):
                async with aclosing(pieces(hook, self.turns.threads, self.user, self.client)) as said:
                    async for _ in said:
                        pass
        except Exception:
            logger.exception("hook failed")

    def spawn(self, work: Awaitable[None]) -> None:
        self._tasks.spawn(_logged(work))

    def now(self) -> int:
        """ms since 1970, by the server's clock."""
        return int((time.time() + self._ahead) * 1000)

    # What its rooms want

    def rules(self, concerns: Callable[[Data], bool]) -> Rules:
        agent = self.agent
        return Rules(
            self.user, concerns, agent.double_texting, agent.max_age, agent.answer_agents, agent.replies_a_minute
        )

    def react(self, room: AgentRoom, reaction: Reaction) -> None:
        """Tell the handler of it, if there is one and not too much is going on."""
        handler = self.agent.reaction
        if handler is None:
            return
        if self._reacting >= self.agent.max_open:
            self._dropping.warning("too many reactions at once, one is left alone room=%s", room.name)
            return
        self._reacting += 1
        self._tasks.spawn(Reacting(room, reaction).run(handler)).add_done_callback(self._on_reacted)

    def _on_reacted(self, _: object) -> None:
        self._reacting -= 1

    # What comes

    async def _read(self) -> None:
        async for event in self.client:
            if event["type"] == "orphaned":
                if event["room"] in self.rooms:
                    self.rooms[event["room"]].on_orphaned(event["seq"])
            elif event["room"] == OWN:
                if event["type"] == "synced":
                    self._inbox_read.set()
                elif self._heeding:
                    self._on_own(event)
            elif event["room"] in self.rooms:
                room = self.rooms[event["room"]]
                if event["type"] == "left":
                    logger.warning("room left room=%s code=%s reason=%s", room.name, event["code"], event["message"])
                    self._leave(room.name)
                else:
                    room.on_event(event)

    def _on_own(self, event: Data) -> None:
        new = event.get("seq", 0) > self._replayed
        match event["type"]:
            case "mentioned":
                if event["about"] not in self.rooms and event["ts"] > self.now() - self.agent.max_age * 1000:
                    self._called.setdefault(event["about"], event["target"])
                    if new:
                        self._heed_calls()
            case "unfollowed":
                self._called.pop(event["about"], None)
                if new:
                    self._levels.pop(event["about"], None)
                    self.spawn(self.client.leave(event["about"]))
                    self._leave(event["about"])
            case "followed" if new:
                self._levels[event["about"]] = event["level"]
                if event["about"] in self.rooms:
                    self.rooms[event["about"]].level = event["level"]
                else:  # somebody invites it, or another replica has gone there
                    self._invited[event["about"]] = event["level"]
                    self._heed_calls()
            case "marked":
                if event["about"] in self.rooms:
                    room = self.rooms[event["about"]]
                    room.marked = max(room.marked, event["read"])
            case "state":  # it was away for so long
                for state in event["state"]["rooms"]:
                    self._levels[state["room"]] = state["level"]
                    if state["room"] not in self.rooms:
                        self._enter_followed(state)

    # Its rooms

    async def _read_back(self, head: int) -> None:
        """Join the inbox again, a bit below its head: what named the agent while it was away comes by."""
        self._replayed = head
        self._heeding = True
        for back in OWN_BACK:
            self._inbox_read.clear()
            joined = await self.client.join(OWN, after=max(0, head - back))
            await self._inbox_read.wait()
            if "state" not in joined:
                break

    def _heed_calls(self) -> None:
        """Go where it was named or invited."""
        invited, self._invited = self._invited, {}
        called, self._called = self._called, {}
        for name in {**invited, **called}:
            if name not in self.rooms and (name in invited or name not in self._levels):
                level = invited.get(name, "mentions")
                if level == "everything" and name not in self.agent.rooms and self._hears_enough(name):
                    logger.warning("invited to too many rooms, heard where it is named only room=%s", name)
                    level = "mentions"
                after = called[name] - 1 if name in called else None
                self._levels[name] = level
                self.spawn(self._follow(name, level, after))

    def _hears_enough(self, besides: str) -> bool:
        own = {besides, *self.agent.rooms}
        return sum(level == "everything" and name not in own for name, level in self._levels.items()) >= INVITED

    def _enter_followed(self, state: Data) -> None:
        """A room of the state."""
        name = state["room"]
        if "by" in state and not state["read"]:  # it was never there
            self._invited[name] = state["level"]
            return
        after = max(state["head"] - FURTHEST, min(state["read"], state["head"] - BACK), 0)
        room = self._enter(name, state["level"], state["read"])
        if room is not None:
            self.spawn(self._resume(room, after))

    async def _follow(self, name: str, level: str, after: int | None = None) -> None:
        """Follow a room, and answer there from now on; of what is there already, `after` an event, what names it."""
        room = self._enter(name, level, 0)
        if room is None:
            if name not in self.rooms:  # it is named there again
                self._levels.pop(name, None)
            return
        joined = await self._join(room, after)
        if joined is None:
            self._levels.pop(name, None)
            return
        room.start(joined["cursor"], joined["head"])
        # The mark first: to who comes and sees that the room is followed, it says what was there before.
        await room.reached(joined["head"])
        await self._move_mark(name)
        try:
            await self.client.follow(name, level)
        except ChatError as error:
            logger.warning("room not followed room=%s reason=%s", name, error)

    async def _resume(self, room: AgentRoom, after: int) -> None:
        """Answer in a room that is followed, and what came after that event."""
        joined = await self._join(room, after)
        if joined is not None:
            room.start(joined["cursor"], 0)

    def _enter(self, name: str, level: str, read: int) -> AgentRoom | None:
        """The room, of which all was seen to up to `read`; None if it is there already, or would be one too many."""
        if name in self.rooms:
            return None
        if len(self.rooms) >= ROOMS and not self._make_room():
            logger.warning("room not joined, it would be one too many room=%s", name)
            self._levels.pop(name, None)  # it comes when it is named there again, and there is room
            return None
        room = self.rooms[name] = AgentRoom(self, name, level, read)
        return room

    def _make_room(self) -> bool:
        """Leave a room in which nobody waits for the agent, and to which it comes again when it is named there."""
        idle = [room for room in self.rooms.values() if room.level == "mentions" and room.is_idle]
        if not idle:
            return False
        room = min(idle, key=lambda room: room.heard_at)
        self._levels.pop(room.name, None)
        self._leave(room.name)
        self.spawn(self._unfollow(room.name))
        return True

    async def _unfollow(self, name: str) -> None:
        try:
            await self.client.leave(name)
            await self.client.unfollow(name)
        except ChatError as error:
            logger.warning("room not left room=%s reason=%s", name, error)

    async def _join(self, room: AgentRoom, after: int | None) -> Data | None:
        """`joined`, if it may."""
        await asyncio.sleep(0)  # the room that is left for this one is left first
        async with self._joining:
            try:
                return await self.client.join(room.name, after=after, last=BACK if after is None else None)
            except ChatError as error:
                logger.warning("room not joined room=%s reason=%s", room.name, error)
                self.rooms.pop(room.name, None)
                room.settled.set()
                return None

    def _leave(self, name: str) -> None:
        room = self.rooms.pop(name, None)
        if room is not None:
            self.turns.forget(room)
            room.close()

    async def _move_mark(self, name: str) -> None:
        room = self.rooms.get(name)
        mark = room.mark() if room is not None else 0
        if room is None or mark <= room.marked:
            return
        room.marked = mark
        with contextlib.suppress(ChatError):  # a room that it may not enter any more
            await self.client.read(name, mark)
        await asyncio.sleep(MARK_PAUSE)


async def _logged(work: Awaitable[None]) -> None:
    """What a closed client, or one that is refused, does not let end well: `run` tells why."""
    try:
        await work
    except Closed as closed:
        logger.debug("not done, the client is closed reason=%s", closed)
