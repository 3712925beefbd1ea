"""Agents beside a server of tests: how they are run here, who asks them, and what the room says in the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from tests.support import ROOT
from tests.support.chat import SECRET, Running, eventually
from tests.support.servers import Server
from tornado_chat.agents import Agent
from tornado_chat.agents.life import Life
from tornado_chat.auth import mint
from tornado_chat.client import Client
from tornado_chat.wire.attempts import attempt_id

BOT = "bot"
SECONDS = 30.0


def token(here: Running | Server, user: str, **claims: Any) -> str:
    if isinstance(here, Server):
        return here.token(user, **claims)
    return mint(SECRET, user, **{"ttl": 3600.0, **claims})


def address(here: Running | Server) -> str:
    return here.url if isinstance(here, Server) else here.address


@asynccontextmanager
async def living(
    agent: Agent, here: Running | Server, *, replicas: int = 1, user: str = BOT, name: str = "replica"
) -> AsyncIterator[list[Life]]:
    """The agent lives in this process, so many times, from when it is in its rooms until the end."""
    lives = [Life(agent, f"{name} {number}"[-64:]) for number in range(replicas)]
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
        id = attempt_id(question, number)
        await eventually(lambda: any(one.get("id") == id for one in self.events), SECONDS)
        return next(one for one in self.events if one.get("id") == id)

    async def said(self, text: str) -> None:
        """Wait until somebody has said this."""
        await eventually(lambda: any(one.get("text") == text for one in self.events), SECONDS)

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


class AgentProcess:
    """`tornado-chat agent TARGET` beside a server, as a process of its own; a context manager that ends it by SIGTERM.

    `module`: the text of the module `mine`, which it finds in its current directory.
    """

    def __init__(
        self, tmp_path: Path, server: Server, *flags: str, target: str = "mine:agent", module: str = ""
    ) -> None:
        self.folder = tmp_path
        self.output = tmp_path / "agent.out"
        if module:
            (tmp_path / "mine.py").write_text(module)
        self._command = [sys.executable, "-m", "tornado_chat", "agent", target, "--url", server.url]
        self._command += ["--secret-file", str(tmp_path / "secret"), *flags]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env={key: value for key, value in os.environ.items() if not key.startswith("TORNADO_CHAT_")}
                | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            code = self.process.wait(SECONDS)
            self.process = None
            assert code == 0, self.said()

    def said(self) -> str:
        return self.output.read_text()

    async def answers(self, times: int = 1) -> None:
        """Wait until so many processes of it answered, those before included."""
        await eventually(lambda: self.said().count("agent answers") >= times, SECONDS * 2)
