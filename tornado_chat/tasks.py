"""The tasks that run beside the callbacks: each has an owner that hears of its failure and ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""For a cancelled task to end, which takes the time that it needs to close something."""


class Tasks:
    """The tasks of one owner. A failure is logged with its traceback; `stop` leaves none running."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Coroutine[object, object, None], *, name: str | None = None) -> asyncio.Task[None]:
        """Begin `work` on the running loop."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task failed", exc_info=error)

    async def stop(self) -> None:
        """Cancel what still runs, and wait until it has ended; what has not after STOP_SECONDS is cancelled again."""
        while self._running:  # what is cancelled may spawn in its turn
            tasks = list(self._running)
            for task in tasks:
                task.cancel()
            _, stubborn = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in stubborn:  # a library may take the cancellation for something else
                logger.warning("task goes on although it was cancelled name=%s task=%r", task.get_name(), task)

    async def finished(self) -> None:
        """Wait until nothing runs any more."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
