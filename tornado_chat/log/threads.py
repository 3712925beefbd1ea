"""Threads that own a blocking resource each, and a bounded queue into them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from tornado_chat.errors import LogUnavailable

logger = logging.getLogger(__name__)


class Resource(Protocol):
    def interrupt(self) -> None:
        """Make a running call fail soon; called from another thread."""

    def close(self) -> None: ...


R = TypeVar("R")
P = ParamSpec("P")
ResourceT = TypeVar("ResourceT", bound=Resource)
Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Threads(Generic[ResourceT]):
    """`threads` threads that take calls out of one queue, first come first served.

    Each thread makes a resource of its own with `make` and is the only one that uses it. `limit` calls may wait at
    most, each for `timeout` seconds; one that nobody waits for any more when its turn comes is not begun.
    """

    def __init__(self, name: str, make: Callable[[], ResourceT], *, threads: int, limit: int, timeout: float) -> None:
        self.name = name
        self._make = make
        self._count = threads
        self._limit = limit
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._under_way: dict[asyncio.Future[Any], float] = {}  # calls that no thread has finished, and since when
        self._closed = False
        self._resources: list[ResourceT] = []
        self._threads: list[Thread] = []
        self._ended: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Start the threads one after the other; raises what `make` raises, with no thread left behind."""
        for number in range(self._count):
            made: asyncio.Future[None] = self._loop.create_future()
            ended: asyncio.Future[None] = self._loop.create_future()
            thread = Thread(target=self._run, args=(made, ended), name=f"log-{self.name}-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
            self._ended.append(ended)
            try:
                await made
            except BaseException:
                await self.close()
                raise

    async def call(self, method: Callable[Concatenate[ResourceT, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `method(resource, *args, **kwargs)`; LogUnavailable if there is none in time."""
        if self._closed:
            raise LogUnavailable("the log is closed")
        if len(self._under_way) >= self._limit:
            raise LogUnavailable(f"{len(self._under_way)} calls wait for the log's {self.name} already")
        future: asyncio.Future[R] = self._loop.create_future()
        self._under_way[future] = self._loop.time()
        timer = self._loop.call_later(self._timeout, self._expire, future)
        self._jobs.put((future, method, args, kwargs))
        try:
            return await future
        finally:
            timer.cancel()

    def delay(self) -> float:
        """Seconds for which the oldest call that is not finished has been under way; 0.0 if there is none."""
        now = self._loop.time()
        return now - next(iter(self._under_way.values()), now)

    async def close(self) -> None:
        """Finish the calls that wait, then end the threads; past the time limit what runs is interrupted."""
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)
        running = [future for future in self._ended if not future.done()]
        if running:
            await asyncio.wait(running, timeout=self._timeout)
        if not all(future.done() for future in running):
            for resource in self._resources:
                resource.interrupt()
            await asyncio.wait(running, timeout=1)
        for thread, ended in zip(self._threads, self._ended, strict=True):
            if ended.done():
                thread.join()
            else:
                logger.error("the log's thread %s does not end; leaving it behind", thread.name)

    def _expire(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            future.set_exception(LogUnavailable(f"no answer from the log's {self.name} within {self._timeout:g} s"))

    def _run(self, made: asyncio.Future[None], ended: asyncio.Future[None]) -> None:
        try:
            resource = self._make()
        except BaseException as error:
            self._post(self._settle, made, None, error)
            self._post(self._settle, ended, None, None)
            return
        self._resources.append(resource)
        self._post(self._settle, made, None, None)
        while (job := self._jobs.get()) is not None:
            future, method, args, kwargs = job
            result: Any = None
            failure: BaseException | None = None
            if not future.done():
                try:
                    result = method(resource, *args, **kwargs)
                except BaseException as error:
                    failure = error
            self._post(self._finish, future, result, failure)
            del job, future, method, args, kwargs, result, failure
        try:
            resource.close()
        except Exception:
            logger.exception("the log's %s did not close cleanly", self.name)
        self._post(self._settle, ended, None, None)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            logger.error("the event loop was closed before the log was")

    def _finish(self, future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
        del self._under_way[future]
        self._settle(future, result, failure)

    @staticmethod
    def _settle(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
        if future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)
