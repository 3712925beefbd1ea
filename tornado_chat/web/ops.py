"""For those who run the server: does it live, is it ready, and its metrics."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from tornado.web import RequestHandler

from tornado_chat.metrics import Metrics


class HealthHandler(RequestHandler):
    """`/healthz`: the process runs and its loop turns."""

    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(b'{"status":"ok"}')

    head = get


class ReadyHandler(RequestHandler):
    """`/readyz`: 200, or 503 with the names of the failing checks."""

    def initialize(self, failing: Callable[[], list[str]]) -> None:
        self.failing = failing

    def get(self) -> None:
        failing = self.failing()
        self.set_status(503 if failing else 200)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(orjson.dumps({"status": "unavailable" if failing else "ok", "failing": failing, "degraded": []}))

    head = get


class MetricsHandler(RequestHandler):
    """`/metrics`: Prometheus' text format."""

    def initialize(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(self.metrics.text())
