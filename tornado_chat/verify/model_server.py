"""The model that an agent asks: an HTTP server that speaks OpenAI's Chat Completions, tells tales, and counts what it
says to whom, and until when they want to hear it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tornado_chat.verify.calls import Call
from tornado_chat.verify.codecs import Data
from tornado_chat.verify.findings import Finding
from tornado_chat.verify.tales import key_of, pause, tale

REQUEST_SECONDS = 30.0
REQUEST_BYTES = 8 << 20

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class ModelServer:
    """An async context manager; `url` is its base_url. `report` is told what is wrong with a request."""

    def __init__(self, report: Callable[[Finding], None]) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self._report = report
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=REQUEST_BYTES)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                messages = await _request(reader)
            asked = self._understand(messages)
            if asked is not None:
                self.calls.append(asked[0])
                await self._tell(*asked, reader, writer)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # a process that was killed, in most cases
        finally:
            writer.close()
            self._links.discard(task)

    def _understand(self, messages: list[Data]) -> tuple[Call, str] | None:
        """The first message says who asks for which attempt, the last one is the question."""
        pid, room, seq, number = messages[0]["content"].split(" ")
        key = key_of(messages[-1]["content"])
        if key is None:
            self._report(
                Finding("content", f"the model is asked {messages[-1]['content'][:80]!r}, no question", int(seq))
            )
            return None
        return Call(int(pid), room, int(seq), int(number), time.monotonic()), key

    async def _tell(self, call: Call, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = asyncio.create_task(reader.read(1))
        try:
            if writer.is_closing():  # uvloop raises RuntimeError where one writes all the same
                return
            writer.write(_HEAD)
            for piece in tale(key):
                delta = {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
                writer.write(_event(json.dumps(delta)))
                await writer.drain()
                call.times.append(time.monotonic())
                await asyncio.wait({left}, timeout=pause(key))
                if left.done() or writer.is_closing():
                    return
            writer.write(_event('{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}') + _event("[DONE]"))
            await writer.drain()
            call.whole = True
        finally:
            call.ended_at = time.monotonic()
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> list[Data]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    messages: list[Data] = json.loads(await reader.readexactly(length))["messages"]
    return messages


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()
