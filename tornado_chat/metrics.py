"""What Prometheus may ask: plain integers while the server runs, families only when somebody scrapes.

Hot code adds to the attributes of a `Metrics`; `Metrics.families` turns them into families, so that a message costs
an integer addition and a scrape pays for the rest. One `Metrics` belongs to one server: two can run in one process.

Several workers are scraped as one: each reports its `counts` and `levels` to the parent, whoever is scraped asks the
parent for all of them, and shows the sums.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypedDict

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from tornado_chat.errors import CloseCode
from tornado_chat.wire.frames import ABNORMAL, NO_STATUS

LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

CLOSES = frozenset({*CloseCode, 1001, NO_STATUS, ABNORMAL})
"""Close codes that are counted by number: those of this server, and those of a client that leaves. A client may make up
2,000 others."""

PREFIX = "tornado_chat_"
HISTOGRAM = "histogram"


class Histogram:
    """Counts in buckets of the upper bounds `bounds`; one `observe` is a bisection and two additions."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def samples(self) -> dict[str, float]:
        """The count of each bucket by its upper bound, not cumulated, and the sum of what was observed."""
        bounds = (*map(str, self.bounds), "+Inf")
        return {**dict(zip(bounds, self.counts, strict=True)), "sum": self.sum}


Counts = dict[str, dict[str, float]]
"""What only grows: family -> sample -> value. A sample is the label's value ("": the family has no label), or as
`Histogram.samples` names it."""

Levels = dict[str, float]
"""What comes and goes: gauge -> value."""


class WorkerReport(TypedDict):
    """One worker, as its parent knows it: `counts` with those of the processes that had this place before."""

    worker: int
    started: float
    """Unix seconds, of the process that has the place now."""
    restarts: int
    counts: Counts
    levels: Levels


def add(total: Counts, counts: Counts) -> None:
    """Add `counts` to `total`."""
    for family, samples in counts.items():
        sums = total.setdefault(family, {})
        for sample, value in samples.items():
            sums[sample] = sums.get(sample, 0) + value


class Family:
    """A family of what only grows, with its present samples; `label`: the name of its label, "histogram", or ""."""

    __slots__ = ("help", "label", "name", "samples")

    def __init__(self, name: str, help: str, samples: dict[str, float], label: str = "") -> None:
        self.name = name
        self.help = help
        self.samples = samples
        self.label = label

    def metric(self, samples: dict[str, float]) -> Metric:
        """The Prometheus form of `samples`, be they ours or sums."""
        if self.label == HISTOGRAM:
            buckets = [(bound, samples.get(bound, 0.0)) for bound in self.samples if bound != "sum"]
            counts = accumulate(count for _, count in buckets)
            cumulated = [(bound, float(count)) for (bound, _), count in zip(buckets, counts, strict=True)]
            return HistogramMetricFamily(PREFIX + self.name, self.help, buckets=cumulated, sum_value=samples["sum"])
        if not self.label:
            return CounterMetricFamily(PREFIX + self.name, self.help, value=samples[""])
        family = CounterMetricFamily(PREFIX + self.name, self.help, labels=[self.label])
        for value, times in samples.items():
            family.add_metric([value], times)
        return family


class Metrics:
    """The counters of one server. Gauges are functions, asked when somebody scrapes."""

    __slots__ = (
        "batch_size",
        "broker",
        "bytes_in",
        "bytes_out",
        "catch_ups",
        "closes",
        "commit_seconds",
        "deliveries",
        "delivery_seconds",
        "errors",
        "events",
        "frames_deferred",
        "gauges",
        "handshakes",
        "holes",
        "lag_seconds",
        "log_reads",
        "messages_in",
        "refusals",
        "scrape",
        "signals_dropped",
        "started",
        "throttles",
        "writes",
    )

    def __init__(self) -> None:
        self.events = 0
        self.deliveries = 0
        self.writes = 0
        self.bytes_out = 0
        self.frames_deferred = 0
        self.signals_dropped = 0
        self.catch_ups = 0
        self.handshakes = 0
        self.holes = 0
        self.throttles = 0
        self.bytes_in: Callable[[], int] = int
        self.messages_in: Callable[[], int] = int
        self.log_reads: Callable[[], int] = int
        self.broker: Callable[[], dict[str, int]] = dict
        self.errors: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.refusals: Counter[int] = Counter()
        self.commit_seconds = Histogram(LATENCY_BUCKETS)
        self.delivery_seconds = Histogram(LATENCY_BUCKETS)
        self.lag_seconds = Histogram(LATENCY_BUCKETS)
        self.batch_size = Histogram(BATCH_BUCKETS)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.started = time.time()
        self.scrape: Callable[[], Coroutine[object, object, list[WorkerReport]]] = self._alone

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A gauge; the sum over all workers is what is shown."""
        self.gauges[name] = help, value

    def families(self) -> Iterator[Family]:
        for name, help, value in (
            ("events", "Events committed to the log.", self.events),
            ("deliveries", "Events written to members and in answers to polls, each counted.", self.deliveries),
            ("writes", "Writes to members and polls: deliveries for each are events in one.", self.writes),
            ("received_bytes", "Bytes read from WebSockets and streams.", self.bytes_in()),
            ("received_messages", "Messages read from WebSockets.", self.messages_in()),
            ("sent_bytes", "Bytes of room traffic handed to WebSockets, streams and polls.", self.bytes_out),
            ("frames_deferred", "Batches not written to a member because its outbox was full.", self.frames_deferred),
            ("signals_dropped", "Signals that a room dropped because too many waited.", self.signals_dropped),
            ("catch_ups", "Times that a member fell behind or joined behind the head.", self.catch_ups),
            ("handshakes", "WebSockets and streams begun.", self.handshakes),
            ("log_reads", "Pages of events read from the log.", self.log_reads()),
            ("holes", "Times that a room fetched from the log what it was not told of.", self.holes),
            ("throttles", "Times that a client was not read until the bytes it had sent were paid.", self.throttles),
        ):
            yield Family(name, help, {"": value})
        labelled: tuple[tuple[str, str, str, Mapping[str, int] | Mapping[int, int]], ...] = (
            ("broker_messages", "Messages between processes, by what became of them.", "outcome", self.broker()),
            ("errors", "Errors sent to clients, by code.", "code", self.errors),
            ("closes", "Connections ended, by close code.", "code", self._closes()),
            ("refusals", "Requests refused, by HTTP status.", "status", self.refusals),
        )
        for name, help, label, counts in labelled:
            # str(): a member of a StrEnum is not what JSON gives back.
            yield Family(name, help, {str(key): times for key, times in counts.items()}, label)
        for name, help, histogram in (
            ("commit_seconds", "Time of one commit to the log.", self.commit_seconds),
            ("commit_batch_size", "Events in one commit.", self.batch_size),
            (
                "delivery_seconds",
                "From an event's submission to the log to its last write to a live member.",
                self.delivery_seconds,
            ),
            ("event_loop_lag_seconds", "How late the event loop ran a timer.", self.lag_seconds),
        ):
            yield Family(name, help, histogram.samples(), HISTOGRAM)

    def _closes(self) -> Counter[str]:
        named: Counter[str] = Counter()
        for code, times in self.closes.items():
            named[str(int(code)) if code in CLOSES else "other"] += times
        return named

    def counts(self) -> Counts:
        return {family.name: family.samples for family in self.families()}

    def levels(self) -> Levels:
        return {name: value() for name, (_, value) in self.gauges.items()}

    async def _alone(self) -> list[WorkerReport]:
        return [WorkerReport(worker=1, started=self.started, restarts=0, counts=self.counts(), levels=self.levels())]

    async def text(self) -> bytes:
        """The exposition format, for `/metrics`: of all workers. TimeoutError if the parent does not answer."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Exposition(self, await self.scrape()))
        return generate_latest(registry)


class _Exposition:
    """What one scrape shows, as prometheus_client asks for it."""

    def __init__(self, metrics: Metrics, workers: list[WorkerReport]) -> None:
        self.metrics = metrics
        self.workers = workers

    def collect(self) -> Iterator[Metric]:
        total: Counts = {}
        for worker in self.workers:
            add(total, worker["counts"])
        for family in self.metrics.families():
            # A worker that was not heard of yet has no counts, nor has one of an older version all of these.
            yield family.metric(total.get(family.name) or dict.fromkeys(family.samples, 0.0))
        for name, (help, _) in self.metrics.gauges.items():
            yield GaugeMetricFamily(PREFIX + name, help, value=sum(w["levels"].get(name, 0.0) for w in self.workers))
        yield self._by_worker(
            GaugeMetricFamily,
            "connections",
            "WebSockets and streams open.",
            (w["levels"].get("connections", 0.0) for w in self.workers),
        )
        for name, help in (
            ("events", "Events committed to the log."),
            ("deliveries", "Events written to members and in answers to polls, each counted."),
        ):
            yield self._by_worker(
                CounterMetricFamily, name, help, (w["counts"].get(name, {}).get("", 0.0) for w in self.workers)
            )
        yield self._by_worker(
            GaugeMetricFamily,
            "start_time_seconds",
            "When the process started, in Unix seconds.",
            (w["started"] for w in self.workers),
        )
        yield self._by_worker(
            CounterMetricFamily,
            "restarts",
            "Times that the worker was started again after it had ended.",
            (w["restarts"] for w in self.workers),
        )

    def _by_worker(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        help: str,
        values: Iterable[float],
    ) -> Metric:
        family = kind(f"{PREFIX}worker_{name}", help, labels=["worker"])
        for worker, value in zip(self.workers, values, strict=True):
            family.add_metric([str(worker["worker"])], value)
        return family
