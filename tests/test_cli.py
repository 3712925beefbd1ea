"""The command itself, as a process: exit codes, what it prints, and where."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.servers import UNLIMITED, Server
from tornado_chat import config
from tornado_chat.auth import authenticate
from tornado_chat.cli import TRANSPORTS
from tornado_chat.client import CHOICES

ROOT = Path(__file__).parent.parent
TIMEOUT = 30.0


def environment(**more: str) -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.startswith("TORNADO_CHAT_")}
    return found | {"PYTHONPATH": str(ROOT)} | more


def run(cwd: Path, *argv: str, stdin: str | int = subprocess.DEVNULL, **env: str) -> subprocess.CompletedProcess[str]:
    given = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}
    return subprocess.run(
        [sys.executable, "-m", "tornado_chat", *argv],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        **given,
    )


@contextlib.contextmanager
def started(cwd: Path, *argv: str, stdout: int | IO[bytes] = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tornado_chat", *argv],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    with process:  # closes the pipes and waits
        try:
            yield process
        finally:
            process.kill()


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error of usage or configuration."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("tornado-chat: error: ")
    return line.removeprefix("tornado-chat: error: ")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("", "COMMAND"),
        ("nothing", "'nothing'"),
        ("serve now", "now"),
        ("serve --prot 1", "--prot"),
        ("serve --por 1", "--por"),  # never guessed from its beginning
        ("serve --port", "--port"),
        ("serve --host 0.0.0.0 --guests", "--host: '0.0.0.0' is not loopback: listening there needs --secret-file"),
        ("serve --config none.toml", "--config 'none.toml': cannot be read"),
        ("token", "--user"),
        ("token --user", "--user"),
        ("token --user a --ttl 1w", "--ttl: '1w' is not a time"),
        ("token --user a --ttl 0", "--ttl"),
        ("token --user guest-1", "--user"),
        ("token --user a --rooms x,,y", "--rooms"),
        ("token --user a --port 1", "--port"),
        ("tail", "ROOM"),
        ("tail Lobby", "ROOM: room"),
        ("tail lobby --last -1", "--last"),
        ("tail lobby --last 501", "--last: 501 is not a whole number from 0 to 500"),
        ("tail lobby --url ftp://localhost", "--url"),
        ("send lobby hello --url http://[::1", "--url"),
        ("send", "ROOM"),
        ("send lobby --transport pigeon", "--transport: invalid choice: 'pigeon' (choose from 'auto', "),
        ("send lobby ", "TEXT: is empty"),
        ("token --user a", "--database: there is no log at 'data/chat.db'"),
        ("token --user a --jti= --secret-file x", "jti: must be a string of 1 to 256 printable characters"),
        ("token --user a --database postgresql://me:hunter2@db/chat", "--secret-file"),
        ("new-epoch --database sqlite:///none.db", "there is no log at sqlite:///none.db"),
        ("revoke x --database sqlite:///none.db", "there is no log at sqlite:///none.db"),
        ("revoke", "TOKEN_OR_JTI"),
        ("revoke eyJ.b.c", "TOKEN_OR_JTI: it looks like a token, but cannot be read"),
        ("revoke ", "jti: must be a string of 1 to 256 printable characters"),
        (f"revoke {'x' * 257}", "jti: must be a string of 1 to 256 printable characters"),
        ("migrate --database postgresql://me:hunter2@/x", "--database: it is not the address of a server"),
        ("migrate --database mysql://me:hunter2@db/x", "--database: mysql is not supported"),
        ("copy-log", "FROM, TO"),
        ("copy-log sqlite:///none.db sqlite:///chat.db", "there is no log at sqlite:///none.db"),
        ("copy-log none.db sqlite:///chat.db", "FROM: 'none.db' is not sqlite:///PATH"),
        ("copy-log sqlite:///none.db postgresql://me:hunter2@/x", "TO: it is not the address of a server"),
        ("new-epoch --database mysql://me:hunter2@db/x", "--database: mysql is not supported"),
    ],
)
def test_wrong_usage(command: str, why: str, tmp_path: Path) -> None:
    line = refused(run(tmp_path, *command.split(" ") if command else ()))
    assert why in line
    assert "hunter2" not in line
    assert os.listdir(tmp_path) == [], "nothing is made by a command that was wrong"


def test_serve_without_its_secret_file(tmp_path: Path) -> None:
    line = refused(run(tmp_path, "serve", "--port", "0", "--secret-file", "none"))
    assert line.startswith("--secret-file: the key in 'none' cannot be read: No such file")


@pytest.mark.parametrize("name", [name for name in config.ALL if name != "guests"])
def test_each_settings_wrong_value(name: str, tmp_path: Path) -> None:
    flag = "--" + name.replace("_", "-")
    line = refused(run(tmp_path, "serve", f"{flag}=\x01"))
    what = "it" if name == "redis" else "'\\x01'"  # an address may hold a password: it is not repeated
    assert line.startswith(f"{flag}: {what} is not ")


def test_precedence(tmp_path: Path) -> None:
    (tmp_path / "chat.toml").write_text('port = "file"\n')
    file = ["serve", "--config", "chat.toml"]
    assert "'flag'" in refused(run(tmp_path, *file, "--port", "flag", TORNADO_CHAT_PORT="environment"))
    assert "'environment'" in refused(run(tmp_path, *file, TORNADO_CHAT_PORT="environment"))
    assert refused(run(tmp_path, *file)).startswith("chat.toml: port: 'file' is not ")
    assert refused(run(tmp_path, "serve", TORNADO_CHAT_CONFIG="chat.toml")).startswith("chat.toml: port: ")


def test_the_environment_of_the_client_commands_is_no_mistake(tmp_path: Path) -> None:
    result = run(tmp_path, "serve", "--port=x", TORNADO_CHAT_TOKEN="t", TORNADO_CHAT_URL="u")
    assert refused(result).startswith("--port: ")
    assert refused(run(tmp_path, "serve", TORNADO_CHAT_TOKENS="t")).startswith("TORNADO_CHAT_TOKENS: ")


@pytest.mark.parametrize(
    "command", ["", "serve", "token", "revoke", "tail", "send", "migrate", "copy-log", "new-epoch"]
)
def test_help(command: str, tmp_path: Path) -> None:
    result = run(tmp_path, *command.split(), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: tornado-chat {command}".rstrip())
    if command == "serve":
        assert "--no-guests" in result.stdout
        assert "(default: sqlite:///data/chat.db)" in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", ["serve --help", "token --user a --secret-file key"])
def test_a_closed_pipe_ends_it_quietly(command: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 32)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with started(tmp_path, *command.split(), stdout=writer) as process:
            _, errors = process.communicate(timeout=TIMEOUT)
    finally:
        os.close(writer)
    assert (process.returncode, errors) == (0, b"")


def test_token(tmp_path: Path) -> None:
    command = ["token", "--user", "alice", "--name", "Alice", "--device", "phone", "--ttl", "2h"]
    command += ["--rooms", "team-*,lobby", "--rooms", "x", "--acts-as", "app-*, ada", "--moderator", "--agent"]
    with Server(tmp_path):
        pass  # makes the log; its key is elsewhere
    first = run(tmp_path, *command, "--database", "sqlite:///chat.db")
    assert first.returncode == 0
    assert "made a key" in first.stderr
    key = tmp_path / "chat.db.secret"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    identity = authenticate(key.read_bytes().strip(), first.stdout.strip(), guests=False)
    assert (identity.user, identity.name, identity.device) == ("alice", "Alice", "phone")
    assert (identity.rooms, identity.acts_as) == (("team-*", "lobby", "x"), ("app-*", "ada"))
    assert identity.moderator
    assert identity.agent
    second = run(tmp_path, "token", "--user", "bob", "--secret-file", str(key))
    assert second.stderr == ""
    identity = authenticate(key.read_bytes().strip(), second.stdout.strip(), guests=False)
    assert (identity.user, identity.moderator, identity.agent) == ("bob", False, False)
    (tmp_path / "chat.db").unlink()
    assert run(tmp_path, *command, "--database", "sqlite:///chat.db").returncode == 0, "the key that is there will do"


def test_each_token_is_a_session_of_its_own(tmp_path: Path) -> None:
    key = b"k" * 32
    (tmp_path / "key").write_bytes(key)
    mint = ["token", "--user", "alice", "--secret-file", "key"]
    found = [authenticate(key, run(tmp_path, *mint).stdout.strip(), guests=False).jti for _ in range(2)]
    assert len(set(found) - {None}) == 2
    chosen = run(tmp_path, *mint, "--jti", "my phone").stdout.strip()
    assert authenticate(key, chosen, guests=False).jti == "my phone"


def test_a_token_for_nobody(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 32)
    for wrong in (["--user", ""], ["--user", "a", "--name", "a\tb"], ["--user", "a", "--device", "x" * 65]):
        line = refused(run(tmp_path, "token", "--secret-file", "key", *wrong))
        assert "must be a string of 1 to 64 printable characters" in line


def test_the_transports_are_the_clients() -> None:
    assert CHOICES == TRANSPORTS


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tail_and_send(tmp_path: Path, transport: str) -> None:
    by = ["--transport", transport]
    with Server(tmp_path, *UNLIMITED) as server:
        token = server.token("alice", name="Alice")
        assert run(tmp_path, "send", "lobby", "one", *by, "--url", server.url, "--token", token).returncode == 0
        known = {"TORNADO_CHAT_URL": server.url, "TORNADO_CHAT_TOKEN": token}
        result = run(tmp_path, "send", "lobby", *by, stdin="two\n\nthree\r\nfour", **known)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        (tmp_path / "lines").write_text("five\n")
        with (tmp_path / "lines").open() as lines:
            assert run(tmp_path, "send", "lobby", stdin=lines.fileno(), **known).returncode == 0
        command = ["tail", "lobby", *by, "--last", "5", "--json", "--url", server.url.replace("http", "ws") + "/ws"]
        with started(tmp_path, *command) as tail:
            assert tail.stdout is not None
            events = [json.loads(tail.stdout.readline()) for _ in range(5)]
            tail.send_signal(signal.SIGINT)
            _, errors = tail.communicate(timeout=TIMEOUT)
        assert [(event["seq"], event["text"]) for event in events] == list(
            enumerate(["one", "two", "three", "four", "five"], 1)
        )
        assert {event["name"] for event in events} == {"Alice"}
        assert (tail.returncode, errors) == (130, b"")


def test_send_as_lines_come(tmp_path: Path) -> None:
    """A line of standard input is sent when it is there, not when the input ends."""
    with (
        Server(tmp_path, *UNLIMITED) as server,
        started(tmp_path, "tail", "lobby", "--last", "9", "--json", "--url", server.url) as tail,
        started(tmp_path, "send", "lobby", "--name", "Ann", "--url", server.url) as send,
    ):
        assert send.stdin is not None
        assert tail.stdout is not None
        for text in ("one", "two"):
            send.stdin.write(text.encode() + b"\n")
            send.stdin.flush()
            event = json.loads(tail.stdout.readline())
            assert (event["text"], event["name"]) == (text, "Ann")
        send.send_signal(signal.SIGINT)
        assert send.wait(TIMEOUT) == 130, "Ctrl-C stops it although its input is open"


@pytest.mark.parametrize(
    ("text", "why"), [(b"one\n\xff\n", "line 2: is not UTF-8"), (b"x" * (2 << 20), "line 1: is longer")]
)
def test_lines_that_are_none(text: bytes, why: str, tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        (tmp_path / "lines").write_bytes(text)
        with (tmp_path / "lines").open() as lines:
            assert why in refused(run(tmp_path, "send", "lobby", "--url", server.url, stdin=lines.fileno()))


def test_tail_whose_reader_is_gone(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        run(tmp_path, "send", "lobby", "--url", server.url, stdin="one\ntwo\n")
        with started(tmp_path, "tail", "lobby", "--last", "2", "--url", server.url) as tail:
            assert tail.stdout is not None
            tail.stdout.readline()
            tail.stdout.close()
            run(tmp_path, "send", "lobby", "three", "--url", server.url)
            assert tail.wait(TIMEOUT) == 0
            assert tail.stderr is not None
            assert tail.stderr.read() == b""


def test_a_token_that_the_server_refuses(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        for command in (["tail", "lobby"], ["send", "lobby", "hello"]):
            result = run(tmp_path, *command, "--url", server.url, "--token", "x")
            assert result.returncode == 1
            assert result.stderr.startswith("tornado-chat: error: ")
            assert "401" in result.stderr.splitlines()[0]
            assert "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_where_it_listens_and_stops_in_order(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path, "serve", "--guests", "--port", "0", "--log-format", "json") as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"listening on http://127.0.0.1:")
        server.send_signal(number)
        _, errors = server.communicate(timeout=TIMEOUT)
    assert server.returncode == 0
    assert {"message", "level", "time"} <= json.loads(errors.splitlines()[0]).keys()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        result = run(tmp_path, "serve", "--port", str(server.port), "--database", "sqlite:///other.db")
        assert result.returncode in (1, 2)
        lines = [line for line in result.stderr.splitlines() if line.startswith("tornado-chat: error: ")]
        assert len(lines) == 1
        assert str(server.port) in lines[0]
        assert "Traceback" not in result.stderr


def test_new_epoch(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        database = f"sqlite:///{server.database}"
        run(tmp_path, "send", "lobby", "one", "--url", server.url)
    first = run(tmp_path, "new-epoch", "--database", database)
    second = run(tmp_path, "new-epoch", "--database", database)
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout.split()) == 1
    assert first.stdout != second.stdout
