"""One request to a provider, until the last event of its answer."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any, Protocol, TypeVar

from tornado_chat.agents.providers.deltas import ToolCall, ToolResult
from tornado_chat.agents.providers.failures import PASSING, Kind, ProviderError, refused
from tornado_chat.agents.providers.limits import ANSWER_BYTES, CLOSE_SECONDS, DRAIN_SECONDS, EVENT_BYTES, Limits
from tornado_chat.client.sse import Parser

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Turn(Protocol):
    """What the model says in one answer, out of its events. No I/O. ProviderError: it says that it failed."""

    calls: list[ToolCall]
    """Whole when it has ended."""
    ended: bool
    """Its last event has come."""

    def feed(self, data: bytes) -> str:
        """The data of one event. Gives the text that it brings, often none."""

    def exchange(self, results: list[ToolResult]) -> list[dict[str, Any]]:
        """What was said and what its calls gave, as messages for the next request."""


class Response(Protocol):
    """Of either SDK."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def iter_bytes(self) -> AsyncIterator[bytes]: ...


class Answer:
    """`more` gives the text piece by piece; `turn` is all of it. `aclose` has to be called, and closes the connection.

    The SDKs send the request and tell what its status means. The stream is read here: their own reading takes a stream
    that breaks off for one that ended (OpenAI's), and has no bound for an event.

    Until the model has said a word, what fails is tried again: also what fails after the status 200, which the SDKs
    themselves do not try again. After that, never.
    """

    __slots__ = (
        "_ask",
        "_attempt",
        "_bytes",
        "_chunks",
        "_close",
        "_ends",
        "_errors",
        "_events",
        "_first",
        "_limits",
        "_make_turn",
        "_over",
        "_parser",
        "_said",
        "_type",
        "turn",
    )

    def __init__(
        self,
        ask: Callable[[], AbstractAsyncContextManager[Response]],
        turn: Callable[[], Turn],
        errors: tuple[type[Exception], ...],
        limits: Limits,
        ends: float,
    ) -> None:
        """`errors`: what the SDK raises. `ends`: when it has to be over, by the loop's clock."""
        self._ask = ask
        self._make_turn = turn
        self._errors = errors
        self._limits = limits
        self._ends = ends
        self._first = asyncio.get_running_loop().time() + limits.first
        self._attempt = 1
        self._said = False
        self._begin()

    def _begin(self) -> None:
        self.turn = self._make_turn()
        self._close = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] | None = None
        self._parser = Parser(EVENT_BYTES)
        self._events: Iterator[tuple[str, bytes]] = iter(())
        self._bytes = 0
        self._over = False
        self._type = ""

    async def aclose(self) -> None:
        with suppress(TimeoutError, *self._errors):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._close.aclose()

    async def more(self) -> str | None:
        """The next piece of the text; None after the last event."""
        while True:
            try:
                return await self._more()
            except ProviderError as failure:
                pause = self._pause(failure)
                if pause is None:
                    raise
                logger.info("attempt %d failed, the next one in %.1f s: %s", self._attempt, pause, failure.kind)
            await self.aclose()
            await asyncio.sleep(pause)
            self._attempt += 1
            self._begin()

    def _pause(self, failure: ProviderError) -> float | None:
        """Seconds until the next attempt, None: there is none."""
        if self._said or failure.kind not in PASSING or self._attempt >= self._limits.attempts:
            return None
        pause = failure.retry_after
        if pause is None:
            pause = min(0.5 * 2 ** (self._attempt - 1), 8.0) * random.uniform(0.75, 1.0)
        return pause if asyncio.get_running_loop().time() + pause < min(self._first, self._ends) else None

    async def _more(self) -> str | None:
        if self._chunks is None:
            await self._open()
        while True:
            try:
                for _, data in self._events:
                    if text := self.turn.feed(data):
                        self._said = True
                        return text
                    if self.turn.ended:
                        await self._drain()
                        return None
            except ValueError as error:
                raise ProviderError("cut" if self._over else "malformed", f"an event is none: {error}") from None
            self._events = self._parser.feed(await self._read())

    async def _open(self) -> None:
        try:
            response = await self._within(self._first, self._close.enter_async_context(self._ask()))
        except self._errors as error:
            status = getattr(error, "status_code", None)
            if isinstance(status, int):
                headers = getattr(getattr(error, "response", None), "headers", {})
                raise refused(status, getattr(error, "body", None) or str(error), headers) from None
            raise ProviderError("unreachable", _told(error)) from None
        self._type = response.headers.get("content-type", "")
        self._chunks = response.iter_bytes()

    async def _read(self) -> bytes:
        assert self._chunks is not None
        by = asyncio.get_running_loop().time() + self._limits.silent if self._bytes else self._first
        try:
            chunk = await self._within(by, anext(self._chunks))
        except StopAsyncIteration:
            if not self._over:
                self._over = True
                return b"\n\n"  # some leave the empty line behind their last event out
            came = f"{self._bytes:,} bytes of type {self._type!r}"
            kind: Kind = "cut" if "event-stream" in self._type else "malformed"
            raise ProviderError(kind, f"the stream ended without its last event, after {came}") from None
        except self._errors as error:
            raise ProviderError("cut", f"after {self._bytes:,} bytes: {_told(error)}") from None
        self._bytes += len(chunk)
        if self._bytes > ANSWER_BYTES:
            raise ProviderError("malformed", f"an answer of more than {ANSWER_BYTES:,} bytes")
        return chunk

    async def _within(self, by: float, work: Awaitable[_T]) -> _T:
        by = min(by, self._ends)
        try:
            async with asyncio.timeout_at(by) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            which = "whole" if by == self._ends else "silent" if self._bytes else "first"
            raise ProviderError("silent", f"beyond the limit {which!r} = {getattr(self._limits, which):g} s") from None

    async def _drain(self) -> None:
        """Reads the end of the HTTP message, so that the connection is kept for the next request."""
        assert self._chunks is not None
        with suppress(TimeoutError, *self._errors):
            async with asyncio.timeout(DRAIN_SECONDS):
                async for _ in self._chunks:
                    pass


def _told(error: Exception) -> str:
    cause = error.__cause__
    return f"{type(error).__name__}: {error}" + (f" ({type(cause).__name__}: {cause})" if cause else "")
