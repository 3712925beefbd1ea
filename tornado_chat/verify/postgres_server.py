"""A PostgreSQL server of our own for a while: made, started, hurt and thrown away. Blocking."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

from tornado_chat.errors import ConfigError
from tornado_chat.verify.ports import free_port
from tornado_chat.verify.processes import children, is_alive, last_words, tied

USER = "chat"
UNPRIVILEGED = "postgres"  # who runs it when we are root: PostgreSQL refuses to be run by root
INSTALLED = "/usr/lib/postgresql/*/bin"  # where Debian keeps the server's programs, outside of PATH
START_TIMEOUT = 60.0
STOP_TIMEOUT = 60.0


class PostgresServer:
    """One server with its data under `directory`, on a port of 127.0.0.1 that it keeps; a context manager.

    `start` makes the data where there is none. `settings` are PostgreSQL's, as `fsync=off`. When we are root the
    directory becomes the user `postgres`'s, who must be able to reach it: a directory inside of one that only root may
    enter will not do. `tied`: it stops when the thread that has started it ends. ConfigError if PostgreSQL is not
    installed, does not start or does not stop.
    """

    def __init__(self, directory: Path, *settings: str, tied: bool = False) -> None:
        self.directory = directory.absolute()
        self.port = 0
        self.output = self.directory / "postgres.log"
        self._settings = settings
        self._tied = tied
        self._data = self.directory / "data"
        self._password = secrets.token_hex(16)
        self._programs = _programs()
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")

    @property
    def url(self) -> str:
        """Of the database that is there from the start."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns when the server takes connections."""
        if not self._data.exists():
            self._make()
        command = [self._program("postgres"), "-D", str(self._data)]
        settings = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *self._settings)
        for setting in settings:
            command += ["-c", setting]
        with self.output.open("ab") as output:
            process = self._process = subprocess.Popen(
                tied(command, signal.SIGQUIT) if self._tied else command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env=_environment(),
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                process_group=0,  # a Ctrl-C in a terminal is not for it
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready(process.pid):
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                what = "ended at once" if ended else f"takes no connections after {START_TIMEOUT:g} s"
                raise ConfigError(f"PostgreSQL {what}; it said: {last_words(self.output)}")
            time.sleep(0.01)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """`fast` ends the connections and closes the files in good order; `immediate` leaves that to the next start."""
        if self._process is None:
            return
        self.resume()
        process, self._process = self._process, None
        process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process = process
            self.kill()
            raise ConfigError(f"PostgreSQL did not stop within {STOP_TIMEOUT:g} s") from None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """`stop` and `start`: the same port, the same data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL to the server and all its processes; returns when they are gone."""
        process, self._process = self._process, None
        if process is None:
            return
        its = children(process.pid)
        process.kill()
        process.wait()
        for child in its:
            _signal(child, signal.SIGKILL)
        while any(is_alive(child) for child in its):  # its new parent may not have noticed that it is dead
            time.sleep(0.005)

    def pause(self) -> None:
        """SIGSTOP to all its processes: the connections stay, and nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # first: then it makes no further ones
        for child in children(self._process.pid):
            _signal(child, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        for pid in (*children(self._process.pid), self._process.pid):
            _signal(pid, signal.SIGCONT)

    def create_database(self, name: str) -> str:
        """An empty database; returns its URL."""
        self._administer("createdb", name)
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """With all that is in it; whoever is connected to it is cut off."""
        self._administer("dropdb", "--force", name)

    def _make(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        password = self.directory / "password"
        password.write_text(self._password)
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            for path in (self.directory, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [self._program("initdb"), "-D", str(self._data), "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run([*command, "--auth=scram-sha-256", f"--username={USER}", f"--pwfile={password}"])
        self.port = free_port()

    def _administer(self, program: str, *arguments: str) -> None:
        where = ["--host=127.0.0.1", f"--port={self.port}", f"--username={USER}", "--no-password"]
        self._run([self._program(program), *where, *arguments])

    def _run(self, command: list[str]) -> None:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=START_TIMEOUT,
                cwd=self.directory,
                env=_environment() | {"PGPASSWORD": self._password},
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{command[0]} did not end within {START_TIMEOUT:g} s") from None
        if done.returncode:
            raise ConfigError(f"{command[0]} failed: {' '.join(done.stdout.decode(errors='replace').split())}")

    def _program(self, name: str) -> str:
        return str(self._programs / name)

    def _is_ready(self, pid: int) -> bool:
        """As pg_ctl finds out: by the lines of the server's pid file, the first and the last of eight."""
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _programs() -> Path:
    """The folder of PostgreSQL's programs, the newest version's."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    folders = [Path(folder) for folder in glob.glob(INSTALLED) if os.path.exists(f"{folder}/postgres")]
    if not folders:
        raise ConfigError("PostgreSQL's server is not installed; Debian's package is `postgresql`")
    return max(folders, key=lambda folder: float(folder.parent.name))


def _environment() -> dict[str, str]:
    """Ours, without what would speak of another server or another language."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    return ours | {"LC_ALL": "C"}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended meanwhile, as the server's processes do
