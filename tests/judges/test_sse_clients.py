"""Clients of event streams that others wrote, programs and browsers: whatever happens, they see each event once."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from tests.support.browsers import Browser, Tab, chromium, firefox, webkit
from tests.support.chat import eventually
from tests.support.nginx_site import Site
from tests.support.node import packages
from tests.support.proxies import Proxy as OtherProxy
from tests.support.proxies import caddy, haproxy, varnish
from tests.support.servers import UNLIMITED, Server
from tornado_chat.verify.proxy import Proxy

HERE = Path(__file__).parent

PATIENCE = 60.0
"""A stream says when to come back, and so does its end: within some seconds."""

ROOM = "/v1/rooms/r/events?after=0"
ROOMS = "/v1/events?join=r:0&join=other:0&ids=1"


class Reader(Protocol):
    """One client. `seqs` are those of the events that it was given, in that order."""

    name: str
    seqs: list[int]

    async def look(self) -> None:
        """Bring `seqs` up to date; AssertionError if the client has given up."""


class Program:
    """One that prints the data of each event on a line."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.process = process
        self.name = name
        self.seqs: list[int] = []
        self.ends = 0  # of the stream, or of an attempt to get one; for a program that tells
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            event = json.loads(line)
            if event["type"] == "message":
                self.seqs.append(event["seq"])
            elif event["type"] == "ended":
                self.ends += 1

    async def look(self) -> None:
        if self.reading.done():
            await self.reading
            raise AssertionError(f"{self.name} has given up")


@asynccontextmanager
async def program(name: str, *command: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=HERE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, limit=1 << 20, start_new_session=True
    )
    reader = Program(process, name)
    try:
        yield reader
    finally:
        with suppress(ProcessLookupError):  # it has given up
            os.killpg(process.pid, signal.SIGKILL)  # a shell has others
        await process.wait()
        await asyncio.gather(reader.reading, return_exceptions=True)


class Native:
    """A browser's own EventSource."""

    def __init__(self, tab: Tab, name: str) -> None:
        self.tab = tab
        self.name = name
        self.seqs: list[int] = []

    async def listen(self, path: str) -> None:
        await self.tab.run(LISTEN % (json.dumps(self.name), json.dumps(path)))

    async def look(self) -> None:
        state = await self.tab.run(f"const one = sources[{self.name!r}]; return [one.seen.splice(0), one.readyState]")
        self.seqs += state[0]
        assert state[1] != 2, f"{self.name} has given up"


class NativeOfManyRooms(Native):
    """Its id comes behind what it covers: what came before a cut may come again, and is dropped by its seq."""

    def __init__(self, tab: Tab, name: str) -> None:
        super().__init__(tab, name)
        self.again = 0

    async def look(self) -> None:
        before = len(self.seqs)
        await super().look()
        new, self.seqs = self.seqs[before:], self.seqs[:before]
        for seq in new:
            if self.seqs and seq <= self.seqs[-1]:
                self.again += 1
            else:
                self.seqs.append(seq)


LISTEN = """
const source = sources[%s] = new EventSource(%s);
source.seen = [];
source.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === "message") source.seen.push(event.seq);
};
"""


@asynccontextmanager
async def tab_of(browser: Browser, folder: Path, url: str) -> AsyncIterator[Tab]:
    async with browser(folder) as tab:
        await tab.open(f"{url}/metrics")  # a document of this origin without a script or a policy
        await tab.run("window.sources = {}")
        yield tab
        await tab.run("for (const source of Object.values(sources)) source.close()")


class Sender:
    """Says 1, 2, 3 ... in the room, each until it is acknowledged, whatever happens to the server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.said = 0
        self.stopping = False

    @asynccontextmanager
    async def speaking(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._speak())
        try:
            yield
        finally:
            self.stopping = True
            await task

    async def _speak(self) -> None:
        headers = {"Authorization": f"Bearer {self.server.token('speaker')}"}
        async with httpx.AsyncClient(base_url=self.server.url, headers=headers, timeout=5) as client:
            while not self.stopping:
                message = {"text": f"{self.said + 1} {'x' * 500}", "id": f"{self.said + 1}"}
                try:
                    answer = await client.post("/v1/rooms/r/messages", json=message)
                    answer.raise_for_status()
                except httpx.HTTPError:  # with the same id again
                    await asyncio.sleep(0.05)
                    continue
                self.said += 1
                await asyncio.sleep(0.01)


async def judge(server: Server, proxy: Proxy, readers: Sequence[Reader]) -> None:
    sender = Sender(server)

    async def all_have_come_back() -> None:
        """Each has an event that was said after this began."""
        await all_have(readers, sender.said + 5)

    async def cut() -> None:
        proxy.cut()

    async def kill() -> None:
        """Each worker with kill -9; their parent starts others."""
        before = set(server.workers())
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        await eventually(lambda: len(set(server.workers()) - before) == len(before))

    async def replace() -> None:
        """Drained workers end their streams, and new ones are there."""
        assert server.process is not None
        count = server.said().count("workers replaced")
        server.process.send_signal(signal.SIGHUP)
        await eventually(lambda: server.said().count("workers replaced") > count, PATIENCE)

    async def restart() -> None:
        """Nobody is there for a while."""
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)

    async with sender.speaking():
        await all_have_come_back()
        troubles: list[Callable[[], Awaitable[None]]] = [cut, kill, replace, restart, cut]
        for trouble in troubles:
            await trouble()
            await all_have_come_back()
    said = list(range(1, sender.said + 1))
    await all_have(readers, said[-1])
    for reader in readers:
        assert reader.seqs == said, reader.name


async def all_have(readers: Sequence[Reader], seq: int) -> None:
    async with asyncio.timeout(PATIENCE):
        for reader in readers:
            while not reader.seqs or reader.seqs[-1] < seq:
                await reader.look()
                await asyncio.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(
        tmp_path, *UNLIMITED, "--workers", "2", "--ping-interval", "1s", expected=[r"worker ended .*signal=SIGKILL"]
    )


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with what package.json names."""
    packages(HERE)
    node = shutil.which("node")
    assert node is not None
    return node


async def test_programs_see_each_event_once(server: Server, node: str, tmp_path: Path) -> None:
    (tmp_path / "id").touch()
    with server:
        async with Proxy("127.0.0.1", server.port) as proxy, AsyncExitStack() as stack:
            url = f"http://127.0.0.1:{proxy.port}{ROOM}"
            readers = [
                await stack.enter_async_context(program(command[1], *command))
                for command in programs(node, url, tmp_path / "id")
            ]
            await judge(server, proxy, readers)


def programs(node: str, url: str, id: Path) -> list[tuple[str, ...]]:
    return [
        (sys.executable, "read_with_httpx_sse.py", url),
        (sys.executable, "read_with_sseclient.py", url),
        (node, "read_with_eventsource.js", url),
        (node, "read_with_fetch_event_source.js", url),
        ("sh", "read_with_curl.sh", url, str(id)),
    ]


@pytest.mark.parametrize("number", range(5))
async def test_an_event_that_is_cut_in_two_comes_whole(number: int, node: str, tmp_path: Path) -> None:
    """fetch-event-source takes an id as soon as it has read its line, whatever becomes of the rest of the event."""
    (tmp_path / "id").touch()
    here = Server(tmp_path, *UNLIMITED)
    cuts, links = 0, []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cuts
        links.append(asyncio.current_task())
        back, target = await asyncio.open_connection("127.0.0.1", here.port)
        with closing(writer), closing(target):
            target.write(await reader.readuntil(b"\r\n\r\n"))
            passed = b""
            while data := await back.read(65536):
                passed += data
                at = passed.find(b'"seq":3,')
                if not cuts and at >= 0:
                    cuts += 1
                    writer.write(data[: at - len(passed)])
                    return
                writer.write(data)

    with here:
        headers = {"Authorization": f"Bearer {here.token('speaker')}"}
        async with httpx.AsyncClient(base_url=here.url, headers=headers) as client:
            for text in range(1, 5):
                (await client.post("/v1/rooms/r/messages", json={"text": f"{text}"})).raise_for_status()
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as cutting:
            url = f"http://127.0.0.1:{cutting.sockets[0].getsockname()[1]}{ROOM}"
            command = programs(node, url, tmp_path / "id")[number]
            async with program(command[1], *command) as reader:
                await all_have([reader], 4)
        await asyncio.to_thread(here.stop)
        await asyncio.gather(*filter(None, links))
    assert cuts == 1
    assert reader.seqs == [1, 2, 3, 4]


async def test_browsers_see_each_event_once(server: Server, tmp_path: Path) -> None:
    with server:
        async with Proxy("127.0.0.1", server.port) as proxy, AsyncExitStack() as stack:
            url = f"http://127.0.0.1:{proxy.port}"
            of_one, of_many = [], []
            for browser in (chromium, firefox, webkit):
                name = browser.__name__
                (tmp_path / name).mkdir()
                tab = await stack.enter_async_context(tab_of(browser, tmp_path / name, url))
                of_one.append(Native(tab, f"{name}, one room"))
                of_many.append(NativeOfManyRooms(tab, f"{name}, several rooms"))
                await of_one[-1].listen(ROOM)
                await of_many[-1].listen(ROOMS)
            await judge(server, proxy, [*of_one, *of_many])
            for reader in of_many:
                assert reader.again < len(reader.seqs), f"{reader.name} began anew each time"


async def test_an_event_source_behind_nginx_outlives_all_workers(node: str) -> None:
    """While there is none, nginx has to answer it, and not with 503."""
    with Site(*UNLIMITED, count=1) as site:

        async def say(number: int) -> None:
            async with httpx.AsyncClient(verify=site.tls) as client:
                url = f"https://127.0.0.1:{site.port}/v1/rooms/r/messages"
                headers = {"Authorization": f"Bearer {site.server.token('speaker')}"}
                (await client.post(url, json={"text": f"{number}"}, headers=headers)).raise_for_status()

        url = f"https://127.0.0.1:{site.port}{ROOM}"
        trusting = ("env", f"NODE_EXTRA_CA_CERTS={site.folder / 'tls/chat.crt'}")
        async with program("eventsource", *trusting, node, "read_with_eventsource.js", url) as reader:
            await say(1)
            await all_have([reader], 1)
            await asyncio.to_thread(site.server.stop)
            await eventually(lambda: reader.ends > 1, PATIENCE)
            await asyncio.to_thread(site.server.start)
            await say(2)
            await all_have([reader], 2)
            assert reader.seqs == [1, 2]


@pytest.mark.parametrize("kind", [haproxy, caddy, varnish])
async def test_an_event_source_behind_another_proxy_outlives_the_server(
    kind: Callable[[int], OtherProxy], node: str, tmp_path: Path
) -> None:
    with Server(tmp_path, *UNLIMITED) as server, kind(server.port) as proxy:
        headers = {"Authorization": f"Bearer {server.token('speaker')}"}

        async def say(number: int) -> None:
            async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
                (await client.post("/v1/rooms/r/messages", json={"text": f"{number}"})).raise_for_status()

        async with (
            program("eventsource", node, "read_with_eventsource.js", proxy.url + ROOM) as reader,
            httpx.AsyncClient(base_url=proxy.url) as client,
        ):
            await say(1)
            await all_have([reader], 1)
            await asyncio.to_thread(server.stop)
            assert (await client.get("/healthz")).status_code in (502, 503), "others have to see what it is"
            refused = await client.get(ROOM, headers={"Accept": "text/event-stream"})
            assert (refused.status_code, refused.headers["Content-Type"]) == (200, "text/event-stream")
            await eventually(lambda: reader.ends > 1, PATIENCE)
            await asyncio.to_thread(server.start)
            await say(2)
            await all_have([reader], 2)
            assert reader.seqs == [1, 2]
