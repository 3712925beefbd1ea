"""Front ends of the AI SDK (npm `ai`): what `DefaultChatTransport` sends, and the UI message stream, version 1.

The chat is a conversation with the agent, under its id; of its messages only the last of the user counts, since the
room has the others. Who hangs up stops nothing: the stream is there to be resumed, from its first word, as the AI SDK
wants it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Raw, Struct

from tornado_chat.bridges.asking import Asking, Askings, question
from tornado_chat.bridges.callers import Caller, caller, room_of
from tornado_chat.bridges.outlet import pour
from tornado_chat.bridges.telling import Asked, Doing, End, Restart, Step, Text
from tornado_chat.errors import ChatError, ErrorCode
from tornado_chat.web.endpoint import EVENTS_TYPE, Endpoint
from tornado_chat.web.exchange import Exchange
from tornado_chat.web.written import new_id
from tornado_chat.wire.codec import JSON, fault
from tornado_chat.wire.commands import ID_CHARS
from tornado_chat.wire.event_stream import block
from tornado_chat.wire.events import Data

CHAT = "/v1/agents/{agent}/chat"

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}

DONE = block(b"[DONE]")


class _Part(Struct):
    type: str
    text: str = ""


class _Message(Struct):
    role: str
    id: str = ""
    parts: list[_Part] = []


class _Body(Struct):
    """Of a POST; of the messages only one is looked into."""

    id: str
    messages: list[Raw]
    trigger: str = "submit-message"


_body = JSON.decoder(_Body)
_message = JSON.decoder(_Message)


def endpoints(askings: Askings) -> list[Endpoint]:
    async def chat(exchange: Exchange, _: None) -> None:
        await _chat(exchange, askings)

    async def resume(exchange: Exchange, _: None) -> None:
        await _resume(exchange, askings)

    async def stop(exchange: Exchange, _: None) -> None:
        await _stop(exchange, askings)

    answers: dict[int, Any] = {HTTPStatus.OK: dict[str, Any]}
    return [
        Endpoint("POST", CHAT, chat, summary="Ask an agent (AI SDK)", answers=answers, gives=EVENTS_TYPE),
        Endpoint("GET", CHAT + "/{id}/stream", resume, summary="Resume its answer", answers=answers, gives=EVENTS_TYPE),
        Endpoint("POST", CHAT + "/{id}/stop", stop, summary="Stop its answer", answers=answers),
    ]


def _in_path(exchange: Exchange, name: str) -> str:
    try:
        return unquote(exchange.path[name], errors="strict")
    except UnicodeDecodeError:
        raise ChatError(ErrorCode.BAD_REQUEST, f"{name}: must be UTF-8 behind its percent signs") from None


async def _chat(exchange: Exchange, askings: Askings) -> None:
    who, agent = caller(exchange), _in_path(exchange, "agent")
    try:
        body: _Body = _body(exchange.body)
        asked = _last_of_user(body)
    except (ValueError, RecursionError) as error:
        raise ChatError(
            ErrorCode.BAD_REQUEST, f"body: must be what DefaultChatTransport sends: {fault(error)}"
        ) from None
    room = room_of(exchange, who.asker, agent, body.id)
    if any(part.type == "file" for part in asked.parts):
        raise ChatError(ErrorCode.BAD_REQUEST, "parts: agents here read text, not files: leave them out")
    text = "\n\n".join(part.text for part in asked.parts if part.type == "text")
    id = asked.id if 0 < len(asked.id) <= ID_CHARS else hashlib.sha256(asked.id.encode()).hexdigest()
    said = question(room, agent, text, id if asked.id else new_id(), askings.context.settings.text_chars)
    with askings.reserved(who.asker.user):
        (ack,) = await askings.say(who.asker, [said], len(exchange.body))
        asking = None
        if ack.duplicate and ack.seq is not None:
            (before,) = await askings.history(who.asker, room, ack.seq + 1, 1)
            if body.trigger == "regenerate-message" or before.get("text") != text:
                asking = await askings.ask_again(who.asker, agent, room, ack.seq, text, new_id())
        if asking is None:
            asking = await askings.answer_to(who.asker, agent, room, ack)
    await _pour(exchange, who, asking)


def _last_of_user(body: _Body) -> _Message:
    for raw in reversed(body.messages):
        message: _Message = _message(bytes(raw))
        if message.role == "user":
            return message
    raise msgspec.ValidationError("messages: has none whose role is user")


async def _resume(exchange: Exchange, askings: Askings) -> None:
    who, agent = caller(exchange), _in_path(exchange, "agent")
    room = room_of(exchange, who.asker, agent, _in_path(exchange, "id"))
    seq = await askings.last_question(who.asker, agent, room)
    asking = None if seq is None else await askings.find(who.asker, room, seq, agent)
    if asking is None or not askings.is_due(asking.answer):
        exchange.answer(HTTPStatus.NO_CONTENT)
        return
    await _pour(exchange, who, asking)


async def _stop(exchange: Exchange, askings: Askings) -> None:
    who, agent = caller(exchange), _in_path(exchange, "agent")
    room = room_of(exchange, who.asker, agent, _in_path(exchange, "id"))
    stopped = True
    try:
        await askings.stop(who.asker, room, None)
    except ChatError as error:
        if error.code is not ErrorCode.NOT_FOUND:
            raise
        stopped = False
    exchange.answer_object(HTTPStatus.OK, {"room": room, "stopped": stopped}, who.headers)


async def _pour(exchange: Exchange, who: Caller, asking: Asking) -> None:
    await pour(exchange, asking, _blocks(asking), _failed, headers=HEADERS | dict(who.headers))


def _chunk(type: str, **fields: Any) -> bytes:
    return block(JSON.encode({"type": type, **fields}))


def _failed(error: ChatError) -> bytes:
    return _chunk("error", errorText=error.message) + DONE


async def _blocks(asking: Asking) -> AsyncGenerator[bytes, None]:
    metadata = {"room": asking.room, "agent": asking.agent, "seq": asking.question}
    yield _chunk("start", messageId=f"re-{asking.question}-{asking.answer.asked_at}", messageMetadata=metadata)
    parts = _Parts()
    async with aclosing(asking.told()) as told:
        async for one in told:
            match one:
                case Text(text, _):
                    yield parts.text(text)
                case Restart():
                    yield parts.restart()
                case Doing(status):
                    yield _chunk("data-status", data={"text": status}, transient=True)
                case Step(step):
                    yield parts.step(step)
                case Asked(text):
                    yield parts.end() + parts.text(text)
                case End(reason):
                    yield parts.end() + _END[reason] + DONE


_END = {
    "done": _chunk("finish", finishReason="stop"),
    None: _chunk("finish", finishReason="stop"),
    "stopped": _chunk("abort", reason="stopped"),
    "error": _chunk("error", errorText="the agent failed while it answered"),
    "interrupted": _chunk("error", errorText="the agent went away while it answered: ask again"),
}


class _Parts:
    """The parts of the message: texts, and between them the tools that the agent runs."""

    def __init__(self) -> None:
        self._texts = 0
        self._open = False
        self._restarts = 0
        self._steps: set[str] = set()

    def restart(self) -> bytes:
        """What stands before it is void: no part can be taken back."""
        self._restarts += 1
        return self.end() + _chunk("data-restart", data={})

    def text(self, text: str) -> bytes:
        begin = b""
        if not self._open:
            self._open = True
            self._texts += 1
            begin = _chunk("text-start", id=f"{self._texts}")
        return begin + _chunk("text-delta", id=f"{self._texts}", delta=text)

    def end(self) -> bytes:
        if not self._open:
            return b""
        self._open = False
        return _chunk("text-end", id=f"{self._texts}")

    def step(self, step: Data) -> bytes:
        told, tool = b"", f"{self._restarts}.{step['id']}"
        if tool not in self._steps:
            self._steps.add(tool)
            run = {"toolCallId": tool, "toolName": step["name"], "dynamic": True, "providerExecuted": True}
            told = self.end() + _chunk("tool-input-available", input=step.get("input", ""), **run)
        output = step.get("output", "")
        if step["state"] == "done":
            told += _chunk("tool-output-available", toolCallId=tool, output=output, dynamic=True, providerExecuted=True)
        elif step["state"] == "error":
            told += _chunk("tool-output-error", toolCallId=tool, errorText=output, dynamic=True, providerExecuted=True)
        return told
