"""The agent of `tornado-chat agent demo`: no model, no key, no network; it shows what a reply can be.

It says so much, word by word, that there is time to stop it, to reload the page, or to kill its process.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from tornado_chat.agents.agent import Agent
from tornado_chat.agents.context import Context
from tornado_chat.agents.message import Message
from tornado_chat.client import Client

WORD_SECONDS = {"slow": 0.3, "usual": 0.04, "fast": 0.01}
"""The usual one is about as fast as a model says a token."""

ROOM = "lobby"

HELLO = (
    "I am a demonstration: write `@demo hello`, and see an answer grow. Stop it, reload the page in its middle, edit "
    "your question: it ends well. `@demo /help` has the rest."
)

HELP = """Each of these after `@demo`:

| what you write | what comes |
|---|---|
| anything | a tour: what an answer may hold |
| `/table`, `/code`, `/list` | one part of it |
| `/long` | a minute of counting, for who wants to stop something |
| `/ask` | a question to you |
| `/pace slow`, `/pace fast` | how fast I speak in this room from then on |
| `/help` | this |
"""

TABLE = """| what dies | what becomes of the reply |
|---|---|
| the page | nothing: it is there when you come back |
| the agent | another replica takes it over |
| the server | it goes on from its last words |
"""

CODE = """```python
from tornado_chat.agents import Agent

agent = Agent("echo")


@agent.on_mention
async def answer(ctx, message):
    for word in message.prompt.split():
        yield word + " "
```
"""

LIST = """- [x] streamed, word by word
- [x] stopped by who asked
- [ ] clever
"""

agent = Agent("demo", rooms=[ROOM])


@agent.on_start
async def hello(client: Client) -> None:
    await client.send(ROOM, HELLO, id="hello", mark=False)  # the id: said once, however often it starts


@agent.on_mention
async def tour(ctx: Context, message: Message) -> AsyncIterator[str]:
    async with ctx.step("clock", input="UTC") as step:
        await asyncio.sleep(0.5)
        step.output = f"{datetime.now(UTC):%H:%M:%S}"
    asked = re.sub(r"\s+", " ", message.prompt)[:200]
    begin = f"**You asked:** {asked}\n\n" if asked else ""
    async for piece in spoken(
        ctx,
        f"{begin}It is {step.output} UTC, as a *tool* has told me; nothing else here is looked up. I have no model "
        f"behind me, {message.name}, so take what follows for what it is: proof that an answer may hold a list,\n\n"
        f"{LIST}\na table,\n\n{TABLE}\nand code that is coloured as it comes:\n\n{CODE}\n"
        "The last one is an agent, by the way: save it as `echo.py`, run `tornado-chat agent echo:agent --room lobby` "
        "there, and write `@echo` to it.",
    ):
        yield piece


@agent.on_command("help", description="what I can do")
async def help(ctx: Context, message: Message) -> str:
    return HELP


@agent.on_command("table", description="a table")
async def table(ctx: Context, message: Message) -> AsyncIterator[str]:
    async for piece in spoken(ctx, TABLE):
        yield piece


@agent.on_command("code", description="code that is coloured as it comes")
async def code(ctx: Context, message: Message) -> AsyncIterator[str]:
    async for piece in spoken(ctx, CODE):
        yield piece


@agent.on_command("list", description="a list")
async def a_list(ctx: Context, message: Message) -> AsyncIterator[str]:
    async for piece in spoken(ctx, LIST):
        yield piece


@agent.on_command("long", description="a minute of counting, to be stopped")
async def long(ctx: Context, message: Message) -> AsyncIterator[str]:
    await ctx.status("counting")
    for number in range(1, 301):
        yield f"{number}, "
        await asyncio.sleep(0.2)
    yield "and that is enough."


@agent.on_command("ask", description="a question to you")
async def ask(ctx: Context, message: Message) -> str:
    try:
        answer = await ctx.ask("What is your favourite colour?")
    except TimeoutError:
        return "You have not told me. Another time, then."
    return f"{answer.text.strip()[:100]}: a good one."


@agent.on_command("pace", description="how fast I speak here", choices=list(WORD_SECONDS))
async def pace(ctx: Context, message: Message) -> str:
    if message.arguments not in WORD_SECONDS:
        return f"That would be one of {', '.join(WORD_SECONDS)}."
    ctx.state["pace"] = message.arguments
    return f"I speak at a {message.arguments} pace from now on, in this room, as long as my process lives."


async def spoken(ctx: Context, text: str) -> AsyncIterator[str]:
    """`text` as a model would say it."""
    seconds = WORD_SECONDS[ctx.state.get("pace", "usual")]
    for word in re.findall(r"\s*\S+\s*?(?=\s|$)|\s+$", text):
        yield word
        await asyncio.sleep(seconds)
