"""What a `--redis` URL says: where the servers are, and how to get a connection to one of them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis import asyncio as aioredis
from redis.asyncio.connection import parse_url, to_bool
from redis.exceptions import ConnectionError, RedisError

from tornado_chat.errors import ConfigError

CONNECT_SECONDS = 2.0
"""For a connection with its greetings (TLS, HELLO, AUTH, SELECT), and for one answer on it."""

HostPort = tuple[str, int]
"""Host and port."""


class RedisAddress:
    """One or several servers of `url`, whose password is never shown.

    `redis://` and `rediss://` (TLS) are one server; the query holds redis-py's options, as `ssl_ca_certs`.
    `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB` is the primary of SERVICE, as the Sentinels name it.
    `redis+cluster://HOST:PORT,HOST:PORT` is a cluster that can be asked about at these servers. With `rediss+` instead
    of `redis+`, the servers speak TLS. User, password and options are the servers'. The Sentinels have their own in the
    query: `sentinel_username`, `sentinel_password`, and `sentinel_ssl=true` for TLS with the `ssl_` options given.
    """

    def __init__(self, url: str, epoch: str) -> None:
        """`epoch` is that of the log whose news it is for."""
        self.epoch = epoch
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        login, at, hosts = parts.netloc.rpartition("@")
        path = parts.path.strip("/")
        self.is_cluster = kind == "cluster"
        self.service = ""
        if kind == "sentinel":
            self.service, _, path = path.partition("/")
        try:
            self.servers = [_server(host, 26379 if self.service else 6379) for host in hosts.split(",")]
            if path and not path.isdecimal():
                raise ValueError(f"{path!r} is not the number of a database")
            options: dict[str, Any] = dict(parse_url(f"{scheme}://{login}{at}-/{path}?{parts.query}"))
            sentinel = _take_sentinel_options(options) if self.service else {}
            self._make = options.pop("connection_class", aioredis.Connection)
            self._make_sentinel = sentinel.pop("connection_class", aioredis.Connection)
            self._sentinel_options = sentinel | {
                "socket_timeout": CONNECT_SECONDS,
                "socket_connect_timeout": CONNECT_SECONDS,
            }
            self._options = options | {
                "protocol": 3,  # pushes and replies share the connection
                "socket_timeout": CONNECT_SECONDS,  # of the greetings: what comes after them is read without redis-py
                "socket_connect_timeout": CONNECT_SECONDS,
                "client_name": "tornado-chat",
            }
            self._make(**self._options)
            self._make_sentinel(**self._sentinel_options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--redis {hosts}: {error}") from error
        self.db = int(options.get("db", 0))
        self.shown = hosts + (f"/{self.service}" if self.service else "")
        # What every process must agree on, in whatever order and by whatever login it is written.
        servers = sorted(f"{host}:{port}" for host, port in self.servers)
        self.name = " ".join([*servers, self.service, str(self.db)])

    async def primary(self) -> HostPort:
        """The server to talk to: the one there is, or whom the first Sentinel that answers names."""
        if not self.service:
            return self.servers[0]
        reason: Exception = ConnectionError(f"no Sentinel knows {self.service}")
        for host, port in self.servers:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    found = await self._ask_sentinel(host, port)
            except (RedisError, OSError) as error:
                reason = error
            else:
                if found is not None:
                    return found[0].decode(), int(found[1])
        raise reason

    async def connect(self, server: HostPort) -> aioredis.Connection:
        """A connection that has greeted `server`; RedisError or OSError if there is none in time."""
        connection: aioredis.Connection = self._make(**self._options | {"host": server[0], "port": server[1]})
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py says not what it returns: nothing
                if self.service:
                    role = await _answer(connection, "ROLE")
                    if role[0] != b"master":
                        raise ConnectionError(f"{server[0]}:{server[1]} is not the primary")
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise TimeoutError(f"{server[0]}:{server[1]} does not answer within {CONNECT_SECONDS:g} s") from None
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def ask(self, server: HostPort, *command: str) -> Any:
        """The answer to one command, on a connection of its own."""
        connection = await self.connect(server)
        try:
            return await _answer(connection, *command)
        finally:
            await connection.disconnect()

    async def _ask_sentinel(self, host: str, port: int) -> list[bytes] | None:
        connection = self._make_sentinel(**self._sentinel_options | {"host": host, "port": port})
        try:
            await connection.connect()
            found: list[bytes] | None = await _answer(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        finally:
            await connection.disconnect(nowait=True)
        return found


def _take_sentinel_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of connections to Sentinels; `options`, as parse_url gave them, keep those of the servers."""
    prefix = "sentinel_"
    mine = {name.removeprefix(prefix): options.pop(name) for name in list(options) if name.startswith(prefix)}
    if to_bool(mine.pop("ssl", None)):
        ssl = [name for name in options if name.startswith("ssl_")]
        mine |= {"connection_class": aioredis.SSLConnection} | {name: options[name] for name in ssl}
        if "connection_class" not in options:  # the servers speak no TLS
            for name in ssl:
                del options[name]
    for name in mine:
        if name not in ("username", "password", "connection_class") and not name.startswith("ssl_"):
            raise ValueError(f"there is no option {prefix}{name}")
    return mine


async def _answer(connection: aioredis.Connection, *command: str) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


def _server(text: str, default_port: int) -> HostPort:
    parts: SplitResult = urlsplit("//" + text)
    if not parts.hostname:
        raise ValueError("it names no server")
    return parts.hostname, parts.port or default_port
