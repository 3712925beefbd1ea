"""The real nginx with the very file of `deploy/`, before real workers, for tests."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from os import geteuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

from tests.support import ROOT
from tests.support.servers import Server
from tornado_chat.verify.ports import free_port

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
PATIENCE = 15.0

HARMLESS = re.compile(r" \[notice\] |setrlimit\(RLIMIT_NOFILE, \d+\) failed")
"""Lines of nginx' own log that any good run may have: a test's open-file limit is not a service's."""

_MADE_ELSEWHERE = "client_body", "proxy", "fastcgi", "uwsgi", "scgi"


class Workers(Server):
    """`serve --workers N --unix-socket .../run/{worker}.sock`."""

    def __init__(self, folder: Path, *flags: str, count: int, expected: Sequence[str] = ()) -> None:
        listening = ("--workers", str(count), "--unix-socket", f"{folder}/run/{{worker}}.sock")
        super().__init__(folder, *listening, *flags, expected=expected)

    def is_listening(self) -> bool:
        assert self.process is not None
        found = b"listening on " in self.output.read_bytes()[self._offset :]
        assert found or self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.said()}"
        return found


class Site:
    """nginx and its workers, in a folder of their own; a context manager.

    `changes` are replaced in the configuration, besides the addresses and paths that a test cannot use.
    At the end no query may stand in any file that nginx wrote, and no trouble in its log.
    """

    def __init__(
        self, *flags: str, count: int = 2, changes: Sequence[tuple[str, str]] = (), expected: Sequence[str] = ()
    ) -> None:
        self._stack = ExitStack()
        # Not pytest's: nginx' processes, which are another user, could not go into it.
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="chat-")))
        self.folder.chmod(0o755)
        for name in ("tls", "run", "logs", "acme", "tmp"):
            (self.folder / name).mkdir()
        self.port, self.plain_port = free_port(), free_port()
        self.configuration = self.folder / "nginx.conf"
        self.configuration.write_text(self._fitted(CONFIGURATION.read_text(), changes))
        self.server = Workers(self.folder, *flags, count=count, expected=expected)
        self.make_certificate()
        self.tls = ssl.create_default_context(cafile=self.folder / "tls/chat.crt")
        self.process: subprocess.Popen[bytes] | None = None

    def _fitted(self, text: str, changes: Sequence[tuple[str, str]]) -> str:
        elsewhere = [f"{name}_temp_path tmp/{name};" for name in _MADE_ELSEWHERE]
        fitting = [
            (r"listen \[::\].*\n", ""),  # not every machine has IPv6
            (r"listen 80 ", f"listen 127.0.0.1:{self.plain_port} "),
            (r"listen 443 ", f"listen 127.0.0.1:{self.port} "),
            (r"http \{\n", "\n".join(["http {", *elsewhere, ""])),  # those compiled in are root's
            *([] if geteuid() == 0 else [(r"user www-data;", "")]),
        ]
        for pattern, replacement in [*fitting, *((re.escape(old), new) for old, new in changes)]:
            text, count = re.subn(pattern, replacement, text)
            assert count, f"nothing in {CONFIGURATION} matches {pattern}"
        return text

    def make_certificate(self) -> None:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "tls/chat.key"]
        names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        command = ["openssl", "req", "-x509", *key, "-out", "tls/chat.crt", "-days", "2", *names]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=PATIENCE)

    def nginx(self, *flags: str) -> list[str]:
        return ["nginx", "-p", str(self.folder), "-c", "nginx.conf", *flags]

    def __enter__(self) -> Self:
        try:
            self._stack.enter_context(self.server)
            self._stack.callback(self._stop)
            with (self.folder / "nginx.err").open("wb") as errors:
                command = self.nginx("-g", "daemon off;")
                self.process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stderr=errors)
            deadline = time.monotonic() + PATIENCE
            while not self._answers():
                assert self.process.poll() is None, (self.folder / "nginx.err").read_text()
                assert time.monotonic() < deadline, "nginx does not answer"
                time.sleep(0.01)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self._stop()
            if kind is None:
                self._check()

    def _answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)

    def _check(self) -> None:
        lines = (self.folder / "logs/error.log").read_text().splitlines()
        trouble = [line for line in lines if not HARMLESS.search(line)]
        assert not trouble, "\n".join(["nginx had trouble:", *trouble])
        written = [self.folder / "nginx.err", *(self.folder / "logs").iterdir(), *(self.folder / "cache").rglob("*")]
        for file in written:
            assert not file.is_file() or b"token=" not in file.read_bytes(), f"a query in {file.name}"

    @contextmanager
    def http(self, source: str = "127.0.0.1") -> Iterator[http.client.HTTPSConnection]:
        """A connection from an address of this machine, for several requests."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=self.tls, source_address=(source, 0), timeout=PATIENCE
        )
        with closing(connection):
            yield connection

    def get(self, path: str, headers: dict[str, str] | None = None, *, source: str = "127.0.0.1") -> Answer:
        with self.http(source) as connection:
            return ask(connection, path, headers)

    def connect(self, path: str = "/ws", *, source: str = "127.0.0.1", **options: Any) -> connect:
        """A WebSocket over TLS; a context manager, and to be awaited."""
        url = f"wss://127.0.0.1:{self.port}{path}"
        given: dict[str, Any] = {"ssl": self.tls, "local_addr": (source, 0), "proxy": None}
        given |= {"ping_interval": None, "max_size": None}
        return connect(url, **given | options)


class Answer:
    """What came back for one request."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def error(self) -> Any:
        """The `error` that a refusal must be, and nothing else; it must say when to come back."""
        assert self.headers["Content-Type"] == "application/json"
        assert 1 <= int(self.headers["Retry-After"]) <= 4
        document = json.loads(self.body)
        assert document.keys() == {"error"}
        assert document["error"].keys() == {"code", "message"}
        return document["error"]


def ask(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> Answer:
    """One GET (with a `body`: POST) on a connection that may have had others."""
    connection.request("GET" if body is None else "POST", path, body, headers or {})
    return Answer(connection.getresponse())


async def hear(chat: ClientConnection, type: str, **fields: Any) -> Any:
    """Read on to an object of this type with these fields."""
    while True:
        got = json.loads(await asyncio.wait_for(chat.recv(), PATIENCE))
        if got["type"] == type and all(got.get(key) == value for key, value in fields.items()):
            return got


def metric(site: Site, name: str) -> float:
    """The sum of the samples of this name over all workers."""
    text = site.get("/metrics").body.decode()
    found = re.findall(rf"^tornado_chat_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))
