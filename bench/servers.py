"""The servers under test: how each is started and spoken to, and what one costs while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
VENV = HERE / ".venv"
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 30.0


class BenchError(Exception):
    """A run that gave no figure, or a wrong one (an event lost); its text is the line under the table."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one server is started and spoken to.

    `command` is its argument vector, `{port}` and `{directory}` filled in. `path` and `message` are templates of the
    load generator (`{room}`, `{index}`, `{number}`, `{marker}`, `{text}`). A client is ready when a frame contains
    `ready`; if that is empty, with the 101.
    """

    name: str
    command: tuple[str, ...]
    path: str
    ready: str = ""
    message: str = "{text}"


def ours(*flags: str, path: str = "/ws/room-{room}?name=client-{index}", ready: str = '"synced"') -> Dialect:
    """This project's server with everything on: sessions, numbers, commit before delivery, metrics.

    Rate limits are lifted, since all clients come from a few addresses. `flags` are more of its command line.
    """
    # fmt: off
    command = (
        sys.executable, "-m", "tornado_chat", "serve", "--host", "127.0.0.1", "--port", "{port}",
        "--database", "sqlite:///{directory}/chat.db", "--guests", "--send-rate", "0", "--join-rate", "0",
        "--connections-per-address", "0", "--max-connections", "0", *flags,
    )
    # fmt: on
    message = '{"type":"send","room":"room-{room}","text":"{text}","id":"{number}"}'
    return Dialect("ours", command, path, ready, message)


OURS_ECHO = Dialect("ours", (sys.executable, "-m", "bench.echo_server", "--port", "{port}"), "/echo")


def peers(path: str, tools: Tools) -> dict[str, Dialect]:
    """The peers that can run here, by name; `path` is /ws (all in one room) or /echo."""
    found = {"tornado": Dialect("tornado", (sys.executable, str(HERE / "peers/tornado_server.py"), "{port}"), path)}
    if tools.fastapi_python:
        command = (tools.fastapi_python, str(HERE / "peers/fastapi_server.py"), "{port}")
        found["fastapi"] = Dialect("fastapi", command, path)
    if tools.bare:
        found["bare"] = Dialect("bare", (tools.bare, "{port}"), path)
    return found


@dataclass(slots=True)
class Tools:
    """What is at hand on this machine; `notes` tells the user what is not. Paths; None where there is none."""

    load: tuple[str, ...]
    bare: str | None
    fastapi_python: str | None
    notes: list[str]


def find_tools(directory: Path, *, compiler: bool = True, make_venv: bool = True) -> Tools:
    """Compile the C programs into `directory` and make the FastAPI peer's environment, if it is not there yet."""
    notes: list[str] = []
    programs: dict[str, str | None] = {"load": None, "peers/bare": None}
    cc = shutil.which("cc") if compiler else None
    for source in programs:
        if cc is None:
            continue
        target = str(directory / source.rpartition("/")[2])
        built = subprocess.run(
            [cc, "-O2", "-o", target, str(HERE / f"{source}.c")], capture_output=True, text=True, timeout=120
        )
        if built.returncode == 0:
            programs[source] = target
        else:
            notes.append(f"{source}.c was not compiled: {built.stderr.strip().splitlines()[0]}")
    if cc is None:
        notes.append(
            "No C compiler (`cc`): the load comes from bench/load.py, which is several times slower, so figures of "
            "the fast servers are the load's; and the bare C peer is left out."
        )
    load = (programs["load"],) if programs["load"] else (sys.executable, str(HERE / "load.py"))
    python = VENV / "bin/python"
    if make_venv and not (VENV / "made").exists():
        print("making bench/.venv for the FastAPI peer ...", file=sys.stderr, flush=True)
        for step in (
            [sys.executable, "-m", "venv", "--clear", str(VENV)],
            [str(python), "-m", "pip", "install", "-q", "-r", str(HERE / "requirements.txt")],
        ):
            made = subprocess.run(step, capture_output=True, text=True, timeout=600)
            if made.returncode:
                why = (made.stderr or made.stdout).strip().splitlines() or ["no reason given"]
                notes.append(f"The FastAPI peer is left out, bench/.venv could not be made: {why[-1]}")
                break
        else:
            (VENV / "made").touch()
    return Tools(load, programs["peers/bare"], str(python) if (VENV / "made").exists() else None, notes)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, seconds (proc(5), `stat` fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def busy_seconds(cores: Sequence[int]) -> float:
    """What all processes, and the host's other guests (steal), used of these cores since boot (proc(5), `stat`)."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            total += sum(map(int, fields[:3])) + sum(map(int, fields[5:8]))  # all but idle, iowait and guests
    return total / TICKS


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Server:
    """A running server, alone on `core`; `with` stops it."""

    def __init__(self, dialect: Dialect, directory: Path, core: int) -> None:
        self.dialect = dialect
        self.port = free_port()
        self._output = directory / "output.txt"
        command = [part.replace("{port}", str(self.port)) for part in dialect.command]
        command = [part.replace("{directory}", str(directory)) for part in command]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=HERE.parent
            )
        os.sched_setaffinity(self._process.pid, {core})  # before it has threads; they inherit it
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.stop()
            raise

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None:
                    raise BenchError(f"the server ended with {self._process.returncode}: {self.last_words()}") from None
                if time.monotonic() > deadline:
                    raise BenchError(
                        f"the server did not listen in {START_SECONDS:.0f} s: {self.last_words()}"
                    ) from None
                time.sleep(0.02)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill it: what it would do in a quiet stop is no part of a figure."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def last_words(self) -> str:
        """The end of what it printed, in one line."""
        return " | ".join(self._output.read_text(errors="replace").strip().splitlines()[-3:])[-500:] or "(no output)"

    def cpu(self) -> float:
        """CPU seconds so far."""
        try:
            return cpu_seconds(self._process.pid)
        except OSError:
            raise BenchError(f"the server died: {self.last_words()}") from None

    def _status(self, key: str) -> int:
        try:
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        raise BenchError(f"the server died: {self.last_words()}")

    def resident(self) -> int:
        """Resident memory, bytes."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The highest resident memory since `forget_peak`, bytes."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # proc(5): resets VmHWM

    def counter(self, name: str) -> float | None:
        """The sum of a Prometheus metric's samples at /metrics; None if the server has no such metric."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
                lines: Sequence[str] = answer.read().decode().splitlines()
        except OSError:
            return None
        values = [float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(values) if values else None
