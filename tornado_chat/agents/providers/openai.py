"""OpenAI, and whatever speaks its Chat Completions: Ollama, vLLM, llama.cpp, Google's compatible endpoint."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, cast

import msgspec

from tornado_chat.agents.providers.answer import Response
from tornado_chat.agents.providers.deltas import ToolCall, ToolResult
from tornado_chat.agents.providers.failures import ProviderError, told
from tornado_chat.agents.providers.limits import CALLS, Limits
from tornado_chat.agents.providers.provider import SDKProvider, key_of, missing, short_errors
from tornado_chat.agents.providers.tools import Tool

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class OpenAI(SDKProvider["AsyncOpenAI"]):
    """A model behind the Chat Completions API. Needs the extra `openai`.

    `api_key`: by default OPENAI_API_KEY, which no other `base_url` is shown. `base_url`: such as
    `http://127.0.0.1:11434/v1`. `parameters`: further fields of each request, such as `{"temperature": 0.2}`.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        try:
            import openai.resources.chat  # noqa: F401  (now, since it takes its time: not with the first request)
        except ImportError as error:
            raise missing("openai") from error
        super().__init__(model, key_of("openai", api_key, base_url), limits or Limits())
        self._base_url = base_url
        self._parameters = dict(parameters or {})
        self._open = self._connect()

    def _connect(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

        return AsyncOpenAI(
            api_key=self._key,
            base_url=self._base_url,
            max_retries=0,
            timeout=Timeout(None, connect=self.limits.connect),
            http_client=DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [short_errors()]}),
        )

    def _errors(self) -> tuple[type[Exception], ...]:
        from httpx2 import HTTPError
        from openai import OpenAIError

        return OpenAIError, HTTPError

    def _turn(self) -> OpenAITurn:
        return OpenAITurn()

    def _ask(self, conversation: list[dict[str, Any]], tools: list[Tool]) -> AbstractAsyncContextManager[Response]:
        body = dict(self._parameters)
        if tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
                }
                for tool in tools
            ]
        return self._client().chat.completions.with_streaming_response.create(
            model=self.model, messages=cast("Any", conversation), stream=True, extra_body=body
        )


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: Any = None
    object: str | None = None
    message: Any = None
    code: Any = None


class _Open:
    """A call that is being told."""

    __slots__ = ("arguments", "extra", "id", "index", "name")

    def __init__(self, index: int | None, id: str | None) -> None:
        self.index = index
        self.id = id
        self.name = ""
        self.arguments: list[str] = []
        self.extra: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)


class OpenAITurn:
    """Chunks without choices (usage, Azure's first one) and deltas without content bring nothing. `[DONE]` is the end.

    Google leaves the `index` of calls out, ends them with `stop`, and wants its `extra_content` back, or answers 400.
    """

    __slots__ = ("_open", "_reason", "_said", "calls", "ended")

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self.ended = False
        self._open: list[_Open] = []
        self._reason = ""
        self._said: list[str] = []

    def feed(self, data: bytes) -> str:
        if data.strip() == b"[DONE]":
            self._end()
            return ""
        chunk = _DECODER.decode(data)
        if chunk.error:
            raise told(chunk.error)
        if chunk.object == "error":  # vLLM before 0.10
            raise told({"message": chunk.message, "code": chunk.code})
        text = ""
        for choice in chunk.choices or ():
            if choice.index:
                continue  # another one than the first was not asked for
            self._reason = choice.finish_reason or self._reason
            if choice.delta is not None:
                text += (choice.delta.content or "") + (choice.delta.refusal or "")
                for call in choice.delta.tool_calls or ():
                    self._call(call)
        self._said.append(text)
        return text

    def _call(self, piece: _Call) -> None:
        if piece.index is not None:
            known = next((call for call in reversed(self._open) if call.index == piece.index), None)
        else:
            known = self._open[-1] if self._open else None
        # Some number all calls with 0, or none: a new id is then a new call.
        if known is None or (piece.id and known.id and piece.id != known.id):
            if len(self._open) == CALLS:
                raise ProviderError("tools", f"more than {CALLS} calls in one answer")
            known = _Open(piece.index, piece.id)
            self._open.append(known)
        known.id = known.id or piece.id
        known.extra = piece.extra_content or known.extra
        if piece.function is not None:
            known.name = known.name or piece.function.name or ""
            given = piece.function.arguments or ""
            known.arguments.append(given if isinstance(given, str) else msgspec.json.encode(given).decode())

    def _end(self) -> None:
        if self._reason == "length":
            raise ProviderError("length", "finish_reason 'length'")
        if self._reason == "content_filter":
            raise ProviderError("declined", "finish_reason 'content_filter'")
        for call in self._open:
            call.id = call.id or f"call_{uuid.uuid4().hex}"
            self.calls.append(ToolCall(call.id, call.name, "".join(call.arguments)))
        self.ended = True

    def exchange(self, results: list[ToolResult]) -> list[dict[str, Any]]:
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
                **({"extra_content": told.extra} if told.extra else {}),
            }
            for call, told in zip(self.calls, self._open, strict=True)
        ]
        return [
            {"role": "assistant", "content": "".join(self._said) or None, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": result.id, "content": result.content} for result in results),
        ]
