"""Processes that are one agent: started, killed, frozen and stopped."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tornado_chat
from tornado_chat.errors import ConfigError
from tornado_chat.verify.processes import last_words, tied

AGENT = "tornado_chat.agents.verified:agent"
MODEL = "VERIFY_MODEL_URL"
"""The variable that tells it where its model is."""

START_SECONDS = 60.0
STOP_SECONDS = 15.0

_TROUBLE = re.compile(r"^\S+ (error|critical) |^Traceback")


class Replicas:
    """`start` all, then `kill`, `restart`, `freeze` one; `stop` leaves none. `urls`: each connects to one, in turns."""

    def __init__(
        self, directory: Path, count: int, urls: Sequence[str], *, token: str, rooms: Sequence[str], model: str
    ) -> None:
        """`rooms`: those that it follows from its start on."""
        self.count = count
        self._directory = directory
        self._urls = urls
        self._token = token
        self._rooms = rooms
        self._model = model
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    async def start(self) -> None:
        """Returns when each has said that it answers; ConfigError."""
        for number in range(self.count):
            self.run(number)
        deadline = time.monotonic() + START_SECONDS
        for number in range(self.count):
            output = self._output(number)
            while b"agent answers" not in output.read_bytes():
                code = self._processes[number].poll()
                if code is not None:
                    raise ConfigError(f"the agent ended with {code}; it said: {last_words(output)}")
                if time.monotonic() > deadline:
                    raise ConfigError(f"the agent did not answer within {START_SECONDS:g} s: {last_words(output)}")
                await asyncio.sleep(0.02)

    def run(self, number: int) -> None:
        """Start it, unless it runs."""
        if number in self._processes:
            return
        command = [sys.executable, "-m", "tornado_chat", "agent", AGENT, "--url", self._urls[number % len(self._urls)]]
        for room in self._rooms:
            command += ["--room", room]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TORNADO_CHAT_")}
        package = str(Path(tornado_chat.__file__).parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
        environment |= {"TORNADO_CHAT_TOKEN": self._token, MODEL: self._model}
        with self._output(number).open("ab") as output:
            self._processes[number] = subprocess.Popen(
                tied(command, signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._directory,
                env=environment,
                start_new_session=True,  # a Ctrl-C in our terminal is ours
            )

    def pid(self, number: int) -> int:
        return self._processes[number].pid

    def kill(self, number: int) -> None:
        """`kill -9`."""
        process = self._processes.pop(number)
        process.kill()
        process.wait()

    async def end(self, number: int) -> bool:
        """SIGTERM; whether it was gone in time."""
        process = self._processes.pop(number)
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
        return True

    def freeze(self, number: int) -> None:
        """SIGSTOP: its connections stay, and nothing answers."""
        self._processes[number].send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        self._processes[number].send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Of all, also those that are frozen."""
        running = list(self._processes)
        for number in running:
            self.thaw(number)
        await asyncio.gather(*(self.end(number) for number in running))

    def trouble(self) -> list[str]:
        """What they logged and should not have; of those that ended by themselves, that."""
        found = [
            f"agent {number + 1} ended with {process.returncode}: {last_words(self._output(number))}"
            for number, process in self._processes.items()
            if process.poll() is not None
        ]
        for number in range(self.count):
            if self._output(number).exists():
                lines = self._output(number).read_text(errors="replace").splitlines()
                found += [f"agent {number + 1}: {line}" for line in lines if _TROUBLE.search(line)]
        return found

    def _output(self, number: int) -> Path:
        return self._directory / f"agent-{number + 1}.log"
