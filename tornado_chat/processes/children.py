"""Programs that are kept running beside this process, such as agents: started again when they end, ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence

from tornado_chat.config import PREFIX, Settings
from tornado_chat.tasks import Tasks

logger = logging.getLogger(__name__)

VARIABLE = "_TORNADO_CHAT_CHILD"
"""In the environment of a child, which ends when its standard input does: its parent is gone then, however it died."""

HOLDER = "_TORNADO_CHAT_HOLDER"
"""In the environment of the process that delivers webhooks: whose leases it has, as the one before it had."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before one is started again, doubled each time; the first time it is started at once."""

LONG_LIFE_SECONDS = 10.0
"""One that lived this long is started again without a pause."""

STOP_SECONDS = 5.0
"""For a child to end after SIGTERM; then it is killed."""


class Child:
    """One program. `run` keeps it running until cancelled, and leaves no process behind."""

    __slots__ = ("_command", "_environment", "_name", "_process", "_restart")

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """`name` is what the log calls it."""
        self._name = name
        self._command = command
        self._environment = {**environment, VARIABLE: "1"}
        self._process: Process | None = None
        self._restart = asyncio.Event()

    def restart(self) -> None:
        """Let it end, and start it again at once, also in the pause after a failure, which may be mended."""
        self._restart.set()
        if self._process is not None:
            _signal(self._process, signal.SIGTERM)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            self._restart.clear()
            try:
                how = await self._live()
            except OSError as error:
                how = f"not started: {error}"
            if self._restart.is_set():
                failures = 0
                logger.info("child started again name=%s", self._name)
                continue
            if loop.time() - began >= LONG_LIFE_SECONDS:
                failures = 0
            pause = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** (failures - 1)) if failures else 0.0
            failures += 1
            logger.error("child ended name=%s how=%s again_in=%.1f", self._name, how, pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._restart.wait()
                    failures = 0

    async def _live(self) -> str:
        """From its start to its end; how it ended."""
        # Signals of a terminal go to us alone.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=None, stderr=None, env=self._environment, start_new_session=True
        )
        self._process = process
        logger.info("child started name=%s pid=%d", self._name, process.pid)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            self._process = None
            if process.stdin is not None:
                process.stdin.close()
        return f"code {code}" if code >= 0 else _name_of(-code)


class Children:
    """Several of them, with one owner."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._tasks = Tasks()

    def start(self) -> None:
        for child in self._children:
            self._tasks.spawn(child.run())

    def restart(self) -> None:
        for child in self._children:
            child.restart()

    async def stop(self) -> None:
        """They are gone when this returns."""
        await self._tasks.stop()


def agents_of(settings: Settings, address: str) -> Children:
    """The agents that the server which listens on `address` has beside it; they sign in with its key."""
    host, colon, port = address.removeprefix("http://").rpartition(":")
    if host in ("0.0.0.0", "[::]"):
        host = "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    environment = _environment(settings) | {PREFIX + "URL": f"http://{host}{colon}{port}"}
    if settings.secret_file is not None:
        environment[PREFIX + "SECRET_FILE"] = settings.secret_file
    return Children([Child(target, [*program(), "agent", target], environment) for target in settings.agent])


class WebhooksProcess:
    """The process that delivers webhooks, from when there are some."""

    def __init__(self, settings: Settings) -> None:
        environment = _environment(settings) | {HOLDER: secrets.token_hex(8)}
        self._children = Children([Child("webhooks", [*program(), "webhook", "deliver"], environment)])
        self._started = False

    def want(self) -> None:
        """There are endpoints."""
        if not self._started:
            self._started = True
            self._children.start()

    def restart(self) -> None:
        self._children.restart()

    async def stop(self) -> None:
        """It is gone when this returns, and none comes after it."""
        self._started = True
        await self._children.stop()


def _environment(settings: Settings) -> dict[str, str]:
    """For a child that reads our log."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    return environment | {
        PREFIX + "DATABASE": settings.database,
        PREFIX + "LOG_FORMAT": settings.log_format,
        PREFIX + "LOG_LEVEL": settings.log_level,
    }


def program() -> list[str]:
    """This program, for another process of it; the current directory is searched for modules as it is for us."""
    safe = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    return [sys.executable, *safe, "-m", "tornado_chat"]


def watch_parent(on_gone: Callable[[], object]) -> None:
    """In a child: call `on_gone` when the parent is gone, however it died. Takes the variable out of the environment.

    Nothing, in a process that is no child.
    """
    if os.environ.pop(VARIABLE, None) is None:
        return
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            on_gone()

    loop.add_reader(0, readable)


def is_child() -> bool:
    return VARIABLE in os.environ


async def _end(process: Process) -> None:
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        await process.wait()


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _name_of(number: int) -> str:
    return signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"
