"""One small interface, and what all who have an SDK do behind it: the rounds of answers and tools."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar

from tornado_chat.agents.providers.answer import Answer, Response, Turn
from tornado_chat.agents.providers.deltas import Delta
from tornado_chat.agents.providers.failures import ProviderError
from tornado_chat.agents.providers.limits import ERROR_BYTES, Limits
from tornado_chat.agents.providers.messages import Messages, checked
from tornado_chat.agents.providers.tools import Tool, no_such_tool

Tools = Sequence[Tool | Callable[..., object]]

NO_KEY = "none"
"""For servers that want none: the SDKs have to send one."""


class Provider(Protocol):
    def stream(self, messages: Messages, tools: Tools = ()) -> AsyncIterator[Delta]:
        """What a model answers to `messages`, as it comes. ProviderError: it ended before its end."""


class _Client(Protocol):
    async def close(self) -> None: ...


_C = TypeVar("_C", bound=_Client)


class SDKProvider(Provider, Generic[_C]):
    """A provider with an SDK. `async with` it, or `aclose` it, where the process goes on without it."""

    def __init__(self, model: str, key: str, limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self._key = key
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: _C | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections that are kept for further requests. A later `stream` opens new ones."""
        client, self._open = self._open, None
        if client is not None:
            await client.close()

    async def stream(self, messages: Messages, tools: Tools = ()) -> AsyncGenerator[Delta, None]:
        """What the model answers to `messages`, as it comes; what it calls of `tools` is run, one after another.

        Cancelling the task that iterates, or `aclose()`, closes the connection to the provider. ProviderError: the
        answer ended before its end. TypeError, ValueError: `tools` or `messages` are none.
        """
        known = _by_name(tools)
        conversation = checked(messages)
        ends = asyncio.get_running_loop().time() + self.limits.whole
        rounds = 0
        while True:
            ask = partial(self._ask, conversation, list(known.values()))
            answer = Answer(ask, self._turn, self._errors(), self.limits, ends)
            try:
                while (text := await answer.more()) is not None:
                    yield text
            except ProviderError as failure:
                if self._key != NO_KEY:
                    failure.hide(self._key)
                raise
            finally:
                await answer.aclose()
            if not answer.turn.calls:
                return
            if rounds == self.limits.rounds:
                raise ProviderError("tools", f"it called tools after {rounds} rounds")
            rounds += 1
            results = []
            for call in answer.turn.calls:
                yield call
                tool = known.get(call.name)
                seconds = min(self.limits.tool, ends - asyncio.get_running_loop().time())
                results.append(no_such_tool(call) if tool is None else await tool.run(call, seconds))
                yield results[-1]
            conversation += answer.turn.exchange(results)

    def _client(self) -> _C:
        """Connections belong to a loop: a provider that was used in one, and is in the next, opens new ones."""
        loop = asyncio.get_running_loop()
        if self._open is None or self._loop not in (loop, None):
            self._open = self._connect()
        self._loop = loop
        return self._open

    @abstractmethod
    def _connect(self) -> _C:
        """A client that does not try again by itself, and has no limit of time but that of connecting.

        It follows no redirection: httpx2 would take Anthropic's header with the key along to another server.

        The first one is made with the provider: that takes a tenth of a second, which no loop should stand still for.
        """

    @abstractmethod
    def _ask(self, conversation: list[dict[str, Any]], tools: list[Tool]) -> AbstractAsyncContextManager[Response]:
        """Sends the request. `conversation` has OpenAI's form, and what `exchange` of a turn added."""

    @abstractmethod
    def _turn(self) -> Turn: ...

    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """What the SDK raises of its own, and its HTTP client."""


def _by_name(tools: Tools) -> dict[str, Tool]:
    known: dict[str, Tool] = {}
    for each in tools:
        tool = each if isinstance(each, Tool) else Tool(each)
        if known.setdefault(tool.name, tool) is not tool:
            raise TypeError(f"two tools have the name {tool.name}")
    return known


def short_errors() -> Callable[[Any], Awaitable[None]]:
    """A hook of the HTTP client, for its responses: of one that is an error ERROR_BYTES are read."""
    from httpx2 import AsyncByteStream

    class Short(AsyncByteStream):
        def __init__(self, whole: AsyncByteStream) -> None:
            self._whole = whole

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = ERROR_BYTES
            async for part in self._whole:
                yield part[:left]
                left -= len(part)
                if left <= 0:
                    return

        async def aclose(self) -> None:
            await self._whole.aclose()

    async def shorten(response: Any) -> None:
        if response.is_error and isinstance(response.stream, AsyncByteStream):
            response.stream = Short(response.stream)

    return shorten


def missing(extra: str) -> ImportError:
    return ImportError(f"the package {extra} is not installed: pip install 'tornado_chat[{extra}]'")


def key_of(provider: str, given: str | None, base_url: str | None) -> str:
    """The key that is sent: `given`, or that of the environment, which belongs to the provider itself.

    A server at another `base_url` is not shown the environment's key, unless the environment names that server too.
    """
    variables = f"{provider.upper()}_API_KEY", f"{provider.upper()}_BASE_URL"
    key = given if given is not None or base_url else os.environ.get(variables[0])
    key = (key or "").strip()
    if not key and (base_url or os.environ.get(variables[1])):
        return NO_KEY
    if not key:
        raise ValueError(f"no key: set {variables[0]}, or give api_key (or the base_url of a server that needs none)")
    # An HTTP library would show the whole key in its complaint.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the api_key has characters that no key has")
    return key
