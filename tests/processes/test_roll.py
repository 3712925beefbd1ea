"""SIGHUP: new workers take over from the old ones, and nobody is refused, cut off twice, or loses anything."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.raw_chat import Closed, RawChat, get
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import (
    DIED,
    PATIENCE,
    Talk,
    impatient,
    knock,
    samples,
    started_pids,
    wait_for_line,
    wait_for_new_worker,
)
from tornado_chat.verify.processes import is_alive

TWO = (*UNLIMITED, "--workers", "2")


def hang_up(server: Server) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)


def moments(server: Server, pattern: str) -> list[float]:
    """When it logged the lines that match, in Unix seconds."""
    found = re.findall(rf"^(\S+Z) .*{pattern}", server.said(), re.MULTILINE)
    return [datetime.fromisoformat(moment).timestamp() for moment in found]


async def test_a_roll_under_load(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server:
        old = server.workers()
        stopped = asyncio.Event()
        knocking = asyncio.create_task(knock(server.port, stopped))
        async with Talk(server, 30) as talk:
            await talk.more(300)
            counted = samples(server.port, "tornado_chat_events_total")[""]
            hang_up(server)
            await asyncio.to_thread(wait_for_line, server, "workers replaced")
            await talk.more(300)
            stopped.set()
            assert await knocking == [], "a connection was refused"
            await talk.finish()
            assert [len(lost) for lost in talk.lost] == [1] * 30, "each comes back once, and not twice"
            assert all("closed with 1012 retry_after_ms=" in lost[0] for lost in talk.lost)
            assert samples(server.port, "tornado_chat_events_total")[""] == talk.sent() > counted
        await talk.check()
        assert len(server.workers()) == 2
        assert not set(old) & set(server.workers())
        assert samples(server.port, "tornado_chat_worker_restarts_total") == {"1": 0, "2": 0}


def told_to_leave(chats: list[RawChat]) -> list[RawChat]:
    """Those that have something to read, which must be a close frame; taken out of `chats`."""
    readable, _, _ = select.select([chat.sock for chat in chats], [], [], PATIENCE)
    told = [chat for chat in chats if chat.sock in readable]
    for chat in told:
        with pytest.raises(Closed):
            chat.hear()
        chats.remove(chat)
    return told


def connections(server: Server) -> list[int]:
    """Of each worker."""
    return [int(count) for _, count in sorted(samples(server.port, "tornado_chat_worker_connections").items())]


def test_an_old_worker_leaves_when_the_one_before_is_gone(tmp_path: Path) -> None:
    program = impatient("processes.control", SHORTEST_SPREAD_SECONDS=0.0)
    with Server(tmp_path, *TWO, program=program) as server, ExitStack() as stack:
        chats = [stack.enter_context(RawChat(server.port)) for _ in range(20)]
        first, second = connections(server)
        assert first > 0 < second
        hang_up(server)
        told: list[RawChat] = []
        while len(told) < first:
            told += told_to_leave(chats)
        assert server.said().count("stopping connections") == 1
        for chat in chats:
            chat.say({"type": "ping"})
            chat.until("pong")
        for chat in told:
            chat.answer_close()
        while chats:
            for chat in told_to_leave(chats):
                chat.answer_close()
        wait_for_line(server, "worker ended", 2)
        steps = re.findall(r"(stopping|worker ended).* worker=(\d)", server.said())
        assert steps == [(step, number) for number in "12" for step in ("stopping", "worker ended")]


def test_the_clients_of_an_old_worker_come_back_before_the_next_one_leaves(tmp_path: Path) -> None:
    program = impatient("processes.control", RECONNECTS_A_SECOND=4)
    with Server(tmp_path, *TWO, program=program) as server, ExitStack() as stack:
        chats = [stack.enter_context(RawChat(server.port)) for _ in range(20)]
        first, second = connections(server)
        assert first > 0 < second
        hang_up(server)
        while chats:
            for chat in told_to_leave(chats):
                chat.answer_close()
        wait_for_line(server, "worker ended", 2)
        gone, told = moments(server, "worker ended")[0], moments(server, "stopping connections")[1]
        share = 4 * min(2, len(os.sched_getaffinity(0)))
        assert told - gone > first / share / 2  # half: the parent is a little late to say that one has ended


def test_a_second_sighup_during_a_roll_is_one_more_roll(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server, RawChat(server.port) as chat:
        hang_up(server)
        with pytest.raises(Closed):
            chat.hear()  # the roll waits for this client to answer
        for _ in range(3):
            hang_up(server)
        chat.answer_close()
        wait_for_line(server, "workers replaced", 2)
        assert len(started_pids(server)) == 6
        assert sorted(server.workers()) == sorted(started_pids(server)[-2:])


@pytest.mark.parametrize("how", ["setting", "crash", "late"])
def test_new_workers_that_do_not_start_change_nothing(tmp_path: Path, how: str) -> None:
    config = tmp_path / "chat.toml"
    config.write_text("guests = true\n")
    flags = ("--workers", "2", "--config", str(config))
    expected = ["workers not replaced", "worker cannot start", DIED, "worker killed: it was not ready", "worker ended"]
    program = impatient(START_SECONDS=6.0) if how == "late" else ("-m", "tornado_chat")
    environment = {}
    if how != "setting":
        # Python imports this before all else; the workers that start later find it changed.
        environment["PYTHONPATH"] = str(tmp_path)
        (tmp_path / "sitecustomize.py").write_text("")
    with (
        Server(tmp_path, *flags, expected=expected, program=program, environment=environment) as server,
        RawChat(server.port) as chat,
    ):
        old = server.workers()
        if how == "setting":
            config.write_text("guests = perhaps\n")
        else:
            trouble = "import time; time.sleep(60)" if how == "late" else "import os; os._exit(3)"
            (tmp_path / "sitecustomize.py").write_text(trouble)
        hang_up(server)
        wait_for_line(server, "workers not replaced: a new one did not start; the old ones go on")
        assert server.workers() == old
        chat.say({"type": "ping"})
        chat.until("pong")
        if how == "setting":
            assert re.search("worker cannot start worker=1 reason=\"--config '.*: is not TOML", server.said())
        (tmp_path / "sitecustomize.py").write_text("")
        config.write_text("guests = true\n")
        hang_up(server)
        with pytest.raises(Closed):
            chat.hear()
        chat.answer_close()
        wait_for_line(server, "workers replaced")
        assert not set(old) & set(server.workers())


def test_the_new_ones_have_what_the_file_says_now(tmp_path: Path) -> None:
    config = tmp_path / "chat.toml"
    config.write_text("guests = true\ntext-chars = 1000\n")
    with Server(tmp_path, "--workers", "2", "--config", str(config)) as server:
        with RawChat(server.port) as chat:
            assert chat.welcome["limits"]["text_chars"] == 1000
        config.write_text("guests = true\ntext-chars = 2000\n")
        hang_up(server)
        wait_for_line(server, "workers replaced")
        with RawChat(server.port) as chat:
            assert chat.welcome["limits"]["text_chars"] == 2000


def test_what_a_roll_does_not_change_is_told(tmp_path: Path) -> None:
    config = tmp_path / "chat.toml"
    config.write_text("guests = true\nworkers = 2\n")
    with Server(tmp_path, "--config", str(config), expected=["changes with a restart only"]) as server:
        hang_up(server)
        wait_for_line(server, "workers replaced")
        assert "restart only" not in server.said()
        config.write_text('guests = true\nworkers = 3\nhost = "127.0.0.2"\ntext-chars = 2000\n')
        hang_up(server)
        wait_for_line(server, "workers replaced", 2)
        assert re.findall(r"changes with a restart only (setting=\S+ stays=\S+)", server.said()) == [
            "setting=host stays=127.0.0.1",
            "setting=workers stays=2",
        ]
        assert len(server.workers()) == 2


def test_sigterm_during_a_roll(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server, RawChat(server.port) as chat:
        hang_up(server)
        with pytest.raises(Closed):
            chat.hear()
        workers = server.workers()
        assert len(workers) >= 3, "new ones, and at least the old one that waits for the client"
        assert server.process is not None
        server.process.terminate()
        chat.answer_close()
        assert server.process.wait(PATIENCE) == 0
        assert not any(is_alive(pid) for pid in workers)


def test_one_that_dies_after_a_roll_is_replaced_as_ever(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO, expected=[DIED]) as server:
        hang_up(server)
        wait_for_line(server, "workers replaced")
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for_new_worker(server, 2, victim)
        assert get(server.port, "/readyz").startswith(b"HTTP/1.1 200 ")


def test_a_closed_terminal_stops_it(tmp_path: Path) -> None:
    """It sends SIGHUP too, but nobody wants a new start then."""
    command = [sys.executable, "-m", "tornado_chat", "serve", "--port", "0", "--guests", "--workers", "2"]
    ours, theirs = pty.openpty()
    with (tmp_path / "err").open("wb") as errors:
        with closing(os.fdopen(theirs, "rb", buffering=0)) as terminal:
            process = subprocess.Popen(
                [*command, "--database", f"sqlite:///{tmp_path}/chat.db"],
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                cwd=ROOT,
            )
        with process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith(b"listening on ")
                os.close(ours)
                process.send_signal(signal.SIGHUP)
                assert process.wait(PATIENCE) == 0
            finally:
                process.kill()
    assert b"replacing" not in (tmp_path / "err").read_bytes()
