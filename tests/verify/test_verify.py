"""`tornado-chat verify` as a command: short real runs with all the harm there is, and what it tells."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.servers import UNLIMITED, Server
from tornado_chat.cli import main
from tornado_chat.verify.faults import AGENTS, DEVICE, FAULTS, NETWORK, POSTGRESQL, REDIS, WORKERS
from tornado_chat.verify.processes import children, is_alive

TIMEOUT = 180.0


def environment() -> dict[str, str]:
    found = {key: value for key, value in os.environ.items() if not key.startswith("TORNADO_CHAT_")}
    return found | {"PYTHONPATH": str(ROOT)}


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "tornado_chat", "verify", *argv]


def run(tmp_path: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    with subprocess.Popen(
        command(*argv),
        cwd=tmp_path,
        env=environment() | {"TMPDIR": str(tmp_path)} | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            for _ in range(2):  # not SIGKILL: it has an installation to clean up
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=TIMEOUT)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def report(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.stdout, result.stderr
    found = json.loads(result.stdout)
    assert result.returncode == (0 if found["ok"] else 1)
    return found


def told(found: Any) -> str:
    """All that a run has found, a line each: pytest would cut anything but a text."""
    return "\n".join(map(str, [*found["violations"], *found["history"]]))


SHORT = ("--json", "--clients", "20", "--rooms", "4")


HARM_TO_DEVICES = {name for name, fault in FAULTS.items() if fault.needs == DEVICE}

TRIED = {
    *("duplicates", "mentioned", "marked", "followed", "states", "growing", "chunks"),
    *("streams", "resumed by id", "polls", "pages", "posts", "changes"),
}
"""What a run has counted, if it has tried what it is there for."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("needs", "argv"),
    [
        ({DEVICE, NETWORK, WORKERS}, ()),
        ({DEVICE, NETWORK, WORKERS}, ("--workers", "2")),
        (
            {DEVICE, NETWORK, WORKERS, REDIS, POSTGRESQL, AGENTS},
            ("--workers", "3", "--database", "postgresql", "--redis", "--agents"),
        ),
    ],
)
def test_every_promise_holds_while_harm_is_done(needs: set[str], argv: tuple[str, ...], tmp_path: Path) -> None:
    faults: set[str] = set()
    counted: set[str] = set()
    for _ in range(3):  # what is rare may not come about in a quarter of a minute
        # Not under pytest's own temporary folder, which nobody but us may enter: PostgreSQL runs as another user.
        with tempfile.TemporaryDirectory(prefix="chat-verify-") as folder:
            os.chmod(folder, 0o755)
            result = run(tmp_path, *SHORT, "--minutes", "0.25", *argv, TMPDIR=folder)
            assert os.listdir(folder) == [], "a directory was left"
        found = report(result)
        assert found["ok"], f"{told(found)}\n{result.stderr}"
        assert found["events"] > 0
        if POSTGRESQL not in needs:  # without its database a worker cannot start, and says so
            assert found["server_errors"] == []
        if AGENTS not in needs:  # what an agent says is no command of ours
            assert found["counts"]["acked"] >= found["events"]
        else:
            assert found["counts"]["calls of the model"] >= found["counts"]["questions"] / 2 > 0
        assert found["transports"] == {"websocket": 5, "stream": 5, "poll": 5, "http": 5}
        faults |= found["faults"].keys()
        counted |= {name for name, count in found["counts"].items() if count}
        harmed = {FAULTS[name].needs for name in faults}
        lacking = [harmed ^ needs, HARM_TO_DEVICES - faults, TRIED - counted]
        if not any(lacking):
            return
    raise AssertionError(lacking)


def test_a_running_server_with_its_key_a_token_or_guests(tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        key = tmp_path / "secret"
        short = (*SHORT, "--minutes", "0.05", "--url", server.url)
        for more in (["--secret-file", str(key)], ["--token", server.token("ann")], ["--seed", "7"]):
            found = report(run(tmp_path, *short, *more))
            assert found["ok"], told(found)
            assert {FAULTS[name].needs for name in found["faults"]} == {DEVICE, NETWORK}
            assert found["events"] > 0
        assert found["seed"] == 7


def test_rates_that_a_server_limits_are_kept_to(tmp_path: Path) -> None:
    with Server(tmp_path, "--guests", "--send-rate", "5", "--send-burst", "5") as server:
        found = report(run(tmp_path, *SHORT, "--minutes", "0.1", "--rate", "1000", "--url", server.url))
        assert found["ok"], told(found)
        assert found["counts"]["sent"] < 20 * 5 * 8
        assert "1008" not in found["closes"]


def test_lateness_is_judged_when_asked(tmp_path: Path) -> None:
    result = run(tmp_path, "--minutes", "0.05", "--clients", "30", "--max-late", "1ms", "--no-faults", "--rate", "500")
    assert result.returncode == 1
    assert re.search(r"violations: 1\n  late at \d+\.\d s: room=\S+ seq=\d+ client=c\d+ came \d+\.\d+ s", result.stdout)
    assert result.stdout.count("\n") < 30


def test_a_terminal_is_shown_a_table_that_lives(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    said = b""
    with os.fdopen(ours, "rb", buffering=0) as screen:
        try:
            process = subprocess.Popen(
                command("--minutes", "0.05", "--clients", "10"),
                cwd=tmp_path,
                env=environment() | {"TMPDIR": str(tmp_path), "TERM": "xterm"},
                stdin=subprocess.DEVNULL,
                stdout=theirs,
            )
        finally:
            os.close(theirs)
        with process:
            try:
                while data := screen.read(65536):
                    said += data
            except OSError:  # Linux says so when the other end is closed
                pass
            finally:
                process.kill()
    assert said.count(b"events delivered") > 2
    assert b"10 of 10" in said
    assert b"every promise held" in said


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_ends_it_early(signals: int, tmp_path: Path) -> None:
    """Once: with a report. Twice: without. In either case nothing is left."""
    with subprocess.Popen(
        command("--workers", "2", "--json", "--minutes", "60", "--no-faults"),
        cwd=tmp_path,
        env=environment() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert "2 workers, SQLite" in process.stderr.readline()
            assert "clients connected" in process.stderr.readline()
            server = children(process.pid)
            workers = children(server[0])
            assert (len(server), len(workers)) == (1, 2)
            for _ in range(signals):
                process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    if signals == 1:
        assert (process.returncode, json.loads(said)["ok"]) == (0, True)
    else:
        assert process.returncode in (0, 130)  # 0: it was done before the second came
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in (*server, *workers))


def descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *descendants(child))]


def test_killed_it_leaves_no_process() -> None:
    with tempfile.TemporaryDirectory(prefix="chat-verify-") as folder:
        os.chmod(folder, 0o755)
        with subprocess.Popen(
            command("--workers", "2", "--database", "postgresql", "--redis", "--minutes", "60", "--no-faults"),
            env=environment() | {"TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert "2 workers, PostgreSQL" in process.stdout.readline()
                started = descendants(process.pid)
                assert len(children(process.pid)) == 3
                assert len(started) > 5
            finally:
                process.kill()
        deadline = time.monotonic() + 30
        while left := [pid for pid in started if is_alive(pid)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


@pytest.mark.parametrize("mode", [None, 0o750])
def test_the_installations_files_can_be_kept(tmp_path: Path, mode: int | None) -> None:
    """In a directory that is made, or in one that is there, whose mode is its owner's."""
    kept = tmp_path / "kept"
    if mode is not None:
        kept.mkdir(mode)
    result = run(tmp_path, "--minutes", "0.05", "--no-faults", "--directory", str(kept))
    assert result.returncode == 0
    assert "every promise held" in result.stdout
    assert (kept / "chat.db").exists()
    assert "stopped" in (kept / "server.log").read_text()
    assert stat.S_IMODE((kept / "secret").stat().st_mode) == 0o600
    if mode is not None:
        assert stat.S_IMODE(kept.stat().st_mode) == mode
    again = run(tmp_path, "--minutes", "0.05", "--no-faults", "--directory", str(kept))
    assert again.returncode == 2, "it would talk into somebody's log"
    assert "is not empty" in again.stderr


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ("--minutes 0", "--minutes: '0' is not a number from 0.05 to"),
        ("--minutes x", "--minutes"),
        ("--rate nan", "--rate"),
        ("--clients 0", "--clients: 0 is not a whole number from 1 to"),
        ("--rooms 1001", "--rooms"),
        ("--workers 0", "--workers"),
        ("--database oracle", "--database"),
        ("--seed -1", "--seed"),
        ("--patience 0", "--patience"),
        ("--max-late 0", "--max-late"),
        ("--faults fire", "--faults: there is no 'fire'; there are slow-readers, cuts"),
        ("--transports pigeon", "--transports: there is no 'pigeon'; there are websocket, stream, poll, http"),
        ("--transports ,", "--transports: name one at least of websocket, stream, poll, http"),
        ("--transports poll --faults changes", "--faults: changes needs several --transports"),
        ("--faults redis-cut", "--faults: redis-cut can only be done to its own Redis"),
        ("--faults cuts --no-faults", "--no-faults"),
        ("--token x", "--token: goes with --url"),
        ("--secret-file x", "--secret-file: goes with --url"),
        ("--url http://h --secret-file none", "--secret-file: the key in 'none' cannot be read"),
        ("--url http://h --workers 2", "--workers: is for a server of its own"),
        ("--url http://h --redis", "--redis: is for"),
        ("--url http://h --agents", "--agents: with --url it needs --secret-file"),
        ("--agents 0", "--agents"),
        ("--faults agent-kill", "--faults: agent-kill can only be done to agents of its own"),
        ("--url http://h --faults kill-worker", "--faults: kill-worker can only be done to its own server"),
        ("--url ftp://h", "--url"),
    ],
)
def test_wrong_usage(
    argv: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *argv.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith(f"tornado-chat: error: {why}")
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_fault(tmp_path: Path) -> None:
    said = " ".join(run(tmp_path, "--help", COLUMNS="200").stdout.split())
    assert all(f"{name}: {fault.help}" in said for name, fault in FAULTS.items())


def test_a_server_that_does_not_let_us_in(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        result = run(tmp_path, "--url", server.url)
        assert result.returncode == 1
        assert "cannot connect" in result.stderr
        assert "HTTP 401" in result.stderr
    assert "cannot connect" in run(tmp_path, "--url", server.url).stderr
