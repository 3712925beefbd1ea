"""`/v1/responses`, as clients of OpenAI's API ask: a response is an answer, and its id tells the room and the question.

So nothing is kept for one, and any process tells of it. An event's `sequence_number` says how much of the text there
is: END characters stand before it as END * 4096, and 12 bits of their CRC-32 besides. So the numbers are the same
however the text was cut, and `starting_after` goes on where it was, or finds that the text is another one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct

from tornado_chat.bridges.answer import Answer
from tornado_chat.bridges.asking import Asker, Asking, Askings
from tornado_chat.bridges.callers import agent_of, room_of, whole
from tornado_chat.bridges.openai_form import (
    INTERRUPTED,
    RESTARTED,
    Said,
    asker_of,
    bad,
    conversation,
    decoded,
    decoder,
    in_form,
    refuse_tools,
)
from tornado_chat.bridges.outlet import pour
from tornado_chat.bridges.telling import Asked, End, Mark, Restart, Text, crc_of
from tornado_chat.errors import ChatError, ErrorCode, Reason
from tornado_chat.web.endpoint import Endpoint, key_of
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.written import new_id
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.commands import ROOM_PATTERN, Cursor, Delete, Flag
from tornado_chat.wire.events import Data

RESPONSES = "/v1/responses"

PREFIX = "resp_"

_QUESTION, _ROOM = re.compile("[1-9][0-9]{0,17}"), re.compile(ROOM_PATTERN)

BITS = 12
MASK = (1 << BITS) - 1


class _Body(Struct):
    input: str | list[Said]
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = False
    background: bool | None = False
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = None
    tools: list[Raw] | None = None


_body = decoder(_Body)

ResponseId = Annotated[str, Meta(description="the id of a response")]


class OneResponse(Struct, kw_only=True):
    """Which, and from where on it is to be streamed."""

    id: ResponseId
    stream: Flag = False
    starting_after: Cursor | None = None


class Cancelled(Struct):
    """Which."""

    id: ResponseId


def endpoints(askings: Askings) -> list[Endpoint]:
    async def create(exchange: Exchange, _: None) -> None:
        await _create(exchange, askings)

    async def retrieve(exchange: Exchange, asked: OneResponse) -> None:
        await _retrieve(exchange, askings, asked)

    async def cancel(exchange: Exchange, asked: Cancelled) -> None:
        await _cancel(exchange, askings, asked.id)

    answers: dict[int, Any] = {HTTPStatus.OK: dict[str, Any]}
    one = RESPONSES + "/{id}"
    return [
        Endpoint("POST", RESPONSES, in_form(create), summary="Ask an agent (OpenAI)", answers=answers),
        Endpoint("GET", one, in_form(retrieve), summary="An answer (OpenAI)", asks=OneResponse, answers=answers),
        Endpoint("POST", one + "/cancel", in_form(cancel), summary="Stop it (OpenAI)", asks=Cancelled, answers=answers),
    ]


def response_id(room: str, question: int) -> str:
    return PREFIX + base64.urlsafe_b64encode(f"{question}.{room}".encode()).decode().rstrip("=")


def named_by(id: str) -> tuple[str, int]:
    """The room and the question of a response; ChatError (not_found)."""
    text = id.removeprefix(PREFIX)
    try:
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError):
        found = ""
    question, _, room = found.partition(".")
    if (
        id[: len(PREFIX)] != PREFIX
        or not (question.isascii() and question.isdigit() and len(question) < 19)
        or not room
    ):
        raise ChatError(ErrorCode.NOT_FOUND, f"there is no response {id[:100]!r}")
    return room, int(question)


async def _create(exchange: Exchange, askings: Askings) -> None:
    asker = asker_of(exchange)
    body: _Body = decoded(exchange, _body)
    refuse_tools(body.tools)
    said = [Said("user", body.input)] if isinstance(body.input, str) else body.input
    if any(one.type != "message" for one in said):
        raise bad("input: only messages are taken: an agent runs its tools by itself")
    if body.instructions:
        said = [Said("system", body.instructions), *said]
    agent = agent_of(askings.context.settings, body.model)
    key = key_of(exchange.headers)
    id, prefix = "q", ""
    if body.previous_response_id is not None:
        room, _ = named_by(body.previous_response_id)
    elif "room" in (body.metadata or {}):
        room = (body.metadata or {})["room"]
    else:
        room = ""
    if room:
        id = key or new_id()
        prefix = hashlib.sha256(id.encode()).hexdigest()[:32] + "-"
    else:
        room = room_of(exchange, asker, agent, key or new_id())
    before, text = conversation(said, room, askings.context.settings.text_chars, prefix)
    asking = await askings.ask(asker, agent, room, text, id, before)
    response = _Response(asking, body.previous_response_id, body.metadata, background=bool(body.background))
    if body.stream:
        await pour(exchange, asking, _events(response, None), response.failed)
    elif body.background:
        exchange.answer_object(HTTPStatus.OK, response.object(response.status()))
    else:
        found = await whole(exchange, askings, asking)
        if found is not None:
            exchange.answer_object(HTTPStatus.OK, response.ended(found.text, found.reason))


async def _find(exchange: Exchange, askings: Askings, id: str) -> tuple[Asker, Asking]:
    asker = asker_of(exchange)
    room, question = named_by(id)
    return asker, await askings.find(asker, room, question)


async def _retrieve(exchange: Exchange, askings: Askings, asked: OneResponse) -> None:
    _, asking = await _find(exchange, askings, asked.id)
    response = _Response(asking)
    if asked.stream:
        await pour(exchange, asking, _events(response, asked.starting_after), response.failed)
    else:
        exchange.answer_object(HTTPStatus.OK, await _as_it_is(askings, response))


async def _cancel(exchange: Exchange, askings: Askings, id: str) -> None:
    """It has ended when this is answered; one that has not begun is not begun any more, since its question is gone."""
    asker, asking = await _find(exchange, askings, id)
    answer, room = asking.answer, asking.room
    if answer.grows:
        await askings.stop(asker, room, answer.seq)
        _, asking = await _find(exchange, askings, id)
    elif not answer.over:
        await askings.say(asker, [Delete(id=new_id(), room=room, seq=answer.question)], 0)
        answer.withdrawn = True
    exchange.answer_object(HTTPStatus.OK, await _as_it_is(askings, _Response(asking)))


async def _as_it_is(askings: Askings, response: _Response) -> Data:
    answer, text = response.asking.answer, response.asking.answer.text
    if answer.grows:
        text = (await askings.context.growing.fetch(response.asking.room, answer.seq, 0, None)).text
        return response.object("in_progress", [response.item("in_progress", text)])
    if answer.over:
        return response.ended(text, _reason(answer))
    if not askings.is_due(answer):
        return response.ended(text, "interrupted")
    return response.object("queued")


def _reason(answer: Answer) -> Reason | None:
    return answer.reason or ("stopped" if answer.withdrawn else None)


async def _events(response: _Response, starting_after: int | None) -> AsyncGenerator[bytes, None]:
    asking, mark = response.asking, None
    after = -1 if starting_after is None else starting_after
    place, low = after >> BITS, after & MASK
    if place < 1:
        for number, told in enumerate(response.head()):
            if number > after:
                yield _block(told, number)
    elif asking.answer.over and place == len(asking.answer.text) + 1:
        for last in list(response.tail(asking.answer.text, _reason(asking.answer)))[low + 1 :]:
            yield last
        return
    else:
        mark = Mark(place, low, MASK)
    async with aclosing(asking.told(mark)) as news:
        async for one in news:
            match one:
                case Text(text, offset):
                    yield response.delta(text, offset, mark)
                case Asked(text):
                    response.asked = ("\n\n" if response.length else "") + text
                    yield response.delta(response.asked, response.length, None)
                case Restart():
                    raise RESTARTED
                case End(reason):
                    for last in response.tail(asking.answer.text + response.asked, reason):
                        yield last


def _block(told: Data, number: int) -> bytes:
    data = JSON.encode({**told, "sequence_number": number})
    return b"event: %b\ndata: %b\n\n" % (told["type"].encode(), data)


class _Response:
    """How one is told."""

    def __init__(
        self,
        asking: Asking,
        previous: str | None = None,
        metadata: dict[str, str] | None = None,
        *,
        background: bool = False,
    ) -> None:
        self.asking = asking
        self.id = response_id(asking.room, asking.question)
        self.length = 0
        self.asked = ""
        self._crc = 0
        self._number = 3
        self._item = {"item_id": f"msg_{self.id.removeprefix(PREFIX)}", "output_index": 0}
        self._common: Data = {
            "object": "response",
            "created_at": asking.answer.ts // 1000,
            "model": asking.agent,
            "background": background,
            "instructions": None,
            "metadata": {**(metadata or {}), "room": asking.room},
            "parallel_tool_calls": False,
            "previous_response_id": previous,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "usage": None,
        }

    def status(self) -> str:
        return "in_progress" if self.asking.answer.grows else "queued"

    def object(self, status: str, output: list[Data] | None = None, error: Data | None = None) -> Data:
        told = {"id": self.id, **self._common, "status": status, "output": output or []}
        return {**told, "error": error, "incomplete_details": None}

    def item(self, status: str, text: str | None) -> Data:
        content = [] if text is None else [_part(text)]
        told = {"id": self._item["item_id"], "type": "message", "role": "assistant"}
        return {**told, "status": status, "content": content}

    def ended(self, text: str, reason: Reason | None) -> Data:
        """The response of which this is all; `reason` None: it waits for another message."""
        status = {"done": "completed", None: "completed", "stopped": "cancelled"}.get(reason, "failed")
        error = None
        if status == "failed":
            message = INTERRUPTED.message if reason == "interrupted" else "the agent failed while it answered"
            error = {"code": "server_error", "message": message}
        state = "completed" if status == "completed" else "incomplete"
        return self.object(status, [self.item(state, text)], error)

    def head(self) -> Iterator[Data]:
        begun = self.object("in_progress")
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        yield {"type": "response.output_item.added", "output_index": 0, "item": self.item("in_progress", None)}
        yield {"type": "response.content_part.added", **self._item, "content_index": 0, "part": _part("")}

    def delta(self, text: str, offset: int, mark: Mark | None) -> bytes:
        if mark is not None and not self.length:
            self.length, self._crc = offset, crc_of(self.asking.answer.text[:offset])
        self.length = offset + len(text)
        self._crc = crc_of(text, self._crc)
        self._number = self.length << BITS | self._crc & MASK
        told = {"type": "response.output_text.delta", **self._item, "content_index": 0, "delta": text, "logprobs": []}
        return _block(told, self._number)

    def tail(self, text: str, reason: Reason | None) -> Iterator[bytes]:
        ended = self.ended(text, reason)
        kind = {"completed": "completed", "failed": "failed"}.get(ended["status"], "incomplete")
        told = (
            {"type": "response.output_text.done", **self._item, "content_index": 0, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **self._item, "content_index": 0, "part": _part(text)},
            {"type": "response.output_item.done", "output_index": 0, "item": ended["output"][0]},
            {"type": f"response.{kind}", "response": ended},
        )
        for number, one in enumerate(told):
            yield _block(one, len(text) + 1 << BITS | number)

    def failed(self, error: ChatError) -> bytes:
        told = {"type": "error", "code": str(error.code), "message": error.message, "param": None}
        return _block(told, self._number)


def _part(text: str) -> Data:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
