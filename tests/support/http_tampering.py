"""The same as `tampering`, for what comes over HTTP: messages of streams, events of pages and polls, acks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from tests.support.scripted_http import chunk
from tests.support.tampering import EVENTS, Message, Tampering
from tornado_chat.verify.event_stream import Block, EventStream
from tornado_chat.verify.responses import Chunks, Head, read_head


class HTTPTampering(Tampering):
    """Plain requests only. `of_stream` and `of_answers`: where it tampers."""

    def __init__(
        self,
        port: int,
        tamper: Callable[[Tampering, Message], list[Message | bytes] | None],
        *,
        of_stream: bool = True,
        of_answers: bool = True,
        begin_after: int = 100,
        everywhere: bool = False,
    ) -> None:
        super().__init__(port, tamper, begin_after=begin_after, everywhere=everywhere)
        self.alone: set[object] = set()  # connections that have had a request for one room
        self._of_stream = of_stream
        self._of_answers = of_answers

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        target: asyncio.StreamWriter,
    ) -> None:
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in request.split(b"\r\n")[1:] if b": " in line)
            if b"expect" in headers:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request = request.replace(b"Expect: 100-continue\r\n", b"")
            if b" /v1/rooms/" in request.split(b"\r\n")[0]:
                self.alone.add(asyncio.current_task())
            if b"transfer-encoding" in headers:  # a body that grows: its answer comes when it likes
                target.write(request)
                await self._pass_on(reader, writer, back, target)
                return
            target.write(request + await reader.readexactly(int(headers.get(b"content-length", 0))))
            data = await back.readuntil(b"\r\n\r\n")
            head = read_head(data)
            if head.media_type == "text/event-stream":
                gone = asyncio.create_task(self._up(reader, target))
                writer.write(data)
                try:
                    await self._stream(back, writer)
                finally:
                    gone.cancel()
                    await asyncio.gather(gone, return_exceptions=True)
                return
            body = self._answer(head, await back.readexactly(head.length or 0))
            lines = [line for line in data.split(b"\r\n") if not line.lower().startswith(b"content-length")]
            lines.insert(1, b"Content-Length: %d" % len(body))
            writer.write(b"\r\n".join(lines) + body)

    async def _stream(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chunks, blocks = Chunks(), EventStream()
        while not chunks.ended and (data := await back.read(65536)):
            for block in blocks.feed(chunks.feed(data)):
                if writer.is_closing():
                    return
                writer.write(b"".join(map(chunk, self._blocks(block))))
        if chunks.ended:
            writer.write(chunk(b""))
            await writer.drain()

    def _blocks(self, block: Block) -> list[bytes]:
        if block.data is None or block.event is not None or not self._of_stream:
            return [_written(block)]
        return [
            one if isinstance(one, bytes) else _written(block._replace(data=json.dumps(one)))
            for one in self.changed(json.loads(block.data))
        ]

    def _answer(self, head: Head, body: bytes) -> bytes:
        """The body of an answer, tampered with: a page's or a poll's events, or what commands are answered with."""
        if head.media_type != "application/json" or head.status != 200 or not self._of_answers:
            return body
        document = json.loads(body)
        if isinstance(document, dict) and "events" in document:
            document["events"] = [one for event in document["events"] for one in self.changed(event)]
        elif isinstance(document, list):
            document = [one for said in document for one in (self.changed(said) if said else [said])]
        return json.dumps(document).encode()


def _written(block: Block) -> bytes:
    lines = [f"{name}: {value}\n" for name, value in block._asdict().items() if value is not None]
    return "".join((*lines, "\n")).encode()


class Resumed:
    """Once, after a cursor has come back on a new stream, the first event of that room is left out."""

    def __init__(self) -> None:
        self._rooms: dict[object, set[str]] = {}  # by connection: those that were joined again

    def __call__(self, proxy: Tampering, message: Message) -> list[Message | bytes] | None:
        if proxy.at is not None:
            return None
        rooms = self._rooms.setdefault(asyncio.current_task(), set())
        if message["type"] == "joined" and message["cursor"]:
            rooms.add(message["room"])
        if message["type"] not in EVENTS or message["room"] not in rooms:
            return None
        proxy.at = message
        return []


def misnumber(proxy: Tampering, message: Message) -> list[Message | bytes] | None:
    """An event whose id is that of the one before it, so that a browser would come back to see it twice."""
    assert isinstance(proxy, HTTPTampering)
    if proxy.at is not None or message["type"] not in EVENTS or asyncio.current_task() not in proxy.alone:
        return None
    proxy.at = message
    return [_written(Block(f"epoch.{message['seq'] - 1}", None, json.dumps(message), None))]
