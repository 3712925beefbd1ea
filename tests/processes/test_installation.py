"""Two worker processes with all that is around them, and what is promised when one of these is harmed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.chat import eventually
from tests.support.raw_chat import AsyncChat, Closed, RawChat, Refused
from tests.support.redis_servers import redis_of_the_session, redis_server
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import DIED, PATIENCE, samples, wait_for, wait_for_new_worker
from tornado_chat.log.opening import open_log
from tornado_chat.verify.postgres_server import PostgresServer
from tornado_chat.verify.redis_server import RedisServer

pytest_plugins = ["tests.support.postgres_servers"]
__all__ = ["redis_of_the_session", "redis_server"]

TWO = (*UNLIMITED, "--workers", "2")

# The worker that announces a commit next while there is a file `die` dies first.
DIES_UNHEARD = """
import os
from tornado_chat.broker.redis import RedisBroker

publish_events = RedisBroker.publish_events

def die_or_publish(self, room, events):
    try:
        os.unlink({die!r})
    except FileNotFoundError:
        publish_events(self, room, events)
    else:
        os._exit(3)

RedisBroker.publish_events = die_or_publish
"""


def started_with(folder: Path, code: str) -> dict[str, str]:
    """The environment in which Python runs `code` before all else."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


@contextmanager
def on_each_worker(server: Server, path: str = "/ws") -> Iterator[dict[str, RawChat]]:
    """A connection to each of two workers, by its number; which one a connection gets is the kernel's choice."""
    with ExitStack() as stack:
        found: dict[str, RawChat] = {}
        while len(found) < 2:
            before = samples(server.port, "tornado_chat_worker_connections")
            chat = stack.enter_context(RawChat(server.port, path))
            after = samples(server.port, "tornado_chat_worker_connections")
            (number,) = [number for number in after if after[number] > before[number]]
            if number in found:
                chat.reset()
                wait_for(lambda: samples(server.port, "tornado_chat_worker_connections") == before)  # noqa: B023 - it is over before the next
            else:
                found[number] = chat
        yield found


def test_what_a_worker_committed_that_died_before_it_could_tell_arrives_in_a_quiet_room(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    die = tmp_path / "die"
    environment = started_with(tmp_path, DIES_UNHEARD.format(die=str(die)))
    expected = [r"worker ended worker=\d+ pid=\d+ code=3"]
    flags = (*TWO, "--redis", redis_server.url)
    with (
        Server(tmp_path, *flags, expected=expected, environment=environment) as server,
        on_each_worker(server, f"/ws?token={server.token('alice')}") as here,
    ):
        member, sender = here.values()
        member.join("r")
        assert sender.ask(type="send", room="r", text="heard", id="1")["seq"] == 1
        assert member.until("message")["text"] == "heard"
        die.touch()
        sender.say({"type": "send", "room": "r", "text": "last words", "id": "2"})
        with pytest.raises((Closed, ConnectionError)):
            sender.until("ack")
        heard = member.until("message")
        assert (heard["seq"], heard["text"]) == (2, "last words")
        with RawChat(server.port, f"/ws?token={server.token('alice')}") as again:
            answer = again.ask(type="send", room="r", text="last words", id="2")
            assert (answer["type"], answer["seq"], answer["duplicate"]) == ("ack", 2, True)
            assert again.ask(type="send", room="r", text="next", id="3")["seq"] == 3
        assert member.until("message")["text"] == "next"
        assert not die.exists()


def test_revoke_ends_a_session_on_every_worker_for_ever(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server:
        stolen, kept = (f"/ws?token={server.token('alice', jti=jti)}" for jti in ("phone", "laptop"))
        with on_each_worker(server, stolen) as lost, on_each_worker(server, kept) as others:
            command = [sys.executable, "-m", "tornado_chat", "revoke", stolen.partition("=")[2]]
            done = subprocess.run(
                [*command, "--database", f"sqlite:///{server.database}"], cwd=ROOT, timeout=PATIENCE, check=True
            )
            assert done.returncode == 0
            for chat in lost.values():
                _, closed = chat.read_to_close()
                assert closed.code == 4002
                chat.answer_close()
            for chat in others.values():
                chat.say({"type": "ping"})
                chat.until("pong")
        for start in range(2):
            for _ in range(30):  # to both workers, as the kernel deals them
                with pytest.raises(Refused, match=r"^HTTP/1\.1 401 "):
                    RawChat(server.port, stolen)
            with on_each_worker(server, kept):
                pass
            if not start:
                server.stop()
                server.start()


def test_presence_is_right_again_after_a_worker_was_killed(tmp_path: Path, redis_server: RedisServer) -> None:
    """At once: that its records lapse is not waited for."""
    environment = started_with(tmp_path, "from tornado_chat import broker; broker.LAPSE_SECONDS = 1000")
    flags = (*TWO, "--redis", redis_server.url)
    with (
        Server(tmp_path, *flags, expected=[DIED], environment=environment) as server,
        on_each_worker(server) as here,
    ):
        for chat in here.values():
            chat.join("r")

        def present(chat: RawChat) -> set[str]:
            return {user["user"] for user in chat.ask(type="presence", room="r", id="who")["users"]}

        staying = here["2"]
        ours = staying.welcome["user"]
        wait_for(lambda: present(staying) == {chat.welcome["user"] for chat in here.values()})
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: present(staying) == {ours})
        wait_for_new_worker(server, 2, victim)
        with on_each_worker(server) as outside:
            for chat in outside.values():
                wait_for(lambda: present(chat) == {ours}, "presence by the broker's records")  # noqa: B023 - it is over before the next


class Talker:
    """Sends to the room `r`, one after the other, each until it is acknowledged; and keeps what it sees there."""

    def __init__(self, name: str, chat: AsyncChat) -> None:
        self.name = name
        self.chat = chat
        self.talking = True
        self.acked: dict[str, int] = {}
        self.unavailable = 0
        self.seen: list[tuple[int, str]] = []  # seq and text, which is the id of each

    async def talk(self) -> None:
        while self.talking:
            id = f"{self.name}-{len(self.acked)}"
            while (answer := await self._send(id))["type"] != "ack":
                assert answer["code"] == "unavailable", answer
                self.unavailable += 1
                await asyncio.sleep(0.02)
            self.acked[id] = answer["seq"]

    async def _send(self, id: str) -> Any:
        await self.chat.say({"type": "send", "room": "r", "text": id, "id": id})
        while (got := await self.hear()).get("id") != id or got["type"] == "message":
            pass
        return got

    async def hear(self) -> Any:
        got = await self.chat.hear()
        if got["type"] == "message":
            self.seen.append((got["seq"], got["text"]))
        return got


async def test_postgresql_restarts_in_the_middle_of_load(tmp_path: Path, own_postgres: PostgresServer) -> None:
    database = own_postgres.create_database("chat")
    expected = ["log unavailable", "log does not answer", "hole not filled"]
    with Server(tmp_path, *TWO, "--database", database, expected=expected) as server:
        async with AsyncExitStack() as stack:
            chats = [await stack.enter_async_context(await AsyncChat.connect(server.port)) for _ in range(12)]
            talkers = [Talker(str(number), chat) for number, chat in enumerate(chats)]
            for talker in talkers:
                await talker.chat.ask(type="join", room="r", after=0, id="join")
            assert all(samples(server.port, "tornado_chat_worker_connections").values())

            async def go_on() -> None:
                """Return when each has been acknowledged some more."""
                for talker in talkers:
                    wanted = len(talker.acked) + 20
                    await eventually(lambda: len(talker.acked) >= wanted, PATIENCE)  # noqa: B023 - it is over before the next

            async with asyncio.TaskGroup() as talking:  # a connection that was closed would end it
                for talker in talkers:
                    talking.create_task(talker.talk())
                await go_on()
                await asyncio.to_thread(own_postgres.stop)
                for talker in talkers:
                    await eventually(lambda: talker.unavailable)  # noqa: B023 - it is over before the next
                await asyncio.to_thread(own_postgres.start)
                await go_on()
                for talker in talkers:
                    talker.talking = False
            total = sum(len(talker.acked) for talker in talkers)
            for talker in talkers:
                while len(talker.seen) < total:
                    await talker.hear()
                assert talker.seen == talkers[0].seen
        log = await open_log(database)
        try:
            page = await log.read("r", 0, max_events=total + 1, max_bytes=1 << 30)
        finally:
            await log.close()
        kept = [(event.seq, event.data["id"]) for event in page]
        assert [seq for seq, _ in kept] == list(range(1, total + 1))
        assert kept == talkers[0].seen
        assert {id: seq for seq, id in kept} == {id: seq for talker in talkers for id, seq in talker.acked.items()}
