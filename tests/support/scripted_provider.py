"""A model's provider that sends the bytes that a test has made, over a real socket, in the words of either API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.support.scripted_http import LAST_CHUNK, STREAM_HEAD, Asked, answer, chunk, read_request
from tornado_chat.agents.providers import Anthropic, Delta, Limits, OpenAI

KEY = "sk-very-secret-0123456789"

Piece = bytes | float
"""Bytes that are written at once, or seconds in which nothing is."""
CUT = -1.0
"""In place of more: the connection is reset."""
EVER = 3600.0

Script = Iterable[Piece] | Callable[[Asked], Iterable[Piece]]


class ScriptedProvider:
    """The first request gets the first of `scripts`, and so on; the last one stays.

    `asked`: the requests; the first sets `arrived`. `sent`: pieces written. `gone` is set when the client has closed
    the connection of an answer that is not whole; nothing is sent to it then.
    """

    def __init__(self, *scripts: Script) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.connections = 0
        self.sent = 0
        self.arrived = asyncio.Event()
        self.gone = asyncio.Event()
        self._scripts = scripts
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedProvider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self.connections += 1
        try:
            while True:
                asked = await read_request(reader, writer)
                script = self._scripts[min(len(self.asked), len(self._scripts) - 1)]
                self.asked.append(asked)
                self.arrived.set()
                for piece in script(asked) if callable(script) else script:
                    if piece == CUT:
                        writer.transport.abort()
                        return
                    if isinstance(piece, bytes):
                        writer.write(piece)
                        await writer.drain()
                        self.sent += 1
                    elif await _is_left(piece, reader, writer):
                        self.gone.set()
                        return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test ends
        finally:
            writer.close()
            await asyncio.sleep(0)
            self._links.discard(task)


async def _is_left(seconds: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Waits, and says whether the client has closed in the meantime."""
    until = asyncio.get_running_loop().time() + seconds
    while True:
        if reader.at_eof() or reader.exception() or writer.is_closing():
            return True
        left = until - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, 0.005))


def stream(*pieces: Piece) -> list[Piece]:
    """An answer with the status 200 and these events, whole in the eyes of HTTP."""
    return [STREAM_HEAD, *(chunk(piece) if isinstance(piece, bytes) else piece for piece in pieces), LAST_CHUNK]


def drip(dialect: Dialect, seconds: float = 0.01) -> Iterator[Piece]:
    """A reply without an end, a word each `seconds`."""
    yield STREAM_HEAD
    yield chunk(dialect.opening)
    for number in count():
        yield chunk(dialect.text(f"{number} "))
        yield seconds


def refusal(status: int, error: Any, *headers: str) -> list[Piece]:
    """An answer that is none, with a body as both APIs have it."""
    return [answer(status, {"type": "error", "error": error}, *headers)]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one API says things, in bytes of server-sent events."""

    name: str
    path: str
    opening: bytes
    text: Callable[[str], bytes]
    call: Callable[[int, str, str, list[str]], bytes]
    """Its index, id, name, and its arguments in pieces."""
    ending: Callable[[str], bytes]
    """`done`, `tools`, `length` or `declined`."""

    def reply(self, *texts: str) -> list[Piece]:
        return stream(self.opening, *map(self.text, texts), self.ending("done"))

    def provider(self, url: str, limits: Limits | None = None, **more: Any) -> OpenAI | Anthropic:
        more = {"api_key": KEY, "limits": limits, **more}
        if self.name == "openai":
            return OpenAI("gpt-test", base_url=url + "/v1", **more)
        return Anthropic("claude-test", base_url=url, **more)


def data(message: Any, event: str = "") -> bytes:
    return (f"event: {event}\n" if event else "").encode() + b"data: " + json.dumps(message).encode() + b"\n\n"


def typed(type: str, **fields: Any) -> bytes:
    """An event of Anthropic's."""
    return data({"type": type, **fields}, type)


def choice(finish: str | None = None, **delta: Any) -> bytes:
    """A chunk of OpenAI's."""
    return data({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


DONE = b"data: [DONE]\n\n"


def _openai_call(index: int, id: str, name: str, pieces: list[str]) -> bytes:
    first = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
    rest = ({"index": index, "function": {"arguments": piece}} for piece in pieces)
    return b"".join(choice(tool_calls=[call]) for call in (first, *rest))


def _openai_ending(how: str) -> bytes:
    reasons = {"done": "stop", "tools": "tool_calls", "length": "length", "declined": "content_filter"}
    return choice(reasons[how]) + DONE


def _anthropic_call(index: int, id: str, name: str, pieces: list[str]) -> bytes:
    block = {"type": "tool_use", "id": id, "name": name, "input": {}}
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return b"".join(
        (
            typed("content_block_start", index=index + 1, content_block=block),
            *(typed("content_block_delta", index=index + 1, delta=delta) for delta in deltas),
            typed("content_block_stop", index=index + 1),
        )
    )


def _anthropic_ending(how: str) -> bytes:
    reasons = {"done": "end_turn", "tools": "tool_use", "length": "max_tokens", "declined": "refusal"}
    delta = {"stop_reason": reasons[how], "stop_sequence": None}
    return typed("message_delta", delta=delta, usage={"output_tokens": 1}) + typed("message_stop")


OPENAI = Dialect(
    "openai",
    "/v1/chat/completions",
    choice(role="assistant", content=""),
    lambda text: choice(content=text),
    _openai_call,
    _openai_ending,
)
ANTHROPIC = Dialect(
    "anthropic",
    "/v1/messages",
    typed("message_start", message={"id": "msg_1", "type": "message", "role": "assistant", "content": []})
    + typed("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + typed("ping"),
    lambda text: typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text}),
    _anthropic_call,
    _anthropic_ending,
)


ASK: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]


async def gather(deltas: AsyncIterator[Delta]) -> list[Delta]:
    """All of a stream, each run of texts as one; a test waits for it 20 s at most."""
    found: list[Delta] = []
    async with asyncio.timeout(20):
        async for delta in deltas:
            if isinstance(delta, str) and found and isinstance(found[-1], str):
                found[-1] += delta
            else:
                found.append(delta)
    return found
