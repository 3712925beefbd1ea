"""What an agent can be told, and where it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agents import Room, living, reading
from tests.support.chat import eventually, running
from tornado_chat.agents import Agent, Context, Message
from tornado_chat.agents.commands import PAGE, Command, meta_of, room_of
from tornado_chat.wire.commands import META_BYTES, parse

ROOM = "commands.bot"


async def answer(ctx: Context, message: Message) -> str:
    return message.arguments


def made(*commands: tuple[str, str, tuple[str, ...]]) -> Agent:
    agent = Agent("bot")
    for name, description, choices in commands:
        agent.on_command(name, description=description, choices=choices)(answer)
    return agent


def said(room: Room) -> list[Any]:
    """The `meta` of what the agent has said there, oldest first."""
    return [one["meta"] for one in room.events if one["user"] == "bot"]


async def test_it_is_said_once_however_many_replicas_start_however_often_and_anew_when_it_is_other(
    tmp_path: Path,
) -> None:
    weather, model = ("weather", "the weather of a place", ()), ("model", "", ("quick", "careful"))
    first = {"commands": [{"name": "weather", "description": "the weather of a place"}]}
    both = {"commands": [{"name": "model", "choices": ["quick", "careful"]}, *first["commands"]]}
    starts: list[tuple[list[Any], Any]] = [
        ([weather], first),
        ([weather], None),
        ([model, weather], both),
        ([weather], first),
        ([], {"commands": []}),
        ([], None),
    ]
    wanted: list[Any] = []
    async with running(tmp_path) as here, reading(here, name=ROOM) as room:
        for commands, told in starts:
            wanted.extend([told] if told is not None else [])
            async with living(made(*commands), here, replicas=2):
                await room.chat.send(ROOM, "noise", meta={"commands": "none of the agent's"})
                await eventually(lambda: said(room) == wanted)


async def test_it_is_said_again_where_others_have_talked_it_away(tmp_path: Path) -> None:
    agent = made(("weather", "", ()))
    told = {"commands": [{"name": "weather"}]}
    async with running(tmp_path) as here, reading(here, name=ROOM) as room:
        async with living(agent, here):
            await eventually(lambda: said(room) == [told])
        for number in range(PAGE):
            await room.chat.send(ROOM, f"noise {number}")
        async with living(agent, here):
            await eventually(lambda: said(room) == [told, told])


@given(st.dictionaries(st.text(min_size=1, max_size=64), st.tuples(st.text(), st.lists(st.text())), max_size=80))
def test_whatever_they_are_they_fit(commands: dict[str, tuple[str, list[str]]]) -> None:
    meta = meta_of({name: Command(answer, words, tuple(choices)) for name, (words, choices) in commands.items()})
    assert len(orjson.dumps(meta)) <= META_BYTES
    assert [one["name"] for one in meta["commands"]] == sorted(commands)[: len(meta["commands"])]


@given(st.text(min_size=1, max_size=64))
def test_where_any_agent_tells_them_is_a_room(user: str) -> None:
    assert parse({"type": "history", "room": room_of(user)}, 8000)
