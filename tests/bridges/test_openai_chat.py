"""POST /v1/chat/completions, judged by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.support.agents import BOT, SECONDS, living, token
from tests.support.chat import Running, eventually, running
from tests.support.parrot import Parrot, by, parrot
from tests.support.several_servers import servers
from tornado_chat.agents.context import Context
from tornado_chat.agents.message import Message


def client_of(here: Running, user: str = "ann", **claims: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=here.address + "/v1", api_key=token(here, user, **claims), timeout=SECONDS)


def user(text: str) -> Any:
    return {"role": "user", "content": text}


async def test_a_completion_is_whole_or_streamed_and_its_room_can_be_opened(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, _, client), client_of(here) as ai:
        whole: Any = await ai.chat.completions.create(model=BOT, messages=[user("hello there")])
        (choice,) = whole.choices
        assert (choice.message.content, choice.message.role, choice.finish_reason) == (
            "hello there ",
            "assistant",
            "stop",
        )
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
        said = (await client.get(f"/v1/rooms/{whole.room}/messages", headers=by(here, "bob"))).json()["messages"]
        assert [one["text"] for one in said] == ["hello there", "hello there "]
        stream = await ai.chat.completions.create(
            model=BOT, messages=[user("one two")], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two "
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        assert len({chunk.id for chunk in chunks}) == 1
        assert [model.id async for model in ai.models.list()] == [BOT]


async def test_what_was_said_before_has_its_role_and_a_room_keeps_it(tmp_path: Path) -> None:
    bird = Parrot()

    async def tell(ctx: Context, message: Message) -> str:
        return json.dumps([(one["role"], one["content"]) for one in await ctx.history()])

    bird.agent.on_mention(tell)
    async with running(tmp_path, text_chars=10) as here, living(bird.agent, here), client_of(here) as ai:
        before = [("system", "Be brief."), ("user", "one"), ("assistant", "twelve chars")]
        messages: Any = [{"role": role, "content": content} for role, content in before]
        parts: Any = {"role": "user", "content": [{"type": "text", "text": "and"}, {"type": "text", "text": "now?"}]}
        told = await ai.chat.completions.create(model=BOT, messages=[*messages, parts])
        assert json.loads(told.choices[0].message.content or "") == [
            ["system", "Be brief."],
            ["user", "one"],
            ["assistant", "twelve cha"],
            ["assistant", "rs"],
            ["user", "and\nnow?"],
        ]
        for _ in range(2):
            told = await ai.chat.completions.create(model=BOT, messages=[user("hello")], metadata={"room": "team"})
        assert [content for role, content in json.loads(told.choices[0].message.content or "") if role == "user"] == [
            "hello",
            "hello",
        ]


async def test_who_hangs_up_stops_it_wherever_it_grows(tmp_path: Path) -> None:
    bird = Parrot()
    bird.freely = False
    async with (
        servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db") as (one, other),
        living(bird.agent, one),
        client_of(other) as ai,
    ):
        stream = await ai.chat.completions.create(model=BOT, messages=[user("one two")], stream=True)
        bird.go_on()
        room = ""
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                room = chunk.room  # type: ignore[attr-defined]  # a field of ours
                break
        await stream.close()
        await eventually(lambda: not one.server.context.growing.by_name, SECONDS)
        (ended,) = [
            event.data
            for event in await one.server.log.read(room, 0, max_events=99, max_bytes=10**6)
            if event.data["type"] == "finished"
        ]
        assert (ended["reason"], ended["text"]) == ("stopped", "one ")
        waiting = asyncio.create_task(ai.chat.completions.create(model=BOT, messages=[user("three")]))
        await eventually(lambda: one.server.context.growing.by_name, SECONDS)
        waiting.cancel()
        await eventually(lambda: not one.server.context.growing.by_name, SECONDS)
        await eventually(lambda: not other.server.askings.open, SECONDS)


@pytest.mark.parametrize("streamed", [False, True])
async def test_who_is_sent_away_by_a_process_that_ends_stops_it(tmp_path: Path, streamed: bool) -> None:
    """Its client asks again by itself, and not for this answer."""
    bird = Parrot()
    bird.freely = False
    async with (
        servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db") as (one, other),
        living(bird.agent, one),
        client_of(other) as ai,
    ):
        create = ai.with_options(max_retries=0).chat.completions.create
        asked = asyncio.create_task(create(model=BOT, messages=[user("one two")], stream=streamed))
        await eventually(lambda: one.server.context.growing.by_name, SECONDS)
        room = next(iter(one.server.context.growing.by_name))[0]
        if streamed:
            await asked
        await other.server.stop()
        await eventually(lambda: not one.server.context.growing.by_name, SECONDS)
        if not streamed:
            with pytest.raises(openai.InternalServerError, match="stopping"):
                await asked
        events = await one.server.log.read(room, 0, max_events=99, max_bytes=10**6)
        assert [event.data["reason"] for event in events if event.data["type"] == "finished"] == ["stopped"]


async def test_with_a_key_it_goes_on_and_is_asked_once(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, _), client_of(here) as ai:
        bird.freely = False
        headers = {"Idempotency-Key": "1"}
        stream = await ai.chat.completions.create(
            model=BOT, messages=[user("a"), user("one two")], stream=True, extra_headers=headers
        )
        await stream.close()
        bird.go_on(2)
        again = await ai.chat.completions.create(
            model=BOT, messages=[user("a"), user("one two")], extra_headers=headers
        )
        assert again.choices[0].message.content == "one two "
        assert bird.asked == ["one two"]


@pytest.mark.logs("handler failed")
async def test_what_is_wrong_is_told_as_its_client_knows_it(tmp_path: Path) -> None:
    async with parrot(tmp_path) as (here, bird, _), client_of(here) as ai:
        here.server.askings.sign_seconds = 0.5
        create = ai.chat.completions.create
        with pytest.raises(openai.BadRequestError) as refused:
            await create(model=BOT, messages=[{"role": "assistant", "content": "x"}])
        assert (refused.value.code, refused.value.type) == ("bad_request", "invalid_request_error")
        tool: Any = {"type": "function", "function": {"name": "f"}}
        with pytest.raises(openai.BadRequestError, match="tools"):
            await create(model=BOT, messages=[user("x")], tools=[tool])
        with pytest.raises(openai.BadRequestError, match="text"):
            await create(model=BOT, messages=[user("x" * 8001)])
        with pytest.raises(openai.PermissionDeniedError):
            async with client_of(here, rooms=["lobby"]) as kept_out:
                await kept_out.chat.completions.create(model=BOT, messages=[user("x")])
        with pytest.raises(openai.AuthenticationError):
            await ai.with_options(api_key="none").chat.completions.create(model=BOT, messages=[user("x")])
        with pytest.raises(openai.InternalServerError, match="'nobody'"):
            await create(model="nobody", messages=[user("x")])
        with pytest.raises(openai.InternalServerError, match="Sorry"):
            await create(model=BOT, messages=[user("fail")])
        stream = await create(model=BOT, messages=[user("fail")], stream=True)
        with pytest.raises(openai.APIError, match="the agent failed"):
            [chunk async for chunk in stream]
        assert bird.asked == ["fail", "fail"], "its client was told not to ask again by itself"
