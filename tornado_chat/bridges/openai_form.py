"""What the addresses of OpenAI's API have in common: how errors are told, and what is said before a question."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from tornado_chat.bridges.asking import Asker
from tornado_chat.bridges.callers import caller
from tornado_chat.errors import ChatError, ErrorCode, LogUnavailable
from tornado_chat.web.exchange import WRONG, Exchange
from tornado_chat.web.refusals import terms
from tornado_chat.wire.codec import JSON, fault
from tornado_chat.wire.commands import Send, read
from tornado_chat.wire.event_stream import block
from tornado_chat.wire.events import Data

MESSAGES = 200
"""Said before a question, in one request."""

BODY_BYTES = 512 * 1024
"""Of a request: what is in it is decoded as a whole."""

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

TOKEN_BYTES = 3
"""Of UTF-8, that are taken for a token, since nobody here knows the model's."""

_TYPES = {
    ErrorCode.UNAUTHORIZED: "authentication_error",
    ErrorCode.FORBIDDEN: "permission_error",
    ErrorCode.NOT_FOUND: "not_found_error",
    ErrorCode.RATE_LIMITED: "rate_limit_error",
    ErrorCode.OVERLOADED: "server_error",
    ErrorCode.UNAVAILABLE: "server_error",
}

RESTARTED = ChatError(
    ErrorCode.CONFLICT,
    "the agent was replaced by another, and says something else from here: what was given is void, ask for all of it",
)
"""No form of OpenAI's can take back what was streamed."""

INTERRUPTED = ChatError(ErrorCode.UNAVAILABLE, "the agent went away while it answered, and nobody took over: ask again")


class Part(Struct):
    """Of a content."""

    type: str
    text: str = ""


class Said(Struct):
    """A message of a request."""

    role: str = ""
    content: str | list[Part] | None = None
    type: str = "message"


def text_of(said: Said) -> str:
    content = said.content
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if not part.type.endswith("text"):
            raise bad(f"messages: agents here read text, not {part.type[:40]!r}")
    return "\n".join(part.text for part in content)


def bad(message: str) -> ChatError:
    return ChatError(ErrorCode.BAD_REQUEST, message)


def conversation(messages: list[Said], room: str, text_chars: int, prefix: str = "") -> tuple[list[Send], str]:
    """What is said before the question, as the asker's messages that tell their `meta.role`, and the question.

    Their ids begin with `prefix`. ChatError (bad_request).
    """
    if not messages or messages[-1].role != "user":
        raise bad("messages: the last one has to be the user's, which is the question")
    if len(messages) > MESSAGES:
        raise bad(f"messages: {MESSAGES} at most are taken; speak into one room (metadata.room), which keeps them")
    before: list[Send] = []
    for said in messages[:-1]:
        role = ROLES.get(said.role)
        if role is None:
            raise bad(f"messages: the role {said.role[:40]!r} is not known here; give {', '.join(ROLES)}")
        text = text_of(said)
        for start in range(0, len(text), text_chars):
            asked = {
                "room": room,
                "id": f"{prefix}m{len(before) + 1}",
                "text": text[start : start + text_chars],
                "meta": {"role": role},
                "mark": False,
            }
            before.append(read(asked, Send, text_chars))
    return before, text_of(messages[-1])


def decoded(exchange: Exchange, decode: Callable[[bytes], Any]) -> Any:
    """The body; ChatError (bad_request, too_large)."""
    if len(exchange.body) > BODY_BYTES:
        raise ChatError(ErrorCode.TOO_LARGE, f"the body has {BODY_BYTES:,} bytes at most here")
    try:
        return decode(exchange.body)
    except (ValueError, RecursionError) as error:
        raise bad(f"body: {fault(error)}") from None


def refuse_tools(tools: list[Raw] | None) -> None:
    if tools:
        raise bad("tools: an agent has its own; leave them out")


def asker_of(exchange: Exchange) -> Asker:
    """Who has brought a token; ChatError."""
    return caller(exchange, guests=False).asker


def in_form(
    call: Callable[[Exchange, Any], Coroutine[Any, Any, None]],
) -> Callable[[Exchange, Any], Coroutine[Any, Any, None]]:
    """`call`, with what it raises told in OpenAI's form."""

    async def called(exchange: Exchange, asked: Any) -> None:
        try:
            await call(exchange, asked)
        except ChatError as error:
            if error.code in WRONG:
                exchange.owe_body()
            refuse(exchange, error)
        except (LogUnavailable, TimeoutError) as error:
            exchange.gate.context.log_warning.warning("log unavailable reason=%s", error)
            refuse(exchange, ChatError(ErrorCode.UNAVAILABLE, "the log did not answer: try again", 1.0))

    return called


def refuse(exchange: Exchange, error: ChatError) -> None:
    status, headers, _ = terms(exchange.gate.context.hub.metrics, error)
    if error.code is ErrorCode.UNAVAILABLE:
        headers["x-should-retry"] = "false"  # its client would ask again, under another id
    exchange.answer_object(status, error_of(error), headers)


def error_of(error: ChatError) -> Data:
    type = _TYPES.get(error.code, "invalid_request_error")
    return {"error": {"message": error.message, "type": type, "param": None, "code": str(error.code)}}


def event(data: Any) -> bytes:
    return block(JSON.encode(data))


def tokens_of(texts: Iterable[str]) -> int:
    """About so many."""
    return sum(-(-len(text.encode()) // TOKEN_BYTES) for text in texts)


def decoder(type: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(type, float_hook=float).decode
