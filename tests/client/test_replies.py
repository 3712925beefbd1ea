"""Messages that grow, as the client writes them, over every transport and whatever breaks."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tests.client.test_transports import FAST, PATIENCE, eventually, proxied
from tests.support.servers import UNLIMITED, Server
from tornado_chat.client import Client, Held
from tornado_chat.client.transport import KINDS, TransportKind
from tornado_chat.errors import ChatError

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def client(server: Server, user: str, kind: TransportKind = "websocket", url: str = "") -> Client:
    return Client(url or server.url, transport=kind, token=server.token(user), backoff=FAST, timeout=PATIENCE)


async def ended(chat: Client, room: str = "lobby") -> Any:
    """The room's last message."""
    return (await chat.history(room))["messages"][-1]


@EVERY_KIND
async def test_a_message_grows_while_it_is_written(tmp_path: Path, kind: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann") as ann, client(server, "bot", kind) as bot:
            await ann.join("lobby")
            asked = await ann.send("lobby", "?")
            async with bot.stream("lobby", reply_to=asked.seq, meta={"model": "none"}) as reply:
                assert reply.seq == 2
                words = ["Grüße, ", "\U0001f600", "", "!" * 5000]
                for word in words:
                    await reply.write(word)
                text = "".join(words)
                fetched: Any = {"text": ""}
                while fetched["text"] != text[3:]:
                    fetched = await ann.fetch("lobby", 2, offset=3)
                    assert text[3:].startswith(fetched["text"])
                    assert not fetched["done"]
            assert reply.reason == "done"
            message = (await ann.history("lobby"))["messages"][-1]
            assert (message["text"], message["reply_to"], message["meta"]) == (text, 1, {"model": "none"})
            fetched = await ann.fetch("lobby", 2)
            assert fetched["done"]


@EVERY_KIND
async def test_how_it_ends_says_why(tmp_path: Path, kind: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann") as ann, client(server, "bot", kind) as bot:
            await ann.join("lobby")
            with pytest.raises(ChatError, match="U\\+0000"):
                await _say(bot, "good", "\0")
            task: asyncio.Task[None] = asyncio.create_task(_for_ever(bot))
            await eventually(lambda: bot._replies.open)
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            reasons: list[str] = []
            async with asyncio.timeout(PATIENCE):
                async for event in ann:
                    if event["type"] == "finished":
                        reasons.append(event["reason"])
                        if len(reasons) == 2:
                            break
            assert reasons == ["error", "interrupted"]
            with pytest.raises(ChatError, match="at most 262,144"):
                await _say(bot, "x" * 262_144, "x")
            assert len((await ended(ann))["text"]) == 262_144


async def _say(bot: Client, *texts: str) -> None:
    async with bot.stream("lobby") as reply:
        for text in texts:
            await reply.write(text)


async def _for_ever(bot: Client) -> None:
    async with bot.stream("lobby") as reply:
        while True:
            await reply.write("on and on ")
            await asyncio.sleep(0.01)


@EVERY_KIND
async def test_who_stops_it_is_heard(tmp_path: Path, kind: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann") as ann, client(server, "bot", kind) as bot:
            asked = await ann.send("lobby", "?")
            stopping: asyncio.Task[None] | None = None
            async with asyncio.timeout(PATIENCE), bot.stream("lobby", reply_to=asked.seq) as reply:
                while True:
                    await reply.write("word ")
                    stopping = stopping or asyncio.create_task(ann.stop("lobby"))
                    await asyncio.sleep(0.01)
            assert reply.reason == "stopped"
            assert stopping is not None
            await stopping
            if kind != "poll":
                assert reply.stopped_by == "ann"
            assert ("word " * (reply.length // 5)).startswith((await ended(ann))["text"])
            with pytest.raises(ChatError):
                await ann.stop("lobby")


@EVERY_KIND
async def test_one_id_in_two_rooms_is_two_messages(tmp_path: Path, kind: TransportKind) -> None:
    """Answers to questions that have the same seq, each in its room."""

    async def answer(room: str) -> None:
        async with bot.stream(room, id="re:1") as reply:
            for word in range(20):
                await reply.write(f"{room} {word} ")
                await asyncio.sleep(0.01)

    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "bot", kind) as bot:
            rooms = "one", "two", "three"
            for before, room in enumerate(rooms):  # the answers have other seqs
                for _ in range(before):
                    await bot.send(room, "before")
            await asyncio.gather(*map(answer, rooms))
            for before, room in enumerate(rooms):
                message = await ended(bot, room)
                assert message["seq"] == before + 1
                assert message["text"] == "".join(f"{room} {word} " for word in range(20))


async def test_replicas_leave_it_to_one(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "bot") as one, client(server, "bot") as two:
            async with one.stream("lobby", id="re:1", replica="one") as reply:
                await reply.write("mine")
                with pytest.raises(Held):
                    async with two.stream("lobby", id="re:1", replica="two"):
                        raise AssertionError("it is held")
            assert (await ended(one))["text"] == "mine"
            async with two.stream("lobby", id="re:1", replica="two") as again:
                assert again.reason == "done"


async def test_what_is_left_is_told_to_the_other_replica_which_takes_it_over(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "bot") as two:
            await two.join("~")
            async with client(server, "bot") as one:
                async with one.stream("lobby", id="re:1", replica="one") as reply:
                    await reply.write("mine")
                    reply.leave()
                assert reply.reason is None
            async with asyncio.timeout(PATIENCE):
                while (told := await anext(two))["type"] != "orphaned":
                    pass
            assert told == {"type": "orphaned", "room": "lobby", "seq": reply.seq, "id": "re:1"}
            async with two.stream("lobby", id="re:1", replica="two", take_over=True) as again:
                await again.write("no, mine")
            assert (await ended(two))["text"] == "no, mine"


@EVERY_KIND
async def test_who_was_killed_writes_it_again(tmp_path: Path, kind: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "bot", kind) as dies:
            reply = dies.stream("lobby", id="re:1")
            await reply.__aenter__()
            await reply.write("first ")
            await eventually(lambda: reply._sent == 6)
        async with client(server, "bot", kind) as lives:
            async with lives.stream("lobby", id="re:1") as reply:
                for word in ("fir", "st ", "second"):
                    await reply.write(word)
            assert (await ended(lives))["text"] == "first second"


@EVERY_KIND
async def test_nothing_of_it_is_lost_whatever_breaks(tmp_path: Path, kind: TransportKind) -> None:
    """Its connection is cut, and its server killed, again and again; several grow at once."""
    chance = random.Random(kind)
    async with proxied(tmp_path) as (server, proxy), client(server, "bot", kind, proxy.url) as bot:
        texts: dict[int, str] = {}

        async def write(number: int) -> None:
            async with bot.stream("lobby", id=f"re:{number}") as reply:
                text = ""
                for count in range(60):
                    part = f"{number}:{count} \U0001f600é "[: chance.randint(1, 12)] * chance.randint(1, 30)
                    await reply.write(part)
                    text += part
                    await asyncio.sleep(chance.random() * 0.05)
            texts[reply.seq] = text

        async def harm() -> None:
            for turn in range(6):
                await asyncio.sleep(0.4)
                if turn % 3 == 2:
                    await asyncio.to_thread(server.restart)
                else:
                    proxy.cut()

        async with asyncio.timeout(PATIENCE * 2), asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(write(number))
            group.create_task(harm())
        found = {one["seq"]: one["text"] for one in (await bot.history("lobby"))["messages"]}
        assert found == texts


@EVERY_KIND
async def test_who_reads_has_the_text_at_the_end_whatever_breaks(tmp_path: Path, kind: TransportKind) -> None:
    async with (
        proxied(tmp_path) as (server, proxy),
        client(server, "bot") as bot,
        client(server, "ann", kind, proxy.url) as ann,
    ):
        await ann.join("lobby", after=0)
        said = [f"{number} é\U0001f600 " for number in range(100)]

        async def write(number: int) -> None:
            async with bot.stream("lobby", id=f"re:{number}") as reply:
                for count, word in enumerate(said):
                    await reply.write(word)
                    await asyncio.sleep(0.02)
                    if number == 0 and count % 30 == 10:
                        proxy.cut()

        grown: dict[int, str] = {}
        ends: dict[int, str] = {}
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(write(number))
            async for event in ann:
                if event["type"] == "grown":
                    before = grown.get(event["seq"], "")
                    assert event["offset"] <= len(before)
                    grown[event["seq"]] = before[: event["offset"]] + event["text"]
                elif event["type"] == "finished":
                    ends[event["target"]] = event["text"]
                    if len(ends) == 3:
                        break
        assert set(ends.values()) == {"".join(said)}
        for seq, text in grown.items():
            assert ends[seq].startswith(text)
        assert bool(grown) == (kind != "poll")
        assert not ann._rooms._texts._found
