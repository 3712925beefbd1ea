"""How a handler is run, whatever it is: what it returns or yields comes out, piece by piece.

A coroutine function or an asynchronous generator runs on the loop: a stop cancels it where it waits. Any other function
runs in a thread of its own, which nothing can end from outside: a stop closes a generator at its next `yield`, and what
a plain function returns after one is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError
from contextlib import aclosing
from typing import Any, Literal

Handler = Callable[..., Any]

_Told = tuple[Literal["piece", "result", "error"], Any]


def runs_on_the_loop(handler: Handler) -> bool:
    """Else it runs in a thread."""
    call = getattr(handler, "__call__", None)  # noqa: B004 - of an object that is called like a function
    return any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in (handler, call))


async def pieces(handler: Handler, threads: Threads, user: str, *arguments: Any) -> AsyncGenerator[object, None]:
    """What `handler` says for `user`, called with `arguments`. To be closed with `aclosing`, which ends the handler."""
    if runs_on_the_loop(handler):
        made = handler(*arguments)
        result = await made if inspect.isawaitable(made) else made
    else:
        result = threads.run(handler, user, *arguments)
    async with aclosing(_said(result)) as said:
        async for piece in said:
            yield piece


async def _said(result: Any) -> AsyncGenerator[object, None]:
    """The pieces in what a handler gave: nothing, one, or several by and by."""
    if hasattr(result, "__aiter__"):
        try:
            async for piece in result:
                yield piece
        finally:
            close = getattr(result, "aclose", None)
            if close is not None:
                await close()
    elif result is not None:
        yield result


def text_of(piece: object) -> str:
    """A piece is a text, or has it as `text`; None says nothing."""
    text = piece if isinstance(piece, str) else getattr(piece, "text", None) if piece is not None else ""
    if not isinstance(text, str):
        raise TypeError(f"a handler returns or yields str, or what has a `text`; this one gave {type(piece).__name__}")
    return text


class Threads:
    """The threads in which handlers run; `alive` counts those that have not ended, stopped or not, by user."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """`on_end` is called, on the loop, when one of them has ended."""
        self.alive: Counter[str] = Counter()
        self._on_end = on_end

    async def run(self, handler: Handler, user: str, *arguments: Any) -> AsyncGenerator[object, None]:
        """What `handler` says for `user`, in a thread of its own."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[_Told] = asyncio.Queue(1)
        stopped = threading.Event()

        def ended() -> None:
            self.alive[user] -= 1
            if not self.alive[user]:
                del self.alive[user]
            self._on_end()

        def work() -> None:
            try:
                _work(handler, arguments, loop, told, stopped)
            finally:
                _call(loop, ended)

        self.alive[user] += 1
        threading.Thread(target=work, name="agent handler", daemon=True).start()
        try:
            while True:
                kind, value = await told.get()
                if kind == "error":
                    raise value
                if kind == "result":
                    if inspect.isawaitable(value):
                        value = await value
                    async with aclosing(_said(value)) as said:
                        async for piece in said:
                            yield piece
                    return
                yield value
        finally:
            stopped.set()
            while not told.empty():  # it may wait for room
                told.get_nowait()


def _work(
    handler: Handler,
    arguments: tuple[Any, ...],
    loop: asyncio.AbstractEventLoop,
    told: asyncio.Queue[_Told],
    stopped: threading.Event,
) -> None:
    """In the thread."""

    def tell(kind: Literal["piece", "result", "error"], value: Any) -> bool:
        """Wait until the loop has room for it; False if nobody takes it any more."""
        putting = _put(told, (kind, value), stopped)
        try:
            asyncio.run_coroutine_threadsafe(putting, loop).result()
        except (RuntimeError, CancelledError):  # the loop has ended
            putting.close()
            stopped.set()
        return not stopped.is_set()

    try:
        result = handler(*arguments)
        if inspect.isgenerator(result):
            made, result = result, None
            try:
                for piece in made:
                    if not tell("piece", piece):
                        break
            finally:
                made.close()
        tell("result", result)
    except BaseException as error:
        # What its calls of the context raise when it is stopped: nobody is there to hear it.
        tell("error", RuntimeError("it was stopped") if isinstance(error, CancelledError) else error)


async def _put(told: asyncio.Queue[_Told], what: _Told, stopped: threading.Event) -> None:
    if not stopped.is_set():
        await told.put(what)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(callback)
