"""Messages that grow, and real workers: each row of the protocol's table of deaths with a real kill.

An author that stays away is waited for during 15 s, which no setting shortens: so all of them die in one test.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from tornado.httpclient import HTTPClientError
from tornado.websocket import WebSocketClosedError

from tests.support.chat import Client, Running, eventually
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import DIED, wait_for_new_worker, worker_of
from tornado_chat.log.growing import LEASE_SECONDS
from tornado_chat.verify.redis_server import RedisServer

pytest_plugins = ["tests.support.postgres_servers"]

ROOM = "r"
KEPT = "".join(f"kept {number}, " for number in range(600))[:5000]
"""So much is in a checkpoint at once."""
LATE = "".join(f"late {number} \U0001f600, " for number in range(60))
"""This is not, when somebody dies."""
REST = "and the rest."


class Installation:
    """Three workers, and connections of which is known who has them."""

    def __init__(self, server: Server, redis: RedisServer | None) -> None:
        self.server = server
        self.redis = redis
        self.running = Running(cast(Any, None), server.url)

    async def connect(self, user: str, worker: int | None = None) -> tuple[Client, int]:
        """A connection to that worker, or to any."""
        for _ in range(200):
            try:
                client = await self.running.connect(headers={"Authorization": "Bearer " + self.server.token(user)})
            except (HTTPClientError, WebSocketClosedError, OSError, AssertionError):
                await asyncio.sleep(0.05)  # in the place of who has died
                continue
            found = worker_of(self.server, _socket(client).getsockname()[1])
            if found is not None and worker in (None, found):
                return client, found
            await client.close()
        raise AssertionError(f"no connection was accepted by {worker}")

    async def close(self) -> None:
        for client in self.running.clients:
            await client.close()


def _socket(client: Client) -> Any:
    return cast(Any, client.socket).protocol.stream.socket


def cut(client: Client) -> None:
    """The link is gone, without a word."""
    cast(Any, client.socket).protocol.stream.close()


class Author:
    """One message, and the ledger of what was said of it."""

    def __init__(self, installation: Installation, id: str, replica: str | None = None) -> None:
        self.installation = installation
        self.id = id
        self.replica = replica
        self.user = f"bot-{id}"
        self.text = ""  # what was said
        self.seq = 0
        self.client: Client

    async def begin(self, worker: int | None = None, **more: Any) -> Any:
        """Connect there, and begin or go on: what the server lacks is said again."""
        self.client, _ = await self.installation.connect(self.user, worker)
        command = {"type": "begin", "id": self.id, "room": ROOM, **more}
        if self.replica is not None:
            command["replica"] = self.replica
        ack = await self.client.ask(**command)
        if ack["type"] == "ack" and "reason" not in ack and "held" not in ack:
            self.seq = ack["seq"]
            assert ack["length"] <= len(self.text)
            await self._append(ack["length"])
        return ack

    async def say(self, text: str) -> None:
        start, self.text = len(self.text), self.text + text
        await self._append(start)

    async def _append(self, start: int) -> None:
        for offset in range(start, len(self.text), 500):
            text = self.text[offset : offset + 500]
            await self.client.send(type="append", room=ROOM, stream=self.id, offset=offset, text=text)

    async def finish(self) -> None:
        ack = await self.client.ask(
            type="finish", id=f"end {self.id}", room=ROOM, stream=self.id, length=len(self.text), reason="done"
        )
        assert ack["type"] == "ack", ack


class Reader:
    """Reads the room without end, as a client that comes back; what it holds of each text has no hole."""

    def __init__(self, installation: Installation, name: str, worker: int | None) -> None:
        self.installation = installation
        self.name = name
        self.worker = worker
        self.cursor = 0
        self.texts: dict[int, tuple[int, str]] = {}  # gen and text
        self.ends: dict[int, tuple[float, Any]] = {}
        self.gaps = 0
        self.client: Client | None = None
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.client, _ = await self.installation.connect(self.name, self.worker)
            self.worker = None  # that one may be dead
            await self.client.send(type="join", room=ROOM, after=self.cursor)
            while True:
                async with asyncio.timeout(60):
                    got = await self._receive(self.client)
                if got is None:
                    break
                await self._take(got)

    async def _receive(self, client: Client) -> Any:
        """The next object, however long it takes; None at the end."""
        message = await client.socket.read_message()
        if message is None:
            client.closed = True
            return None
        return json.loads(message)

    async def _take(self, got: Any) -> None:
        assert self.client is not None
        kind = got["type"]
        if "ts" in got and kind in ("message", "finished"):
            assert got["seq"] == self.cursor + 1
            self.cursor = got["seq"]
        if kind == "message":
            self.texts[got["seq"]] = 1, ""
        elif kind == "appended":
            for seq, gen, offset, text in got["chunks"]:
                await self._put(seq, gen, offset, text)
        elif kind == "stream":
            gen, text = self.texts[got["seq"]]
            if got["gen"] >= gen and got["offset"] <= len(text):
                self.texts[got["seq"]] = got["gen"], text[: got["offset"]] + got["text"]
        elif kind == "finished":
            gen, text = self.texts[got["target"]]
            text = got["text"] if "text" in got else text[: got["length"]]
            self.texts[got["target"]] = gen, text
            assert len(text) == got["length"], "it lacks something, and was not told it"
            assert zlib.crc32(text.encode()) == got["crc"]
            self.ends[got["target"]] = time.monotonic(), got
        else:
            assert kind in ("joined", "synced", "welcome", "presence", "behind"), got

    async def _put(self, seq: int, gen: int, offset: int, text: str) -> None:
        assert self.client is not None
        before, so_far = self.texts[seq]
        if gen > before:
            so_far = ""
        if gen < before:
            return
        if offset > len(so_far):
            self.gaps += 1
            await self.client.send(type="fetch", id="f", room=ROOM, seq=seq, offset=len(so_far))
            return
        self.texts[seq] = gen, so_far[:offset] + text + so_far[offset + len(text) :]

    def has(self, author: Author, text: str) -> bool:
        if self.task.done():
            self.task.result()
        return self.texts.get(author.seq, (0, ""))[1].startswith(text)

    def has_end(self, author: Author) -> bool:
        if self.task.done():
            self.task.result()
        return author.seq in self.ends

    def check_end(self, author: Author, reason: str) -> str:
        assert self.ends[author.seq][1]["reason"] == reason
        return self.texts[author.seq][1]


@pytest.fixture(params=["sqlite", "postgresql + redis"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    with ExitStack() as stack:
        flags: tuple[str, ...] = (*UNLIMITED, "--workers", "3")
        redis = None
        if request.param != "sqlite":
            redis = stack.enter_context(RedisServer(tmp_path / "redis"))
            flags += "--database", request.getfixturevalue("postgres_url"), "--redis", redis.url
        expected = [DIED, "redis is away"]
        yield Installation(stack.enter_context(Server(tmp_path, *flags, expected=expected)), redis)


async def until(condition: Any, seconds: float = 15.0) -> None:
    await eventually(condition, seconds)


async def test_whoever_dies_it_ends_whole_and_the_same_for_all(installation: Installation) -> None:
    server = installation.server
    victim, home, other = server.workers()
    readers = [Reader(installation, f"ann{number}", pid) for number, pid in enumerate((victim, home, other))]
    try:
        await asyncio.wait_for(_die(installation, readers, victim, home, other), 80)
    finally:
        for reader in readers:
            reader.task.cancel()
        await asyncio.gather(*(reader.task for reader in readers), return_exceptions=True)
        await installation.close()


async def _die(installation: Installation, readers: list[Reader], victim: int, home: int, other: int) -> None:
    server = installation.server

    def author(id: str, replica: str | None = None) -> Author:
        return Author(installation, id, replica)

    link, gone, taken = author("link", "a"), author("gone"), author("taken", "a")
    moved, both, taken_there = author("moved", "a"), author("both"), author("taken-there", "a")
    at_home, at_victim = [link, gone, taken], [moved, both, taken_there]
    everybody = [*at_home, *at_victim]
    for one in everybody:
        await one.begin(home if one in at_home else victim)
        await one.say(KEPT)
    replicas = [author(one.id, "b") for one in (taken, taken_there)]
    for replica in replicas:
        assert (await replica.begin(other))["held"] is True
        refused = await replica.client.ask(type="begin", id=replica.id, room=ROOM, replica="b", take_over=True)
        assert refused["code"] == "conflict", "its holder's link lives"
        await replica.client.ask(type="join", room="~")
        await replica.client.until("synced")
    # What is not told to others yet is in the log at once: without Redis they read it there.
    await until(lambda: all(reader.has(one, KEPT) for one in everybody for reader in readers))
    for one in everybody:
        await one.say(LATE)
    await until(lambda: all(readers[1].has(one, one.text) for one in at_home))

    died = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    for one in at_home:
        cut(one.client)
    for one in at_victim:
        one.client.closed = True

    async def take_over(replica: Author, first: Author) -> None:
        told = await replica.client.until("orphaned")
        assert told == {"type": "orphaned", "room": ROOM, "seq": first.seq, "id": first.id}
        ack = await replica.client.ask(type="begin", id=replica.id, room=ROOM, replica="b", take_over=True)
        assert (ack.get("gen"), ack.get("length")) == (2, 0), ack
        replica.seq = first.seq
        await replica.say("anew " + KEPT)
        await replica.finish()

    async def come_back(one: Author, worker: int | None) -> None:
        ack = await one.begin(worker)
        assert (ack["seq"], ack["gen"], ack["duplicate"]) == (one.seq, 1, True)
        await one.say(REST)
        await one.finish()

    await asyncio.gather(
        come_back(link, other),
        come_back(moved, None),
        take_over(replicas[0], taken),
        take_over(replicas[1], taken_there),
    )
    await until(lambda: all(reader.has_end(one) for one in everybody for reader in readers), LEASE_SECONDS + 15)
    assert min(reader.ends[both.seq][0] for reader in readers) - died > LEASE_SECONDS - 0.5, "it was given up too soon"
    for reader in readers:
        assert reader.check_end(link, "done") == KEPT + LATE + REST
        assert reader.check_end(moved, "done") == KEPT + LATE + REST
        assert reader.check_end(taken, "done") == "anew " + KEPT
        assert reader.check_end(taken_there, "done") == "anew " + KEPT
        assert reader.check_end(gone, "interrupted") == KEPT + LATE, "all that was received"
        text = reader.check_end(both, "interrupted")
        assert both.text.startswith(text)
        assert len(text) >= len(KEPT) - 4096
    assert len({reader.check_end(both, "interrupted") for reader in readers}) == 1
    await asyncio.to_thread(wait_for_new_worker, server, 3, victim)


async def test_redis_dies_and_what_grows_comes_late_and_whole(tmp_path: Path, postgres_url: str) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        flags = (*UNLIMITED, "--workers", "2", "--database", postgres_url, "--redis", redis.url)
        with Server(tmp_path, *flags, expected=["redis is away"]) as server:
            installation = Installation(server, redis)
            one, two = server.workers()
            reader, near = Reader(installation, "ann", two), Reader(installation, "ben", one)
            try:
                author = Author(installation, "re")
                await author.begin(one)
                await author.say("soon ")
                await until(lambda: reader.has(author, "soon ") and near.has(author, "soon "))
                redis.kill()
                for number in range(5):
                    await author.say(f"late {number} ")
                    await asyncio.sleep(0.3)
                await until(lambda: reader.has(author, author.text) and near.has(author, author.text))
                assert reader.gaps == near.gaps == 0
                redis.start()
                await author.say("and soon again")
                await until(lambda: reader.has(author, author.text))
                await author.finish()
                await until(lambda: reader.has_end(author) and near.has_end(author))
                assert reader.check_end(author, "done") == near.check_end(author, "done") == author.text
            finally:
                for one_reader in (reader, near):
                    one_reader.task.cancel()
                await asyncio.gather(reader.task, near.task, return_exceptions=True)
                await installation.close()
