"""Agents whose words come from a model: a provider over a real socket, one request for a question, closed by a stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.agents import living, person, reading
from tests.support.chat import eventually, running
from tests.support.redis_servers import redis_of_the_session, redis_server
from tests.support.scripted_provider import (
    ANTHROPIC,
    EVER,
    OPENAI,
    Dialect,
    ScriptedProvider,
    drip,
    refusal,
    stream,
)
from tests.support.several_servers import servers
from tornado_chat.agents import Agent, Context, Message
from tornado_chat.agents.providers import Delta, Provider

__all__ = ["redis_of_the_session", "redis_server"]

both = pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)

STOP_SECONDS = 2.0


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sun in {city}"


def modelled(provider: Provider) -> Agent:
    agent = Agent("bot", rooms=["r"])

    @agent.on_mention
    async def answer(ctx: Context, message: Message) -> AsyncIterator[Delta]:
        async for delta in provider.stream(await ctx.history(tokens=8000), tools=[weather]):
            yield delta

    return agent


@both
@pytest.mark.parametrize("who", ["ann", "bot"])
async def test_a_stop_ends_the_request_of_the_replica_that_has_it(tmp_path: Path, dialect: Dialect, who: str) -> None:
    async with (
        running(tmp_path) as here,
        ScriptedProvider(drip(dialect)) as fake,
        dialect.provider(fake.url) as provider,
        living(modelled(provider), here, replicas=3),
        reading(here) as room,
        person(here, who) as stopper,
    ):
        asked = await room.ask("Hello")
        message = await room.grows(asked, "3 ")
        assert len(fake.asked) == 1
        said_at, sent = time.monotonic(), fake.sent
        await stopper.stop("r", message["seq"])
        async with asyncio.timeout(STOP_SECONDS):
            await fake.gone.wait()
        assert time.monotonic() - said_at < STOP_SECONDS
        assert fake.sent - sent < STOP_SECONDS / 0.01
        end = await room.answer(asked)
        assert end["reason"] == "stopped"
        assert end["text"].startswith("0 1 2 3 ")
        sent = fake.sent
        await asyncio.sleep(0.1)
        assert (fake.sent, len(fake.asked)) == (sent, 1)


@pytest.mark.parametrize("with_redis", [False, True])
async def test_a_stop_at_another_process_of_the_server_ends_the_request(
    tmp_path: Path, with_redis: bool, request: pytest.FixtureRequest
) -> None:
    redis = (request.getfixturevalue("redis_server").url,) if with_redis else ()
    async with (
        servers(tmp_path, 2, f"sqlite:///{tmp_path}/chat.db", *redis) as (here, there),
        ScriptedProvider(drip(OPENAI)) as fake,
        OPENAI.provider(fake.url) as provider,
        living(modelled(provider), here, replicas=2),
        reading(there) as room,
    ):
        await eventually(lambda: here.server.hub.broker.available is with_redis)
        asked = await room.ask("Hello")
        message = await room.grows(asked, "3 ")
        sent = fake.sent
        stopping = asyncio.create_task(room.chat.stop("r", message["seq"]))
        async with asyncio.timeout(STOP_SECONDS):
            await fake.gone.wait()
        assert fake.sent - sent < STOP_SECONDS / 0.01
        sent = fake.sent
        await stopping
        end = await room.answer(asked)
        assert (end["reason"], fake.sent, len(fake.asked)) == ("stopped", sent, 1)


@both
async def test_a_stop_ends_a_model_that_says_nothing(tmp_path: Path, dialect: Dialect) -> None:
    async with (
        running(tmp_path) as here,
        ScriptedProvider([EVER]) as fake,
        dialect.provider(fake.url) as provider,
        living(modelled(provider), here),
        reading(here) as room,
    ):
        asked = await room.ask("Hello")
        await eventually(fake.arrived.is_set)
        await room.chat.stop("r", (await room.reply(asked))["seq"])
        async with asyncio.timeout(STOP_SECONDS):
            await fake.gone.wait()
        end = await room.answer(asked)
        assert (end["reason"], end["text"]) == ("stopped", "")


@both
async def test_the_tools_that_a_model_calls_are_steps(tmp_path: Path, dialect: Dialect) -> None:
    calls = stream(dialect.opening, dialect.call(0, "c1", "weather", ['{"city": ', '"Bern"}']), dialect.ending("tools"))
    async with (
        running(tmp_path) as here,
        ScriptedProvider(calls, dialect.reply("Take ", "none.")) as fake,
        dialect.provider(fake.url) as provider,
        living(modelled(provider), here),
        reading(here) as room,
    ):
        end = await room.answer(await room.ask("An umbrella?"))
        assert (end["reason"], end["text"]) == ("done", "Take none.")
        (step,) = end["meta"]["steps"]
        assert (step["name"], step["input"], step["output"]) == ("weather", '{"city": "Bern"}', "sun in Bern")
        assert "An umbrella?" in str(fake.asked[0].body)


@both
@pytest.mark.logs("(?s)handler failed .*status 401")
async def test_what_its_provider_refuses_is_a_sentence_without_details(tmp_path: Path, dialect: Dialect) -> None:
    error = {"type": "authentication_error", "code": "invalid_api_key", "message": "the secret detail"}
    async with (
        running(tmp_path) as here,
        ScriptedProvider(refusal(401, error)) as fake,
        dialect.provider(fake.url) as provider,
        living(modelled(provider), here),
        reading(here) as room,
    ):
        end = await room.answer(await room.ask("Hello"))
        sentence = "The model's provider does not accept the key of this agent."
        assert (end["reason"], end["text"]) == ("error", sentence)
