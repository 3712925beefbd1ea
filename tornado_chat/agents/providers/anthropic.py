"""Anthropic's Messages API."""

from __future__ import annotations

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
    from anthropic import AsyncAnthropic


class Anthropic(SDKProvider["AsyncAnthropic"]):
    """A model behind the Messages API. Needs the extra `anthropic`.

    `max_tokens`: the longest answer, which this API wants to be told. `api_key`: by default ANTHROPIC_API_KEY, which no
    other `base_url` is shown. `parameters`: further fields of each request, such as `{"thinking": {...}}`.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        max_tokens: int = 8192,
        parameters: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        try:
            import anthropic.resources.messages  # noqa: F401  (now, since it takes its time: not with the first request)
        except ImportError as error:
            raise missing("anthropic") from error
        super().__init__(model, key_of("anthropic", api_key, base_url), limits or Limits())
        self._base_url = base_url
        self._max_tokens = max_tokens
        self._parameters = dict(parameters or {})
        self._open = self._connect()

    def _connect(self) -> AsyncAnthropic:
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient, Timeout

        return AsyncAnthropic(
            api_key=self._key,
            base_url=self._base_url,
            max_retries=0,
            timeout=Timeout(None, connect=self.limits.connect),
            http_client=DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [short_errors()]}),
        )

    def _errors(self) -> tuple[type[Exception], ...]:
        from anthropic import AnthropicError
        from httpx2 import HTTPError

        return AnthropicError, HTTPError

    def _turn(self) -> AnthropicTurn:
        return AnthropicTurn()

    def _ask(self, conversation: list[dict[str, Any]], tools: list[Tool]) -> AbstractAsyncContextManager[Response]:
        system, messages = _as_messages(conversation)
        body = dict(self._parameters)
        if system:
            body["system"] = system
        if tools:
            body["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": tool.parameters} for tool in tools
            ]
        return self._client().messages.with_streaming_response.create(
            model=self.model,
            max_tokens=self._max_tokens,
            messages=cast("Any", messages),
            stream=True,
            extra_body=body,
        )


def _as_messages(conversation: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The system's text, and the others. What a turn added has this API's form already."""
    system = "\n\n".join(message["content"] for message in conversation if message["role"] == "system")
    found: list[dict[str, Any]] = []
    for message in conversation:
        role, content = message["role"], message["content"]
        if role == "system" or (role == "assistant" and not found):
            continue  # the first one has to be a user's: a history may begin in the middle
        if role == "tool":
            role, content = (
                "user",
                [{"type": "tool_result", "tool_use_id": message.get("tool_call_id", ""), "content": content}],
            )
        elif "tool_calls" in message:
            said = [{"type": "text", "text": content}] if content.strip() else []
            content = [*said, *(_as_tool_use(call) for call in message["tool_calls"])]
        # The results of one turn's calls stand in one message.
        if found and isinstance(content, list) and found[-1]["role"] == role and isinstance(found[-1]["content"], list):
            found[-1] = {"role": role, "content": found[-1]["content"] + content}
        else:
            found.append({"role": role, "content": content})
    return system, found


def _as_tool_use(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {
        "type": "tool_use",
        "id": call["id"],
        "name": function["name"],
        "input": _as_object(function["arguments"]),
    }


def _as_object(arguments: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}  # what was wrong is in its result


class _Event(msgspec.Struct):
    type: str = ""
    index: int | None = None
    content_block: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Event)

# Where a block has what its deltas bring.
_GROWS = {
    "text_delta": "text",
    "input_json_delta": "partial_json",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}

# What a request may hold of a block that an answer brought.
_KEPT = {
    "text": ("type", "text"),
    "tool_use": ("type", "id", "name", "input"),
    "thinking": ("type", "thinking", "signature"),
    "redacted_thinking": ("type", "data"),
}


class _Block:
    __slots__ = ("grown", "start")

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.grown: dict[str, list[str]] = {}

    def whole(self) -> dict[str, Any]:
        block = dict(self.start)
        for field, pieces in self.grown.items():
            text = "".join(pieces)
            if field == "partial_json":
                block["input"] = _as_object(text or "{}")
            else:
                block[field] = (block.get(field) or "") + text
        kept = _KEPT.get(block.get("type", ""))
        return {field: block[field] for field in kept if field in block} if kept else block


class AnthropicTurn:
    """`message_stop` is the end. Pings, and events and deltas that are not known here, bring nothing.

    What it thought goes back with the results of its tools, as the API wants it.
    """

    __slots__ = ("_blocks", "_reason", "calls", "ended")

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self.ended = False
        self._blocks: dict[int, _Block] = {}
        self._reason = ""

    def feed(self, data: bytes) -> str:
        event = _DECODER.decode(data)
        delta = event.delta or {}
        match event.type:
            case "error":
                raise told(event.error)
            case "content_block_start" if event.content_block is not None and event.index is not None:
                if len(self._blocks) >= 4 * CALLS:
                    raise ProviderError("tools", f"more than {4 * CALLS} blocks in one answer")
                self._blocks[event.index] = _Block(event.content_block)
                return _text(event.content_block, "text") if event.content_block.get("type") == "text" else ""
            case "content_block_delta" if event.index in self._blocks:
                kind = str(delta.get("type"))
                if kind in _GROWS:
                    text = _text(delta, _GROWS[kind])
                    self._blocks[event.index].grown.setdefault(_GROWS[kind], []).append(text)
                    return text if kind == "text_delta" else ""
            case "message_delta":
                self._reason = str(delta.get("stop_reason") or self._reason)
            case "message_stop":
                self._end()
        return ""

    def _end(self) -> None:
        if self._reason in ("max_tokens", "model_context_window_exceeded"):
            raise ProviderError("length", f"stop_reason {self._reason!r}")
        if self._reason == "refusal":
            raise ProviderError("declined", "stop_reason 'refusal'")
        uses = [block for block in self._blocks.values() if block.start.get("type") == "tool_use"]
        if len(uses) > CALLS:
            raise ProviderError("tools", f"more than {CALLS} calls in one answer")
        for block in uses:
            arguments = "".join(block.grown.get("partial_json", ()))
            if not arguments:  # some give it whole, at the start
                arguments = msgspec.json.encode(block.start.get("input") or {}).decode()
            self.calls.append(ToolCall(str(block.start.get("id")), str(block.start.get("name")), arguments))
        self.ended = True

    def exchange(self, results: list[ToolResult]) -> list[dict[str, Any]]:
        said = [block.whole() for block in self._blocks.values()]
        # A text of nothing is refused.
        said = [block for block in said if block.get("type") != "text" or block["text"].strip()]
        gave = [
            {"type": "tool_result", "tool_use_id": result.id, "content": result.content, "is_error": result.error}
            for result in results
        ]
        return [{"role": "assistant", "content": said}, {"role": "user", "content": gave}]


def _text(of: dict[str, Any], field: str) -> str:
    found = of.get(field)
    return found if isinstance(found, str) else ""
