"""SIGUSR1: the log tells who causes load; what is counted for that is forgotten again."""

from __future__ import annotations

import re
import signal
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.chat import eventually, running
from tests.support.raw_chat import RawChat, get
from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import wait_for_line

FACT = re.compile(r"(\w+)=(\S+)")
BUSY, CALM = "X-Forwarded-For: 192.0.2.7", "X-Forwarded-For: 192.0.2.8"
EVENTS = 60


def load_of(server: Server, of: str) -> list[dict[str, str]]:
    """The facts of each line about a user (or an address), in the order told, after a SIGUSR1."""
    assert server.process is not None
    told = server.said().count(" load users=")
    server.process.send_signal(signal.SIGUSR1)
    wait_for_line(server, r" load users=\d+ .*\n", told + 1)
    # The lines of one signal are written in one turn of the loop, in which nobody is answered.
    assert get(server.port, "/healthz")
    lines = server.said().splitlines()
    last = max(number for number, line in enumerate(lines) if " load users=" in line)
    return [dict(FACT.findall(line)) for line in lines[last:] if f" load {of}=" in line]


def connect(stack: ExitStack, server: Server, user: str, *headers: str) -> RawChat:
    return stack.enter_context(RawChat(server.port, "/ws", f"Authorization: Bearer {server.token(user)}", *headers))


@pytest.mark.parametrize("flags", [("--log-level", "warning"), UNLIMITED], ids=["limited", "unlimited"])
def test_the_busy_one_is_told_first(flags: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *flags) as server, ExitStack() as stack:
        for user in ("bob", "carol"):
            calm = connect(stack, server, user, CALM)
            calm.join("quiet")
            calm.ask(type="send", room="quiet", text="hello", id="1")
        busy, idle = (connect(stack, server, "alice", BUSY) for _ in range(2))
        for chat, rooms in ((busy, ("quiet", "loud")), (idle, ("loud",))):
            for room in rooms:
                chat.join(room, after=99)
        for number in range(EVENTS):
            busy.ask(type="send", room="elsewhere", text="x" * 1000, id=str(number))
        users, addresses = load_of(server, "user"), load_of(server, "address")
        assert users[0]["user"] == "alice"
        assert {user["user"] for user in users} == {"alice", "bob", "carol"}
        alice, bob = users[0], next(user for user in users if user["user"] == "bob")
        assert (alice["connections"], alice["rooms"], alice["events"]) == ("2", "2", str(EVENTS))
        assert EVENTS * 1000 - 16384 < int(alice["bytes"]) < EVENTS * 1500
        assert (bob["connections"], bob["rooms"], bob["events"], bob["bytes"]) == ("1", "1", "1", "0")
        assert 0 <= int(alice["seconds"]) < 120
        assert [line["address"] for line in addresses] == ["192.0.2.7", "192.0.2.8"]
        assert [line["events"] for line in addresses] == [str(EVENTS), "2"]
        assert [line["rooms"] for line in addresses] == ["2", "1"]
        assert addresses[0]["bytes"] == alice["bytes"]


def test_the_greatest_of_each_measure_are_among_ten(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server, ExitStack() as stack:
        for number in range(20):
            connect(stack, server, f"user-{number}").join("r")
        for _ in range(4):
            connect(stack, server, "many-connections")
        member = connect(stack, server, "many-rooms")
        for number in range(30):
            member.join(f"r{number}")
        writer = connect(stack, server, "many-events")
        for number in range(9):
            writer.ask(type="send", room="s", text="short", id=str(number))
        sender = connect(stack, server, "many-bytes")
        sender.say({"type": "ping", "more": "x" * 60_000})
        sender.until("pong")
        users = load_of(server, "user")
        assert len(users) == 10
        assert {user["user"] for user in users[:4]} == {"many-connections", "many-rooms", "many-events", "many-bytes"}


def test_http_connections_are_told_by_address(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED, "--trusted-proxies", "192.0.2.1") as server, ExitStack() as stack:
        connect(stack, server, "alice")
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.3", 0)))
        told = {line["address"]: (line["connections"], line["http_connections"]) for line in load_of(server, "address")}
        assert told == {"127.0.0.1": ("1", "0"), "127.0.0.3": ("0", "3")}


async def test_what_was_counted_is_forgotten_after_two_minutes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as here:
        limits, load = here.server.limits, here.server.load
        start = limits.time()

        def told_after(seconds: float) -> tuple[int, int]:
            """The events that are told, and the seconds said with them."""
            limits.time = lambda: start + seconds
            load.turn()
            caplog.clear()
            load.tell()
            found = re.search(r"events=(\d+) .* seconds=(\d+)", caplog.messages[0])
            assert found is not None
            return int(found[1]), int(found[2])

        one, other = await here.join("r"), await here.join("r")
        await one.ask(type="send", room="r", text="1")
        assert told_after(59.0) == (1, 59)
        assert told_after(61.0) == (1, 61)
        await one.ask(type="send", room="r", text="2")
        await other.ask(type="send", room="r", text="3")
        assert told_after(119.0) == (3, 119)
        await other.close()
        assert told_after(122.0) == (2, 61), "also of who has gone meanwhile"
        assert told_after(183.0) == (0, 61)


async def test_who_came_and_went_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as here:
        limits, load = here.server.limits, here.server.load
        client = await here.connect()
        await client.ask(type="send", room="r", text="1")
        await client.close()
        await eventually(lambda: not here.server.lines.open)
        start = limits.time()
        for seconds in (50.0, 61.0, 120.0):
            limits.time = partial(float, start + seconds)
            limits.sweep()
            assert not limits.users.accounts
            load.turn()
            caplog.clear()
            load.tell()
            assert "users=1 addresses=1 connections=0 rooms=0 events=1 " in caplog.text
        limits.time = lambda: start + 181.0
        load.turn()
        assert not limits.users.gone
        caplog.clear()
        load.tell()
        assert "users=0 addresses=0 connections=0 rooms=0 events=0 " in caplog.text


async def test_who_is_not_read_for_a_while_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=1, send_burst=1, max_frame_bytes=4096) as here:
        client = await here.join("r")
        assert here.server.metrics.throttles == 0
        for _ in range(12):
            await client.send(type="ping", more="x" * 3000)
        for _ in range(12):
            await client.until("pong")
        assert here.server.metrics.throttles > 0
        metrics = (await here.server.metrics.text()).decode()
        assert re.search(r"^tornado_chat_throttles_total [1-9]", metrics, re.MULTILINE)


async def test_what_an_append_has_besides_its_text_counts(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=1, send_burst=1, max_frame_bytes=4096) as here:
        client = await here.join("r")
        for _ in range(12):
            await client.send(type="append", room="r", stream="none", offset=0, text="x", more="x" * 3000)
        await client.send(type="ping")
        await client.until("pong")
        assert here.server.metrics.throttles > 0
