"""How many replies a process gives at a time, and whose turn comes."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.support.agents import SECONDS, living, reading
from tests.support.chat import eventually, running
from tornado_chat.agents import Agent, Context, Message, ThreadContext


def held(agent: Agent) -> tuple[list[Message], asyncio.Event]:
    """What the agent is asked, and what lets it answer."""
    given: list[Message] = []
    go_on = asyncio.Event()

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        given.append(message)
        await go_on.wait()
        return "so"

    return given, go_on


def whose(given: list[Message]) -> list[str]:
    return [message.user for message in given]


async def test_who_waits_for_a_person_takes_no_place_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_chat.agents.turns.RESTING", 2)
    agent = Agent("bot", rooms=["r"], max_open=1, double_texting="concurrent")

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        try:
            return (await ctx.ask("What?")).text
        except TimeoutError as error:
            return str(error)

    @agent.on_command("quick")
    async def quick(ctx: Context, message: Message) -> str:
        return "quick"

    async with (
        running(tmp_path) as here,
        living(agent, here) as (alive,),
        reading(here) as room,
        reading(here, "bob") as bob,
        reading(here, "carl") as carl,
    ):
        asked = [await one.ask("wait") for one in (room, bob, carl)]
        assert "too many others" in (await room.answer(asked[0]))["text"]
        assert (await room.answer(await room.ask("/quick")))["text"] == "quick"
        await bob.chat.send("r", "this")
        assert (await room.answer(asked[1]))["text"] == "this"
        await carl.chat.send("r", "that")
        assert (await room.answer(asked[2]))["text"] == "that"
        await eventually(lambda: not alive.turns._resting)


async def test_how_much_is_done_at_a_time_is_bounded_and_the_rest_waits(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], max_open=2, double_texting="concurrent")
    go_on = asyncio.Event()
    running_now: list[int] = []
    most: list[int] = []

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        running_now.append(message.seq)
        most.append(len(running_now))
        await go_on.wait()
        running_now.remove(message.seq)
        return "so"

    async with running(tmp_path) as here, living(agent, here), reading(here) as room:
        asked = [await room.ask(str(number)) for number in range(6)]
        await eventually(lambda: len(running_now) == 2)
        await asyncio.sleep(0.1)
        go_on.set()
        for seq in asked:
            await room.answer(seq)
        assert max(most) == 2


async def test_nobody_takes_all_the_places_of_an_agent(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], max_open=4, double_texting="concurrent")
    given, go_on = held(agent)
    async with (
        running(tmp_path) as here,
        living(agent, here) as (life,),
        reading(here) as room,
        reading(here, "bob") as bob,
    ):
        asked = [await room.ask(str(number)) for number in range(6)]
        await eventually(lambda: whose(given) == ["ann"] * 3)
        later = [await bob.ask(str(number)) for number in range(2)]
        await eventually(lambda: whose(given) == ["ann"] * 3 + ["bob"])
        go_on.set()
        for seq in asked + later:
            await room.answer(seq)
        assert Counter(whose(given)) == {"ann": 6, "bob": 2}
        await eventually(lambda: not life.turns._people)


async def test_threads_that_go_on_are_whose_question_it_was(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], max_open=4)
    go_on = threading.Event()

    @agent.on_command("slow")
    def slow(ctx: ThreadContext, message: Message) -> str:
        go_on.wait(SECONDS)
        return "too late"

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        return "so"

    async with (
        running(tmp_path) as here,
        living(agent, here) as (alive,),
        reading(here) as room,
        reading(here, "bob") as bob,
    ):

        def have_begun(count: int) -> bool:
            return alive.turns.threads.alive["ann"] == count

        for number in range(1, 4):
            asked = await room.ask("/slow")
            message = await room.reply(asked)
            await eventually(partial(have_begun, number))
            await room.chat.stop("r", message["seq"])
            await room.answer(asked)
        later = await room.ask("?")
        await eventually(lambda: alive.rooms["r"] in alive.turns._hungry)
        assert (await room.answer(await bob.ask("?")))["text"] == "so"
        assert not room.replies(later)
        go_on.set()
        assert (await room.answer(later))["text"] == "so"


async def test_who_is_asked_something_has_no_place_meanwhile(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r", "s"], max_open=4, double_texting="concurrent")

    @agent.on_command("ask")
    async def ask(ctx: Context, message: Message) -> str:
        return (await ctx.ask("What?")).text

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        await asyncio.Event().wait()
        return ""

    async with (
        running(tmp_path) as here,
        living(agent, here) as (alive,),
        reading(here) as room,
        reading(here, "ann", "s") as elsewhere,
        reading(here, "bob") as bob,
    ):
        asked = await room.ask("/ask")
        await eventually(lambda: alive.turns._resting)
        for _ in range(3):
            await bob.ask("?")
        await eventually(lambda: alive.turns._people == {"bob": 3})
        await elsewhere.reply(await elsewhere.ask("?"))
        await room.chat.send("r", "that")
        assert (await room.answer(asked))["text"] == "that"
        await eventually(lambda: alive.turns._people == {"bob": 3, "ann": 1})


async def test_a_room_with_many_questions_leaves_the_others_their_turn(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r", "s"], max_open=1, double_texting="concurrent")
    given, go_on = held(agent)
    async with (
        running(tmp_path) as here,
        living(agent, here) as (life,),
        reading(here) as room,
        reading(here, "bob", "s") as other,
    ):
        many = [await room.ask(f"r{number}") for number in range(4)]
        await eventually(lambda: life.rooms["r"] in life.turns._hungry)
        one = await other.ask("s0")
        await eventually(lambda: len(life.turns._hungry) == 2)
        go_on.set()
        await other.answer(one)
        for seq in many:
            await room.answer(seq)
        assert [message.text for message in given] == ["r0", "r1", "s0", "r2", "r3"]
