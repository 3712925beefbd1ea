"""SIGUSR1 to the parent: each worker tells its log who causes load there."""

from __future__ import annotations

import re
import signal
from contextlib import ExitStack
from pathlib import Path

from tests.support.raw_chat import RawChat
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import started_pids, wait_for, wait_for_line

TWO = (*UNLIMITED, "--workers", "2")
CALM = 8
EVENTS = 30


def test_each_worker_tells_the_busy_one_first(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server, ExitStack() as stack:
        for user in ("busy", *(f"calm-{number}" for number in range(CALM))):
            chat = stack.enter_context(RawChat(server.port, "/ws", f"Authorization: Bearer {server.token(user)}"))
            for number in range(EVENTS if user == "busy" else 1):
                chat.ask(type="send", room="r", text="hello", id=str(number))
        assert server.process is not None
        server.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: len(re.findall(r" load user=\S+ .*\n", server.said())) == CALM + 1)
        told = re.findall(r" load user=(\S+) .* events=(\d+) .* worker=(\d)\n", server.said())
        (place,) = [worker for user, _, worker in told if user == "busy"]
        assert next(user for user, _, worker in told if worker == place) == "busy"
        assert sum(int(events) for _, events, _ in told) == CALM + EVENTS
        assert set(re.findall(r" load users=\d+ .* worker=(\d)\n", server.said())) == {"1", "2"}


def test_a_worker_that_is_not_ready_yet_lives_on(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server:
        process = server.process
        assert process is not None
        process.send_signal(signal.SIGHUP)
        wait_for_line(server, "worker started", 3)

        def is_over() -> bool:
            process.send_signal(signal.SIGUSR1)
            return re.search(r" workers (not )?replaced", server.said()) is not None

        wait_for(is_over, "the roll")
        assert server.workers() == started_pids(server)[2:]
