"""For the tests of Redis: a server for the session, and starters for a cluster and a Sentinel.

Who wants the fixture `redis_server` imports it with `redis_of_the_session`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tornado_chat.verify.ports import free_port
from tornado_chat.verify.redis_server import RedisServer

TIMEOUT = 20.0
SERVICE = "chat"
SLOTS = 16384


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
    with redis.Redis(port=server.port, host="127.0.0.1", socket_timeout=5, decode_responses=True) as client:
        return client.execute_command(*command)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait, blocking, for something outside of this process."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT:g} s: {what}"
        time.sleep(0.02)


class Cluster:
    """Three primaries, each with a third of the slots. `url` names the first two."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes
        self.url = f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"


@contextmanager
def redis_cluster(directory: Path) -> Iterator[Cluster]:
    """Made with CLUSTER commands: no redis-cli is needed."""
    buses = [free_port() for _ in range(3)]  # where they talk to each other
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                RedisServer(
                    directory / f"node-{number}",
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
            ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        until(lambda: all(_covers_all(node) for node in nodes), "all nodes of the cluster know all of it")
        yield Cluster(nodes)


def _covers_all(node: RedisServer) -> bool:
    info = ask(node, "CLUSTER INFO")
    assert isinstance(info, dict)
    return (info["cluster_state"], info["cluster_slots_ok"]) == ("ok", str(SLOTS))


class Sentinel(RedisServer):
    """A `redis-server --sentinel` that watches `primary` alone, and finds it dead after half a second."""

    def __init__(self, directory: Path, primary: RedisServer) -> None:
        super().__init__(directory)
        self._configuration = self.directory / "sentinel.conf"
        self._lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}"

    def _command(self) -> list[str]:
        listen = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}"]
        self._configuration.write_text("\n".join([*listen, *self._lines, ""]))
        return [self._program, str(self._configuration), "--sentinel"]


class Watched:
    """A primary, its replica, and the Sentinel that fails over to it."""

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinel: RedisServer) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinel = sentinel
        self.url = sentinel.url


@contextmanager
def redis_sentinel(directory: Path) -> Iterator[Watched]:
    """Ready for a failover: the Sentinel knows the replica, and the replica is in step."""
    with (
        RedisServer(directory / "primary", "--repl-diskless-sync-delay", "0") as primary,
        RedisServer(directory / "replica", "--replicaof", f"127.0.0.1 {primary.port}") as replica,
        Sentinel(directory / "sentinel", primary) as sentinel,
    ):
        until(lambda: _is_in_step(replica), "the replica is in step")
        until(lambda: _replicas(sentinel) == 1, "the Sentinel knows the replica")
        yield Watched(primary, replica, sentinel)


def _is_in_step(replica: RedisServer) -> bool:
    info = ask(replica, "INFO", "replication")
    assert isinstance(info, dict)
    return bool(info["master_link_status"] == "up")


def _replicas(sentinel: RedisServer) -> int:
    """How many it knows, and has asked who they are."""
    found = ask(sentinel, "INFO", "sentinel")
    assert isinstance(found, dict)
    return int(found["master0"]["slaves"])
