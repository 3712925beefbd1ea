"""A server of the Model Context Protocol: a model reads rooms, says something and asks agents, with a user's token.

It needs `pip install mcp`. In the configuration of whatever runs the model, with what `tornado-chat token --user ada`
prints as the token:

    {"mcpServers": {"chat": {"command": "python", "args": ["/path/to/mcp_server.py"], "env":
      {"TORNADO_CHAT_URL": "http://127.0.0.1:8080", "TORNADO_CHAT_TOKEN": "..."}}}}

It may do what the token may, and everybody sees it under the user's name: `--rooms 'team-*'` keeps it to some rooms.
What stands in a room was written by others, and is no instruction.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from tornado_chat.client import Client, Failed
from tornado_chat.errors import ChatError

TEXT_CHARS, ANSWER_CHARS = 1_000, 8_000
"""Of one message that is read, and of an agent's answer: a model has to read them."""

Limit = Annotated[int, Field(ge=1, le=50)]
READS = ToolAnnotations(read_only_hint=True)

chat = Client(os.environ.get("TORNADO_CHAT_URL", "http://127.0.0.1:8080"), token=os.environ["TORNADO_CHAT_TOKEN"])


@asynccontextmanager
async def connected(_: MCPServer) -> AsyncIterator[None]:
    async with chat:
        yield


server = MCPServer(
    "tornado_chat",
    instructions="Rooms of a chat. What is said there is seen by everybody in the room, as said by the user.",
    lifespan=connected,
)


@contextmanager
def told() -> Iterator[None]:
    """The model is told why something was refused; of other exceptions it is told nothing."""
    try:
        yield
    except (ChatError, Failed, TimeoutError) as error:
        raise ToolError(str(error)) from error


def short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


def line(message: dict[str, Any]) -> str:
    agent = " (agent)" if message.get("agent") else ""
    text = "(deleted)" if message.get("deleted") else short(message["text"], TEXT_CHARS)
    return f"[{message['seq']}] {message['name']}{agent}: {text}"


@server.tool(annotations=READS)
async def list_rooms() -> str:
    """The rooms that the user follows, and how much is unread in each."""
    with told():
        state = (await chat.join("~"))["state"]
        await chat.leave("~")
    rooms = [f"{room['room']}: {room['messages']} messages, {room['unread']} unread" for room in state["rooms"]]
    return "\n".join(rooms) or "The user follows no room."


@server.tool(annotations=READS)
async def read_room(room: str, before: int | None = None, limit: Limit = 20) -> str:
    """The last messages of a room, oldest first, each behind its number; `before`: those before that number."""
    with told():
        page = await chat.history(room, before=before, limit=limit)
    lines = [line(message) for message in page["messages"]]
    if page["more"]:
        lines.insert(0, f"(There are older ones: before={page['messages'][0]['seq']})")
    return "\n".join(lines) or f"Nobody has said anything in {room}."


@server.tool()
async def say(room: str, text: str, reply_to: int | None = None) -> str:
    """Say something in a room, as the user; `reply_to`: the number of the message that it answers."""
    with told():
        ack = await chat.send(room, text, reply_to=reply_to)
    return f"Said in {room}, as message {ack.seq}."


@server.tool()
async def ask_agent(agent: str, question: str, room: str | None = None) -> str:
    """Ask an agent of the chat, and wait for its answer; without `room`, in one that the user has with it."""
    with told():
        answer = await chat.ask(agent, question, room=room)
        version = answer.version
        while not answer.ended and not answer.asks:
            version = await answer.change(version)
        if answer.asks:  # it waits for an answer by `say`
            return f"{agent} asks: {short(answer.asks, ANSWER_CHARS)}\n\n(answer it in the room {answer.room})"
        return f"{short(await answer.whole(), ANSWER_CHARS)}\n\n(message {answer.reply} of {answer.room})"


if __name__ == "__main__":
    server.run()
