"""An agent that says what it is told to, for tests of the bridges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.agents import BOT, SECONDS, living, token
from tests.support.chat import Running, running
from tornado_chat.agents import Agent
from tornado_chat.agents.context import Context
from tornado_chat.agents.message import Message


class Parrot:
    """An agent that says what it is told to, a word when it may."""

    def __init__(self, **options: Any) -> None:
        self.agent = Agent(BOT, **options)
        self.may = asyncio.Semaphore(0)
        self.freely = True
        self.instead = ""  # what it says whatever it is told
        self.lingers = False  # after its last word, for ever
        self.asked: list[str] = []
        self.agent.on_mention(self.answer)

    async def answer(self, ctx: Context, message: Message) -> AsyncIterator[str]:
        self.asked.append(message.prompt)
        if message.prompt == "fail":
            raise ValueError("as it was told")
        if message.prompt == "ask":
            yield "It is " + (await ctx.ask("What is it?")).text
            return
        for word in (self.instead or message.prompt).split():
            if not self.freely:
                await self.may.acquire()
            if word == "look":
                async with ctx.step("search", input="it") as step:
                    step.output = "found"
            yield word + " "
        if self.lingers:
            await asyncio.Event().wait()

    def go_on(self, words: int = 1) -> None:
        for _ in range(words):
            self.may.release()


@asynccontextmanager
async def parrot(path: Path, **settings: Any) -> AsyncIterator[tuple[Running, Parrot, httpx.AsyncClient]]:
    bird = Parrot()
    async with (
        running(path, default_agent=BOT, **settings) as here,
        living(bird.agent, here),
        httpx.AsyncClient(base_url=here.address, timeout=SECONDS) as client,
    ):
        yield here, bird, client


def by(here: Running, user: str, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(here, user, **claims)}"}
