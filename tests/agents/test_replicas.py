"""Several processes that are one agent, and the ends that they come to: each question is answered, and once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import AgentProcess, Room, living, reading, token
from tests.support.chat import Running, eventually, running
from tests.support.servers import UNLIMITED, Server
from tornado_chat.agents import Agent, Context, Message
from tornado_chat.agents.life import BACK, Life
from tornado_chat.agents.questions import SETTLED
from tornado_chat.agents.turn import TAKEOVERS
from tornado_chat.client import Client
from tornado_chat.errors import ChatError

SLOW = """
import asyncio, os

from tornado_chat.agents import Agent

agent = Agent("bot", rooms=["r"], replies_a_minute=1000)


@agent.on_mention
async def answer(ctx, message):
    yield f"by {os.getpid()}"
    for _ in range(int(message.prompt)):
        await asyncio.sleep(0.05)
        yield " word"
    yield "."
"""


async def test_who_is_killed_in_the_middle_is_followed_by_another(tmp_path: Path) -> None:
    with (
        Server(tmp_path, *UNLIMITED) as server,
        AgentProcess(tmp_path, server, "--replicas", "2", module=SLOW) as agent,
    ):
        await agent.answers(2)
        async with reading(server) as room:
            asked = await room.ask("40")
            message = await room.grows(asked, "word word")
            first = _author(room.grown[message["seq"]])
            os.kill(first, signal.SIGKILL)
            end = await room.answer(asked)
            assert end["reason"] == "done"
            assert end["text"] == f"by {_author(end['text'])}" + " word" * 40 + "."
            assert _author(end["text"]) != first
            assert room.grown[message["seq"]] == end["text"]  # its readers began it again
            assert len(room.replies(asked)) == 1


def _author(text: str) -> int:
    found = re.match(r"by (\d+)", text)
    assert found is not None
    return int(found[1])


async def test_three_replicas_answer_fifty_questions_once_each(tmp_path: Path) -> None:
    with (
        Server(tmp_path, *UNLIMITED) as server,
        AgentProcess(tmp_path, server, "--replicas", "3", module=SLOW) as agent,
    ):
        await agent.answers(3)
        async with reading(server) as room, reading(server, "bob") as bob:
            people = room, bob
            asked = [await people[number % 2].ask("2") for number in range(50)]
            ends = [await room.answer(seq) for seq in asked]
            assert {end["reason"] for end in ends} == {"done"}
            assert {len(room.replies(seq)) for seq in asked} == {1}
            assert len({_author(end["text"]) for end in ends}) <= 3
            _check_in_turn(room, asked)


def _check_in_turn(room: Room, asked: list[int]) -> None:
    """Those of one person were answered one after another."""
    for place in (0, 1):
        spans = [(room.replies(seq)[0]["seq"], room.end(room.replies(seq)[0]["seq"])["seq"]) for seq in asked[place::2]]
        for (_, end), (begin, _) in pairwise(spans):
            assert end < begin


def echo(**options: Any) -> Agent:
    agent = Agent("bot", rooms=["r"], **options)

    @agent.on_message
    async def answer(ctx: Context, message: Message) -> str:
        return f"{ctx.attempt}: {message.text}"

    return agent


async def test_what_came_while_it_was_away_is_answered_once_and_not_what_is_old(tmp_path: Path) -> None:
    agent = echo(max_age=1.5)
    async with running(tmp_path) as here, reading(here) as room, reading(here, name="elsewhere") as elsewhere:
        await room.chat.send("r", "before it was ever here")
        named = await room.ask("but this is for it")
        async with living(agent, here):
            await room.answer(named)
            first = await room.ask("first")
            await room.answer(first)
        old = await room.ask("old")
        unknown = await elsewhere.ask("old, too")
        await asyncio.sleep(1.6)
        new = [await room.ask(f"new {number}") for number in range(3)]
        called = await elsewhere.ask("and here")
        async with living(agent, here, replicas=2):
            for seq in new:
                assert (await room.answer(seq))["text"].startswith("1: new")
            # It did not follow this room, and was named there.
            assert (await elsewhere.answer(called))["text"] == "1: and here"
            await asyncio.sleep(0.2)
            # Regenerate, of what was answered before the start.
            await room.chat.edit("r", first, "first")
            assert (await room.answer(first, 2))["text"] == "2: first"
        async with living(agent, here):
            await room.answer(await room.ask("last"))
        assert not room.replies(old)
        assert not room.replies(1)
        assert not elsewhere.replies(unknown)
        assert [len(room.replies(seq)) for seq in (first, *new)] == [2, 1, 1, 1]


async def test_what_was_handled_is_told_by_the_mark(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tornado_chat.agents.life.MARK_SECONDS", 0.1)
    agent = echo()
    go_on = asyncio.Event()

    @agent.on_command("wait")
    async def wait(ctx: Context, message: Message) -> str:
        await go_on.wait()
        return "so"

    async with running(tmp_path) as here, reading(here) as room, living(agent, here):
        asked = await room.ask("one")
        await room.answer(asked)
        waiting = await room.ask("/wait")
        await room.reply(waiting)
        await eventually(lambda: any(one["type"] == "read" for one in room.signals))
        await asyncio.sleep(0.3)
        marks = [one["seq"] for one in room.signals if one["type"] == "read" and one["user"] == "bot"]
        assert marks[-1] == waiting - 1
        go_on.set()
        await room.answer(waiting)
        await eventually(lambda: room.signals[-1].get("seq", 0) > waiting)


async def test_what_was_cut_off_is_given_again_or_taken_over(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"], double_texting="concurrent")

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> str:
        assert not ctx.resumed
        return "at first"

    @agent.on_resume
    async def resume(ctx: Context, message: Message) -> str:
        assert ctx.resumed
        return f"{ctx.attempt}: {message.text}"

    async with running(tmp_path) as here, reading(here) as room:
        async with living(agent, here):
            pass  # it follows the room now
        interrupted, left = await room.ask("interrupted"), await room.ask("left")
        async with Client(here.address, token=token(here, "bot", agent=True)) as old:
            async with old.stream("r", reply_to=interrupted, id=f"re:{interrupted}", replica="old") as reply:
                await reply.write("half")
                await reply.finish("interrupted")
            async with old.stream("r", reply_to=left, id=f"re:{left}", replica="old") as reply:
                await reply.write("half")
                reply.leave()
        async with living(agent, here):
            assert (await room.answer(interrupted, 2))["text"] == "2: interrupted"
            assert (await room.answer(left))["text"] == "1: left"
            assert (await room.answer(await room.ask("new")))["text"] == "at first"
        assert room.end(room.replies(interrupted)[0]["seq"])["text"] == "half"


async def test_who_ends_together_with_the_server_is_followed_too(tmp_path: Path) -> None:
    agent = echo()
    with Server(tmp_path, *UNLIMITED) as server:
        async with reading(server) as room:
            async with living(agent, server):
                pass  # it follows the room now
            asked = await room.ask("question")
            async with (
                Client(server.url, token=token(server, "bot", agent=True)) as old,
                old.stream("r", reply_to=asked, id=f"re:{asked}", replica="old") as reply,
            ):
                await reply.write("half")
                reply.leave()
                await room.grows(asked, "half")
                server.kill()
            server.start()
            async with living(agent, server):
                assert (await room.answer(asked))["text"] == "1: question"


@pytest.mark.logs("reply given up, too many have left it room=r id=re:1$")
async def test_a_question_that_kills_whoever_answers_it_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path) as here, reading(here) as room:
        async with living(echo(), here):
            pass  # it follows the room now
        asked = await room.ask("question")
        for number in range(2 + TAKEOVERS):
            await _begin_and_die(here, asked, number)
        async with living(echo(), here):
            assert (await room.answer(asked, 2))["text"] == "2: question"
        assert room.end(room.replies(asked)[0]["seq"])["reason"] == "interrupted"


async def _begin_and_die(here: Running, asked: int, number: int) -> None:
    async with Client(here.address, token=token(here, "bot", agent=True)) as one:
        while True:
            reply = one.stream("r", reply_to=asked, id=f"re:{asked}", replica=str(number), take_over=number > 0)
            with contextlib.suppress(ChatError):  # the server has not seen yet that the one before is gone
                async with reply:
                    assert reply.gen == number + 1
                    reply.leave()
                return


async def test_what_is_far_back_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as here, reading(here) as room:
        agent = Agent("bot", rooms=["r"])
        agent.on_mention(echo().messages[0][1])
        async with living(agent, here):
            pass
        asked = await room.ask("question")
        await asyncio.gather(*(room.chat.send("r", "so much is said meanwhile") for _ in range(1100)))
        async with living(agent, here):
            assert (await room.answer(asked))["text"] == "1: question"


async def test_what_was_asked_again_after_long_and_cut_off_is_given_again(tmp_path: Path) -> None:
    agent = Agent("bot", rooms=["r"])
    go_on = asyncio.Event()

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[str]:
        yield message.text
        if message.text == "again":
            await go_on.wait()

    async with running(tmp_path) as here, reading(here) as room:
        async with living(agent, here):
            asked = await room.ask("once")
            await room.answer(asked)
        for number in range(BACK + 1):
            await room.chat.send("r", str(number))
        async with living(agent, here):
            await room.chat.edit("r", asked, "again")
            await room.grows(asked, "again", 2)
        assert (await room.answer(asked, 2))["reason"] == "interrupted"
        go_on.set()
        async with living(agent, here):
            assert (await room.answer(asked, 3))["text"] == "again"


async def test_what_is_kept_for_a_room_shrinks_again(tmp_path: Path) -> None:
    agent = echo(replies_a_minute=1000)
    async with running(tmp_path) as here, reading(here) as room, living(agent, here, replicas=2) as lives:
        for turn in range(2):
            asked = [await room.ask(f"{turn} {number}") for number in range(SETTLED)]
            for seq in asked:
                await room.answer(seq)
        await eventually(lambda: not any(life.turns for life in lives))
        for life in lives:
            await _at_rest(life, room.events[-1]["seq"])


async def _at_rest(life: Life, head: int) -> None:
    there = life.rooms["r"]
    questions = there._questions
    assert questions is not None
    await eventually(lambda: questions.seq == head and not there._tried)
    assert len(questions._known) == SETTLED
    assert not questions._pending
    assert not questions._attempts
    assert not there.turns
    assert not life.turns._hungry
    assert not life.turns.threads.alive
