"""The thread in which clients without asyncio live: one for the process, with one loop, while there are any of them.

It is there from the first one's opening to the last one's end, and ends in good order with the interpreter. A process
that was forked has none of its parent's: its own begin with the next client that is opened there.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tornado_chat.client.ends import Closed

T = TypeVar("T")

END_SECONDS = 3.0
"""For all clients to close their connections, when the interpreter ends."""


class Background:
    """A thread and its loop. `join` and `leave` say who lives there."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._at_exit = False
        self.users: dict[object, Callable[[], Awaitable[None]]] = {}  # how each is closed
        self._loop: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._over: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="tornado-chat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self._over = asyncio.Event()
        self._loop.set_result(asyncio.get_running_loop())
        await self._over.wait()
        await asyncio.gather(*(close() for close in list(self.users.values())), return_exceptions=True)

    @property
    def is_ours(self) -> bool:
        """It is of this process, and not of the one that this was forked from."""
        return self.pid == os.getpid()

    @property
    def is_here(self) -> bool:
        """The caller runs in it."""
        return threading.current_thread() is self._thread

    def call(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """What `work` returns or raises, there; it has a limit of its own, which is less than `seconds`.

        It is cancelled when this is left by an exception of the caller's thread, such as KeyboardInterrupt.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop.result())
        except RuntimeError:  # the loop is closed
            work.close()
            raise Closed("the client was closed") from None
        try:
            return future.result(seconds)
        except concurrent.futures.CancelledError:
            raise Closed("the client was closed") from None
        finally:
            future.cancel()
            if self._at_exit:  # only threads are here that end with the interpreter, and need not say so
                time.sleep(END_SECONDS)

    def tell(self, call: Callable[[], object]) -> None:
        """Let it be called there; nothing, if nothing is any more."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.result().call_soon_threadsafe(call)

    def end(self, *, wait: bool, at_exit: bool = False) -> None:
        self._at_exit = at_exit
        self.tell(self._over.set)
        if wait:
            self._thread.join(END_SECONDS)


_lock = threading.Lock()
_present: Background | None = None
_inherited: list[Background] = []
"""Of the process that this was forked from: never collected, since their sockets are that one's."""


def enter(user: object, close: Callable[[], Awaitable[None]]) -> Background:
    """The thread, which is there until `user` leaves; `close` is called in it if the interpreter ends before."""
    global _present
    with _lock:
        if _present is None:
            _present = Background()
        _present.users[user] = close
        return _present


def leave(user: object, background: Background, *, wait: bool) -> None:
    """The last one ends it, and may wait until it has ended."""
    global _present
    with _lock:
        if background.users.pop(user, None) is None or background.users:
            return
        if _present is background:
            _present = None
    background.end(wait=wait)


def _end_with_the_interpreter() -> None:
    global _present
    with _lock:
        background, _present = _present, None
    if background is not None:
        background.end(wait=True, at_exit=True)


def _forget_the_parents() -> None:
    global _lock, _present
    _lock = threading.Lock()
    if _present is not None:
        _inherited.append(_present)
        _present = None


atexit.register(_end_with_the_interpreter)
os.register_at_fork(after_in_child=_forget_the_parents)
