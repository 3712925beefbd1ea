"""Client.ask: the answer of an agent, followed without a join and without iterating, over every transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.test_replies import EVERY_KIND, client
from tests.client.test_transports import PATIENCE, eventually, proxied
from tests.support.agents import BOT, living
from tests.support.chat import running
from tests.support.servers import UNLIMITED, Server
from tornado_chat.agents import Agent
from tornado_chat.client import Answer, Client, Closed, Failed, answers
from tornado_chat.client.transport import TransportKind
from tornado_chat.errors import ChatError, ErrorCode, Reason


async def pieces(answer: Answer) -> str:
    return "".join([piece async for piece in answer])


async def say(bot: Client, answer: Answer, *words: str, number: int = 1, reason: Reason = "done") -> None:
    """One attempt to answer it."""
    id = f"re:{answer.question}" + (f":{number}" if number > 1 else "")
    async with bot.stream(answer.room, reply_to=answer.question, id=id) as reply:
        for word in words:
            await reply.write(word)
            await asyncio.sleep(0.06)  # behind the flush: each is a chunk of its own
        await reply.finish(reason)


@EVERY_KIND
async def test_an_agent_is_asked_and_its_answer_comes_in_pieces(tmp_path: Path, kind: TransportKind) -> None:
    agent = Agent(BOT)

    @agent.on_mention
    async def answer(ctx: Any, message: Any) -> AsyncIterator[str]:
        for word in message.prompt.split():
            yield word + " "
            await asyncio.sleep(0.06)

    with Server(tmp_path, *UNLIMITED) as server:
        async with living(agent, server), client(server, "ann", kind) as ann:
            asked = await ann.ask(BOT, "one two three")
            assert asked.room.startswith(f"{BOT}-")
            got = [piece async for piece in asked]
            assert "".join(got) == await asked.whole() == "one two three "
            assert (len(got) > 1) == (kind != "poll")
            assert await pieces(asked) == "one two three "  # again, from the first word on
            assert (asked.reason, asked.question, asked.reply) == ("done", 1, 2)
            assert not ann._rooms.joined
            assert not ann._rooms.inbox
            again = await ann.ask(BOT, "four", room=asked.room)
            assert (await again.whole(), again.question) == ("four ", 4)


async def test_a_room_that_is_joined_too_tells_both(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann") as ann, client(server, BOT) as bot:
            await ann.join("lobby")
            first = await ann.ask(BOT, "1?", room="lobby")
            await say(bot, first, "one")
            seen: list[Any] = []
            async with asyncio.timeout(PATIENCE):
                async for event in ann:
                    seen.append(event)
                    if event["type"] == "finished":
                        break
            assert [one["seq"] for one in seen if "ts" in one] == [1, 2, 3]
            assert await first.whole() == "one"
            second = await ann.ask(BOT, "2?", room="lobby")
            await ann.leave("lobby")
            await say(bot, second, "two")
            assert await second.whole() == "two"
            assert not ann._rooms.joined
            third = await ann.ask(BOT, "3?", room="lobby")
            await ann.join("lobby", after=0)  # in the place of the one that is for the answer
            await say(bot, third, "three")
            assert await third.whole() == "three"
            assert list(ann._rooms.joined) == ["lobby"]
            async with asyncio.timeout(PATIENCE):
                seqs = [event["seq"] async for event in _events(ann, 9)]
            assert seqs == list(range(1, 10))


async def _events(chat: Client, last: int) -> AsyncIterator[Any]:
    async for event in chat:
        if "ts" in event:
            yield event
            if event["seq"] == last:
                return


async def test_a_reply_that_is_given_again_in_other_words_comes_wholly(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann") as ann, client(server, BOT) as bot:
            asked = await ann.ask(BOT, "?", room="lobby")
            reading = asyncio.create_task(pieces(asked))
            await say(bot, asked, "The answer", " is one", reason="interrupted")
            assert not asked.ended
            await say(bot, asked, "The answer", " is one", " and", number=2, reason="interrupted")
            await say(bot, asked, "It is ", "two", number=3)
            assert await asked.whole() == "It is two"
            assert await reading == "The answer is one and\n\nIt is two"
            lost = await ann.ask(BOT, "?", room="lobby")
            for number in range(1, 6):  # as often as an agent gives it again
                assert not lost.ended
                await say(bot, lost, "I", number=number, reason="interrupted")
            with pytest.raises(Failed, match="cut off each time"):
                await pieces(lost)


async def test_a_replica_that_takes_it_over_goes_on_in_the_same_pieces(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann") as ann, client(server, BOT) as two:
            await two.join("~")
            asked = await ann.ask(BOT, "?", room="lobby")
            id = f"re:{asked.question}"
            async with client(server, BOT) as one, one.stream("lobby", id=id, replica="one") as reply:
                await reply.write("first ")
                await eventually(lambda: asked.text == "first ")
                reply.leave()
            async with asyncio.timeout(PATIENCE):
                while (await anext(two))["type"] != "orphaned":
                    pass
            async with two.stream("lobby", id=id, replica="two", take_over=True) as reply:
                for word in ("fir", "st ", "second"):
                    await reply.write(word)
                    await asyncio.sleep(0.06)
            assert await pieces(asked) == "first second"


@EVERY_KIND
async def test_a_stop_ends_it_with_what_there_is(tmp_path: Path, kind: TransportKind) -> None:
    agent = Agent(BOT)

    @agent.on_mention
    async def answer(ctx: Any, message: Any) -> AsyncIterator[str]:
        while True:
            yield "word "
            await asyncio.sleep(0.01)

    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann", kind) as ann:
            asked = await ann.ask(BOT, "?")
            stopping = asyncio.create_task(asked.stop())  # before there is anything to stop
            async with living(agent, server):
                await stopping
            assert asked.reason == "stopped"
            assert ("word " * 1000).startswith(await asked.whole())


async def test_what_the_agent_asks_back_is_no_part_of_it(tmp_path: Path) -> None:
    agent = Agent(BOT)

    @agent.on_mention
    async def answer(ctx: Any, message: Any) -> str:
        return f"{(await ctx.ask('Which colour?')).text} it is."

    with Server(tmp_path, *UNLIMITED) as server:
        async with living(agent, server), client(server, "ann") as ann:
            asked = await ann.ask(BOT, "?")
            while not asked.asks:
                await asked.change(asked.version)
            assert asked.asks == "Which colour?"
            await ann.send(asked.room, "Blue")
            assert (await asked.whole(), asked.asks) == ("Blue it is.", "")


async def test_what_an_agent_cannot_answer_is_an_exception(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann") as ann, client(server, BOT) as bot:
            asked = await ann.ask(BOT, "?", room="lobby")
            await say(bot, asked, "Sorry.", reason="error")
            reading = aiter(asked)
            assert await anext(reading) == "Sorry."
            with pytest.raises(Failed, match="bot could not answer message 1 of lobby"):
                await anext(reading)
            assert asked.reason == "error"
            gone = await ann.ask(BOT, "?", room="lobby")
            await ann.delete("lobby", gone.question)
            with pytest.raises(Failed, match="was deleted"):
                await gone.whole()


async def test_without_a_sign_of_the_agent_it_is_given_up(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, "ann") as ann, client(server, BOT) as bot:
            asked = await ann.ask(BOT, "?", room="lobby", silence=1.5)
            for number in range(5):
                await asyncio.sleep(0.4)
                await bot.status("lobby", f"thinking {number}")
            assert not asked.ended
            with pytest.raises(TimeoutError, match=r"no sign of bot in lobby within 1\.5 s, to answer message 1"):
                await asked.whole()
            assert not ann._rooms.joined


@EVERY_KIND
async def test_asked_again_with_its_id_it_is_the_same_answer(tmp_path: Path, kind: TransportKind) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, BOT) as bot:
            async with client(server, "ann") as ann:
                asked = await ann.ask(BOT, "?", room="lobby", id="mine")
                await say(bot, asked, "one", " two")
                for number in range(20):
                    await bot.send("lobby", str(number))
            async with client(server, "ann", kind) as ann:
                await ann.join("lobby")  # behind it
                again = await ann.ask(BOT, "?", room="lobby", id="mine")
                assert (await again.whole(), again.reason, again.question) == ("one two", "done", 1)
                await bot.send("lobby", "on")
                async with asyncio.timeout(PATIENCE):
                    assert [event["seq"] async for event in _events(ann, 24)] == [24]


@EVERY_KIND
async def test_an_answer_is_whole_whatever_breaks(tmp_path: Path, kind: TransportKind) -> None:
    async with (
        proxied(tmp_path) as (server, proxy),
        client(server, BOT) as bot,
        client(server, "ann", kind, proxy.url) as ann,
    ):
        words = [f"{number} é\U0001f600 " for number in range(40)]
        asked = await ann.ask(BOT, "?")
        reading = asyncio.create_task(pieces(asked))
        saying = asyncio.create_task(say(bot, asked, *words))
        for _ in range(3):
            await asyncio.sleep(0.6)
            proxy.cut()
        await saying
        assert await reading == "".join(words)


async def test_so_many_are_waited_for_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWERS", 2)
    async with running(tmp_path) as server, Client(server.address) as chat:
        open = [await chat.ask(BOT, "?") for _ in range(2)]
        with pytest.raises(ChatError) as refused:
            await chat.ask(BOT, "?")
        assert refused.value.code is ErrorCode.OVERLOADED
        for answer in open:
            await chat.delete(answer.room, answer.question)
            with pytest.raises(Failed):
                await answer.whole()
        await chat.ask(BOT, "?")


async def test_it_ends_with_its_client_or_its_room(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, token=server.token("ann", rooms=["open"])) as ann:
            with pytest.raises(ChatError) as refused:
                await ann.ask(BOT, "?", room="closed")
            assert refused.value.code is ErrorCode.FORBIDDEN
            assert not ann._answers.rooms
            asked = await ann.ask(BOT, "?", room="open")
        with pytest.raises(Closed):
            await pieces(asked)
        with pytest.raises(Closed):
            await ann.ask(BOT, "?", room="open")


async def test_a_join_that_is_given_up_leaves_the_answer_its_room(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with client(server, BOT) as bot, client(server, "ann") as ann:
            joining = asyncio.create_task(ann.join("lobby"))
            await asyncio.sleep(0)
            asking = asyncio.create_task(ann.ask(BOT, "?", room="lobby"))
            await asyncio.sleep(0)
            joining.cancel()
            asked = await asking
            await say(bot, asked, "here")
            assert await asked.whole() == "here"
