"""One scrape tells of all workers, and what was counted is never forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.chat import running
from tests.support.raw_chat import RawChat, get
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import DIED, Talk, samples, wait_for, wait_for_new_worker
from tornado_chat.metrics import Histogram, Metrics, WorkerReport, add

TWO = (*UNLIMITED, "--workers", "2")


def report(worker: int, metrics: Metrics) -> WorkerReport:
    return WorkerReport(
        worker=worker, started=100.0 + worker, restarts=worker, counts=metrics.counts(), levels=metrics.levels()
    )


def parsed(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name.removeprefix("tornado_chat_"), tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_sums() -> None:
    one, two = Metrics(), Metrics()
    for metrics, size in ((one, 1), (two, 10)):
        metrics.events = 2 * size
        metrics.deliveries = 3 * size
        metrics.errors["bad_request"] = size
        metrics.gauge("connections", "help", lambda size=size: size)  # type: ignore[misc]  # bound in the loop
        metrics.commit_seconds.observe(0.0004)
        metrics.lag_seconds.observe(float(size))
    two.closes[1000] = 5

    async def scrape() -> list[WorkerReport]:
        return [report(1, one), report(2, two)]

    one.scrape = scrape
    found = parsed(await one.text())
    assert found["events_total", ()] == 22
    assert found["errors_total", (("code", "bad_request"),)] == 11
    assert found["closes_total", (("code", "1000"),)] == 5, "one of the two knows nothing of it"
    assert found["connections", ()] == 11
    assert found["commit_seconds_bucket", (("le", "0.0005"),)] == 2
    assert found["event_loop_lag_seconds_bucket", (("le", "0.5"),)] == 0
    assert found["event_loop_lag_seconds_bucket", (("le", "1.0"),)] == 1
    assert found["event_loop_lag_seconds_bucket", (("le", "+Inf"),)] == 2
    assert found["event_loop_lag_seconds_count", ()] == 2
    assert found["event_loop_lag_seconds_sum", ()] == 11
    for family, (first, second) in {
        "worker_connections": (1, 10),
        "worker_events_total": (2, 20),
        "worker_deliveries_total": (3, 30),
        "worker_start_time_seconds": (101, 102),
        "worker_restarts_total": (1, 2),
    }.items():
        assert found[family, (("worker", "1"),)] == first
        assert found[family, (("worker", "2"),)] == second


async def test_a_worker_of_which_nothing_was_heard_counts_nothing() -> None:
    metrics = Metrics()
    metrics.gauge("connections", "help", lambda: 7)

    async def scrape() -> list[WorkerReport]:
        return [WorkerReport(worker=1, started=0.0, restarts=0, counts={}, levels={})]

    metrics.scrape = scrape
    found = parsed(await metrics.text())
    assert found["events_total", ()] == found["connections", ()] == 0
    assert found["commit_seconds_count", ()] == 0


def test_add() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5)
    total = {"h": histogram.samples()}
    add(total, {"h": histogram.samples(), "errors": {"x": 2}})
    assert total == {"h": {"1.0": 0, "2.0": 2, "+Inf": 0, "sum": 3.0}, "errors": {"x": 2}}
    assert histogram.samples()["2.0"] == 1, "the original is left alone"


async def test_a_single_process_has_the_families_of_workers_too(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await here.join("r")
        port = int(here.address.rpartition(":")[2])
        before = time.time()
        found = parsed((await asyncio.to_thread(get, port, "/metrics")).partition(b"\r\n\r\n")[2])
        one = (("worker", "1"),)
        assert found["worker_connections", one] == found["connections", ()] == 1
        assert found["worker_events_total", one] == found["events_total", ()]
        assert before - 60 < found["worker_start_time_seconds", one] <= before
        assert found["worker_restarts_total", one] == 0


async def test_no_counter_goes_back_when_workers_are_killed(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO, expected=[DIED]) as server:
        highest: dict[str, float] = {}

        def scrape() -> None:
            text = get(server.port, "/metrics").partition(b"\r\n\r\n")[2].decode()
            for line in text.splitlines():
                name, _, value = line.rpartition(" ")
                if not line.startswith("#") and any(part in name for part in ("_total", "_bucket", "_sum")):
                    assert float(value) >= highest.get(name, 0.0), f"{line}, but it was {highest[name]:g}"
                    highest[name] = float(value)

        async with Talk(server, 8) as talk:
            for _ in range(3):
                await talk.more(100)
                await asyncio.to_thread(scrape)
                victim = server.workers()[0]
                os.kill(victim, signal.SIGKILL)
                await asyncio.to_thread(scrape)
                await asyncio.to_thread(wait_for_new_worker, server, 2, victim)
                await asyncio.to_thread(scrape)
            await talk.finish()
        await asyncio.to_thread(scrape)
        assert highest["tornado_chat_events_total"] > 300
        assert highest['tornado_chat_worker_restarts_total{worker="1"}'] >= 1


def test_a_worker_that_does_not_answer_is_left_out_with_its_last_report(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server, ExitStack() as stack:
        chats = [stack.enter_context(RawChat(server.port)) for _ in range(20)]
        for number, chat in enumerate(chats):
            assert chat.ask(type="send", room="r", text="x", id=str(number))["type"] == "ack"
        assert samples(server.port, "tornado_chat_events_total") == {"": 20}
        frozen, _ = server.workers()
        os.kill(frozen, signal.SIGSTOP)
        try:
            answer = b""
            while not answer:  # the kernel may give a connection to the one that stands still
                with socket.create_connection(("127.0.0.1", server.port), timeout=3) as sock:
                    sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    with contextlib.suppress(TimeoutError):
                        while more := sock.recv(65536):
                            answer += more
            assert b"\ntornado_chat_events_total 20.0\n" in answer
        finally:
            os.kill(frozen, signal.SIGCONT)


def test_without_a_parent_that_answers_the_scrape_says_so(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server:
        server.freeze()
        try:
            answer = get(server.port, "/metrics")
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"does not answer" in answer
            assert get(server.port, "/healthz").startswith(b"HTTP/1.1 200 ")
        finally:
            server.thaw()
        wait_for(lambda: get(server.port, "/metrics").startswith(b"HTTP/1.1 200 "))
