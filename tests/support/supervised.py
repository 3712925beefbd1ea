"""What tests of several workers need: a parent with less patience, processes looked at from outside, steady talk."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.chat import eventually
from tests.support.raw_chat import get
from tests.support.servers import Server
from tornado_chat.client import Client
from tornado_chat.log.sqlite import open_sqlite

PATIENCE = 20.0
DIED = r"worker ended worker=\d+ pid=\d+ signal=SIGKILL"


def impatient(module: str = "processes.supervisor", **constants: float) -> tuple[str, ...]:
    """`program` for a Server whose first process has other constants in a module; its workers are ordinary ones."""
    lines = ["import sys", "from tornado_chat import cli", f"import tornado_chat.{module} as module"]
    lines += [f"module.{name} = {value!r}" for name, value in constants.items()]
    return "-c", "; ".join([*lines, "sys.exit(cli.main())"])


def wait_for(condition: Callable[[], Any], what: str = "it") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.01)


def wait_for_line(server: Server, pattern: str, count: int = 1) -> None:
    """Wait until the server has logged `count` lines that match."""
    try:
        wait_for(lambda: len(re.findall(pattern, server.said())) >= count)
    except AssertionError:
        raise AssertionError(f"it never said {pattern!r}:\n{server.said()}") from None


def wait_for_new_worker(server: Server, count: int, gone: int) -> None:
    """Wait until there are `count` workers that are ready, none of them with the process id `gone`."""
    wait_for(lambda: len(server.workers()) == count and gone not in server.workers())
    wait_for(lambda: len(reached(server.port)) == count)


def reached(port: int) -> set[str]:
    """The workers, by the number of connections that each has, which /metrics knows to be up."""
    found = samples(port, "tornado_chat_worker_start_time_seconds")
    return {worker for worker, started in found.items() if started > 0}


def samples(port: int, family: str) -> dict[str, float]:
    """The samples of a family by their labels as they stand there, without worker=: "" for one without labels."""
    text = get(port, "/metrics").partition(b"\r\n\r\n")[2].decode()
    found = re.findall(rf'^{family}(?:{{(?:worker=)?"?(.*?)"?}})? (\S+)$', text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def started_pids(server: Server) -> list[int]:
    return [int(pid) for pid in re.findall(r"worker started worker=\d+ pid=(\d+)", server.said())]


class Talk:
    """Clients that come back by themselves; each sends to its own room without end, and is a member of it."""

    def __init__(self, server: Server, clients: int) -> None:
        self.server = server
        self.acked: list[dict[str, int]] = [{} for _ in range(clients)]
        self.seen: list[list[int]] = [[] for _ in range(clients)]
        self.lost: list[list[str]] = [[] for _ in range(clients)]
        self.failures: list[BaseException] = []
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for number in range(len(self.acked)):

            def notify(line: str, lost: list[str] = self.lost[number]) -> None:
                if "retrying" in line:
                    lost.append(line)

            client = Client(self.server.url, name=f"n{number}", notify=notify)
            await self._stack.enter_async_context(client)
            await client.join(f"room-{number}", after=0)
            self._tasks.append(asyncio.create_task(self._send(number, client)))
            self._tasks.append(asyncio.create_task(self._listen(number, client)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _send(self, number: int, client: Client) -> None:
        count = 0
        while not self._stopping:
            count += 1
            id = f"{number}-{count}"
            self.acked[number][id] = (await client.send(f"room-{number}", "x" * 50, id=id)).seq
            await asyncio.sleep(0.005)

    async def _listen(self, number: int, client: Client) -> None:
        async for event in client:
            if event["type"] == "message":
                self.seen[number].append(event["seq"])

    async def more(self, count: int) -> None:
        """Wait until so many more have been acknowledged."""
        wanted = self.sent() + count
        await eventually(lambda: self.sent() >= wanted, PATIENCE)

    async def finish(self) -> None:
        """Send no more; wait until all that was sent is acknowledged and seen by the members."""
        self._stopping = True
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks[::2])
            while any(len(seen) < len(acked) for seen, acked in zip(self.seen, self.acked, strict=True)):
                assert not any(task.done() for task in self._tasks[1::2])
                await asyncio.sleep(0.01)

    def sent(self) -> int:
        return sum(map(len, self.acked))

    async def check(self) -> None:
        """Everything acknowledged stands in the log, once, under its seq; each member saw it once and in order."""
        log = await open_sqlite(str(self.server.database))
        try:
            for number, acked in enumerate(self.acked):
                kept: dict[str, int] = {}
                seq = 0
                while page := await log.read(f"room-{number}", seq, max_events=1000, max_bytes=1 << 24):
                    for event in page:
                        seq += 1
                        assert event.seq == seq
                        data = event.data if isinstance(event.data, dict) else json.loads(event.data)
                        assert data["id"] not in kept
                        kept[data["id"]] = seq
                assert kept == acked
                assert self.seen[number] == list(range(1, seq + 1))
        finally:
            await log.close()


async def knock(port: int, stopped: asyncio.Event) -> list[str]:
    """Open one connection after the other and ask /healthz; what went wrong."""
    wrong: list[str] = []
    while not stopped.is_set():
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    answer = await reader.read()
                finally:
                    writer.close()
                    await writer.wait_closed()
        except OSError as error:
            wrong.append(repr(error))
        else:
            if not answer.startswith(b"HTTP/1.1 200 "):
                wrong.append(repr(answer))
        await asyncio.sleep(0.002)
    return wrong


def worker_of(server: Server, port: int) -> int | None:
    """The process id of the worker that has the connection from our port; None while nobody has accepted it."""
    ends = f"0100007F:{server.port:04X} 0100007F:{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inode = next((row[9] for row in rows if f"{row[1]} {row[2]}" == ends), None)
    for pid in server.workers():
        with suppress(FileNotFoundError):  # it has just died
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if str(file.readlink()) == f"socket:[{inode}]":
                        return pid
    return None


def group_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[2])
