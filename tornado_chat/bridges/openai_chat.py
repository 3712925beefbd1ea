"""`POST /v1/chat/completions` and `GET /v1/models`, as clients of OpenAI's API ask: the model is an agent's user id.

A request without `metadata.room` is a conversation of its own, in a room of its own; one with it speaks into that room,
of whose past the request need not tell. Such a client can say that an answer is not wanted any more by hanging up only.
So that stops the answer, but where an Idempotency-Key lets it come back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from msgspec import Raw, Struct

from tornado_chat.bridges.asking import Asking, Askings
from tornado_chat.bridges.callers import agents_of, room_of, whole
from tornado_chat.bridges.openai_form import (
    INTERRUPTED,
    RESTARTED,
    Said,
    asker_of,
    bad,
    conversation,
    decoded,
    decoder,
    error_of,
    event,
    in_form,
    refuse,
    refuse_tools,
    text_of,
    tokens_of,
)
from tornado_chat.bridges.outlet import pour
from tornado_chat.bridges.telling import Asked, End, Restart, Text
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.web.endpoint import Endpoint, key_of
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.written import new_id
from tornado_chat.wire.event_stream import block
from tornado_chat.wire.events import Data

DONE = block(b"[DONE]")


class _StreamOptions(Struct):
    include_usage: bool = False


class _Body(Struct):
    model: str
    messages: list[Said]
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    metadata: dict[str, str] | None = None
    n: int | None = 1
    tools: list[Raw] | None = None


_body = decoder(_Body)


def endpoints(askings: Askings) -> list[Endpoint]:
    async def chat(exchange: Exchange, _: None) -> None:
        await _chat(exchange, askings)

    async def models(exchange: Exchange, _: None) -> None:
        asker_of(exchange)
        known = agents_of(askings.context.settings)
        told = [{"id": agent, "object": "model", "created": 0, "owned_by": "tornado_chat"} for agent in known]
        exchange.answer_object(HTTPStatus.OK, {"object": "list", "data": told})

    answers: dict[int, Any] = {HTTPStatus.OK: dict[str, Any]}
    return [
        Endpoint("POST", "/v1/chat/completions", in_form(chat), summary="Ask an agent (OpenAI)", answers=answers),
        Endpoint("GET", "/v1/models", in_form(models), summary="The agents (OpenAI)", answers=answers),
    ]


async def _chat(exchange: Exchange, askings: Askings) -> None:
    asker = asker_of(exchange)
    body: _Body = decoded(exchange, _body)
    refuse_tools(body.tools)
    if body.n not in (None, 1):
        raise bad("n: an agent gives one answer")
    key = key_of(exchange.headers)
    named = (body.metadata or {}).get("room")
    room = named or room_of(exchange, asker, body.model, key or new_id())
    text_chars = askings.context.settings.text_chars
    before, text = conversation(body.messages, room, text_chars)
    if named is None:
        asking = await askings.ask(asker, body.model, room, text, "q", before)
    else:
        asking = await askings.ask(asker, body.model, room, text, key or new_id())
    prompt = tokens_of(map(text_of, body.messages))
    completion = _Completion(asking, prompt)
    context = askings.context
    try:
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            gone = await pour(exchange, asking, _blocks(completion, usage), _failed)
        else:
            gone = await _answer(exchange, askings, completion)
    except ChatError as error:
        if not context.draining:
            raise
        refuse(exchange, error)
        gone = True
    # Who is sent away since this process ends asks again, as a question of its own: nobody comes back to this one.
    if key is None and (gone or (context.draining and not asking.answer.over)):
        await askings.give_up(asking)


async def _answer(exchange: Exchange, askings: Askings, completion: _Completion) -> bool:
    """Whether the client has gone before."""
    found = await whole(exchange, askings, completion.asking)
    if found is None:
        return True
    if found.reason == "error":
        raise ChatError(ErrorCode.UNAVAILABLE, f"the agent failed: {found.text}")
    if found.reason == "interrupted":
        raise INTERRUPTED
    message = {"role": "assistant", "content": found.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    told = completion.object("chat.completion", [choice]) | {"usage": completion.usage(found.text)}
    exchange.answer_object(HTTPStatus.OK, told)
    return False


def _failed(error: ChatError) -> bytes:
    return event(error_of(error))


async def _blocks(completion: _Completion, usage: bool) -> AsyncGenerator[bytes, None]:
    yield completion.chunk({"role": "assistant", "content": ""})
    given = ""
    async with aclosing(completion.asking.told()) as told:
        async for one in told:
            match one:
                case Text(text, _):
                    given += text
                    yield completion.chunk({"content": text})
                case Asked(text):
                    yield completion.chunk({"content": ("\n\n" if given else "") + text})
                case Restart():
                    raise RESTARTED
                case End("interrupted"):
                    raise INTERRUPTED
                case End("error"):
                    raise ChatError(ErrorCode.UNAVAILABLE, "the agent failed while it answered")
                case End():
                    yield completion.chunk({}, "stop")
    if usage:
        yield event(completion.object("chat.completion.chunk", []) | {"usage": completion.usage(given)})
    yield DONE


class _Completion:
    """How one is told; `room` is where people find it."""

    def __init__(self, asking: Asking, prompt_tokens: int) -> None:
        self.asking = asking
        self._prompt_tokens = prompt_tokens
        self._id = f"chatcmpl-{asking.room}.{asking.question}"

    def object(self, kind: str, choices: list[Data]) -> Data:
        asking = self.asking
        told = {"id": self._id, "object": kind, "created": asking.answer.ts // 1000, "model": asking.agent}
        return {**told, "choices": choices, "room": asking.room}

    def chunk(self, delta: Data, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return event(self.object("chat.completion.chunk", [choice]))

    def usage(self, text: str) -> Data:
        prompt, completion = self._prompt_tokens, tokens_of([text])
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
