"""The real server, as a process of its own, for tests."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import ROOT
from tornado_chat.auth import mint
from tornado_chat.verify.processes import children, is_alive

START_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0
UNLIMITED = ("--guests", "--send-rate", "0", "--join-rate", "0")
"""Flags of a server whose limits are not what is tested."""

_TROUBLE = re.compile(
    r'^\S+ (warning|error|critical) |"level":"(warning|error|critical)"|^tornado-chat: |^\s*Traceback'
)
_LISTENING = re.compile(r"^listening on (http://\S+)", re.MULTILINE)


class Server:
    """`python -m tornado_chat serve --port 0` with its files under `tmp_path`; a context manager.

    At the end its output must hold no traceback and no line of WARNING or worse, but for those that match one of
    `expected` (regular expressions). `url` is `http://127.0.0.1:PORT`; the port stays the same over restarts.
    `program`: what Python runs instead of the package; `environment`: variables besides ours. The process is the first
    of a group of its own; its workers, if it has any, are in there too, and are gone at the end.
    """

    def __init__(
        self,
        tmp_path: Path,
        *flags: str,
        expected: Sequence[str] = (),
        program: Sequence[str] = ("-m", "tornado_chat"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.url = ""
        self.port = 0
        self.database = tmp_path / "chat.db"
        self.output = tmp_path / "server.out"
        self.errors = tmp_path / "server.err"
        self.expected = list(expected)
        self.secret = secrets.token_hex(32).encode()
        self.process: subprocess.Popen[bytes] | None = None
        self._secret_file = tmp_path / "secret"
        self._secret_file.write_bytes(self.secret)
        self._flags = flags
        self._program = program
        self._environment = environment or {}

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None:
            self.check()

    def launch(self) -> None:
        """Start the process, and do not wait until it listens."""
        assert self.process is None, "it runs already"
        command = [sys.executable, *self._program, "serve", "--port", str(self.port)]
        command += ["--database", f"sqlite:///{self.database}", "--secret-file", str(self._secret_file), *self._flags]
        with self.output.open("ab") as output, self.errors.open("ab") as errors:
            self._offset = output.tell()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=ROOT,
                env={
                    **{key: value for key, value in os.environ.items() if not key.startswith("TORNADO_CHAT_")},
                    **self._environment,
                },
                process_group=0,
            )

    def is_listening(self) -> bool:
        """Whether the process that was launched has said so."""
        assert self.process is not None
        found = _LISTENING.search(self.output.read_bytes()[self._offset :].decode())
        if found is None:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.said()}"
            return False
        self.url = found[1]
        self.port = int(self.url.rpartition(":")[2])
        return True

    def start(self) -> None:
        self.launch()
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_listening():
            assert time.monotonic() < deadline, f"not listening after {START_TIMEOUT:g} s:\n{self.said()}"
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL: no time to put anything right."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and the end of the process in good order."""
        if self.process is not None:
            code = self._end(signal.SIGTERM)
            assert code == 0, f"the server ended with {code}:\n{self.said()}"

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections, and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """SIGKILL, then a new process on the same port and files."""
        self.kill()
        self.start()

    def workers(self) -> list[int]:
        """The process ids of its workers, oldest first; none when it has ended."""
        assert self.process is not None
        return children(self.process.pid)

    def _end(self, number: signal.Signals) -> int | None:
        process = self.process
        if process is None:
            return None
        workers = self.workers()
        self.process = None
        process.send_signal(number)
        try:
            code = process.wait(STOP_TIMEOUT)
            _wait_for_the_end(workers)
            return code
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"still there {STOP_TIMEOUT:g} s after {number.name}:\n{self.said()}") from None

    def token(self, user: str, **claims: Any) -> str:
        """A token for `user`; `claims` as for auth.mint: name, device, rooms, ttl (s), jti."""
        return mint(self.secret, user, **{"ttl": 3600.0, **claims})

    def said(self) -> str:
        """All that the server printed, of every start."""
        return self.output.read_text() + self.errors.read_text()

    def check(self) -> None:
        """Fail for each line of trouble that is not expected."""
        trouble = [
            line
            for line in self.said().splitlines()
            if _TROUBLE.search(line) and not any(re.search(pattern, line) for pattern in self.expected)
        ]
        assert not trouble, "\n".join(["the server had trouble:", *trouble, "in:", self.said()])


def _wait_for_the_end(pids: list[int]) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"workers left behind: {pids}"
        time.sleep(0.01)
