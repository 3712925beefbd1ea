"""The servers under test: how each is started and spoken to, and what one costs while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import processes
from bench.errors import BenchError
from bench.services import Service
from bench.tools import NCHAN, PYTHON, Tools
from tornado_chat.verify.processes import children, is_alive

ROOT = Path(__file__).parent.parent
PEERS = ROOT / "bench/peers"
START_SECONDS = 30.0
SECRET = "the key of the servers under test"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one server is started and spoken to.

    `command` is its argument vector, `{port}`, `{directory}` (its own; `secret` in it holds SECRET) and the URLs of the
    services that it `needs`, as `{redis}`, filled in. `path` and `message` are templates of the load generator
    (`{room}`, `{index}`, `{number}`, `{token}`, `{marker}`, `{text}`), `stream` is the address of the same room's
    server-sent events, if it has them. A client is ready when a frame, or an event of its stream, contains `ready`; if
    that is empty, with the head of the answer. `addresses`, filled in likewise, are where it listens: HOST:PORT or the
    path of a Unix socket. One that `announces` prints `listening on` when it is ready: a parent has its port before its
    workers are.
    `environment` is what its environment has besides the benchmark's own.
    `tree` is the folder that it is started in: its own `tornado_chat` and `bench` are the ones that Python runs there.
    """

    name: str
    command: tuple[str, ...]
    path: str
    ready: str = ""
    message: str = "{text}"
    needs: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ("127.0.0.1:{port}",)
    announces: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    tree: Path = ROOT
    stream: str = ""


def ours(*flags: str, needs: tuple[str, ...] = (), addresses: tuple[str, ...] = ("127.0.0.1:{port}",)) -> Dialect:
    """This project's server with everything on: sessions, numbers, commit before delivery, metrics.

    Rate limits are lifted, since all clients come from a few addresses. `flags` are more of its command line. The log
    is in PostgreSQL if it `needs` that, else in SQLite.
    """
    database = "{postgres}" if "postgres" in needs else "sqlite:///{directory}/chat.db"
    # fmt: off
    command = (
        sys.executable, "-m", "tornado_chat", "serve", "--host", "127.0.0.1", "--port", "{port}",
        "--database", database, "--secret-file", "{directory}/secret", "--guests", "--send-rate", "0",
        "--join-rate", "0", "--connections-per-address", "0", "--max-connections", "0",
        *(("--redis", "{redis}") if "redis" in needs else ()), *flags,
    )
    # fmt: on
    path = "/ws/room-{room}?name=client-{index}"
    message = '{"type":"send","room":"room-{room}","text":"{text}","id":"{number}"}'
    stream = "/v1/rooms/room-{room}/events?name=client-{index}"
    return Dialect("ours", command, path, '"synced"', message, needs, addresses, announces=True, stream=stream)


def apart(workers: int, *needs: str) -> Dialect:
    """Ours with so many workers, each on a Unix socket of its own, so that a client can choose its worker.

    One worker has no Redis, as nobody would give it one.
    """
    sockets = tuple(f"{{directory}}/{number}.sock" for number in range(1, workers + 1))
    flags = ("--workers", str(workers), "--unix-socket", "{directory}/{worker}.sock")
    return ours(*flags, needs=needs if workers == 1 else ("redis", *needs), addresses=sockets)


def on_one_port(workers: int) -> Dialect:
    """Ours with so many workers, among which the kernel shares out the connections."""
    return ours("--workers", str(workers), needs=("redis",))


OURS_ECHO = Dialect("ours", (sys.executable, "-m", "bench.echo_server", "--port", "{port}"), "/echo")

EVENT = (
    '{"type":"message","room":"room-{room}","seq":{number},"n":{number},"user":"guest-0123456789abcdef",'
    '"name":"client-{index}","text":"{text}","ts":1000000000000,"id":"{number}"}'
)
"""What peers are sent, and broadcast: the text of the event that our server makes of its publisher's `send`."""


def pure(dialect: Dialect) -> Dialect:
    """Ours without its C extension."""
    return replace(dialect, name="pure", environment=(("TORNADO_CHAT_PURE", "1"),))


def peers(path: str, tools: Tools) -> dict[str, Dialect]:
    """The peers that can run here, by name; `path` is /ws (all in one room) or /echo."""
    commands = {
        "tornado": (sys.executable, str(PEERS / "tornado_server.py")),
        "bare": (tools.bare,),
        **{peer: (PYTHON, str(PEERS / f"{peer}_server.py")) for peer in tools.peers},
    }
    message = EVENT if path == "/ws" else "{text}"
    return {name: Dialect(name, (*command, "{port}"), path, message=message) for name, command in commands.items()}


def stream_peers(tools: Tools) -> dict[str, Dialect]:
    """The peers that can run here and have streams, all in the room that /ws broadcasts to, by name."""
    fastapi = {name: dialect for name, dialect in peers("/ws", tools).items() if name == "fastapi"}
    found = {name: replace(dialect, stream="/events") for name, dialect in fastapi.items()}
    if tools.nginx:
        command = (sys.executable, str(PEERS / "nchan_server.py"), tools.nginx, str(NCHAN), "{directory}", "{port}")
        found["nchan"] = Dialect("nchan", command, "/ws", message=EVENT, stream="/events")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def fill(template: str, fields: Mapping[str, str]) -> str:
    for name, value in fields.items():
        template = template.replace(name, value)
    return template


def wait_until_gone(pids: Sequence[int], seconds: float) -> None:
    """Wait until each of these processes has ended. BenchError if one has not after `seconds`."""
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise BenchError(f"a process did not end in {seconds:.0f} s")
        time.sleep(0.01)


class ServerProcess:
    """A running server with all its processes, alone on `core`; `with` stops it.

    `services` are those that it needs, by name; they run, and are not its own.
    """

    def __init__(
        self, dialect: Dialect, directory: Path, core: int, services: Mapping[str, Service] | None = None
    ) -> None:
        self.dialect = dialect
        self.port = free_port()
        self._services = services or {}
        self._output = directory / "output.txt"
        (directory / "secret").write_text(SECRET)
        fields = {"{port}": str(self.port), "{directory}": str(directory)}
        fields |= {f"{{{name}}}": service.url for name, service in self._services.items()}
        command = [fill(part, fields) for part in dialect.command]
        self.addresses = [fill(address, fields) for address in dialect.addresses]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=dialect.tree,
                env=os.environ | dict(dialect.environment),
            )
        self.pid = self._process.pid
        os.sched_setaffinity(self.pid, {core})  # before it has threads and children; they inherit it
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.stop()
            raise

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None:
                raise BenchError(f"the server ended with {self._process.returncode}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise BenchError(f"the server did not listen in {START_SECONDS:.0f} s: {self.last_words()}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        if self.dialect.announces:
            return b"\nlistening on " in b"\n" + self._output.read_bytes()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill it: what it would do in a quiet stop is no part of a figure."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)  # a parent starts no other worker now
        workers = self.workers()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        wait_until_gone(workers, 10)

    def workers(self) -> list[int]:
        """The processes that it has started, if it is a parent of workers."""
        return children(self.pid)

    def last_words(self) -> str:
        """The end of what it printed, in one line."""
        return " | ".join(self._output.read_text(errors="replace").strip().splitlines()[-3:])[-500:] or "(no output)"

    def cpu(self) -> float:
        """CPU seconds so far, of all its processes."""
        return self._measure(processes.cpu_seconds)

    def services_cpu(self) -> dict[str, float]:
        """CPU seconds so far of the services that it needs, by name."""
        return {name: service.cpu() for name, service in self._services.items()}

    def resident(self) -> int:
        """Resident memory of all its processes, bytes."""
        return int(self._measure(processes.resident))

    def private(self) -> int:
        """Memory that is its own, of all its processes, bytes."""
        return int(self._measure(processes.private))

    def peak(self) -> int:
        """The highest resident memory since `forget_peak`, bytes."""
        return int(self._measure(processes.peak))

    def forget_peak(self) -> None:
        processes.forget_peak(self.pid)

    def _measure(self, measure: Callable[[int], float]) -> float:
        try:
            return measure(self.pid)
        except OSError:
            raise BenchError(f"the server died: {self.last_words()}") from None

    def counter(self, name: str) -> float | None:
        """The sum of a Prometheus metric's samples at /metrics; None if the server has no such metric."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
                lines: Sequence[str] = answer.read().decode().splitlines()
        except OSError:
            return None
        values = [float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(values) if values else None
