"""Chainlit over a room: what is typed here is said there, the agent's reply streams in, and so does what others say.

    pip install chainlit
    export TORNADO_CHAT_URL=http://127.0.0.1:8080        # a server that lets guests in; and `tornado-chat agent demo`
    chainlit run chainlit_app.py

Whoever opens it is a guest of the room; with TORNADO_CHAT_TOKEN everybody is the user of that. An installation of
Chainlit that knows its users makes a client for each of them, with a token of theirs.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import chainlit as cl

from tornado_chat.client import Client, Failed, Refused
from tornado_chat.errors import ChatError

ROOM, AGENT = os.environ.get("ROOM", "lobby"), os.environ.get("AGENT", "demo")


@cl.on_chat_start
async def start() -> None:
    chat = Client(os.environ["TORNADO_CHAT_URL"], token=os.environ.get("TORNADO_CHAT_TOKEN"), name="Chainlit")
    cl.user_session.set("chat", chat)
    cl.user_session.set("mine", set())
    cl.user_session.set("listening", asyncio.create_task(listen(chat)))


@cl.on_chat_end
async def end() -> None:
    listening = cl.user_session.get("listening")
    if listening is not None:
        listening.cancel()


@cl.on_message
async def say(message: cl.Message) -> None:
    """Chainlit shows its button Stop until the answer has ended."""
    cl.user_session.get("mine").add(message.id)
    try:
        answer = await cl.user_session.get("chat").ask(AGENT, message.content, room=ROOM, id=message.id)
        await answer.whole()
    except (Failed, TimeoutError) as error:
        await cl.ErrorMessage(str(error)).send()


@cl.on_stop
async def stop() -> None:
    await cl.user_session.get("chat").stop(ROOM)


async def listen(chat: Client) -> None:
    """Show what happens in the room, as long as the tab is open."""
    shown: dict[int, cl.Message] = {}  # by seq
    try:
        async with chat, asyncio.TaskGroup() as tasks:
            tasks.create_task(chat.join(ROOM, last=20))
            async for event in chat:
                await show(event, shown)
    except* (ChatError, Refused) as group:
        await cl.ErrorMessage(str(group.exceptions[0])).send()


async def show(event: dict[str, Any], shown: dict[int, cl.Message]) -> None:
    kind, seq = event["type"], event.get("target", event.get("seq", 0))
    message = shown.get(seq)
    if kind == "message" and event.get("id") not in cl.user_session.get("mine"):
        message = shown[seq] = cl.Message(event.get("text", ""), author=event["name"])
        await message.send()
    elif message is None:
        pass  # it stands before those that are shown, or was said here
    elif kind == "grown" and event["offset"] == len(message.content):
        await message.stream_token(event["text"])
    elif kind == "grown":
        await message.stream_token(message.content[: event["offset"]] + event["text"], is_sequence=True)
    elif kind in ("finished", "edited") and "text" in event:
        message.content = event["text"]
        await message.update()
    elif kind == "deleted" or "deleted" in event:
        await shown.pop(seq).remove()
