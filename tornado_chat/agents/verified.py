"""The agent that `tornado-chat verify --agents` tries: it says what a model of verify's says, over a real socket.

With the extra `openai` the request is the SDK's, else one of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import urlsplit

import orjson

from tornado_chat.agents.agent import Agent
from tornado_chat.agents.context import Context
from tornado_chat.agents.message import Message
from tornado_chat.agents.providers import Delta, OpenAI, Provider
from tornado_chat.agents.providers.messages import Messages
from tornado_chat.agents.providers.provider import Tools

ADDRESS = "VERIFY_MODEL_URL"
"""The variable with the model's base URL."""

HISTORY_TOKENS = 500


class PlainModel(Provider):
    """Chat Completions of a server that closes the connection at the end."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    async def stream(self, messages: Messages, tools: Tools = ()) -> AsyncGenerator[Delta, None]:
        body = orjson.dumps({"messages": list(messages), "stream": True})
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        try:
            writer.write(
                f"POST {self._url.path}/chat/completions HTTP/1.1\r\nHost: {self._url.netloc}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await reader.readuntil(b"\r\n\r\n")
            while (line := (await reader.readuntil(b"\n\n"))[6:-2]) != b"[DONE]":
                yield orjson.loads(line)["choices"][0]["delta"].get("content", "")
        finally:
            writer.close()


def model() -> Provider:
    url = os.environ[ADDRESS]
    try:
        return OpenAI("tales", base_url=url)
    except ImportError:
        return PlainModel(url)


llm = model()
agent = Agent("verified", replies_a_minute=1_000_000)


def asks(message: Message) -> bool:
    return message.prompt.startswith("tell ")


@agent.on_message(when=asks)
async def answer(ctx: Context, message: Message) -> AsyncIterator[Delta]:
    whose = {"role": "system", "content": f"{os.getpid()} {message.room} {message.seq} {ctx.attempt}"}
    # What is asked as it was when the reply began; in the history it may have been edited since.
    before = (await ctx.history(tokens=HISTORY_TOKENS))[:-1]
    return llm.stream([whose, *before, {"role": "user", "content": message.prompt}])
