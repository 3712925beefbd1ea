"""What Prometheus may ask: plain integers while the server runs, families only when somebody scrapes.

Hot code adds to the attributes of a `Metrics`; `Metrics.collect` turns them into families, so that a message costs
an integer addition and a scrape pays for the rest. One `Metrics` belongs to one server: two can run in one process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

LATENCY_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

PREFIX = "tornado_chat_"


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

    def family(self, name: str, help: str) -> HistogramMetricFamily:
        """The Prometheus form: cumulative counts, the last bucket without a bound."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return HistogramMetricFamily(name, help, buckets=buckets, sum_value=self.sum)


class Metrics:
    """The counters of one server. Gauges are functions, asked when somebody scrapes."""

    __slots__ = (
        "batch_size",
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
        "lag_seconds",
        "log_reads",
        "messages_in",
        "refusals",
        "registry",
        "signals_dropped",
    )

    def __init__(self) -> None:
        self.events = 0
        self.deliveries = 0
        self.bytes_out = 0
        self.frames_deferred = 0
        self.signals_dropped = 0
        self.catch_ups = 0
        self.handshakes = 0
        self.bytes_in: Callable[[], int] = int
        self.messages_in: Callable[[], int] = int
        self.log_reads: Callable[[], int] = int
        self.errors: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.refusals: Counter[int] = Counter()
        self.commit_seconds = Histogram(LATENCY_BUCKETS)
        self.delivery_seconds = Histogram(LATENCY_BUCKETS)
        self.lag_seconds = Histogram(LATENCY_BUCKETS)
        self.batch_size = Histogram(BATCH_BUCKETS)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        self.gauges[name] = help, value

    def collect(self) -> Iterator[Metric]:
        for name, help, value in (
            ("events", "Events committed to the log.", self.events),
            ("deliveries", "Events written to members, each member counted.", self.deliveries),
            ("received_bytes", "Bytes read from WebSocket connections.", self.bytes_in()),
            ("received_messages", "Messages read from WebSocket connections.", self.messages_in()),
            ("sent_bytes", "Bytes of room traffic handed to WebSocket connections.", self.bytes_out),
            ("frames_deferred", "Batches not written to a member because its outbox was full.", self.frames_deferred),
            ("signals_dropped", "Signals that a room dropped because too many waited.", self.signals_dropped),
            ("catch_ups", "Times that a member fell behind or joined behind the head.", self.catch_ups),
            ("handshakes", "WebSocket handshakes accepted.", self.handshakes),
            ("log_reads", "Pages of events read from the log.", self.log_reads()),
        ):
            yield CounterMetricFamily(PREFIX + name, help, value=value)
        labelled: tuple[tuple[str, str, str, Counter[str] | Counter[int]], ...] = (
            ("errors", "Errors sent to clients, by code.", "code", self.errors),
            ("closes", "Connections ended, by close code.", "code", self.closes),
            ("refusals", "Handshakes refused, by HTTP status.", "status", self.refusals),
        )
        for name, help, label, counts in labelled:
            family = CounterMetricFamily(PREFIX + name, help, labels=[label])
            for key, times in counts.items():
                family.add_metric([str(key)], times)
            yield family
        for name, (help, gauge) in self.gauges.items():
            yield GaugeMetricFamily(PREFIX + name, help, value=gauge())
        yield self.commit_seconds.family(PREFIX + "commit_seconds", "Time of one commit to the log.")
        yield self.batch_size.family(PREFIX + "commit_batch_size", "Events in one commit.")
        yield self.delivery_seconds.family(
            PREFIX + "delivery_seconds", "From an event's submission to the log to its last write to a live member."
        )
        yield self.lag_seconds.family(PREFIX + "event_loop_lag_seconds", "How late the event loop ran a timer.")

    def text(self) -> bytes:
        """The exposition format, for `/metrics`."""
        return generate_latest(self.registry)
