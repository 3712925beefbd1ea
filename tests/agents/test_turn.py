"""One attempt among others: what changes between its claim and the call of its handler, and who follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import BOT, living, reading
from tests.support.chat import Running, eventually, running
from tornado_chat.agents import Agent, Context, Message
from tornado_chat.agents.room import AgentRoom
from tornado_chat.client import Reply


def before_the_claim(monkeypatch: pytest.MonkeyPatch, happens: Any) -> None:
    """Let `happens` come about when a replica has decided to begin a reply, and the server does not know it yet."""
    enter = Reply.__aenter__
    done: list[Reply] = []

    async def late(reply: Reply) -> Reply:
        if not done:
            done.append(reply)
            await happens()
        return await enter(reply)

    monkeypatch.setattr(Reply, "__aenter__", late)


def come_late(there: AgentRoom, seconds: float) -> None:
    """Events come to the room so much later than the answers to its commands."""
    real, held = there.on_event, list[Any]()

    def go_on() -> None:
        del there.__dict__["on_event"]
        for event in held:
            real(event)

    there.__dict__["on_event"] = held.append
    asyncio.get_running_loop().call_later(seconds, go_on)


async def test_the_handler_is_given_the_question_as_it_stood_at_the_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        return f"{ctx.attempt}: {message.text}"

    async with running(tmp_path) as here, living(agent, here) as (life,), reading(here) as room:

        async def edit() -> None:
            come_late(life.rooms["r"], 0.2)
            await room.chat.edit("r", 1, "edited")

        before_the_claim(monkeypatch, edit)
        asked = await room.ask("first")
        assert asked == 1
        assert (await room.answer(asked))["text"] == "1: edited"
        await room.answer(await room.ask("next"))
        assert len(room.replies(asked)) == 1


async def test_the_handler_is_not_called_for_what_was_deleted_before_the_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent("bot", rooms=["r"])
    called: list[str] = []

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        called.append(message.text)
        return "so"

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:

        async def delete() -> None:
            await room.chat.delete("r", 1)

        before_the_claim(monkeypatch, delete)
        end = await room.answer(await room.ask("first"))
        assert (end["reason"], end["text"]) == ("stopped", "")
        await room.answer(await room.ask("next"))
        assert called == ["next"]


async def test_who_is_gone_is_followed_by_another_who_was_there_all_along(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    go_on = asyncio.Event()

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        yield "resumed" if ctx.resumed else "begun"
        await go_on.wait()

    async with running(tmp_path) as here, reading(here) as room, AsyncExitStack() as stack:
        stacks = [await stack.enter_async_context(AsyncExitStack()) for _ in range(2)]
        lives = [(await one.enter_async_context(living(agent, here, name=str(one))))[0] for one in stacks]
        asked = await room.ask("?")
        message = await room.grows(asked, "begun")
        (holder,) = [
            number for number in range(2) if any(turn.began for turn in lives[number].rooms["r"].turns.values())
        ]
        await stacks[holder].aclose()
        async with asyncio.timeout(10):  # before the server ends it for want of an author
            await room.grows(asked, "resumed")
        go_on.set()
        end = await room.answer(asked)
        assert (end["target"], end["reason"], end["text"]) == (message["seq"], "done", "resumed")
        assert len(room.replies(asked)) == 1


@pytest.mark.parametrize("how", ["gone", "gone for long", "stopped"])
async def test_what_is_rolled_back_is_deleted_whoever_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    agent = Agent("bot", rooms=["r"], double_texting="rollback")

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        if message.text == "one":
            yield "so far"
            await asyncio.Event().wait()
        yield "two"

    async with running(tmp_path) as here, reading(here) as room:
        async with living(agent, here) as (life,):
            one = await room.ask("one")
            message = await room.grows(one, "so far")
            if how == "stopped":  # by a replica that thinks its author gone
                monkeypatch.setattr(life.rooms["r"], "look", lambda: None)
                await room.ask("two")
                await room.chat.stop("r", message["seq"])
                await room.answer(one)
        if how != "stopped":
            await room.ask("two")
        if how == "gone for long":
            assert (await room.answer(one))["reason"] == "interrupted"
        async with living(agent, here):
            two = next(event["seq"] for event in room.events if event.get("text") == "two")
            assert (await room.answer(two))["text"] == "two"
            await eventually(lambda: [one["target"] for one in room.events if one["type"] == "deleted"])
        assert [one["target"] for one in room.events if one["type"] == "deleted"] == [message["seq"]]


async def test_what_was_asked_of_the_person_is_known_to_who_takes_over(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    begun: list[str] = []
    go_on = asyncio.Event()

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        begun.append(message.text)
        one = await ctx.ask("One?")
        await ctx.say("by the way")
        two = await ctx.ask("Two?")
        if len(begun) < 3:
            await go_on.wait()
        return f"{one.text} {two.text}"

    async with running(tmp_path) as here, reading(here) as room:
        async with living(agent, here):
            asked = await room.ask("?")
            await room.said("One?")
        async with living(agent, here):
            await eventually(lambda: len(begun) == 2)
            await room.ask("1")
            await room.said("Two?")
            await room.ask("2")
            await room.said("2")
        async with living(agent, here):
            assert (await room.answer(asked))["text"] == "1 2"
        assert begun == ["?"] * 3
        texts = [one["text"] for one in room.events if one["type"] == "message" and one["user"] == BOT]
        assert texts == ["", "One?", "by the way", "Two?"]


@pytest.mark.parametrize("transport", ["stream", "poll"])
async def test_an_agent_behind_what_lets_no_websocket_through(tmp_path: Path, transport: Any) -> None:
    agent = Agent("bot", rooms=["r"], transport=transport)

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        yield message.text
        while message.text == "on":
            await asyncio.sleep(0.05)
            yield " and on"

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        assert (await room.answer(await room.ask("once")))["text"] == "once"
        asked = await room.ask("on")
        message = await room.grows(asked, "and on")
        await room.chat.stop("r", message["seq"])
        end = await room.answer(asked)
        assert end["reason"] == "stopped"
        assert end["text"].startswith("on and on")
        assert (await room.answer(await room.ask("again")))["text"] == "again"


async def test_a_link_that_is_lost_costs_nothing(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        for number in range(30):
            yield f"{number} "
            await asyncio.sleep(0.03)

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        asked = await room.ask("?")
        await room.grows(asked, "3 ")
        await _cut(here)
        end = await room.answer(asked)
        assert (end["reason"], end["text"].split()) == ("done", [str(number) for number in range(30)])
        assert len(room.replies(asked)) == 1


async def _cut(here: Running) -> None:
    """All links end."""
    for line in list(here.server.lines.open):
        line.abort(1011, "a test")
