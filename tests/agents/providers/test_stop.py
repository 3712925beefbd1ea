"""A stop closes the connection to the provider at once, whatever the stream is about to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from tests.support.scripted_http import STREAM_HEAD, chunk
from tests.support.scripted_provider import (
    ANTHROPIC,
    ASK,
    EVER,
    OPENAI,
    Dialect,
    Script,
    ScriptedProvider,
    drip,
    gather,
    refusal,
    stream,
)
from tornado_chat.agents.providers import Delta, Provider, ToolCall

both = pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)

STOP_SECONDS = 2.0


async def nothing_more(fake: ScriptedProvider, sent: int) -> None:
    """The provider notices within 2 s, and has sent next to nothing since."""
    await asyncio.wait_for(fake.gone.wait(), STOP_SECONDS)
    assert fake.sent - sent < STOP_SECONDS / 0.01
    sent = fake.sent
    await asyncio.sleep(0.05)
    assert fake.sent == sent


@both
async def test_closing_the_iterator(dialect: Dialect) -> None:
    async with ScriptedProvider(drip(dialect)) as fake, dialect.provider(fake.url) as provider:
        deltas = provider.stream(ASK)
        assert [await anext(deltas), await anext(deltas)] == ["0 ", "1 "]
        sent = fake.sent
        await deltas.aclose()
        await nothing_more(fake, sent)


@both
async def test_closing_a_handler_that_yields_what_it_gets(dialect: Dialect) -> None:
    # It does not close what it iterates, and nobody writes one that does.
    async def answer(provider: Provider) -> AsyncGenerator[Delta, None]:
        async for delta in provider.stream(ASK):
            yield delta

    async with ScriptedProvider(drip(dialect)) as fake, dialect.provider(fake.url) as provider:
        handler = answer(provider)
        assert await anext(handler) == "0 "
        sent = fake.sent
        await handler.aclose()
        await nothing_more(fake, sent)


@both
@pytest.mark.parametrize("where", ["before the head", "before the first word", "in the text", "between two attempts"])
async def test_cancelling_the_task(dialect: Dialect, where: str) -> None:
    scripts: dict[str, Script] = {
        "before the head": [EVER],
        "before the first word": [STREAM_HEAD, chunk(dialect.opening), EVER],
        "in the text": drip(dialect),
        "between two attempts": refusal(429, {"type": "rate_limit_error", "message": "x"}, "Retry-After: 100"),
    }
    async with ScriptedProvider(scripts[where]) as fake, dialect.provider(fake.url) as provider:
        texts: list[Delta] = []

        async def read() -> None:
            async for delta in provider.stream(ASK):
                texts.append(delta)

        task = asyncio.create_task(read())
        async with asyncio.timeout(20):
            await fake.arrived.wait()
            await asyncio.sleep(0.1)
        assert not task.done()
        assert bool(texts) == (where == "in the text")
        sent = fake.sent
        task.cancel()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        assert task.cancelled()
        if where == "between two attempts":
            assert len(fake.asked) == 1
        else:
            await nothing_more(fake, sent)


@both
async def test_cancelling_while_a_tool_runs(dialect: Dialect) -> None:
    ended: list[str] = []

    async def wait() -> str:
        """Waits."""
        try:
            await asyncio.sleep(EVER)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "never"

    script = stream(dialect.opening, dialect.call(0, "c1", "wait", ["{}"]), dialect.ending("tools"))
    async with ScriptedProvider(script) as fake, dialect.provider(fake.url) as provider:
        deltas = provider.stream(ASK, [wait])
        assert await anext(deltas) == ToolCall("c1", "wait", "{}")
        task = asyncio.ensure_future(anext(deltas))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        assert (task.cancelled(), ended) == (True, ["cancelled"])
        with pytest.raises(StopAsyncIteration):
            await anext(deltas)
        assert len(fake.asked) == 1


@both
async def test_others_go_on(dialect: Dialect) -> None:
    async with ScriptedProvider(drip(dialect), dialect.reply("Yes")) as fake, dialect.provider(fake.url) as provider:
        stopped = provider.stream(ASK)
        await anext(stopped)
        other = provider.stream(ASK)
        assert await anext(other) == "Yes"
        await stopped.aclose()
        assert await gather(other) == []
