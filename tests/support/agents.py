"""Agents beside a server of tests: how they are run here, who asks them, and what the room says in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.chat import SECRET, Running, eventually
from tests.support.servers import Server
from tornado_chat.agents import Agent
from tornado_chat.agents.life import Life
from tornado_chat.auth import mint
from tornado_chat.client import Client
from tornado_chat.errors import ChatError

BOT = "bot"
SECONDS = 15.0


def token(here: Running | Server, user: str, **claims: Any) -> str:
    if isinstance(here, Server):
        return here.token(user, **claims)
    return mint(SECRET, user, **{"ttl": 3600.0, **claims})


def address(here: Running | Server) -> str:
    return here.url if isinstance(here, Server) else here.address


@asynccontextmanager
async def living(
    agent: Agent, here: Running | Server, *, replicas: int = 1, user: str = BOT
) -> AsyncIterator[list[Life]]:
    """The agent lives in this process, so many times, from when it is in its rooms until the end."""
    lives = [Life(agent, f"replica {number}") for number in range(replicas)]
    tasks = [asyncio.create_task(life.run(address(here), token(here, user, agent=True))) for life in lives]
    try:
        await eventually(lambda: any(task.done() for task in tasks) or all(map(is_there, lives)), SECONDS)
        yield lives
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                task.result()


def is_there(life: Life) -> bool:
    """Whether it is in all of its rooms, and heeds its inbox."""
    return life._heeding and all(room in life.rooms and life.rooms[room]._live for room in life.agent.rooms)


def person(here: Running | Server, user: str) -> Client:
    return Client(address(here), token=token(here, user), backoff=(0.01, 0.1), timeout=SECONDS)


class Room:
    """A room as one reads it: all that was said, and the texts that grew."""

    def __init__(self, chat: Client, name: str) -> None:
        self.chat = chat
        self.name = name
        self.events: list[Any] = []
        self.signals: list[Any] = []
        self.grown: dict[int, str] = {}

    async def read(self) -> None:
        async for event in self.chat:
            if event["room"] != self.name:
                continue
            if event["type"] == "grown":
                self.grown[event["seq"]] = self.grown.get(event["seq"], "")[: event["offset"]] + event["text"]
            elif "ts" in event:
                self.events.append(event)
            else:
                self.signals.append(event)

    async def ask(self, text: str, **options: Any) -> int:
        """Say something to the bot; its seq."""
        return (await self.chat.send(self.name, text, mentions=[BOT], **options)).seq

    def replies(self, question: int) -> list[Any]:
        """The messages that answer it."""
        return [one for one in self.events if one["type"] == "message" and one.get("reply_to") == question]

    def end(self, seq: int) -> Any:
        """The `finished` of a message, None while it grows."""
        return next((one for one in self.events if one["type"] == "finished" and one["target"] == seq), None)

    async def reply(self, question: int, number: int = 1) -> Any:
        """The message that is the attempt `number`, as soon as it is there."""
        id = f"re:{question}" if number == 1 else f"re:{question}:{number}"
        found: list[Any] = []
        await eventually(lambda: found.extend(one for one in self.events if one.get("id") == id) or found, SECONDS)
        return found[0]

    async def answer(self, question: int, number: int = 1) -> Any:
        """The `finished` of the attempt `number`, as soon as it is there."""
        message = await self.reply(question, number)
        await eventually(lambda: self.end(message["seq"]), SECONDS)
        return self.end(message["seq"])

    async def grows(self, question: int, text: str, number: int = 1) -> Any:
        """The attempt, as soon as it has `text` in it."""
        message = await self.reply(question, number)
        await eventually(lambda: text in self.grown.get(message["seq"], ""), SECONDS)
        return message


@asynccontextmanager
async def reading(here: Running | Server, user: str = "ann", name: str = "r") -> AsyncIterator[Room]:
    """A room with somebody in it, who reads all of it."""
    async with person(here, user) as chat:
        room = Room(chat, name)
        task = asyncio.create_task(room.read())
        try:
            await chat.join(name, after=0)
            yield room
        finally:
            task.cancel()
            await asyncio.wait({task})


async def stopped(room: Room, seq: int | None = None) -> None:
    try:
        await room.chat.stop(room.name, seq)
    except ChatError as error:
        raise AssertionError(f"not stopped: {error}") from error
