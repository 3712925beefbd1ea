"""What the rooms of this process share: the loop, the log, the broker, and the bounds for all of them together."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from tornado_chat.broker import Broker
from tornado_chat.live.fanout import Direct
from tornado_chat.live.limits import TokenBucket
from tornado_chat.live.ring import Budget
from tornado_chat.live.turns import Turns
from tornado_chat.log import Log
from tornado_chat.logs import Repeated
from tornado_chat.metrics import Metrics
from tornado_chat.tasks import Tasks

BATCH_BYTES = 64 * 1024
"""About this much of a room is written to one member at once, and never more than half the high-water mark."""

PAGE_READS = 8
"""Pages of the log that are on their way or held for members, over all rooms: bounds their memory."""

SIGNALS_A_SECOND = 200_000
"""Deliveries of signals (typing, read) in all rooms together; further ones are dropped: they may be lost."""


class Shared:
    """Made once by the hub, given to each room. `ring_bytes` bounds the recent events of all rooms."""

    __slots__ = (
        "batch_bytes",
        "broker",
        "budget",
        "direct",
        "high_water_mark",
        "log",
        "loop",
        "metrics",
        "page_reads",
        "page_warning",
        "signals",
        "tasks",
        "turns",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        log: Log,
        broker: Broker,
        metrics: Metrics,
        direct: Direct,
        *,
        high_water_mark: int,
        ring_bytes: int,
    ) -> None:
        self.loop = loop
        self.log = log
        self.broker = broker
        self.metrics = metrics
        self.direct = direct
        self.tasks = Tasks()
        self.turns = Turns(loop)
        self.high_water_mark = high_water_mark
        self.batch_bytes = min(BATCH_BYTES, high_water_mark // 2)
        self.budget = Budget(ring_bytes)
        self.signals = TokenBucket(SIGNALS_A_SECOND, SIGNALS_A_SECOND, monotonic())
        self.page_reads = asyncio.Semaphore(PAGE_READS)
        self.page_warning = Repeated(logging.getLogger("tornado_chat.live.catching_up"))
