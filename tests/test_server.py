"""One process's life: where it listens, what it logs, how it stops, and what it does without open files."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path

import pytest

from tests.support.chat import eventually
from tests.support.chat import running as running_here
from tests.support.raw_chat import AsyncChat, Closed, RawChat, Refused, get, handshake
from tests.support.servers import UNLIMITED, Server
from tornado_chat.config import Settings
from tornado_chat.errors import ConfigError
from tornado_chat.log.sqlite import open_sqlite
from tornado_chat.server import GC_THRESHOLDS, serve

PATIENCE = 15.0


def shake(port: int, path: str = "/ws", *headers: str) -> bytes:
    """The head of the answer to a handshake; the connection is dropped."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as sock:
        sock.sendall(handshake(port, path, *headers))
        said = b""
        while b"\r\n\r\n" not in said and (more := sock.recv(65536)):
            said += more
    return said.partition(b"\r\n\r\n")[0]


def running(server: Server) -> subprocess.Popen[bytes]:
    assert server.process is not None
    return server.process


def finished(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


def test_a_pass_of_the_collector_over_what_is_young_looks_at_little() -> None:
    """It stops the loop: of 200,000 objects for 110 ms."""
    looked_at: dict[int, list[int]] = {0: [], 1: [], 2: []}

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generation = info["generation"]
            looked_at[generation].append(sum(len(gc.get_objects(each)) for each in range(generation + 1)))

    thresholds = gc.get_threshold()
    gc.collect()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.callbacks.append(note)
    try:
        kept: list[list[object]] = [[] for _ in range(300_000)]
    finally:
        gc.callbacks.remove(note)
        gc.set_threshold(*thresholds)
    assert len(kept) == 300_000
    assert looked_at[1]
    assert max(looked_at[0] + looked_at[1]) <= 20_000
    assert not looked_at[2]


@pytest.mark.parametrize("turns", range(4))
async def test_a_stop_just_after_a_poll_was_wanted_waits_for_nothing(tmp_path: Path, turns: int) -> None:
    """asyncio.wait_for of Python 3.11 loses a cancellation in the turns after the event."""
    async with running_here(tmp_path) as here:
        watch = here.server.watching[0]
        await asyncio.sleep(0.01)  # it waits
        here.server.hub.poll_wanted.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        watch.cancel()
        await eventually(watch.done, 2.0)


# What it logs.


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_token_and_no_text_is_logged(tmp_path: Path, format: str) -> None:
    expected = (r"warning tornado\.general 40", '"logger":"tornado.general","message":"40')
    with Server(tmp_path, "--guests", "--log-level", "debug", "--log-format", format, expected=expected) as server:
        good, bad = server.token("alice"), server.token("alice", ttl=-10.0)
        secrets = [good, bad, "hush-hush", good.split(".")[2], bad.split(".")[2]]
        for token in (good, bad, good[:-1], "hush-hush", f"{good}%ff", f"hush-hush%0d%0a{good}"):
            shake(server.port, f"/ws?token={token}")
            shake(server.port, f"/ws/lobby?after=0&token={token}&name=%ff")
            get(server.port, f"/?token={token}")
            get(server.port, f"/readyz?token={token}")
            get(server.port, f"/nothing?token={token}")
            get(server.port, f"/static/nothing?token={token}")
            get(server.port, f"/static/../..?token={token}")  # Tornado logs the whole address
            if "%" not in token:
                shake(server.port, "/ws", f"Authorization: Bearer {token}")
                shake(server.port, "/ws", f"Cookie: chat_session={token}")
                shake(server.port, "/ws", f"Sec-WebSocket-Protocol: bearer.{token}, chat.v1.json")
                shake(server.port, "/ws", f"Sec-WebSocket-Protocol: bearer.{token}, soap")
        with RawChat(server.port, f"/ws/lobby?token={good}") as chat:
            chat.until("synced")
            chat.ask(type="send", room="lobby", text="a confidential text", id="hush-hush-id")
            chat.say({"type": "send", "room": "lobby", "text": ["a confidential text"]})
            chat.until("error")
            guest = RawChat(server.port)
            secrets.append(guest.welcome["token"])
            guest.sock.close()
        server.stop()
        said = server.said()
        assert " debug " in said or '"debug"' in said
        for secret in [*secrets, "confidential"]:
            assert secret not in said
        for line in server.errors.read_text().splitlines():
            if format == "json":
                fact = json.loads(line)
                assert {"time", "level", "logger", "message"} <= fact.keys()
            else:
                assert line.split()[0].endswith("Z"), line


# Where it listens.


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(path))  # as a killed server leaves it
    command = [sys.executable, "-m", "tornado_chat", "serve", "--guests", "--unix-socket", str(path)]
    command += ["--database", f"sqlite:///{tmp_path}/chat.db"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline().decode() == f"listening on http://unix:{path}\n"
            with closing(socket.socket(socket.AF_UNIX)) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(str(path))
                sock.sendall(handshake(80, "/ws/lobby", "X-Forwarded-For: 1.2.3.4"))
                said = b""
                while b'"synced"' not in said:
                    more = sock.recv(65536)
                    assert more, said
                    said += more
                assert said.startswith(b"HTTP/1.1 101 ")
        finally:
            process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert not path.exists()
    assert b" error " not in errors


@pytest.mark.parametrize("which", ["port", "folder", "host"])
def test_what_cannot_be_listened_on_is_one_clear_line(tmp_path: Path, which: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        flags = {
            "port": ["--port", str(port)],
            "folder": ["--unix-socket", str(tmp_path / "nowhere" / "chat.sock")],
            "host": ["--host", "192.0.2.1", "--secret-file", str(tmp_path / "secret")],
        }[which]
        (tmp_path / "secret").write_text("a secret of tests, long enough")
        done = subprocess.run(
            [sys.executable, "-m", "tornado_chat", "serve", "--database", f"sqlite:///{tmp_path}/chat.db", *flags],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=Path(__file__).parent.parent,
        )
    assert done.returncode == 2
    assert done.stdout == ""
    error = [line for line in done.stderr.splitlines() if " info " not in line]
    assert len(error) == 1, done.stderr
    assert error[0].startswith("tornado-chat: error: cannot listen on ")
    assert flags[1] in error[0]


# How it stops.


async def stream(chat: AsyncChat, name: str, acked: dict[str, int]) -> Closed:
    """Send and send, as fast as it is taken, until the server closes; what it closed with."""

    async def send() -> None:
        for number in range(1_000_000):
            texts = ({"type": "send", "room": "r", "text": "x", "id": f"{name} {number} {n}"} for n in range(20))
            await chat.say(*texts)
            await asyncio.sleep(0)  # or it would never read, while the server takes all that it is sent

    sending = asyncio.create_task(send())
    try:
        while True:
            for got in await chat.receive():
                if got["type"] == "ack":
                    assert got["id"] not in acked
                    acked[got["id"]] = got["seq"]
    except Closed as closed:
        sending.cancel()
        await asyncio.wait([sending])
        return closed


async def test_a_stop_loses_nothing_that_was_acknowledged_and_spreads_the_clients(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        process = running(server)
        acked: list[dict[str, int]] = [{} for _ in range(8)]
        async with AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(await AsyncChat.connect(server.port, "/ws/r")) for _ in range(12)]
            senders = [await stack.enter_async_context(await AsyncChat.connect(server.port)) for _ in range(8)]
            streams = [asyncio.create_task(stream(chat, f"s{n}", acked[n])) for n, chat in enumerate(senders)]
            await eventually(lambda: all(len(some) > 100 for some in acked))
            stopped_at = time.monotonic()
            process.terminate()
            closes = []
            for chat, closed in zip(senders, await asyncio.gather(*streams), strict=True):
                closes.append(closed)
                await chat.answer_close()
            members: list[list[int]] = []
            for chat in idle:
                got, closed = await chat.read_to_close()
                closes.append(closed)
                await chat.answer_close()
                members.append([data["seq"] for data in got if data["type"] == "message"])
            await eventually(lambda: finished(process))
            assert time.monotonic() - stopped_at < 4, "all clients answered, so there was nothing to wait for"
        assert process.returncode == 0
        assert {closed.code for closed in closes} == {1012}
        waits = [closed.reason.removeprefix("retry_after_ms=") for closed in closes]
        assert all(wait.isdigit() for wait in waits), waits
        assert len(set(waits)) == len(waits), "clients that come back at the same moment"
        assert all(0 < int(wait) <= 5000 for wait in waits)
    log = await open_sqlite(str(server.database))
    try:
        kept: dict[str, int] = {}
        seq = 0
        while page := await log.read("r", seq, max_events=5000, max_bytes=1 << 24):
            for event in page:
                seq += 1
                assert event.seq == seq
                kept[event.data["id"]] = seq
    finally:
        await log.close()
    for some in acked:
        assert some.items() <= kept.items()
        assert list(some.values()) == sorted(some.values())
    assert sum(map(len, acked)) == len(kept), "what was committed was acknowledged too, before the close"
    for seqs in members:
        assert seqs == list(range(1, seq + 1)), "a member that was live got everything before the close"


def test_who_does_not_answer_the_close_frame_holds_it_up_for_a_limited_time(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server, ExitStack() as stack:
        process = running(server)
        half = stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port))))
        half.sendall(handshake(server.port)[:50])
        for _ in range(50):
            stack.enter_context(RawChat(server.port, "/ws/r", buffer=4096))  # they read nothing from now on
        sender = stack.enter_context(RawChat(server.port))
        for number in range(100):
            sender.ask(type="send", room="r", text="x" * 8000, id=str(number))
        began = time.monotonic()
        process.terminate()
        process.wait(PATIENCE)
        assert time.monotonic() - began < 8, "5 s for the close frame, and what a busy machine needs"
        assert process.returncode == 0


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server, RawChat(server.port) as chat:
        process = running(server)
        process.terminate()
        with pytest.raises(Closed) as caught:
            chat.hear()
        assert caught.value.code == 1012
        process.terminate()
        chat.answer_close()
        assert process.wait(PATIENCE) == 0


def test_the_next_server_has_the_port_at_once(tmp_path: Path) -> None:
    """The last one hung up first, so its connections are in TIME_WAIT."""
    with Server(tmp_path, *UNLIMITED) as server:
        for _ in range(2):
            with RawChat(server.port) as chat:
                running(server).terminate()
                with pytest.raises(Closed):
                    chat.hear()
                chat.answer_close()
            server.stop()
            server.start()


# Too few open files.


def cpu_seconds(server: Server) -> float:
    fields = Path(f"/proc/{running(server).pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limit_files(server: Server, count: int) -> None:
    _, hard = resource.prlimit(running(server).pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running(server).pid, resource.RLIMIT_NOFILE, (count, hard))


def open_files(server: Server) -> int:
    return len(os.listdir(f"/proc/{running(server).pid}/fd"))


def test_no_more_connections_than_the_limit_of_open_files_has_room_for(tmp_path: Path) -> None:
    server = Server(tmp_path, *UNLIMITED)
    server.launch()
    try:
        # Before it has begun to look at it: a Python starts more slowly than this line runs.
        resource.prlimit(running(server).pid, resource.RLIMIT_NOFILE, (300, 300))
        deadline = time.monotonic() + PATIENCE
        while not server.is_listening():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with ExitStack() as stack:
            chats: list[RawChat] = []
            refused = b""
            while not refused and len(chats) < 300:
                try:
                    chats.append(stack.enter_context(RawChat(server.port, "/ws/r")))
                except Refused as error:
                    refused = error.answer
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: " in refused
            assert len(chats) > 30
            for chat in (chats[0], chats[-1]):
                assert chat.until("synced")
                assert chat.ask(type="send", room="r", text="x", id="x")["type"] == "ack"
            assert get(server.port, "/readyz").startswith(b"HTTP/1.1 200 ")
            chats[0].sock.close()
            deadline = time.monotonic() + PATIENCE
            while not shake(server.port).startswith(b"HTTP/1.1 101 "):
                assert time.monotonic() < deadline
        server.stop()
        server.check()
    finally:
        server.kill()


def test_out_of_open_files_it_waits_and_serves_those_it_has(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, expected=[r"cannot accept for a second reason="]) as server, ExitStack() as stack:
        chat = stack.enter_context(RawChat(server.port, "/ws/r"))
        chat.until("synced")
        before = open_files(server)
        limit_files(server, before + 20)
        waiting = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)))
            for _ in range(30)
        ]
        deadline = time.monotonic() + PATIENCE
        while "cannot accept" not in server.said():
            assert time.monotonic() < deadline, "it never ran out"
            time.sleep(0.01)
        spent, began = cpu_seconds(server), time.monotonic()
        for number in range(20):
            assert chat.ask(type="send", room="r", text="x", id=str(number))["type"] == "ack"
            time.sleep(0.05)  # not a wait for something: the time in which it might be busy with nothing
        busy = (cpu_seconds(server) - spent) / (time.monotonic() - began)
        assert busy < 0.5, f"it took {busy:.0%} of a core to wait"
        for sock in waiting[:25]:
            sock.close()
        newcomer = stack.enter_context(RawChat(server.port))
        assert newcomer.ask(type="send", room="r", text="x", id="new")["type"] == "ack"


def test_a_handshake_for_which_no_file_is_left_is_refused(tmp_path: Path) -> None:
    """The socket changes hands by a duplicated descriptor: there may be none."""
    with Server(tmp_path, *UNLIMITED, expected=[r"cannot accept for a second reason="]) as server, ExitStack() as stack:
        chat = stack.enter_context(RawChat(server.port, "/ws/r"))
        chat.until("synced")
        before = open_files(server)
        waiting = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)))
            for _ in range(5)
        ]
        deadline = time.monotonic() + PATIENCE
        while open_files(server) < before + 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        limit_files(server, before + 5)
        for sock in waiting:
            sock.sendall(handshake(server.port))
        for sock in waiting:
            said = sock.recv(65536)
            assert said == b"" or said.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 503 ")), said
        assert chat.ask(type="send", room="r", text="x", id="x")["type"] == "ack"
        limit_files(server, before + 100)
        for sock in waiting:
            sock.close()
        newcomer = stack.enter_context(RawChat(server.port))
        assert newcomer.ask(type="send", room="r", text="x", id="new")["type"] == "ack"


# What must not hold up the others.


async def test_who_reads_no_answers_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--high-water-mark", "4096") as server:
        async with await AsyncChat.connect(server.port, "/ws", buffer=4096) as deaf:
            for number in range(60):
                await deaf.ask(type="send", room="r", text="x" * 8000, id=f"{number}")
            for number in range(30):
                await deaf.say({"type": "history", "room": "r", "id": f"h{number}", "limit": 200})
            async with await AsyncChat.connect(server.port, "/ws/r") as member:
                await member.until("synced")
                process = running(server)
                await eventually(lambda: b"tornado_chat_outbox_bytes 0.0" not in get(server.port, "/metrics"))
                process.terminate()
                _, closed = await asyncio.wait_for(member.read_to_close(), 10)  # and not after DRAIN_SECONDS
                assert closed.code == 1012
                await member.answer_close()


async def test_a_server_whose_log_was_replaced_ends(tmp_path: Path) -> None:
    expected = ["the log was replaced or went back"]
    with Server(tmp_path, *UNLIMITED, expected=expected) as server:
        async with await AsyncChat.connect(server.port, "/ws/r") as member:
            epoch = (await member.until("joined"))["epoch"]
            log = await open_sqlite(str(server.database))
            new = await log.new_epoch()
            await log.close()
            _, closed = await member.read_to_close()
            assert closed.code == 1012
            await member.answer_close()
        await eventually(lambda: finished(running(server)))
        server.process = None
        server.start()
        async with await AsyncChat.connect(server.port, "/ws/r") as member:
            assert (await member.until("joined"))["epoch"] == new != epoch


async def test_a_log_that_went_back_is_noticed(tmp_path: Path) -> None:
    """As after a failover to a standby that lagged behind: the epoch is the same, but events are gone."""
    with Server(tmp_path, *UNLIMITED, expected=["the log was replaced or went back.* reason=.r ends at 1 "]) as server:
        async with await AsyncChat.connect(server.port, "/ws/r") as member:
            for number in range(3):
                await member.ask(type="send", room="r", text=f"{number}", id=f"{number}")
            with closing(sqlite3.connect(server.database)) as db, db:
                db.execute("DELETE FROM events WHERE seq > 1")
            _, closed = await member.read_to_close()
            assert closed.code == 1012
            await member.answer_close()
        await eventually(lambda: finished(running(server)))
        server.process = None


async def test_a_start_that_fails_leaves_no_task_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(
            port=taken.getsockname()[1], database=f"sqlite:///{tmp_path / 'chat.db'}", secret_file=None, guests=True
        )
        with pytest.raises(ConfigError, match="Address already in use"):
            await serve(settings)
    assert asyncio.all_tasks() == {asyncio.current_task()}
