"""For those who run the server: does it live, is it ready, and its metrics."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from prometheus_client import CONTENT_TYPE_LATEST

from tornado_chat.metrics import Metrics
from tornado_chat.web.refusals import Handler


class HealthHandler(Handler):
    """`/healthz`: the process runs and its loop turns."""

    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(b'{"status":"ok"}')

    head = get


class ReadyHandler(Handler):
    """`/readyz`: 200, or 503 with the names of the failing checks; in either case what is away, but not needed."""

    def initialize(self, failing: Callable[[], list[str]], degraded: Callable[[], list[str]]) -> None:
        self.failing = failing
        self.degraded = degraded

    def get(self) -> None:
        failing = self.failing()
        self.set_status(503 if failing else 200)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        status = "unavailable" if failing else "ok"
        self.finish(orjson.dumps({"status": status, "failing": failing, "degraded": self.degraded()}))

    head = get


class MetricsHandler(Handler):
    """`/metrics`: Prometheus' text format, of all workers; 503 if their parent does not answer in time."""

    def initialize(self, metrics: Metrics) -> None:
        self.metrics = metrics

    async def get(self) -> None:
        try:
            text = await self.metrics.text()
        except TimeoutError:
            self.set_status(503)
            self.set_header("Content-Type", "text/plain")
            self.finish("the process that watches the workers does not answer\n")
        else:
            self.set_header("Content-Type", CONTENT_TYPE_LATEST)
            self.finish(text)

    head = get
