"""Several workers under one parent: how they start, die, are replaced and stop; test_roll.py has the roll."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.support import ROOT
from tests.support.raw_chat import Closed, RawChat, get, handshake
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import (
    DIED,
    PATIENCE,
    Talk,
    group_of,
    impatient,
    samples,
    started_pids,
    wait_for,
    wait_for_line,
    wait_for_new_worker,
)
from tornado_chat.processes.turned_away import LINGER_SECONDS
from tornado_chat.verify.processes import is_alive

TWO = (*UNLIMITED, "--workers", "2")


def moments(server: Server, pattern: str) -> list[float]:
    """When it logged the lines that match, in Unix seconds."""
    found = re.findall(rf"^(\S+Z) .*{pattern}", server.said(), re.MULTILINE)
    return [datetime.fromisoformat(moment).timestamp() for moment in found]


# How they start.


def test_workers_share_one_port_and_their_parent_has_no_other_child(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--workers", "3") as server, ExitStack() as stack:
        assert server.process is not None
        assert server.output.read_text() == f"listening on {server.url}\n"
        assert len(server.workers()) == 3
        assert sorted(server.workers()) == sorted(started_pids(server))
        assert {group_of(pid) for pid in server.workers()} == {server.process.pid}
        for _ in range(60):
            stack.enter_context(RawChat(server.port))
        connections = samples(server.port, "tornado_chat_worker_connections")
        assert connections.keys() == {"1", "2", "3"}
        assert sum(connections.values()) == 60
        assert all(connections.values()), f"a worker that gets nothing: {connections}"
    started = [line for line in server.said().splitlines() if "worker started" in line]
    assert [re.findall("worker=[0-9]", line) for line in started] == [["worker=1"], ["worker=2"], ["worker=3"]]
    assert all("worker=" in line for line in server.errors.read_text().splitlines() if "tornado_chat.server" in line)


def test_one_worker_is_one_process(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        assert server.workers() == []
        assert "worker=" not in server.said()
        assert samples(server.port, "tornado_chat_worker_connections") == {"1": 0}


def test_workers_search_for_modules_where_their_parent_does(tmp_path: Path) -> None:
    """A server started by its script in some directory does not import what lies there."""
    (tmp_path / "code").symlink_to(ROOT)
    for program, flag in ((("-P", "-m", "tornado_chat"), True), (("-m", "tornado_chat"), False)):
        environment = {"PYTHONPATH": str(tmp_path / "code")}
        with Server(tmp_path, *TWO, program=program, environment=environment) as server:
            for pid in server.workers():
                assert (b"-P" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")) == flag


def test_auto_is_one_for_each_core(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with Server(tmp_path, *UNLIMITED, "--workers", "auto") as server:
        assert len(server.workers()) == (len(cores) if len(cores) > 1 else 0)


def test_what_keeps_a_worker_from_starting_is_one_line(tmp_path: Path) -> None:
    """The parent finds nothing wrong with these settings; each of the workers does."""
    (tmp_path / "chat.db").write_bytes(b"this is not a database, and was never meant to be one " * 100)
    (tmp_path / "secret").write_text("a secret of tests, long enough for anybody")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tornado_chat", "serve", "--port", "0", "--workers", "3"),
            *("--database", f"sqlite:///{tmp_path}/chat.db", "--secret-file", str(tmp_path / "secret")),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if " info " not in line]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("tornado-chat: error: ")
    assert "chat.db" in errors[0]
    assert done.stderr.count("worker started") == 3


def test_no_port_is_shared_with_another_server(tmp_path: Path) -> None:
    """SO_REUSEPORT would let it."""
    (tmp_path / "other").mkdir()
    with Server(tmp_path, *TWO) as server:
        other = Server(tmp_path / "other", *TWO)
        other.port = server.port
        other.launch()
        assert other.process is not None
        assert other.process.wait(PATIENCE) == 2
        assert f"cannot listen on 127.0.0.1:{server.port}: " in other.said()
        assert other.said().count("\n") == 1


def test_each_on_its_own_unix_socket(tmp_path: Path) -> None:
    paths = [tmp_path / "1.sock", tmp_path / "2.sock"]
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(paths[1]))  # as a killed server leaves it
    command = [sys.executable, "-m", "tornado_chat", "serve", "--guests", "--workers", "2"]
    command += ["--database", f"sqlite:///{tmp_path}/chat.db", "--unix-socket", f"{tmp_path}/{{worker}}.sock"]
    folder = ROOT
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        try:
            for path in paths:
                assert process.stdout.readline() == f"listening on http://unix:{path}\n"
                assert path.stat().st_mode & 0o777 == 0o666
            for path in paths:
                with closing(socket.socket(socket.AF_UNIX)) as sock:
                    sock.settimeout(PATIENCE)
                    sock.connect(str(path))
                    sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=folder)
            assert second.returncode == 2
            assert f"cannot listen on {paths[0]}: another server listens there" in second.stderr
            assert all(path.exists() for path in paths)
        finally:
            process.terminate()
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert output == ""
    assert not any(path.exists() for path in paths)


# How they die.


async def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO, expected=[DIED, "worker ended .* signal=40"]) as server:
        async with Talk(server, 12) as talk:
            for number in (signal.SIGKILL, signal.SIGKILL, 40):  # a real-time signal, which has no name
                victim = server.workers()[0]
                os.kill(victim, number)
                await asyncio.to_thread(wait_for_new_worker, server, 2, victim)
                await talk.more(100)
            await talk.finish()
        await talk.check()
        assert re.search(DIED, server.said())
        assert sum(samples(server.port, "tornado_chat_worker_restarts_total").values()) == 3


def test_the_others_are_told_of_a_death(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--workers", "3", "--log-level", "debug", expected=[DIED]) as server:
        os.kill(server.workers()[2], signal.SIGKILL)
        wait_for_line(server, "another worker has ended uid=[0-9a-f]{16} worker=[12]", 2)
        uids = re.findall("another worker has ended uid=([0-9a-f]+) worker=([12])", server.said())
        assert len({uid for uid, _ in uids}) == 1
        assert sorted(worker for _, worker in uids) == ["1", "2"]


def test_who_waits_for_a_worker_that_dies_is_accepted_by_the_next(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO, expected=[DIED]) as server, ExitStack() as stack:
        for pid in server.workers():
            os.kill(pid, signal.SIGSTOP)
        waiting = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)))
            for _ in range(20)
        ]
        for sock in waiting:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        for sock in waiting:
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_one_that_dies_again_and_again_is_started_ever_more_slowly(tmp_path: Path) -> None:
    program = impatient(LONG_LIFE_SECONDS=4.0)
    with Server(tmp_path, *TWO, expected=[DIED], program=program) as server:
        other = server.workers()[1]
        for count in range(1, 5):
            victim = started_pids(server)[-1] if count > 1 else server.workers()[0]
            os.kill(victim, signal.SIGKILL)
            wait_for_line(server, "worker started", 2 + count)
        ends, starts = moments(server, "worker ended"), moments(server, "worker started")[2:]
        pauses = [start - end for end, start in zip(ends, starts, strict=True)]
        for pause, expected in zip(pauses, (0.0, 0.5, 1.0, 2.0), strict=True):
            assert pause >= expected - 0.05, pauses
        wait_for_new_worker(server, 2, 0)
        time.sleep(4.2)  # not a wait for something: its life must be long
        os.kill(started_pids(server)[-1], signal.SIGKILL)
        wait_for_line(server, "worker started", 7)
        pause = moments(server, "worker started")[-1] - moments(server, "worker ended")[-1]
        assert pause < 3.5, "it would be 4 s, if nothing was forgiven"
        assert other in server.workers(), "the other one had nothing to do with it"


def test_nobody_waits_for_a_worker_that_is_in_back_off(tmp_path: Path) -> None:
    program = impatient(SHORTEST_PAUSE=5.0, LONGEST_PAUSE=5.0)

    def ask() -> bytes:
        """The answer to a newcomer, which must be there within a second, and whole."""
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=1.0)) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            said = b""
            while more := sock.recv(65536):
                said += more
        return said

    def listen() -> bytes:
        """What an EventSource gets first."""
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=1.0)) as sock:
            sock.sendall(b"GET /v1/rooms/r/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
            return sock.recv(65536)

    def load(path: str) -> list[int]:
        """The statuses that a browser gets for a file of the page, until it has it."""
        address, statuses = f"http://127.0.0.1:{server.port}{path}", list[int]()
        while len(statuses) < 20:
            http = HTTPConnection("127.0.0.1", server.port, timeout=5.0)
            with closing(http):
                http.request("GET", address[len(f"http://127.0.0.1:{server.port}") :])
                answer = http.getresponse()
                statuses.append(answer.status)
                if answer.status != 307:
                    break
                address = urljoin(address, answer.headers["Location"])
        return statuses

    with Server(tmp_path, *TWO, expected=[DIED], program=program) as server:
        for count in (1, 2):
            victim = started_pids(server)[-1] if count > 1 else server.workers()[0]
            os.kill(victim, signal.SIGKILL)
            if count == 1:
                wait_for_new_worker(server, 2, victim)
        wait_for_line(server, "newcomers are told to come back worker=1")
        answers = [ask() for _ in range(60)]
        refused = [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200 ")]
        assert refused, "the kernel gives some of them to the socket of the worker that is away"
        for answer in refused:
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in answer
            assert b'"code":"unavailable"' in answer
        sources = [listen() for _ in range(40)]
        assert all(source.startswith(b"HTTP/1.1 200 ") for source in sources), "on anything else it would give up"
        told = [
            int(found[1])
            for source in sources
            if (found := re.search(rb"\r\n\r\nretry: (\d+)\ndata: .*unavail", source))
        ]
        assert min(told) >= 1000
        assert len(set(told)) > 1, "they do not come back all at once"
        time.sleep(LINGER_SECONDS)  # those above are among the LINGERING whose requests it waits for
        paths = ["/", "/?token=x", "/static/app.js", "/static/more.css?v=1"] * 4
        with ThreadPoolExecutor(len(paths)) as pool:
            loads = list(pool.map(load, paths))
        assert all(statuses[-1] == 200 for statuses in loads), loads
        assert any(307 in statuses for statuses in loads), "else none came to the worker that is away"
        wait_for(lambda: all(ask().startswith(b"HTTP/1.1 200 ") for _ in range(60)), "the worker")
        assert len(server.workers()) == 2


def test_workers_without_a_parent_leave(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server, ExitStack() as stack:
        chats = [stack.enter_context(RawChat(server.port)) for _ in range(10)]
        workers = server.workers()
        assert server.process is not None
        server.process.kill()
        for chat in chats:
            with pytest.raises(Closed) as caught:
                chat.hear()
            assert caught.value.code == 1012
            assert re.fullmatch("retry_after_ms=[0-9]+", caught.value.reason)
            chat.answer_close()
        wait_for(lambda: not any(is_alive(pid) for pid in workers))
        server.kill()
        server.start()
        assert get(server.port, "/readyz").startswith(b"HTTP/1.1 200 ")


def test_one_that_stands_still_is_replaced(tmp_path: Path) -> None:
    expected = ["worker killed: it stands still", DIED]
    with Server(tmp_path, *TWO, expected=expected, program=impatient(HUNG_SWEEPS=4)) as server:
        hung, other = server.workers()
        os.kill(hung, signal.SIGSTOP)
        wait_for_new_worker(server, 2, hung)
        assert other in server.workers()
        assert f"worker killed: it stands still worker=1 pid={hung}" in server.said()


def test_a_parent_that_slept_kills_nobody(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO, program=impatient(HUNG_SWEEPS=4)) as server:
        workers = server.workers()
        server.freeze()
        time.sleep(5)  # longer than what a worker may be silent
        server.thaw()
        assert samples(server.port, "tornado_chat_worker_connections") == {"1": 0, "2": 0}
        assert server.workers() == workers


def test_sigterm_to_a_worker_drains_it_and_another_takes_its_place_at_once(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server, ExitStack() as stack:
        chats = [stack.enter_context(RawChat(server.port)) for _ in range(20)]
        leaving, staying = server.workers()
        theirs = samples(server.port, "tornado_chat_worker_connections")["1"]
        assert 0 < theirs < 20
        os.kill(leaving, signal.SIGTERM)
        wait_for_line(server, "worker started", 3)
        assert is_alive(leaving), "its clients have not answered the close frame yet"

        def told() -> list[RawChat]:
            readable, _, _ = select.select([chat.sock for chat in chats], [], [], 0)
            return [chat for chat in chats if chat.sock in readable]

        wait_for(lambda: len(told()) == theirs)
        for chat in told():
            with pytest.raises(Closed) as caught:
                chat.hear()
            assert caught.value.code == 1012
            chat.answer_close()
            chats.remove(chat)
        for chat in chats:
            chat.say({"type": "ping"})
            chat.until("pong")
        wait_for(lambda: not is_alive(leaving))
        assert staying in server.workers()
        wait_for_new_worker(server, 2, leaving)


# How they stop.


async def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server:
        async with Talk(server, 12) as talk:
            await talk.more(500)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await talk.finish()
            assert all(len(lost) >= 1 for lost in talk.lost)
        await talk.check()


def test_ctrl_c_reaches_all_and_only_the_parent_obeys(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO) as server, RawChat(server.port) as chat:
        assert server.process is not None
        os.killpg(server.process.pid, signal.SIGINT)
        with pytest.raises(Closed) as caught:
            chat.hear()
        assert caught.value.code == 1012
        chat.answer_close()
        assert server.process.wait(PATIENCE) == 0
        assert "Traceback" not in server.said()
        assert server.said().count("worker ended") == 2


def test_a_second_signal_kills(tmp_path: Path) -> None:
    with Server(tmp_path, *TWO, expected=[DIED, "killing the workers"]) as server, RawChat(server.port) as chat:
        process = server.process
        assert process is not None
        process.terminate()
        with pytest.raises(Closed):
            chat.hear()  # and it does not answer
        began = time.monotonic()
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert process.returncode == 1
        assert time.monotonic() - began < 4, "5 s are what the client had"
        server.process = None


def test_one_signal_that_comes_twice_is_one(tmp_path: Path) -> None:
    """As from whoever sends it to the process and to its group."""
    with Server(tmp_path, *TWO) as server:
        process = server.process
        assert process is not None
        process.terminate()
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert "killing" not in server.said()
        server.process = None


def test_one_that_does_not_leave_is_killed(tmp_path: Path) -> None:
    expected = ["worker killed: it did not leave in time", DIED]
    with Server(tmp_path, *TWO, expected=expected, program=impatient(LEAVE_SECONDS=2.0)) as server:
        hung, _ = server.workers()
        os.kill(hung, signal.SIGSTOP)
        server.stop()
        assert f"it did not leave in time worker=1 pid={hung}" in server.said()


def test_sighup_stops_a_single_process(tmp_path: Path) -> None:
    """There is nobody who could take over."""
    with Server(tmp_path, *UNLIMITED) as server, RawChat(server.port) as chat:
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        with pytest.raises(Closed) as caught:
            chat.hear()
        assert caught.value.code == 1012
        chat.answer_close()
        assert server.process.wait(PATIENCE) == 0


def test_stopped_while_it_starts(tmp_path: Path) -> None:
    server = Server(tmp_path, *TWO)
    server.launch()
    wait_for_line(server, "worker started", 2)
    assert server.process is not None
    workers = server.workers()
    server.process.terminate()
    assert server.process.wait(PATIENCE) == 0
    assert not any(is_alive(pid) for pid in workers)
    assert "Traceback" not in server.said()
    server.process = None


def test_it_is_gone_after_a_limited_time_whatever_stands_still(tmp_path: Path) -> None:
    program = impatient("server", LEAVE_SECONDS=1)
    with Server(tmp_path, *UNLIMITED, program=program) as server, RawChat(server.port) as chat:
        process = server.process
        assert process is not None
        began = time.monotonic()
        process.terminate()
        with pytest.raises(Closed):
            chat.hear()  # and it does not answer, for which it has 5 s
        assert process.wait(PATIENCE) == -signal.SIGALRM
        assert time.monotonic() - began < 4
        server.process = None


@pytest.mark.parametrize("workers", ["1", "2"])
def test_while_it_drains_open_connections_are_answered(tmp_path: Path, workers: str) -> None:
    with Server(tmp_path, *UNLIMITED, "--workers", workers) as server, ExitStack() as stack:
        plain = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)))
            for _ in range(8)
        ]
        # So many that the kernel gives some to each worker: one without any would be gone at once.
        chats = [stack.enter_context(RawChat(server.port)) for _ in range(24)]
        for sock in plain:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert server.process is not None
        server.process.terminate()
        for chat in chats:
            with pytest.raises(Closed):
                chat.hear()  # and it does not answer yet
        for sock in plain:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = sock.recv(1000)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b'"failing":["draining"]' in answer
        sock = plain[0]
        sock.sendall(handshake(server.port))
        answer = sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in answer
        for chat in chats:
            chat.answer_close()
        assert server.process.wait(PATIENCE) == 0
