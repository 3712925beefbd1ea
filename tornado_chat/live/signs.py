"""Which of the other processes live, by their signs of life: versions, which only grow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tornado_chat.broker import LAPSE_SECONDS, Broker

FORGET_SECONDS = 3600.0
"""A process that gave no sign for so long is forgotten: no record of it is left that a copied sign could revive."""


class Sign:
    """The last sign of one process."""

    __slots__ = ("alive", "seen", "version")

    def __init__(self) -> None:
        self.version = 0
        self.seen = 0.0  # when the version was last a new one, by the loop's time
        self.alive = False


class Signs:
    """The other processes, by their uid. What a process says of its rooms counts as a sign, too."""

    def __init__(self, loop: asyncio.AbstractEventLoop, broker: Broker, uid: str) -> None:
        """`uid` is that of this process."""
        self._loop = loop
        self._broker = broker
        self._uid = uid
        self._signs: dict[str, Sign] = {}
        self._dead: dict[str, float] = {}  # known to have ended, and when, whatever signs are left of them

    def is_alive(self, worker: str) -> bool:
        sign = self._signs.get(worker)
        return sign is not None and sign.alive and worker not in self._dead

    def hear(self, worker: str, version: int) -> bool:
        """Take `version` for a sign if it is a new one; whether `worker` lives."""
        sign = self._signs.get(worker)
        if sign is None:
            sign = self._signs[worker] = Sign()
        if version > sign.version:
            sign.version, sign.seen, sign.alive = version, self._loop.time(), True
        return sign.alive and worker not in self._dead

    def on_died(self, worker: str) -> None:
        self._dead[worker] = self._loop.time()

    async def meet(self, workers: Iterable[str]) -> None:
        """Learn which of `workers` live, where that is not known."""
        unknown = [worker for worker in workers if worker != self._uid and not self.is_alive(worker)]
        if unknown:
            for worker, version in (await self._broker.signs(unknown) or {}).items():
                self.hear(worker, version)

    async def look(self, missing_for: float, silent_for: float) -> list[str]:
        """Those who lived and do not any more.

        They gave no new sign for `silent_for` seconds; or the broker has no sign of them, and the last one is
        `missing_for` seconds old: it may have been lost with a Redis, and will be given anew.
        """
        living = [worker for worker, sign in self._signs.items() if sign.alive]
        signs = await self._broker.signs(living) if living else None
        now = self._loop.time()
        lapsed = []
        for worker in living:
            if signs is not None and worker in signs:
                self.hear(worker, signs[worker])
            sign = self._signs[worker]
            is_missing = signs is not None and worker not in signs
            if now - sign.seen > (missing_for if is_missing else silent_for):
                sign.alive = False
                lapsed.append(worker)
        self._signs = {worker: sign for worker, sign in self._signs.items() if now - sign.seen < FORGET_SECONDS}
        self._dead = {worker: died for worker, died in self._dead.items() if now - died < 2 * LAPSE_SECONDS}
        return lapsed
