"""`tornado-chat tail` and `tornado-chat send` against the real server, as processes of their own where that matters."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import UNLIMITED, Server
from tornado_chat import console
from tornado_chat.client import Client
from tornado_chat.console import NAMES, Printer, plain

PATIENCE = 30.0
TAIL = (sys.executable, "-m", "tornado_chat", "tail")
SEND = (sys.executable, "-m", "tornado_chat", "send")
ROOT = Path(__file__).parent.parent


def run(*command: str, input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=input, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)


class Tail:
    """A running `tail`, with its output in files."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def notices(self) -> str:
        return self._err.read_text()

    def wait(self, count: int) -> list[str]:
        """The first `count` lines, when they are there."""
        wait_for(lambda: len(self.lines) >= count)
        return self.lines[:count]


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


@contextmanager
def tailing(tmp_path: Path, url: str, *arguments: str, room: str = "lobby") -> Iterator[Tail]:
    out, err = tmp_path / "tail.out", tmp_path / "tail.err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        command = (*TAIL, room, "--url", url, *arguments)
        buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=ROOT, env=buffered
        )
    try:
        yield Tail(process, out, err)
        assert process.poll() is None, "it ended before it was told to"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert "Traceback" not in err.read_text()
    finally:
        process.kill()
        process.wait()


async def each(*texts: str) -> AsyncIterator[str]:
    for text in texts:
        yield text


@contextmanager
def nobody() -> Iterator[str]:
    """The address of a port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


# tail


def test_tail_prints_what_was_and_what_comes_over_kill_9(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        assert run(*SEND, "lobby", "--url", server.url, "--name", "a", input="one\n\ntwo\nthree\n").returncode == 0
        with tailing(tmp_path, server.url, "--last", "2") as tail:
            assert [line[20:] for line in tail.wait(2)] == ["#2 a: two", "#3 a: three"]
            for number in range(4, 8):
                server.restart()
                assert run(*SEND, "lobby", str(number), "--url", server.url, "--name", "a").returncode == 0
            assert [line[20:] for line in tail.wait(6)] == [
                "#2 a: two", "#3 a: three", "#4 a: 4", "#5 a: 5", "#6 a: 6", "#7 a: 7",
            ]  # fmt: skip
        assert tail.notices.startswith("tornado-chat: connection lost, retrying in ")
        assert "tornado-chat: back\n" in tail.notices  # by a stream for a while, where two kills met no other attempt


def test_tail_json_is_one_event_a_line_as_it_comes(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server, tailing(tmp_path, server.url, "--json", "--last", "9") as tail:
        assert run(*SEND, "lobby", "\u202e\x1b[2J\n\u0085é", "--url", server.url).returncode == 0
        (line,) = tail.wait(1)
        event = json.loads(line)
        assert line.isascii()
        assert (event["type"], event["seq"], event["text"]) == ("message", 1, "\u202e\x1b[2J\n\u0085é")


def test_tail_keeps_trying_until_there_is_a_server(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        server.kill()
        with tailing(tmp_path, server.url) as tail:
            wait_for(lambda: tail.notices.count("cannot connect to 127.0.0.1") >= 2)
            server.start()
            wait_for(lambda: tail.notices.endswith("back\n"))


def test_tail_ends_quietly_when_nobody_reads_it(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        command = (*TAIL, "lobby", "--url", server.url, "--last", "9")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as tail:
            assert tail.stdout is not None
            assert tail.stderr is not None
            assert run(*SEND, "lobby", "one", "--url", server.url).returncode == 0
            assert tail.stdout.readline().endswith(b": one\n")
            tail.stdout.close()
            assert run(*SEND, "lobby", "two", "--url", server.url).returncode == 0
            assert tail.wait(PATIENCE) == 0
            assert tail.stderr.read() == b""


def test_tail_and_send_say_why_the_server_will_not_have_them(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        for command in (TAIL, SEND):
            done = run(*command, "lobby", "--url", server.url, "--token", "nonsense", input="x\n")
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith("tornado-chat: error: lobby: ")
            assert "(HTTP 401)" in done.stderr.splitlines()[0]
        token = server.token("alice", rooms=["other"])
        for command in (TAIL, SEND):
            done = run(*command, "lobby", "--url", server.url, "--token", token, input="x\n")
            assert done.returncode == 1
            assert "lobby" in done.stderr.splitlines()[0]
            assert "Traceback" not in done.stderr


async def test_tail_tells_of_a_new_log(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, name="a") as chat:
            await chat.send("lobby", "one")
        out = io.StringIO()
        tail = asyncio.create_task(
            console.tail(server.url, "lobby", token=None, name=None, last=9, json=False, out=out)
        )
        async with asyncio.timeout(PATIENCE):
            while "one" not in out.getvalue():  # noqa: ASYNC110  # a StringIO has no Event
                await asyncio.sleep(0.01)
            server.stop()
            new_epoch = (
                sys.executable,
                "-m",
                "tornado_chat",
                "new-epoch",
                "--database",
                f"sqlite:///{server.database}",
            )
            assert run(*new_epoch).returncode == 0
            server.start()
            while out.getvalue().count("one") < 2:  # noqa: ASYNC110  # a StringIO has no Event
                await asyncio.sleep(0.01)
        tail.cancel()
        await asyncio.wait({tail})
        assert [line[20:] for line in out.getvalue().splitlines()[::2]] == ["#1 a: one"] * 2
        assert out.getvalue().splitlines()[1].startswith("--- the room's log was replaced")


def event(type: str, **fields: object) -> dict[str, Any]:
    return {"type": type, "room": "lobby", "seq": 9, "user": "u1", "ts": 0, **fields}


def test_each_kind_of_event_has_a_line() -> None:
    printer = Printer()
    lines = [
        event("edited", target=1, text="x"),
        event("message", name="Ann", text="hello"),
        event("message", name="Ann", text="hi", reply_to=4),
        event("message", name="Ann", deleted=True),
        event("edited", target=9, text="hello!"),
        event("edited", target=9, deleted=True),
        event("reacted", target=9, emoji="🎉", on=True),
        event("reacted", target=9, emoji="🎉", on=False),
        event("deleted", target=9),
        event("message", name="Bot", user="b", text="", streaming=True),
        event("finished", user="b", target=9, length=1234, crc=1, reason="done"),
        event("finished", user="b", target=9, length=4, crc=1, reason="done", text="well"),
        event("finished", user="b", target=9, length=4, deleted=True, reason="stopped"),
        event("followed", about="den", level="mentions"),
        event("followed", about="den", level="everything", by="bob", user="bob"),
        event("unfollowed", about="den"),
        event("marked", about="den", read=7),
        event("mentioned", about="den", target=8, user="bob", name="B\nob"),
    ]
    assert [printer.line(line)[20:] for line in lines] == [
        "u1 edited #1: x",
        "#9 Ann: hello",
        "#9 Ann to #4: hi",
        "#9 Ann: (deleted)",
        "Ann edited #9: hello!",
        "Ann edited #9: (deleted)",
        "Ann reacted to #9: 🎉",
        "Ann took back a reaction to #9: 🎉",
        "Ann deleted #9",
        "#9 Bot: (begins to write)",
        "Bot finished #9: (1,234 characters)",
        "Bot finished #9: well",
        "Bot finished #9 (stopped): (deleted)",
        "you follow den (mentions)",
        "bob invites you to den",
        "you do not follow den any more",
        "you have read den up to #7",
        "B\\nob names you in den #8".replace("\\n", "\n    "),
    ]


def test_tail_of_ones_own_log_begins_with_the_rooms(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:

        async def talk(*sent: str) -> None:
            async with Client(server.url, token=server.token("ann")) as ann, Client(server.url, name="Bob") as bob:
                await ann.follow("den")
                for text in sent:
                    await bob.send("lobby", text, mentions=["ann"])
                await ann.follow("lobby")

        asyncio.run(talk("one", "two"))
        with tailing(tmp_path, server.url, "--token", server.token("ann"), room="~") as tail:
            assert tail.wait(1) == ["--- you follow den, lobby (2 unread, 2 of them name you) ---"]
            asyncio.run(talk("three"))
            assert tail.wait(2)[1].endswith(" Bob names you in lobby #3")
        with tailing(tmp_path, server.url, "--token", server.token("ann"), "--json", room="~") as tail:
            told = json.loads(tail.wait(1)[0])
            assert (told["type"], told["room"], len(told["state"]["rooms"])) == ("state", "~", 2)
    assert Printer().line({"type": "state", "state": {"rooms": []}}) == "--- you follow no rooms ---"


def test_the_names_remembered_are_bounded_and_the_latest() -> None:
    printer = Printer()
    for number in range(NAMES + 5):
        printer.line(event("message", user=f"u{number}", name="old", text=""))
        printer.line(event("message", user="u0", name="kept", text=""))
    assert len(printer.names) == NAMES
    assert printer.names["u0"] == "kept"
    assert "u1" not in printer.names


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\rb\x08c\x7f\x9b31m", "a\\rb\\x08c\\x7f\\x9b31m"),
        ("one\n2026-11-20 10:00:00 #2 bob: forged", "one\n    2026-11-20 10:00:00 #2 bob: forged"),
        ("one\r\ntwo\tthree\u2028four", "one\n    two three\\u2028four"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("naïve 👨‍👩‍👧 日本", "naïve 👨‍👩‍👧 日本"),
    ],
)
def test_what_others_write_does_nothing_to_the_terminal(text: str, shown: str) -> None:
    assert plain(text) == shown
    line = Printer().line(event("message", name=text, text=text))
    assert line.endswith(f"#9 {shown}: {shown}")


def test_a_terminal_that_is_not_utf_8_gets_escapes() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert console._encodable("né 🎉", out) == "n\\xe9 \\U0001f389"
    out.close()


# send


def test_send_pipelines_standard_input_in_order(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        lines = [f"line {number}" for number in range(500)]
        done = run(*SEND, "lobby", "--url", server.url, input="\n".join(lines))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with tailing(tmp_path, server.url, "--json", "--last", "500") as tail:
            assert [json.loads(line)["text"] for line in tail.wait(500)] == lines


def test_send_goes_on_over_kill_9_and_sends_each_line_once(tmp_path: Path) -> None:
    count = 2000
    with Server(tmp_path, *UNLIMITED) as server, tailing(tmp_path, server.url, "--json", "--last", "1") as tail:
        run(*SEND, "lobby", "first", "--url", server.url)
        tail.wait(1)
        command = (*SEND, "lobby", "--url", server.url)
        errors = (tmp_path / "send.err").open("wb")
        with errors, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors, cwd=ROOT) as send:
            assert send.stdin is not None
            for part in range(4):
                lines = range(part * count // 4, (part + 1) * count // 4)
                send.stdin.write("".join(f"{number}\n" for number in lines).encode())
                send.stdin.flush()
                seen = part * count // 4 + 20
                wait_for(lambda seen=seen: len(tail.lines) > seen)
                server.restart()
            send.stdin.close()
            assert send.wait(PATIENCE) == 0
        events = [json.loads(line) for line in tail.wait(count + 1)]
        assert [event["seq"] for event in events] == list(range(1, count + 2))
        assert [event["text"] for event in events[1:]] == [str(number) for number in range(count)]


def test_send_waits_for_the_rate_it_is_allowed(tmp_path: Path) -> None:
    with Server(tmp_path, "--guests", "--send-rate", "50", "--send-burst", "5") as server:
        done = run(*SEND, "lobby", "--url", server.url, input="\n".join("abcdefghijklmnopqrstuvwxyz"))
        assert (done.returncode, done.stderr) == (0, "")
        with tailing(tmp_path, server.url, "--json", "--last", "26") as tail:
            assert "".join(json.loads(line)["text"] for line in tail.wait(26)) == "abcdefghijklmnopqrstuvwxyz"


async def test_send_names_the_line_that_failed_and_sends_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        lines = each("one", "", "x" * 8001, "four")
        assert await console.send(server.url, "lobby", lines, token=None, name=None) == 1
        assert capsys.readouterr().err == (
            "tornado-chat: error: lobby: line 3: text: must be a string of 1 to 8,000 characters; "
            "got a string of 8,001 characters\n"
        )
        async with Client(server.url) as chat:
            page = await chat.history("lobby")
            assert [message["text"] for message in page["messages"]] == ["one", "four"]


async def test_send_passes_on_what_was_wrong_with_its_input_after_the_rest_is_sent(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[str]:
        yield "one"
        raise OSError("the disk is gone")

    with Server(tmp_path, *UNLIMITED) as server:
        with pytest.raises(OSError, match="the disk is gone"):
            await console.send(server.url, "lobby", broken(), token=None, name=None)
        async with Client(server.url) as chat:
            assert len((await chat.history("lobby"))["messages"]) == 1


async def test_send_gives_up_when_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with nobody() as url:
        code = await console.send(url, "lobby", each("a", "b"), token=None, name=None, patience=0.5)
        assert code == 1
        errors = capsys.readouterr().err.splitlines()
        assert "cannot connect to 127.0.0.1" in errors[0]
        assert errors[-2:] == [
            "tornado-chat: error: lobby: nothing acknowledged within 0.5 s",
            "tornado-chat: error: lobby: lines 1 to 2: not sent",
        ]


async def test_send_does_not_hurry_whoever_writes_slowly(tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[str]:
        for text in "ab":
            yield text
            await asyncio.sleep(0.6)

    with Server(tmp_path, *UNLIMITED) as server:
        assert await console.send(server.url, "lobby", slow(), token=None, name=None, patience=0.5) == 0


def test_send_stops_at_once_with_ctrl_c(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        command = (*SEND, "lobby", "--url", server.url)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as send:
            assert send.stdin is not None
            assert send.stderr is not None
            with tailing(tmp_path, server.url, "--last", "1") as tail:
                send.stdin.write(b"one\n")
                send.stdin.flush()
                tail.wait(1)
            send.send_signal(signal.SIGINT)
            assert send.wait(PATIENCE) == 130
            assert send.stderr.read() == b""


# send --stream


@contextmanager
def piping(url: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = (*SEND, "lobby", "--stream", "--url", url, *arguments)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    with process:
        try:
            yield process
        finally:
            process.kill()


def say(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


async def shown(chat: Client, text: str) -> Any:
    """The room's last message, when it has this text."""
    async with asyncio.timeout(PATIENCE):
        while True:
            messages = (await chat.history("lobby"))["messages"]
            if messages and messages[-1]["text"] == text:
                return messages[-1]
            await asyncio.sleep(0.02)


async def test_send_stream_makes_one_message_of_what_is_piped_in(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, token=server.token("ann")) as ann:
            with piping(server.url, "--name", "Log") as process:
                say(process, "eins\nü".encode()[:-1])
                assert (await shown(ann, "eins\n"))["streaming"]
                say(process, "ü".encode()[1:])
                await shown(ann, "eins\nü")
                server.restart()
                say(process, b"!")
                out, err = await asyncio.to_thread(process.communicate)
                assert (process.returncode, out) == (0, b"")
                assert "Traceback" not in err.decode()
                message = await shown(ann, "eins\nü!")
                assert ("streaming" in message, message["name"]) == (False, "Log")
            for data, code, line in ((b"good \xff", 2, b"not UTF-8"), (b"x" * 262_145, 1, b"262,144 characters")):
                with piping(server.url) as process:
                    _, err = await asyncio.to_thread(process.communicate, data)
                    assert (process.returncode, err.count(b"\n")) == (code, 1)
                    assert line in err
            with piping(server.url, "text") as process:
                assert process.wait(PATIENCE) == 2


async def test_send_stream_is_ended_by_ctrl_c_and_by_who_may_stop_it(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        async with Client(server.url, token=server.token("mod", moderator=True)) as mod:
            await mod.join("lobby")
            with piping(server.url) as process:
                say(process, b"on and on")
                await shown(mod, "on and on")
                process.send_signal(signal.SIGINT)
                assert await asyncio.to_thread(process.wait, PATIENCE) == 130
            with piping(server.url, "--transport", "stream") as process:
                say(process, b"and on")
                await shown(mod, "and on")
                await mod.stop("lobby")
                assert await asyncio.to_thread(process.wait, PATIENCE) == 1, "it waits for more input"
                _, err = process.communicate()
                assert err.endswith(b"lobby: message 3 was stopped by mod; no more is read\n")
            reasons = []
            async for event in mod:
                if event["type"] == "finished":
                    reasons.append(event["reason"])
                    if len(reasons) == 2:
                        break
            assert reasons == ["stopped", "stopped"]
