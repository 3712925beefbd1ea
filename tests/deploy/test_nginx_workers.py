"""Workers behind nginx that are replaced, killed, overloaded or not there at all: what their clients see."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.chat import eventually
from tests.support.nginx_site import CONFIGURATION, PATIENCE, Site, hear, metric
from tests.support.servers import UNLIMITED

KILLED = r"worker ended .*signal=SIGKILL"


class Member:
    """`tornado-chat tail --json` as people run it: a process that stays joined, whatever happens."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self.process = process
        self.errors = errors
        self.seqs: list[int] = []

    async def read(self, until: int) -> None:
        """Read until the event `until` has come."""
        assert self.process.stdout is not None
        while not self.seqs or self.seqs[-1] < until:
            line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
            assert line, self.errors.read_text()
            event = json.loads(line)
            if event["type"] == "message":
                self.seqs.append(event["seq"])

    def said(self, words: str) -> int:
        return self.errors.read_text().count(words)


@asynccontextmanager
async def console(site: Site, *words: str, stdin: int | None = None) -> AsyncIterator[Member]:
    errors = site.folder / f"{words[0]} {os.urandom(4).hex()}.err"
    with errors.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tornado_chat", *words, "--url", f"https://127.0.0.1:{site.port}"),
            stdin=stdin or asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
            cwd=CONFIGURATION.parent.parent,
            env={**os.environ, "SSL_CERT_FILE": str(site.folder / "tls/chat.crt")},
            limit=1 << 20,
        )
    try:
        yield Member(process, errors)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Knocking:
    """Connects, hears its welcome and leaves, again and again: nobody may be turned away."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.count = 0
        self.stopping = False

    async def __aenter__(self) -> Knocking:
        self.task = asyncio.create_task(self._knock())
        await eventually(lambda: self.count > 3 or self.task.done())
        return self

    async def _knock(self) -> None:
        while not self.stopping:
            source = f"127.0.1.{self.count % 100 + 1}"  # what one address may ask for is not what is tested
            async with self.site.connect(source=source) as chat:
                await hear(chat, "welcome")
            self.count += 1

    async def __aexit__(self, *_: object) -> None:
        before = self.count
        await eventually(lambda: self.count > before + 3 or self.task.done())
        self.stopping = True
        await self.task  # InvalidStatus, if it was turned away


async def hold_on(site: Site, trouble: Callable[[], Any]) -> list[Member]:
    """Three members and a sender through nginx while `trouble` is made and over; what they saw is checked here."""
    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(console(site, "tail", "r", "--json")) for _ in range(3)]
        sender = await stack.enter_async_context(console(site, "send", "r", stdin=asyncio.subprocess.PIPE))
        await eventually(lambda: metric(site, "members") == 3)
        assert sender.process.stdin is not None
        sent = 0

        async def send_until(done: Callable[[], Any]) -> None:
            nonlocal sent
            assert sender.process.stdin is not None
            while not done():
                sent += 1
                sender.process.stdin.write(b"message %d\n" % sent)
                await sender.process.stdin.drain()
                await asyncio.sleep(0.005)

        await send_until(lambda: sent == 50)
        await members[0].read(50)
        over = trouble()
        async with asyncio.timeout(40):
            await send_until(over)
            last = sent + 50
            await send_until(lambda: sent == last)
            sender.process.stdin.close()
            await asyncio.gather(*(member.read(sent) for member in members))
            assert await sender.process.wait() == 0, sender.errors.read_text()
        for member in members:
            assert member.seqs == list(range(1, sent + 1))
        return [*members, sender]


async def test_workers_are_replaced_and_nobody_is_refused() -> None:
    with Site(*UNLIMITED) as site:
        before = set(site.server.workers())

        def replace() -> Callable[[], bool]:
            assert site.server.process is not None
            site.server.process.send_signal(signal.SIGHUP)
            return lambda: "workers replaced" in site.server.said()

        async with Knocking(site):
            clients = await hold_on(site, replace)
        after = set(site.server.workers())
        assert len(after) == 2
        assert not before & after
        for client in clients:
            assert client.said("retrying") == 1, f"one reconnect each, not:\n{client.errors.read_text()}"


async def test_when_a_worker_is_killed_its_clients_come_back_through_another() -> None:
    with Site(*UNLIMITED, expected=[KILLED]) as site:
        before = set(site.server.workers())

        def kill() -> Callable[[], bool]:
            os.kill(min(before), signal.SIGKILL)
            return lambda: len(set(site.server.workers()) - {min(before)}) == 2

        async with Knocking(site):
            clients = await hold_on(site, kill)
        assert max(before) in set(site.server.workers())
        cut_off = sum(client.said("retrying") > 0 for client in clients)
        assert 0 < cut_off < len(clients), "they should have been shared out among the workers"


async def test_without_any_worker_programs_are_told_when_to_come_back() -> None:
    with Site(*UNLIMITED) as site:
        page = site.get("/")
        await asyncio.sleep(2.1)  # it is good for a second (nginx counts whole ones), then only if there is no other
        site.server.stop()
        for path in ("/ws?token=x", "/healthz", "/ws/r"):
            answer = site.get(path)
            assert answer.status == 503, path
            assert answer.error["code"] == "unavailable"
            assert answer.headers["Strict-Transport-Security"]
        assert site.get("/").body == page.body, "the page is there, and waits for the chat"
        with pytest.raises(InvalidStatus):
            await site.connect("/ws?token=x")
        for _ in range(50):  # all are given up by now
            site.get("/healthz")
        site.server.start()
        await eventually(lambda: site.get("/healthz").status == 200, 5.0)


async def test_a_worker_that_sheds_load_is_passed_over() -> None:
    asked = 0

    async def shed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    with Site(*UNLIMITED, count=1) as site:
        other = site.folder / "run/2.sock"
        server = await asyncio.start_unix_server(shed, other)
        other.chmod(0o666)
        async with server, AsyncExitStack() as stack:
            for number in range(40):
                await stack.enter_async_context(site.connect(source=f"127.0.1.{number + 1}"))
        # With the fewest connections it is asked first; after ten refusals it is left alone until the next second.
        assert 10 <= asked < 40


async def test_a_new_certificate_cuts_nobody_off() -> None:
    with Site(*UNLIMITED, count=1) as site:
        async with site.connect() as chat:
            certificate = (site.folder / "tls/chat.crt").read_text()
            site.make_certificate()
            assert site.process is not None
            site.process.send_signal(signal.SIGHUP)
            port = site.port
            await eventually(lambda: ssl.get_server_certificate(("127.0.0.1", port)).strip() != certificate.strip())
            await chat.send(json.dumps({"type": "ping", "id": "still there"}))
            await hear(chat, "pong", id="still there")
