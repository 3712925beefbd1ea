"""Every setting, once: the flags, the environment, the TOML file and the README's table all come from `Settings`.

A flag wins over the environment, the environment over the file, the file over the default.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any
from urllib.parse import SplitResult, urlsplit

from tornado_chat.errors import ConfigError

PREFIX = "TORNADO_CHAT_"
PURE = PREFIX + "PURE"
"""With this variable in the environment the server runs without its C extension: no setting, since only tests and the
bench want it."""

CLIENT_VARIABLES = (PREFIX + "TOKEN", PREFIX + "URL")
"""Variables of `tail` and `send`: not settings, yet not mistakes where a server starts."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Check = Callable[[object], Any]
"""Turns what a user wrote (text, or a TOML value) into the setting's value; ValueError says what would be right."""


def _shown(raw: object) -> str:
    """`raw` for an error message: on one line, not too long."""
    text = repr(raw)
    return text if len(text) <= 80 else text[:77] + "..."


def _wrong(raw: object, right: str) -> ValueError:
    return ValueError(f"{_shown(raw)} is not {right}")


def integer(minimum: int, maximum: int) -> Check:
    right = f"a whole number from {minimum} to {maximum}"

    def check(raw: object) -> int:
        if isinstance(raw, str) and re.fullmatch("[0-9]{1,18}", raw):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int) or not minimum <= raw <= maximum:
            raise _wrong(raw, right)
        return raw

    return check


_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(minimum: str, maximum: str) -> Check:
    """Seconds, written as 25, 25s, 500ms, 5m, 2h or 7d; both bounds belong to it."""
    right = f"a time from {minimum} to {maximum} (such as 25, 25s, 500ms, 5m, 2h or 7d)"

    def seconds(raw: object) -> float | None:
        if isinstance(raw, bool) or not isinstance(raw, str | int | float):
            return None
        match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(ms|s|m|h|d|)", str(raw))
        return float(match[1]) * _SECONDS[match[2]] if match else None

    low, high = seconds(minimum), seconds(maximum)
    assert low is not None
    assert high is not None

    def check(raw: object) -> float:
        value = seconds(raw)
        if value is None or not low <= value <= high:
            raise _wrong(raw, right)
        return value

    return check


def switch(raw: object) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or raw.lower() not in known:
        raise _wrong(raw, "true or false")
    return known[raw.lower()]


def choice(*choices: str) -> Check:
    def check(raw: object) -> str:
        if not isinstance(raw, str) or raw not in choices:
            raise _wrong(raw, "one of " + ", ".join(choices))
        return raw

    return check


def listing(item: Check, right: str, separator: str = ",") -> Check:
    """A tuple of items, written with commas (the regex `separator`) between them, or as a TOML list; perhaps empty."""

    def check(raw: object) -> tuple[Any, ...]:
        if isinstance(raw, str):
            raw = [part.strip() for part in re.split(separator, raw)] if raw.strip() else []
        if not isinstance(raw, list | tuple):
            raise _wrong(raw, f"a list of {right}")
        return tuple(item(part) for part in raw)

    return check


def host(raw: object) -> str:
    if isinstance(raw, str):
        try:
            return str(ipaddress.ip_address(raw))
        except ValueError:
            if re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", raw) and len(raw) <= 253:
                return raw
    raise _wrong(raw, "an address or a host name (such as 127.0.0.1, ::1, 0.0.0.0 or localhost)")


def path(raw: object) -> str:
    if not isinstance(raw, str) or not raw or not raw.isprintable():
        raise _wrong(raw, "a path of a file")
    return raw


def socket_path(raw: object) -> str:
    if not isinstance(raw, str) or not raw.isprintable() or not 1 <= len(raw.encode()) <= 107:
        raise _wrong(raw, "a path of 1 to 107 bytes, which is what the kernel takes for a Unix socket")
    return raw


def database(raw: object) -> str:
    sqlite = "sqlite:///PATH (three slashes: relative; four: absolute), such as sqlite:///data/chat.db"
    right = f"{sqlite}, or postgresql://USER:PASSWORD@HOST:PORT/NAME"
    if not isinstance(raw, str):
        raise _wrong(raw, right)
    scheme, colon, _ = raw.partition(":")
    if scheme in ("postgresql", "postgres"):
        parts = _server(raw, right)
        if not parts.path.strip("/"):
            raise ValueError(f"it names no database; give {right}")
        return "postgresql" + raw.removeprefix(scheme)
    if colon and scheme != "sqlite" and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme):
        # The rest of such a URL may hold a password: it is not repeated.
        raise ValueError(f"{scheme} is not supported: the log is kept in SQLite or PostgreSQL; give {right}")
    file = raw.removeprefix("sqlite:///")
    if file == raw or not file.strip("/") or file.endswith("/") or not file.isprintable():
        raise _wrong(raw, right)
    if file == ":memory:" or file.startswith("file:") or "?" in file:
        raise ValueError(f"{_shown(raw)} is not a plain file, and the log must outlive the process; give {right}")
    return raw


def sqlite_path(database: str) -> str:
    """The file of sqlite:///PATH: relative to the working directory, or absolute."""
    return database.removeprefix("sqlite:///")


REDIS_SCHEME = r"rediss?(?:\+sentinel|\+cluster)?://"
"""`rediss`: with TLS."""


def redis(raw: object) -> str:
    right = (
        "redis://HOST:PORT, rediss://USER:PASSWORD@HOST:PORT/DB, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE "
        "or redis+cluster://HOST:PORT"
    )
    if not isinstance(raw, str) or not re.match(REDIS_SCHEME, raw):
        raise ValueError(f"it is not {right}")
    scheme, _, rest = raw.partition("://")
    login, at, rest = rest.rpartition("@")
    hosts, slash, path = rest.partition("/")
    servers = hosts.split(",")
    if len(servers) > 1 and "+" not in scheme:
        raise ValueError(f"it names several servers; give {right}")
    for server in servers:
        _server(f"{scheme}://{server}", right)
    number = path.partition("?")[0]
    if scheme.endswith("+sentinel"):
        service, _, number = number.partition("/")
        if not service:
            raise ValueError("it names no service; give redis+sentinel://HOST:PORT,HOST:PORT/SERVICE")
    if number and not number.isdecimal():
        raise ValueError(f"{_shown(number)} is not the number of a database; give {right}")
    return f"{scheme}://{login}{at}{hosts}{slash}{path}"


def _server(url: str, right: str) -> SplitResult:
    """The parts of `url`; ValueError, which repeats nothing of it since it may hold a password, if it has no host."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"it is not the address of a server; give {right}")
    return parts


def worker_count(raw: object) -> int:
    if raw == "auto":
        return len(os.sched_getaffinity(0))
    try:
        return int(integer(1, 512)(raw))
    except ValueError:
        raise _wrong(raw, "a whole number from 1 to 512, or auto (one for each core)") from None


def origin(raw: object) -> str:
    if isinstance(raw, str) and re.fullmatch(r"https?://[A-Za-z0-9._:\[\]-]+", raw):
        try:
            parts = urlsplit(raw.lower())
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.hostname:
            # Browsers leave the default port out of Origin.
            default = {"http": 80, "https": 443}[parts.scheme]
            name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return f"{parts.scheme}://{name}" + (f":{port}" if port not in (None, default) else "")
    raise _wrong(raw, "an origin (such as https://chat.example.org, without a path)")


def agent(raw: object) -> str:
    if isinstance(raw, str) and re.fullmatch(r"demo|[A-Za-z_][\w.]*:[A-Za-z_]\w*", raw):
        return raw
    raise _wrong(raw, "an agent (demo, or module:name such as my_agents:agent)")


def user_id(raw: object) -> str:
    if isinstance(raw, str) and 1 <= len(raw) <= 64 and raw.isprintable():
        return raw
    raise _wrong(raw, "a user id (1 to 64 printable characters)")


def network(raw: object) -> Network:
    try:
        if isinstance(raw, str):
            return ipaddress.ip_network(raw)
    except ValueError:
        pass
    raise _wrong(raw, "an address or a network (such as 10.0.0.7, 10.0.0.0/8 or fd00::/8)")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Conflict(ConfigError):
    """A setting that is wrong only together with others; `name` is its field."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def setting(default: str | None, check: Check, help: str, metavar: str = "") -> Any:
    """A field of Settings; `default` stands as a user would write it."""
    value = None if default is None else check(default)
    return field(default=value, metadata={"default": default, "check": check, "help": help, "metavar": metavar})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times are in seconds, sizes in bytes, rates in events a second."""

    host: str = setting("127.0.0.1", host, "address to listen on", "ADDRESS")
    port: int = setting("8080", integer(0, 65535), "port to listen on; 0: any free one", "PORT")
    unix_socket: str | None = setting(
        None,
        socket_path,
        "Unix socket to listen on, and not on TCP; {worker} in it stands for the worker's number, from 1",
        "PATH",
    )
    workers: int = setting("1", worker_count, "processes that serve; auto: one for each core", "N")
    database: str = setting(
        "sqlite:///data/chat.db",
        database,
        "where the log is kept: SQLite (three slashes: a relative path; four: absolute) or "
        "postgresql://USER:PASSWORD@HOST:PORT/NAME",
        "URL",
    )
    redis: tuple[str, ...] = setting(
        "",
        listing(redis, "addresses of Redis", rf",\s*(?={REDIS_SCHEME})"),  # one address may hold commas itself
        "Redis that carries the news between processes (redis://, rediss://, redis+sentinel://, redis+cluster://); "
        "repeatable: several share the rooms",
        "URL",
    )
    agent: tuple[str, ...] = setting(
        "",
        listing(agent, "agents"),
        "agents that run beside the server, each in a process of its own, and end with it: demo, or module:name; "
        "repeatable, or with commas",
        "AGENT",
    )
    default_agent: str | None = setting(
        None,
        user_id,
        "user id of the agent that is asked where a request to ask one names none (without it: demo, where that is the "
        "only --agent)",
        "USER",
    )
    secret_file: str | None = setting(
        None,
        path,
        "file with the key that signs tokens; required on an address other than loopback and with PostgreSQL; "
        "without it a key is made once, beside the SQLite file",
        "PATH",
    )
    guests: bool = setting("false", switch, "let in people without a token")
    allowed_origins: tuple[str, ...] = setting(
        "",
        listing(origin, "origins"),
        "origins of pages, besides the server's own, that may connect; a server on loopback may be called by their "
        "names, too; repeatable, or with commas",
        "ORIGIN",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "127.0.0.0/8,::1",
        listing(network, "addresses and networks"),
        "addresses and networks of proxies whose X-Forwarded-For is believed; repeatable, or with commas",
        "NETWORK",
    )
    send_rate: int = setting("20", integer(0, 10**9), "events a second that a user may send; 0: no limit", "N")
    send_burst: int = setting(
        "100", integer(0, 10**9), "events that a user may send at once, after a rest; 0: no limit", "N"
    )
    address_users: int = setting(
        "100",
        integer(0, 10**9),
        "users whose rates one address may use together, for its guests' events and for all its bytes; 0: no limit",
        "N",
    )
    join_rate: int = setting(
        "5000",
        integer(0, 10**9),
        "joins a second for an address, and four times as many for the process; 0: no limit",
        "N",
    )
    connections_per_address: int = setting(
        "20000", integer(0, 10**9), "connections open at once from one address; 0: no limit", "N"
    )
    max_connections: int = setting(
        "0", integer(0, 10**9), "connections open at once; 0: no limit but that of open files", "N"
    )
    rooms_per_address: int = setting(
        "20000", integer(0, 10**9), "different rooms that the connections of one address may be in; 0: no limit", "N"
    )
    max_rooms: int = setting("100000", integer(0, 10**9), "rooms open at once; 0: no limit", "N")
    max_frame_bytes: int = setting(
        "65536", integer(1024, 1 << 30), "largest message that a client may send, inflated", "BYTES"
    )
    text_chars: int = setting("8000", integer(1, 1_000_000), "longest text of a message, in characters", "N")
    high_water_mark: int = setting(
        "262144", integer(1024, 1 << 30), "bytes waiting for a slow client before it is fed from the log", "BYTES"
    )
    ring_bytes: int = setting(
        "67108864", integer(65536, 1 << 40), "memory for the recent events of all rooms together", "BYTES"
    )
    ping_interval: float = setting(
        "25s", duration("0", "1d"), "silence after which a client is pinged; 0: never", "TIME"
    )
    ping_timeout: float = setting("20s", duration("10ms", "1d"), "wait for the answer to a ping", "TIME")
    stream_lifetime: float = setting(
        "5m", duration("0", "30d"), "age at which an event stream is ended, a fifth more or less; 0: never", "TIME"
    )
    write_timeout: float = setting(
        "30s", duration("10ms", "1d"), "time a client may take no byte at all before it is cut off", "TIME"
    )
    log_format: str = setting("text", choice("text", "json"), "one line of text or of JSON for each fact", "FORMAT")
    log_level: str = setting(
        "info", choice("debug", "info", "warning", "error"), "least severe level that is logged", "LEVEL"
    )

    def __post_init__(self) -> None:
        # Here and not in load: no way of making Settings leaves a server open by a forgotten flag.
        if self.unix_socket is None and self.secret_file is None and not is_loopback(self.host):
            raise _Conflict(
                "host",
                f"{_shown(self.host)} is not loopback: listening there needs --secret-file, "
                "a file with a key of your own (such as from: openssl rand -hex 32)",
            )
        if self.unix_socket is not None and self.workers > 1 and "{worker}" not in self.unix_socket:
            raise _Conflict(
                "unix_socket",
                f"{_shown(self.unix_socket)} is one socket for {self.workers} workers: each needs its own; "
                "put {worker} in its name, such as run/{worker}.sock",
            )
        if self.unix_socket is not None and self.agent:
            raise _Conflict(
                "agent",
                f"{_shown(self.agent[0])} comes by TCP, and the server listens on a Unix socket: start it with "
                "tornado-chat agent and the --url of the proxy",
            )

    @property
    def alone(self) -> bool:
        """No other process is meant to write the log."""
        return self.workers == 1 and self.database.startswith("sqlite:")


_FIELDS: dict[str, Field[Any]] = {field.name: field for field in fields(Settings)}
ALL = tuple(_FIELDS)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser, names: Collection[str] = ALL) -> None:
    """Give `parser` `--config` and a flag for each of `names`; a flag that is not given leaves no trace."""
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="TOML file with settings, named as the flags are"
    )
    for name in names:
        meta = _FIELDS[name].metadata
        help = f"{meta['help']} (default: {meta['default'] or 'none'})"
        if meta["check"] is switch:
            parser.add_argument(
                _flag(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help
            )
        else:
            action = "append" if isinstance(_FIELDS[name].default, tuple) else "store"
            parser.add_argument(
                _flag(name), metavar=meta["metavar"], action=action, default=argparse.SUPPRESS, help=help
            )


def load(flags: Mapping[str, Any], environ: Mapping[str, str], names: Collection[str] = ALL) -> Settings:
    """The settings of `names` (the others keep their defaults); ConfigError names the setting and its source.

    `flags` is what `add_flags` made argparse collect, other keys in it are left alone; `environ` is os.environ.
    """
    variables = _variables(environ)
    config = flags.get("config", environ.get(PREFIX + "CONFIG"))
    file = {} if config is None else _read(config)
    sources: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name in names:
        variable = PREFIX + name.upper()
        if name in flags:
            source, raw = _flag(name), flags[name]
            if isinstance(raw, list):
                raw = ",".join(raw)
        elif variable in variables:
            source, raw = variable, variables[variable]
        elif name in file:
            source, raw = f"{config}: {name}", file[name]
        else:
            continue
        sources[name] = source
        try:
            values[name] = _FIELDS[name].metadata["check"](raw)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None
    try:
        return Settings(**values)
    except _Conflict as conflict:
        raise ConfigError(f"{sources.get(conflict.name, _flag(conflict.name))}: {conflict}") from None


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    known = [PREFIX + name.upper() for name in (*ALL, "config")]
    ours = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    for name in ours:
        if name not in known and name not in CLIENT_VARIABLES and name != PURE:
            raise ConfigError(f"{name}: no such setting in the environment{_nearest(name, known)}")
    return ours


def _read(config: str) -> dict[str, object]:
    """The settings of a TOML file by field name."""
    try:
        with open(config, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"--config {_shown(config)}: cannot be read: {error.strerror}; give a TOML file") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are two of them
        raise ConfigError(f"--config {_shown(config)}: is not TOML: {error}") from None
    values: dict[str, object] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in ALL:
            raise ConfigError(f"{config}: {_shown(key)}: no such setting in a file{_nearest(name, ALL)}")
        if name in values:
            raise ConfigError(f"{config}: {name}: stands there twice, with - and with _; keep one")
        values[name] = value
    return values


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; tornado-chat serve --help lists all"


def settings_table() -> str:
    """The settings as a Markdown table, for the README."""
    return "\n".join(_table())


def _table() -> Iterator[str]:
    yield "| flag | environment | default | what it is |"
    yield "|---|---|---|---|"
    for name, found in _FIELDS.items():
        meta = found.metadata
        flag = f"`{_flag(name)}`" + (f", `--no-{name.replace('_', '-')}`" if meta["check"] is switch else "")
        default = f"`{meta['default']}`" if meta["default"] else "none"
        yield f"| {flag} | `{PREFIX}{name.upper()}` | {default} | {meta['help']} |"
