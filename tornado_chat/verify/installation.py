"""An installation of our own under one directory: server, workers, database and Redis; started, hurt and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import tornado_chat
from tornado_chat.errors import ConfigError
from tornado_chat.verify.postgres_server import PostgresServer
from tornado_chat.verify.processes import children, last_words, tied
from tornado_chat.verify.proxy import Proxy
from tornado_chat.verify.redis_server import RedisServer

START_SECONDS = 60.0
STOP_SECONDS = 45.0
REPLACE_SECONDS = 30.0
"""For a worker that was killed to be there again."""
ROLL_SECONDS = 45.0
"""For each worker that is rolled: starting, and draining the old one."""

HARSH = (
    *("--send-rate", "0", "--join-rate", "0"),
    *("--high-water-mark", "8192", "--ring-bytes", "1048576"),
    *("--ping-interval", "5s", "--stream-lifetime", "20s"),
)
"""Small buffers, so that slow readers fall behind and recoveries come to the log; streams that beat and end while they
are watched. Rates are not what is tested.
"""

_LISTENING = re.compile(r"^listening on (http://\S+)", re.MULTILINE)
_ROLLED = re.compile(rb"workers (not )?replaced")
_TROUBLE = re.compile(r"^\S+ (error|critical) |^Traceback")


class Installation:
    """`start` it, then `url` is its address and `secret` signs its tokens; `stop` leaves no process.

    Killed with SIGKILL we leave none either, but the files.
    """

    def __init__(self, directory: Path, *, workers: int, postgresql: bool, redis: bool) -> None:
        self.directory = directory
        self.worker_count = workers
        self.secret = secrets.token_hex(32).encode()
        self.url = ""
        self.started_in = 0.0  # seconds, the last time
        self.postgres = PostgresServer(directory / "postgresql", tied=True) if postgresql else None
        self.redis = RedisServer(directory / "redis", tied=True) if redis else None
        self.proxy: Proxy | None = None  # in front of Redis
        self._output = directory / "server.out"
        self._errors = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        database = "PostgreSQL" if self.postgres else "SQLite"
        workers = f"{self.worker_count} worker{'s' if self.worker_count > 1 else ''}"
        return f"{workers}, {database}, {'Redis' if self.redis else 'no Redis'}"

    async def start(self) -> None:
        secret = self.directory / "secret"
        secret.unlink(missing_ok=True)  # of a run before
        secret.touch(0o600)
        secret.write_bytes(self.secret)
        if self.postgres is not None:
            await asyncio.to_thread(self.postgres.start)
        if self.redis is not None:
            await asyncio.to_thread(self.redis.start)
            self.proxy = Proxy("127.0.0.1", self.redis.port)
            await self.proxy.start()
        await self._start_server()

    async def stop(self) -> None:
        """Also of an installation that was not started wholly."""
        try:
            await self._stop_server(signal.SIGTERM)
        finally:
            if self.proxy is not None:
                await self.proxy.close()
            if self.redis is not None:
                await asyncio.to_thread(self.redis.kill)
            if self.postgres is not None:
                await asyncio.to_thread(self.postgres.stop, "immediate")

    # The server.

    async def _start_server(self) -> None:
        port = self.url.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "tornado_chat", "serve", "--port", port, "--secret-file", "secret", *HARSH]
        command += ["--database", self.postgres.url if self.postgres else "sqlite:///chat.db"]
        if self.worker_count > 1:
            command += ["--workers", str(self.worker_count)]
        if self.proxy is not None:
            command += ["--redis", f"redis://127.0.0.1:{self.proxy.port}/0"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TORNADO_CHAT_")}
        package = str(Path(tornado_chat.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            offset = output.tell()
            self._process = subprocess.Popen(  # noqa: ASYNC220  # some milliseconds, in an instrument of tests
                tied(command, signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=self.directory,
                env=environment,
                start_new_session=True,  # a Ctrl-C in our terminal is ours
            )
        began = time.monotonic()
        deadline = began + START_SECONDS
        while (found := _LISTENING.search(self._output.read_bytes()[offset:].decode())) is None:
            if self._process.poll() is not None:
                raise ConfigError(
                    f"the server ended with {self._process.returncode}; it said: {last_words(self._errors)}"
                )
            if time.monotonic() > deadline:
                raise ConfigError(f"the server did not listen within {START_SECONDS:g} s: {last_words(self._errors)}")
            await asyncio.sleep(0.02)
        self.url = found[1]
        self.started_in = time.monotonic() - began

    async def _stop_server(self, number: signal.Signals) -> None:
        """Returns when the server and its workers are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        workers = children(process.pid)
        if process.poll() is None:
            process.send_signal(number)
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Process ids of those that serve: the server's children, or itself where it has none."""
        assert self._process is not None
        return children(self._process.pid) if self.worker_count > 1 else [self._process.pid]

    async def kill_worker(self, pid: int) -> bool:
        """`kill -9`; whether there was another in time."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if self.worker_count > 1:
            return await self._replaced(pid)
        await self._stop_server(signal.SIGKILL)
        await self._start_server()
        return True

    async def roll(self) -> bool:
        """All workers by new ones, without a pause (one alone: with); whether it was done in time.

        Where new ones cannot start, since their database is away just now, the old ones go on: then once more.
        """
        if self.worker_count == 1:
            await self._stop_server(signal.SIGTERM)
            await self._start_server()
            return True
        deadline = time.monotonic() + ROLL_SECONDS * self.worker_count
        while (rolled := await self._roll_once(deadline)) is not None:
            if rolled:
                return True
            await asyncio.sleep(1.0)
        return False

    async def _roll_once(self, deadline: float) -> bool | None:
        """Whether the server says that it did; None: it says nothing in time."""
        assert self._process is not None
        offset = self._errors.stat().st_size
        self._process.send_signal(signal.SIGHUP)
        while time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            with self._errors.open("rb") as errors:
                errors.seek(offset)
                outcome = _ROLLED.search(errors.read())
            if outcome is not None:
                return outcome[1] is None
        return None

    async def _replaced(self, pid: int) -> bool:
        deadline = time.monotonic() + REPLACE_SECONDS
        while True:
            now = self.workers()
            if len(now) == self.worker_count and pid not in now:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)

    def trouble(self) -> list[str]:
        """Lines of the server's log that should not be there: errors, but for our kills, and tracebacks' first."""
        try:
            lines = self._errors.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if _TROUBLE.search(line) and "signal=SIGKILL" not in line]
