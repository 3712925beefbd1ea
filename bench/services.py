"""Redis and PostgreSQL beside the servers under test: which of them this machine has, and what they cost."""

from __future__ import annotations

import re
import socket
from importlib.util import find_spec
from pathlib import Path

from bench.processes import cpu_seconds
from tornado_chat.errors import ConfigError
from tornado_chat.verify.postgres_server import PostgresServer
from tornado_chat.verify.redis_server import RedisServer


class Redis(RedisServer):
    def cpu(self) -> float:
        """CPU seconds so far."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock, sock.makefile("rb") as answer:
            sock.sendall(b"INFO cpu\r\n")
            text = answer.read(int(answer.readline()[1:]))
        return sum(map(float, re.findall(rb"^used_cpu_(?:sys|user):([0-9.]+)", text, re.MULTILINE)))


class Postgres(PostgresServer):
    """As it is by default: a commit is on the disk before it is acknowledged."""

    def cpu(self) -> float:
        """CPU seconds so far, of all its processes."""
        return cpu_seconds(int((self.directory / "data/postmaster.pid").read_text().split()[0]))


Service = Redis | Postgres
SERVICES: dict[str, tuple[type[Service], str, str]] = {
    "redis": (Redis, "redis", "Redis"),
    "postgres": (Postgres, "asyncpg", "PostgreSQL"),
}
"""By name: how it is started, the Python package that speaks to it, and what it is called in the table."""


def missing() -> dict[str, str]:
    """Why a service cannot run here, by its name."""
    reasons = {}
    for name, (service, package, _) in SERVICES.items():
        try:
            service(Path())
        except ConfigError as error:
            reasons[name] = str(error)
        else:
            if find_spec(package) is None:
                reasons[name] = f"the Python package {package} is not installed (pip install 'tornado_chat[{name}]')"
    return reasons
