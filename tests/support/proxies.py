"""Proxies of others before a server, as Debian has them, each with a configuration of its own on a port of loopback.

The tests of deploy/nginx.conf have `nginx_site`.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import ROOT
from tornado_chat.verify.ports import free_port

PATIENCE = 15.0

DEPLOYMENT = ROOT / "docs" / "deployment.md"


class Proxy:
    """One that runs while its `with` lasts. `url` is where clients go, `said()` what it wrote.

    `configuration` has `{port}`, where it listens, and `{folder}`, its own; `command` is run in that folder, in which
    the configuration is the file `conf`. It must stay in the foreground.
    """

    def __init__(self, configuration: str, command: Callable[[Proxy], list[str]]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="proxy-")
        self.folder = Path(self._folder.name)
        # Some go on as another user, who has to come in and may have to write.
        self.folder.chmod(0o777)
        self._output = self.folder / "output"
        self._command = command
        text = configuration.replace("{port}", str(self.port)).replace("{folder}", str(self.folder))
        (self.folder / "conf").write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            with self._output.open("wb") as output:
                self.process = subprocess.Popen(
                    self._command(self),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, "HOME": str(self.folder)},
                    process_group=0,
                )
            deadline = time.monotonic() + PATIENCE
            while not self._listens():
                assert self.process.poll() is None, f"the proxy ended:\n{self.said()}"
                assert time.monotonic() < deadline, f"the proxy does not listen:\n{self.said()}"
                time.sleep(0.01)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def said(self) -> str:
        return self._output.read_text()

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def _stop(self) -> None:
        """End all of its processes: some leave children behind."""
        process, self.process = self.process, None
        if process is not None:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)
        self._folder.cleanup()


_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {
        listen 127.0.0.1:{port};
        client_max_body_size 1m;
        location / {
            proxy_pass http://127.0.0.1:{upstream};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            {rest}
        }
    }
}
"""
"""As people write it: it asks by HTTP/1.0, and hands no Upgrade on."""

_HOLDING = """
            proxy_ignore_headers X-Accel-Buffering;
            proxy_buffer_size 1m;
            proxy_buffers 4 1m;
            proxy_busy_buffers_size 2m;
            proxy_read_timeout 1h;
"""


def proxy_without_websockets(port: int) -> Proxy:
    """Before the server on `port`: it makes a plain GET of a WebSocket's handshake. Streams and requests pass."""
    return _nginx(port, "")


def buffering_proxy(port: int) -> Proxy:
    """As `proxy_without_websockets`, and it holds each answer back until that ends or has a MiB.

    So a stream brings nothing, not even its head. Short answers pass, and those that are waited for.
    """
    return _nginx(port, _HOLDING)


def _nginx(port: int, rest: str) -> Proxy:
    configuration = _NGINX.replace("{upstream}", str(port)).replace("{rest}", rest.strip())
    return Proxy(configuration, lambda proxy: ["nginx", "-c", str(proxy.folder / "conf")])


def haproxy(port: int) -> Proxy:
    """Before the server on `port`, as docs/deployment.md has it; so are the next three."""
    return Proxy(
        _documented("haproxy", ("bind :80", "bind 127.0.0.1:{port}"), ("8080", str(port))),
        lambda proxy: ["haproxy", "-db", "-f", "conf"],
    )


def caddy(port: int) -> Proxy:
    return Proxy(
        "{\nadmin off\n}\n"
        + _documented("caddyfile", ("chat.example.org {", "http://:{port} {\nbind 127.0.0.1"), ("8080", str(port))),
        lambda proxy: ["caddy", "run", "--config", "conf", "--adapter", "caddyfile"],
    )


def varnish(port: int) -> Proxy:
    return Proxy(
        _documented("vcl", ("8080", str(port))),
        lambda proxy: [
            *("varnishd", "-F", "-n", f"{proxy.folder}/varnish", "-f", f"{proxy.folder}/conf"),
            *("-a", f"127.0.0.1:{proxy.port}", "-s", "default,16m"),
        ],
    )


def squid(port: int) -> Proxy:
    rest = "\npid_filename none\naccess_log none\ncache_log /dev/stderr\npinger_enable off\ncoredump_dir {folder}\n"
    return Proxy(
        _documented("squid", ("http_port 80", "http_port 127.0.0.1:{port}"), ("8080", str(port))) + rest,
        lambda proxy: ["squid", "-N", "-f", "conf"],
    )


def _documented(language: str, *changes: tuple[str, str]) -> str:
    """The one block of this language in docs/deployment.md, with the addresses of a test."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DEPLOYMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1, f"{len(blocks)} blocks of {language}"
    text: str = blocks[0]
    for old, new in changes:
        assert text.count(old) == 1, f"{text.count(old)} times {old}"
        text = text.replace(old, new)
    return text
