"""A thousand mentions in one room make the other rooms wait for a few of them at most."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Running, eventually, running
from tornado_chat.auth import mint
from tornado_chat.errors import LogUnavailable
from tornado_chat.live import publisher as publisher_module
from tornado_chat.live.naming import FEW, NAMED
from tornado_chat.log import Appended, Entry


class Commits:
    """Keeps the batches that a server commits, and holds them back until `open`."""

    def __init__(self, here: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.append = here.server.log.append
        self.open = asyncio.Event()
        self.batches: list[list[Entry]] = []
        monkeypatch.setattr(here.server.log, "append", self)

    async def __call__(self, batch: Sequence[Entry], limit: int) -> list[Any]:
        taken = list(batch[:limit])
        self.batches.append(taken)
        await self.open.wait()
        return await self.append(taken)

    def named(self) -> list[int]:
        return [sum(len(entry.mentions) for entry in batch) for batch in self.batches]

    def texts(self, room: str) -> list[str | None]:
        return [entry.text for batch in self.batches for entry in batch if entry.room == room]


def users(count: int) -> list[str]:
    return [f"user-{number}" for number in range(count)]


async def test_mentions_go_a_few_at_a_time_and_hold_nobody_else_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        loud, quiet, few = [
            await here.connect(f"/ws?token={mint(SECRET, name, ttl=60)}") for name in ("loud", "quiet", "few")
        ]
        big = await here.join("big")
        commits = Commits(here, monkeypatch)
        await quiet.send(type="send", room="pair", text="before", id="0")
        await eventually(lambda: len(commits.batches) == 1)
        for number in range(20):
            await loud.send(type="send", room="big", text=str(number), id=f"l{number}", mentions=users(50))
        await loud.send(type="send", room="elsewhere", text="after", id="after")
        await eventually(lambda: here.server.publisher.queued == 22)
        await quiet.send(type="send", room="pair", text="hello", id="1")
        await few.send(type="send", room="third", text="you", id="2", mentions=users(FEW))
        await few.send(type="send", room="big", text="last", id="3")
        await eventually(lambda: here.server.publisher.queued == 25)
        commits.open.set()
        await eventually(lambda: here.server.publisher.idle.is_set())
        assert [entry.text for entry in commits.batches[1]] == ["0", "hello", "you"]
        assert max(commits.named()) <= NAMED + FEW
        assert commits.texts("big") == [*map(str, range(20)), "last"], "in their order"
        assert commits.texts("elsewhere") == ["after"]
        assert [entry.text for entry in commits.batches[-1]][-2:] == ["after", "last"]
        assert [event["text"] for event in await big.collect(21)] == [*map(str, range(20)), "last"]
        assert await here.server.log.heads(["~user-0", "~user-49"]) == {"~user-0": 21, "~user-49": 20}
        naming = here.server.publisher.naming
        assert (naming.waiting or naming._whose or naming._named) == 0, "nothing is left"


async def test_what_waits_counts_as_what_is_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "QUEUE_ENTRIES", 10)
    async with running(tmp_path) as here:
        loud = await here.connect(f"/ws?token={mint(SECRET, 'loud', ttl=60)}")
        commits = Commits(here, monkeypatch)
        for number in range(30):
            await loud.send(type="send", room="big", text=str(number), id=f"{number}", mentions=users(50))
        await eventually(lambda: here.server.publisher.queued == 10)
        for _ in range(200):
            await asyncio.sleep(0)
        assert here.server.publisher.queued == 10, "over its bound"
        commits.open.set()
        assert [(await loud.receive())["seq"] for _ in range(30)] == list(range(1, 31))


@pytest.mark.logs("log unavailable")
async def test_a_log_that_does_not_answer_lets_go_of_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        loud = await here.connect(f"/ws?token={mint(SECRET, 'loud', ttl=60)}")
        append, failures = here.server.log.append, 1

        async def failing(batch: Sequence[Entry], limit: int) -> list[Appended | Any]:
            nonlocal failures
            if failures:
                failures -= 1
                raise LogUnavailable("it is away")
            return await append(batch, limit)

        monkeypatch.setattr(here.server.log, "append", failing)
        for number in range(5):
            await loud.send(type="send", room="big", text="x", id=f"{number}", mentions=users(50))
        answers = [await loud.receive() for _ in range(5)]
        assert [answer["type"] for answer in answers] == ["error", "ack", "ack", "ack", "ack"]
        assert here.server.publisher.naming._named == 0


async def test_a_message_that_grows_and_what_its_author_says_besides_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `begin` waits with its room, and all behind it does."""
    async with running(tmp_path) as here:
        loud, bot = [await here.connect(f"/ws?token={mint(SECRET, name, ttl=60)}") for name in ("loud", "bot")]
        commits = Commits(here, monkeypatch)
        await loud.send(type="send", room="pair", text="before", id="0")
        await eventually(lambda: len(commits.batches) == 1)
        for number in range(4):
            await loud.send(type="send", room="big", text=str(number), id=f"l{number}", mentions=users(50))
        await eventually(lambda: here.server.publisher.queued == 5)
        await bot.send(type="begin", room="big", id="begun")
        await bot.send(type="follow", room="big", id="followed", level="nothing")
        await bot.send(type="send", room="big", id="said", text="x")
        await eventually(lambda: here.server.publisher.queued == 8)
        commits.open.set()
        assert [(await bot.until("ack"))["id"] for _ in range(3)] == ["begun", "followed", "said"]
