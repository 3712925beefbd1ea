"""What systemd hears, on a real socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import UNLIMITED, Server
from tests.support.supervised import DIED, impatient, wait_for_new_worker
from tornado_chat.processes.systemd import Systemd

PATIENCE = 15.0


class Notified:
    """The socket that systemd would listen on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.settimeout(PATIENCE)

    def hear(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self.sock.recv(4096).decode().split("\n"))

    def until(self, key: str) -> dict[str, str]:
        while key not in (message := self.hear()):
            assert message == {"WATCHDOG": "1"}, f"before {key} came {message}"
        return message


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    made = Notified(tmp_path / "notify")
    yield made
    made.sock.close()


def environment(notified: Notified, watchdog: float | None = None) -> dict[str, str]:
    found = {"NOTIFY_SOCKET": str(notified.path)}
    return found if watchdog is None else {**found, "WATCHDOG_USEC": str(int(watchdog * 1_000_000))}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ready_and_stopping(tmp_path: Path, notified: Notified, workers: str) -> None:
    with Server(tmp_path, *UNLIMITED, "--workers", workers, environment=environment(notified)) as server:
        assert notified.hear()["READY"] == "1"
        server.stop()
        assert notified.hear()["STOPPING"] == "1"
    notified.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        notified.hear()


def test_reloading(tmp_path: Path, notified: Notified) -> None:
    with Server(tmp_path, *UNLIMITED, "--workers", "2", environment=environment(notified)) as server:
        assert notified.hear() == {"READY": "1", "STATUS": "2 workers serve"}
        before = time.clock_gettime(time.CLOCK_MONOTONIC)
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        message = notified.hear()
        assert message["RELOADING"] == "1"
        assert before <= int(message["MONOTONIC_USEC"]) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)
        assert notified.hear()["READY"] == "1"
        assert "workers replaced" in server.said()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_watchdog_is_fed_at_half_its_interval(tmp_path: Path, notified: Notified, workers: str) -> None:
    with Server(tmp_path, *UNLIMITED, "--workers", workers, environment=environment(notified, 0.4)) as server:
        notified.until("READY")
        began = time.monotonic()
        for _ in range(4):
            assert notified.hear() == {"WATCHDOG": "1"}
        assert time.monotonic() - began < 5, "0.8 s, on a machine that has nothing else to do"
        server.freeze()
        time.sleep(0.1)  # for one that was on its way
        notified.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                notified.hear()
        notified.sock.settimeout(1.0)
        with pytest.raises(TimeoutError):
            notified.hear()
        server.thaw()
        notified.sock.settimeout(PATIENCE)
        assert notified.hear() == {"WATCHDOG": "1"}


def test_a_worker_that_stands_still_is_the_parents_to_replace(tmp_path: Path, notified: Notified) -> None:
    program = impatient(HUNG_SWEEPS=5)
    expected = ["worker killed: it stands still", DIED]
    with Server(
        tmp_path, *UNLIMITED, "--workers", "2", program=program, expected=expected,
        environment=environment(notified, 3.0),
    ) as server:  # fmt: skip
        notified.until("READY")
        hung = server.workers()[0]
        os.kill(hung, signal.SIGSTOP)
        notified.sock.settimeout(3.0)
        while "stands still" not in server.said():
            assert notified.hear() == {"WATCHDOG": "1"}
        wait_for_new_worker(server, 2, hung)


def test_workers_know_nothing_of_it(tmp_path: Path, notified: Notified) -> None:
    with Server(tmp_path, *UNLIMITED, "--workers", "2", environment=environment(notified, 30.0)) as server:
        for pid in server.workers():
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in variables
            assert b"WATCHDOG" not in variables


def test_the_variables() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7", "HOME": "/"}
    assert Systemd(dict(environ), 7).watchdog == 1.5
    assert Systemd(dict(environ), 8).watchdog is None, "another process is watched"
    assert Systemd({**environ, "WATCHDOG_USEC": "x"}, 7).watchdog is None
    assert Systemd({}, 7).watchdog is None
    Systemd(environ, 7)
    assert environ == {"HOME": "/"}


def test_an_abstract_address() -> None:
    name = f"chat-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(PATIENCE)
        Systemd({"NOTIFY_SOCKET": "@" + name}, 1).ready("well")
        assert sock.recv(100) == b"READY=1\nSTATUS=well"


@pytest.mark.logs("systemd cannot be told message=READY=1 reason=")
def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "nothing")}, 1).ready("well")
