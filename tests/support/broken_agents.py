"""An agent with faults, for `tornado-chat verify --agents` to find: which one it has depends on what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine

from tornado_chat.agents import Agent, Context, Message
from tornado_chat.agents.verified import answer as say
from tornado_chat.agents.verified import asks, llm
from tornado_chat.client import Client

agent = Agent("broken", replies_a_minute=1_000_000)
clients: list[Client] = []
strays: set[asyncio.Task[None]] = set()


def fault(message: Message) -> int:
    """By the number of the question's key."""
    return int(message.prompt.rpartition("x")[2]) % 8


def concerns(message: Message) -> bool:
    if not asks(message):
        return False
    if fault(message) == 0:
        return False  # a lost question
    if fault(message) == 1:
        stray(model(message, "1"))  # each process asks the model, whoever will answer
    return True


@agent.on_start
async def keep(client: Client) -> None:
    clients.append(client)


@agent.on_message(when=concerns)
async def answer(ctx: Context, message: Message) -> AsyncIterator[object]:
    match fault(message):
        case 2:
            yield "something else"
            return
        case 3:
            stray(again(message))
        case 4:
            yield (await whole(ctx, message))[:-1]
            return
        case 5:
            await asyncio.Event().wait()
        case 6:
            stray(model(message, str(ctx.attempt)))  # a stop does not reach it
            await asyncio.sleep(3.0)
            return
    async for piece in await say(ctx, message):
        yield piece


def stray(work: Coroutine[object, object, None]) -> None:
    task = asyncio.create_task(work)
    strays.add(task)
    task.add_done_callback(strays.discard)


async def whole(ctx: Context, message: Message) -> str:
    return "".join([str(piece) async for piece in await say(ctx, message)])


async def model(message: Message, attempt: str) -> None:
    whose = {"role": "system", "content": f"{id(agent) % 10**6} {message.room} {message.seq} {attempt}"}
    async for _ in llm.stream([whose, {"role": "user", "content": message.prompt}]):
        pass


async def again(message: Message) -> None:
    """A second answer, when the first has been given."""
    await asyncio.sleep(0.5)
    async with clients[0].stream(message.room, id=f"re:{message.seq}:2", reply_to=message.seq) as reply:
        await reply.write("once more")
