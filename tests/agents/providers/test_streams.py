"""A reply is read whatever way a provider sends it, and its end is the provider's word, not a closed connection."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.scripted_http import LAST_CHUNK, STREAM_HEAD, chunk
from tests.support.scripted_provider import (
    ANTHROPIC,
    ASK,
    DONE,
    OPENAI,
    Dialect,
    Piece,
    ScriptedProvider,
    choice,
    data,
    gather,
    stream,
    typed,
)
from tornado_chat.agents.providers import ProviderError

both = pytest.mark.parametrize("dialect", [OPENAI, ANTHROPIC], ids=lambda dialect: dialect.name)


async def said(dialect: Dialect, *pieces: Piece) -> list[object]:
    async with ScriptedProvider(list(pieces)) as fake, dialect.provider(fake.url) as provider:
        return [*await gather(provider.stream(ASK))]


@both
async def test_texts_come_as_they_are_said(dialect: Dialect) -> None:
    async with ScriptedProvider(dialect.reply("One ", "two ", "three")) as fake, dialect.provider(fake.url) as provider:
        assert [delta async for delta in provider.stream(ASK)] == ["One ", "two ", "three"]
        (asked,) = fake.asked
        assert (asked.method, asked.path) == ("POST", dialect.path)
        assert asked.body["stream"] is True
        assert asked.body["messages"] == ASK


@both
async def test_a_connection_is_used_again(dialect: Dialect) -> None:
    async with ScriptedProvider(dialect.reply("Yes")) as fake, dialect.provider(fake.url) as provider:
        for _ in range(3):
            assert await gather(provider.stream(ASK)) == ["Yes"]
        assert fake.connections == 1


@both
@pytest.mark.parametrize("size", [1, 7])
async def test_reads_cut_characters_and_lines_in_two(dialect: Dialect, size: int) -> None:
    # Not what json.dumps makes: the characters themselves are on the wire.
    body = (dialect.opening + dialect.text("TEXT") + dialect.ending("done")).replace(b"TEXT", "Grüße, 日本 🎉".encode())
    pieces: list[Piece] = [STREAM_HEAD]
    for at in range(0, len(body), size):
        pieces += [chunk(body[at : at + size]), 0.0]
    assert await said(dialect, *pieces, LAST_CHUNK) == ["Grüße, 日本 🎉"]


@both
@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
async def test_lines_may_end_in_other_ways(dialect: Dialect, end: bytes) -> None:
    body = (dialect.opening + dialect.text("Hi") + dialect.ending("done")).replace(b"\n", end)
    cut = body.index(b"\r") + 1  # between \r and \n
    assert await said(dialect, *stream(body[:cut], 0.01, body[cut:])) == ["Hi"]


@both
async def test_the_empty_line_behind_the_last_event_may_be_missing(dialect: Dialect) -> None:
    body = dialect.opening + dialect.text("Hi") + dialect.ending("done")
    assert await said(dialect, *stream(body.rstrip())) == ["Hi"]


@both
async def test_comments_empty_events_and_unknown_ones_bring_nothing(dialect: Dialect) -> None:
    strange = b": keep-alive\n\nid: 7\nretry: 10\n\nevent: nothing\n\n" + typed("a_new_kind", index=0, delta={"a": 1})
    strange = strange if dialect is ANTHROPIC else strange + b'event: a_new_kind\ndata: {"object":"new"}\n\n'
    assert await said(
        dialect, *stream(strange, dialect.opening, strange, dialect.text("Hi"), strange, dialect.ending("done"))
    ) == ["Hi"]


async def test_chunks_without_choices_content_or_delta() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    assert await said(
        OPENAI,
        *stream(
            data({"id": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),  # Azure
            data({"id": "1", "choices": None}),
            data({"id": "1"}),
            choice(role="assistant", content=None),
            data({"choices": [{"index": 0, "delta": None}]}),
            data({"choices": [{"index": 0}]}),
            choice(reasoning_content="Let me think.", content=None),  # vLLM and llama.cpp
            choice(content="Hi"),
            data({"choices": [{"index": 1, "delta": {"content": "another choice"}}]}),
            choice("stop", content=""),
            data({"choices": [], "usage": usage}),  # stream_options
            DONE,
        ),
    ) == ["Hi"]


async def test_deltas_of_a_kind_that_is_not_known() -> None:
    assert await said(
        ANTHROPIC,
        *stream(
            ANTHROPIC.opening,
            typed("content_block_delta", index=0),
            typed("content_block_delta", index=0, delta={"type": "citations_delta", "citation": {}}),
            typed("content_block_delta", index=9, delta={"type": "text_delta", "text": "of no block"}),
            typed("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm."}),
            ANTHROPIC.text("Hi"),
            typed("ping"),
            ANTHROPIC.ending("done"),
        ),
    ) == ["Hi"]


async def test_a_block_may_begin_with_text() -> None:
    block = typed("content_block_start", index=0, content_block={"type": "text", "text": "Hi "})
    assert await said(ANTHROPIC, *stream(block, ANTHROPIC.text("there"), ANTHROPIC.ending("done"))) == ["Hi there"]


async def test_a_refusal_in_words_is_text() -> None:
    assert await said(OPENAI, *stream(choice(refusal="I can't"), choice("stop"), DONE)) == ["I can't"]


@both
async def test_an_end_without_the_last_event_is_an_error(dialect: Dialect) -> None:
    # All but the last event: even the reason for the end has been told.
    last = DONE if dialect is OPENAI else typed("message_stop")
    told = dialect.ending("done").removesuffix(last)
    assert told != dialect.ending("done")
    async with (
        ScriptedProvider(stream(dialect.opening, dialect.text("Half a"), told)) as fake,
        dialect.provider(fake.url) as provider,
    ):
        deltas = provider.stream(ASK)
        assert await anext(deltas) == "Half a"
        with pytest.raises(ProviderError) as caught:
            await anext(deltas)
        assert caught.value.kind == "cut"
        assert caught.value.sentence == "The reply broke off before its end."
        assert len(fake.asked) == 1, "what was said is not said again"


@both
@pytest.mark.parametrize(("how", "kind"), [("length", "length"), ("declined", "declined")])
async def test_an_end_that_is_none_is_told(dialect: Dialect, how: str, kind: str) -> None:
    async with (
        ScriptedProvider(stream(dialect.opening, dialect.text("Half a"), dialect.ending(how))) as fake,
        dialect.provider(fake.url) as provider,
    ):
        deltas = provider.stream(ASK)
        assert await anext(deltas) == "Half a"
        with pytest.raises(ProviderError) as caught:
            await anext(deltas)
        assert caught.value.kind == kind


async def test_what_a_model_is_sent() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be short."},
        {"role": "assistant", "content": "the end of something older"},
        {"role": "user", "content": "Hi", "name": "Ann\nB.", "seq": 3},
        {"role": "assistant", "content": "Hello", "name": "helper"},
        {"role": "user", "content": "  "},
        {"role": "system", "content": "In English."},
        {"role": "user", "content": "Bye"},
    ]
    async with ScriptedProvider(OPENAI.reply("x")) as fake, OPENAI.provider(fake.url) as provider:
        await gather(provider.stream(messages))
        assert fake.asked[0].body["messages"] == [
            {"role": "system", "content": "Be short."},
            {"role": "assistant", "content": "the end of something older"},
            {"role": "user", "content": "Ann B.: Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "system", "content": "In English."},
            {"role": "user", "content": "Bye"},
        ]
    async with ScriptedProvider(ANTHROPIC.reply("x")) as fake, ANTHROPIC.provider(fake.url, max_tokens=99) as other:
        await gather(other.stream(messages))
        body = fake.asked[0].body
        assert (body["system"], body["max_tokens"]) == ("Be short.\n\nIn English.", 99)
        # The first one is a user's, as the API wants it.
        assert body["messages"] == [
            {"role": "user", "content": "Ann B.: Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Bye"},
        ]


@both
async def test_further_parameters_are_sent(dialect: Dialect) -> None:
    async with (
        ScriptedProvider(dialect.reply("x")) as fake,
        dialect.provider(fake.url, parameters={"temperature": 0.25, "of_this_server": [1]}) as provider,
    ):
        await gather(provider.stream(ASK))
        assert (fake.asked[0].body["temperature"], fake.asked[0].body["of_this_server"]) == (0.25, [1])


@both
@pytest.mark.parametrize(
    "message", [{"role": "robot", "content": "x"}, {"role": "user"}, {"role": "user", "content": 1}]
)
async def test_messages_that_are_none(dialect: Dialect, message: dict[str, object]) -> None:
    async with dialect.provider("http://127.0.0.1:1") as provider:
        with pytest.raises(ValueError, match="message 1 has to have a role"):
            await gather(provider.stream([*ASK, message]))


async def test_a_provider_may_be_used_in_one_loop_after_another() -> None:
    # As in a notebook, or a page of Streamlit. The first loop leaves a connection behind that cannot be used again.
    program = """
import asyncio, sys
from tornado_chat.agents.providers import OpenAI

provider = OpenAI("m", base_url=sys.argv[1])

async def ask():
    print([delta async for delta in provider.stream([{"role": "user", "content": "Hello"}])])

asyncio.run(ask())
asyncio.run(ask())
"""
    async with ScriptedProvider(OPENAI.reply("Yes")) as fake:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, fake.url + "/v1"), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, out) == (0, b"['Yes']\n['Yes']\n")
        assert fake.connections == 2
