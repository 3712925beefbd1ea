"""Who lets messages grow dies, or its link: the two rows of the table of deaths (docs/protocol.md) in one process.

Many die together, so that the lease is waited for once: authors by WebSockets, by polls, and by bodies of POST.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import zlib
from pathlib import Path
from typing import Any

from tests.support import ROOT
from tests.support.meddling_proxy import MeddlingProxy
from tests.support.raw_chat import AsyncChat
from tests.support.servers import UNLIMITED, Server
from tornado_chat.client import Client
from tornado_chat.client.transport import TransportKind
from tornado_chat.log.growing import LEASE_SECONDS

PATIENCE = 60.0
EACH = 8
"""Messages of each kind of author."""

PARTS = 80
"""Of each message whose author is not to die; of the others 2,000 would be."""

AUTHORS = """
import asyncio, sys
from tests.live.test_growing_deaths import say_all

asyncio.run(say_all(*sys.argv[1:], 2000))
"""

KINDS: tuple[TransportKind, ...] = ("websocket", "poll")


def text_of(id: str, count: int) -> str:
    return "".join(f"{id}:{number} \u00e9\U0001f600 " for number in range(count))


class Reader:
    """Puts the texts of a room together as a WebSocket brings them."""

    def __init__(self, chat: AsyncChat) -> None:
        self.texts: dict[int, str] = {}
        self.ids: dict[int, str] = {}
        self.ends: dict[int, Any] = {}
        self._chat = chat

    async def read_until(self, holds: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self._take(await self._chat.hear())

    def _take(self, got: Any) -> None:
        if got["type"] == "message":
            self.ids[got["seq"]], self.texts[got["seq"]] = got["id"], ""
        elif got["type"] == "appended":
            for seq, _, offset, text in got["chunks"]:
                assert offset == len(self.texts[seq]), "a chunk does not continue the text"
                self.texts[seq] += text
        elif got["type"] == "finished":
            text = self.texts[got["target"]][: got["length"]]
            assert (len(text), zlib.crc32(text.encode())) == (got["length"], got["crc"])
            self.texts[got["target"]], self.ends[got["target"]] = text, got


async def say_all(url: str, token: str, parts: int) -> None:
    """Let all messages grow by the same number of parts, each by its author; who is cut off comes back."""

    async def write(chat: Client, id: str) -> None:
        async with chat.stream("lobby", id=id) as reply:
            for number in range(parts):
                await reply.write(text_of(id, number + 1)[len(text_of(id, number)) :])
                await asyncio.sleep(0.02)

    async def post(id: str) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError, RuntimeError):  # the last is uvloop's, of a closed transport
                if await post_once(url, token, id, parts):
                    return

    async with contextlib.AsyncExitStack() as stack:
        chats: dict[str, Client] = {}
        for kind in KINDS:
            made = Client(url, transport=kind, token=token, backoff=(0.01, 0.1), timeout=PATIENCE)
            chats[kind] = await stack.enter_async_context(made)
        async with asyncio.TaskGroup() as group:
            for number in range(EACH):
                for way, chat in chats.items():
                    group.create_task(write(chat, f"{way}-{number}"))
                group.create_task(post(f"post-{number}"))


async def post_once(url: str, token: str, id: str, parts: int) -> bool:
    """Whether the message was taken to its end; OSError, EOFError: the link died."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        head = (
            f"POST /v1/rooms/lobby/messages?id={id} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        writer.write(head.encode())
        for number in range(parts):
            part = text_of(id, number + 1)[len(text_of(id, number)) :].encode()
            cut = random.randint(1, len(part) - 1)
            for piece in (part[:cut], part[cut:]):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            status = (await reader.readuntil(b"\r\n")).split()[1]
        assert status in (b"200", b"201"), status
        return True
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def check_history(server: Server, reader: Reader) -> None:
    """The log has what the reader has, and nothing grows any more."""
    async with Client(server.url, token=server.token("ann")) as chat:
        messages = (await chat.history("lobby", limit=200))["messages"]
    assert {one["seq"]: one["text"] for one in messages} == reader.texts
    assert not [one for one in messages if "streaming" in one]


async def test_an_author_whose_link_dies_comes_back_and_nothing_is_missing(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with MeddlingProxy(server.port) as proxy, await AsyncChat.connect(server.port, "/ws/lobby") as chat:
            reader = Reader(chat)
            saying = asyncio.create_task(say_all(proxy.url, server.token("bot"), PARTS))
            reading = asyncio.create_task(reader.read_until(lambda: len(reader.ends) == 3 * EACH))
            for _ in range(5):
                await asyncio.sleep(random.uniform(0.2, 0.5))
                proxy.cut()
            await saying
            await reading
            for seq, id in reader.ids.items():
                assert (reader.texts[seq], reader.ends[seq]["reason"]) == (text_of(id, PARTS), "done")
            await check_history(server, reader)


async def test_an_author_that_dies_leaves_what_was_received(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--ping-interval", "3") as server:
        async with await AsyncChat.connect(server.port, "/ws/lobby") as chat:
            reader = Reader(chat)
            arguments = server.url, server.token("bot")
            authors = await asyncio.create_subprocess_exec(sys.executable, "-c", AUTHORS, *arguments, cwd=ROOT)
            try:
                await reader.read_until(
                    lambda: len(reader.texts) == 3 * EACH and all(len(text) > 50 for text in reader.texts.values())
                )
            finally:
                authors.kill()
                await authors.wait()
            loop = asyncio.get_running_loop()
            killed = loop.time()
            await reader.read_until(lambda: reader.ends)
            assert loop.time() - killed > LEASE_SECONDS - 2
            await reader.read_until(lambda: len(reader.ends) == 3 * EACH)
            for seq, id in reader.ids.items():
                assert reader.ends[seq]["reason"] == "interrupted"
                assert text_of(id, 2000).startswith(reader.texts[seq])
                assert len(reader.texts[seq]) > 50
            await check_history(server, reader)
