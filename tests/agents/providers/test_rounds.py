"""What the model calls is run and shown, what it gave goes back, and the model speaks again: not without end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.scripted_provider import (
    ANTHROPIC,
    ASK,
    DONE,
    OPENAI,
    Dialect,
    Script,
    ScriptedProvider,
    choice,
    gather,
    refusal,
    stream,
    typed,
)
from tornado_chat.agents.providers import Limits, ProviderError, ToolCall, ToolResult
from tornado_chat.agents.providers.limits import CALLS

both = pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)


def weather(city: str, days: int = 1) -> str:
    """The weather of the next days."""
    return f"{city} {days}: sun"


async def clock() -> str:
    """The time."""
    return "noon"


TOOLS = (weather, clock)


def two_calls(dialect: Dialect) -> Script:
    return stream(
        dialect.opening,
        dialect.text("Let me look. "),
        dialect.call(0, "c1", "weather", ['{"city": "Zü', 'rich", ', '"days": 2}']),
        dialect.call(1, "c2", "clock", []),
        dialect.ending("tools"),
    )


@both
async def test_calls_are_run_and_their_results_go_back(dialect: Dialect) -> None:
    async with (
        ScriptedProvider(two_calls(dialect), dialect.reply("It is sunny.")) as fake,
        dialect.provider(fake.url) as provider,
    ):
        deltas = await gather(provider.stream(ASK, TOOLS))
        arguments = "{}" if dialect is ANTHROPIC else ""
        assert deltas == [
            "Let me look. ",
            ToolCall("c1", "weather", '{"city": "Zürich", "days": 2}'),
            ToolResult("c1", "weather", "Zürich 2: sun", error=False),
            ToolCall("c2", "clock", arguments),
            ToolResult("c2", "clock", "noon", error=False),
            "It is sunny.",
        ]
        first, second = (asked.body for asked in fake.asked)
        assert second["tools"] == first["tools"]
        assert second["messages"] == ASK + _exchanged(dialect)
        # The SDK's HTTP connection was whole: the second request needed no other.
        assert fake.connections == 1


def _exchanged(dialect: Dialect) -> list[dict[str, Any]]:
    given = {"city": "Zürich", "days": 2}
    if dialect is OPENAI:
        calls = [("c1", "weather", json.dumps(given, ensure_ascii=False)), ("c2", "clock", "{}")]
        return [
            {
                "role": "assistant",
                "content": "Let me look. ",
                "tool_calls": [
                    {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                    for id, name, arguments in calls
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "Zürich 2: sun"},
            {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        ]
    return [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look. "},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": given},
                {"type": "tool_use", "id": "c2", "name": "clock", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "Zürich 2: sun", "is_error": False},
                {"type": "tool_result", "tool_use_id": "c2", "content": "noon", "is_error": False},
            ],
        },
    ]


async def test_how_tools_are_told() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
        "required": ["city"],
        "additionalProperties": False,
    }
    async with ScriptedProvider(OPENAI.reply("x")) as fake, OPENAI.provider(fake.url) as provider:
        await gather(provider.stream(ASK, [weather]))
        described = {"name": "weather", "description": "The weather of the next days.", "parameters": schema}
        assert fake.asked[0].body["tools"] == [{"type": "function", "function": described}]
    async with ScriptedProvider(ANTHROPIC.reply("x")) as fake, ANTHROPIC.provider(fake.url) as other:
        await gather(other.stream(ASK, [weather]))
        described = {"name": "weather", "description": "The weather of the next days.", "input_schema": schema}
        assert fake.asked[0].body["tools"] == [described]


@both
async def test_a_call_that_cannot_be_carried_out_is_told_to_the_model(dialect: Dialect) -> None:
    calls = (("c1", "sunshine", "{}"), ("c2", "weather", '{"city": 7}'), ("c3", "weather", '{"city": "B'))
    script = stream(
        dialect.opening,
        *(dialect.call(at, id, name, [arguments]) for at, (id, name, arguments) in enumerate(calls)),
        dialect.ending("tools"),
    )
    async with ScriptedProvider(script, dialect.reply("Sorry.")) as fake, dialect.provider(fake.url) as provider:
        deltas = await gather(provider.stream(ASK, TOOLS))
        results = [delta for delta in deltas if isinstance(delta, ToolResult)]
        assert [result.error for result in results] == [True, True, True]
        assert results[0].content == "There is no tool 'sunshine'."
        assert deltas[-1] == "Sorry."
        told = json.dumps(fake.asked[1].body["messages"][-3:])
        assert all(json.dumps(result.content)[1:-1] in told for result in results)


@both
async def test_rounds_have_a_bound(dialect: Dialect) -> None:
    async with (
        ScriptedProvider(two_calls(dialect)) as fake,
        dialect.provider(fake.url, Limits(rounds=3)) as provider,
    ):
        deltas = provider.stream(ASK, TOOLS)
        for _ in range(3):
            assert [type(await anext(deltas)) for _ in range(5)] == [str, *[ToolCall, ToolResult] * 2]
        assert await anext(deltas) == "Let me look. "
        with pytest.raises(ProviderError) as caught:
            await anext(deltas)
        assert caught.value.kind == "tools"
        assert len(fake.asked) == 4


@both
async def test_calls_of_one_answer_have_a_bound(dialect: Dialect) -> None:
    calls = (dialect.call(at, f"c{at}", "clock", ["{}"]) for at in range(CALLS + 1))
    script = stream(dialect.opening, *calls, dialect.ending("tools"))
    async with ScriptedProvider(script) as fake, dialect.provider(fake.url) as provider:
        with pytest.raises(ProviderError) as caught:
            await gather(provider.stream(ASK, TOOLS))
        assert caught.value.kind == "tools"


@both
async def test_a_call_that_was_not_told_to_its_end_is_not_run(dialect: Dialect) -> None:
    script = stream(dialect.opening, dialect.call(0, "c1", "clock", ["{}"]), dialect.ending("length"))
    async with ScriptedProvider(script) as fake, dialect.provider(fake.url) as provider:
        deltas = provider.stream(ASK, TOOLS)
        with pytest.raises(ProviderError) as caught:
            await anext(deltas)
        assert caught.value.kind == "length"


@both
async def test_a_later_request_is_tried_again_too(dialect: Dialect) -> None:
    busy = refusal(529, {"type": "overloaded_error", "message": "x"}, "Retry-After: 0")
    async with (
        ScriptedProvider(two_calls(dialect), busy, dialect.reply("Done.")) as fake,
        dialect.provider(fake.url) as provider,
    ):
        deltas = await gather(provider.stream(ASK, TOOLS))
        assert [delta for delta in deltas if isinstance(delta, str)] == ["Let me look. ", "Done."]
        assert fake.asked[1].body == fake.asked[2].body


@both
@pytest.mark.logs("the tool forever did not end within")
async def test_tools_count_for_the_whole(dialect: Dialect) -> None:
    async def forever() -> None:
        """Does not end."""
        await asyncio.sleep(3600)

    script = stream(dialect.opening, dialect.call(0, "c1", "forever", ["{}"]), dialect.ending("tools"))
    async with ScriptedProvider(script) as fake, dialect.provider(fake.url, Limits(whole=1.0)) as provider:
        with pytest.raises(ProviderError) as caught:
            await gather(provider.stream(ASK, [forever]))
        assert caught.value.kind == "silent"
        assert "whole" in caught.value.details


@both
async def test_two_tools_of_one_name(dialect: Dialect) -> None:
    async with dialect.provider("http://127.0.0.1:1") as provider:
        with pytest.raises(TypeError, match="two tools have the name clock"):
            await gather(provider.stream(ASK, [clock, clock]))


async def test_calls_as_google_tells_them() -> None:
    # No index, pieces of arguments without an id, a signature that comes alone, and `stop` for an end.
    signed = {"google": {"thought_signature": "c2lnbmVk"}}
    script = stream(
        choice(tool_calls=[{"id": "g1", "type": "function", "function": {"name": "weather", "arguments": '{"ci'}}]),
        choice(tool_calls=[{"function": {"arguments": 'ty": "Bern"}'}}]),
        choice(tool_calls=[{"extra_content": signed}]),
        choice(tool_calls=[{"id": "g2", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]),
        choice("stop"),
        DONE,
    )
    async with ScriptedProvider(script, OPENAI.reply("Sun.")) as fake, OPENAI.provider(fake.url) as provider:
        deltas = await gather(provider.stream(ASK, TOOLS))
        assert [delta for delta in deltas if isinstance(delta, ToolCall)] == [
            ToolCall("g1", "weather", '{"city": "Bern"}'),
            ToolCall("g2", "clock", "{}"),
        ]
        first, second = fake.asked[1].body["messages"][1]["tool_calls"]
        assert first["extra_content"] == signed
        assert "extra_content" not in second


async def test_calls_as_small_servers_tell_them() -> None:
    # All have the index 0, one has no id, and arguments are an object.
    calls = [
        {"index": 0, "id": "a", "function": {"name": "weather", "arguments": {"city": "Bern"}}},
        {"index": 0, "id": "b", "function": {"name": "clock", "arguments": "{}"}},
        {"index": 1, "function": {"name": "clock"}},
    ]
    script = stream(choice(tool_calls=calls), choice("tool_calls"), DONE)
    async with ScriptedProvider(script, OPENAI.reply("Sun.")) as fake, OPENAI.provider(fake.url) as provider:
        deltas = await gather(provider.stream(ASK, TOOLS))
        assert [delta.content for delta in deltas if isinstance(delta, ToolResult)] == ["Bern 1: sun", "noon", "noon"]
        ids = [call["id"] for call in fake.asked[1].body["messages"][1]["tool_calls"]]
        assert ids[:2] == ["a", "b"]
        assert ids[2]


async def test_what_anthropics_model_thought_goes_back_with_the_results() -> None:
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    script = stream(
        typed("message_start", message={}),
        typed("content_block_start", index=0, content_block=thinking),
        typed("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Look "}),
        typed("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "it up."}),
        typed("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2lnbmVk"}),
        typed("content_block_stop", index=0),
        typed("content_block_start", index=1, content_block={"type": "redacted_thinking", "data": "eA=="}),
        typed("content_block_start", index=2, content_block={"type": "text", "text": ""}),
        ANTHROPIC.call(2, "c1", "clock", []),
        ANTHROPIC.ending("tools"),
    )
    async with ScriptedProvider(script, ANTHROPIC.reply("Noon.")) as fake, ANTHROPIC.provider(fake.url) as provider:
        assert (await gather(provider.stream(ASK, TOOLS)))[-1] == "Noon."
        assert fake.asked[1].body["messages"][1]["content"] == [
            {"type": "thinking", "thinking": "Look it up.", "signature": "c2lnbmVk"},
            {"type": "redacted_thinking", "data": "eA=="},
            {"type": "tool_use", "id": "c1", "name": "clock", "input": {}},
        ]


async def test_calls_of_the_past_are_told_in_either_form() -> None:
    calls = [{"id": f"c{at}", "type": "function", "function": {"name": "clock", "arguments": "{}"}} for at in (1, 2)]
    messages: list[dict[str, Any]] = [
        *ASK,
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "noon", "tool_call_id": "c1"},
        {"role": "tool", "content": "noon", "tool_call_id": "c2"},
        {"role": "user", "content": "Again"},
    ]
    async with ScriptedProvider(OPENAI.reply("x")) as fake, OPENAI.provider(fake.url) as provider:
        await gather(provider.stream(messages))
        assert fake.asked[0].body["messages"] == messages
    async with ScriptedProvider(ANTHROPIC.reply("x")) as fake, ANTHROPIC.provider(fake.url) as other:
        await gather(other.stream(messages))
        _, assistant, results, again = fake.asked[0].body["messages"]
        assert [block["type"] for block in assistant["content"]] == ["tool_use", "tool_use"]
        assert [block["tool_use_id"] for block in results["content"]] == ["c1", "c2"]
        assert again == {"role": "user", "content": "Again"}
