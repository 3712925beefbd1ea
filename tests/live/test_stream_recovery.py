"""Streams of a real server over cuts, kills, stops and slow reading: who comes back by its last id misses nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.live.test_slow_reader import MIB, metric, resident, send_many
from tests.support.raw_chat import AsyncChat
from tests.support.servers import UNLIMITED, Server
from tests.support.streams import Ended, Stream

ROOM = "/v1/rooms/r/events?after=0"
SEVERAL = "/v1/events?join=r:0&join=s:0&ids=1"


class EventSource:
    """Does what a browser's does: comes back by its last id. It keeps which seq it got, of each room, in order."""

    def __init__(self, server: Server, path: str) -> None:
        self.server = server
        self.path = path
        self.last_id: str | None = None
        self.got: dict[str, list[int]] = {"r": [], "s": []}
        self.ends: list[Any] = []
        self.stream: Stream | None = None

    async def _open(self) -> Stream:
        headers = [f"Last-Event-ID: {self.last_id}"] if self.last_id is not None else []
        while True:
            with suppress(ConnectionRefusedError):
                return await Stream.open(self.server.port, self.path, *headers)
            await asyncio.sleep(0.02)  # the server is not there

    async def read(self, r: int, s: int = 0) -> None:
        """Until there are so many of each room, and their cursors were told."""
        while len(self.got["r"]) < r or len(self.got["s"]) < s or not self._told(r, s):
            if self.stream is None:
                self.stream = await self._open()
            try:
                block = await self.stream.hear_block()
            except Ended as end:
                self.ends.append(end.whole)
                self.close()
                continue
            if block.id is not None:
                self.last_id = block.id
            if block.data is not None and block.data["type"] == "message":
                self.got[block.data["room"]].append(block.data["seq"])

    def _told(self, r: int, s: int) -> bool:
        told = self.last_id or ""
        return told.endswith(f".{r}") if self.path == ROOM else told.endswith(f" r:{r} s:{s}")

    def close(self) -> None:
        if self.stream is not None:
            self.stream.sock.close()
            self.stream = None


async def say(server: Server, first: int, last: int, room: str = "r") -> None:
    async with await AsyncChat.connect(server.port, "/ws?name=speaker") as chat:
        for number in range(first, last + 1):
            await chat.say({"type": "send", "room": room, "text": f"{number}", "id": f"{number}"})
        for number in range(first, last + 1):
            await chat.until("ack", id=f"{number}")


@pytest.mark.parametrize("how", ["cut", "kill", "stop"])
@pytest.mark.parametrize("path", [ROOM, SEVERAL], ids=["one", "several"])
async def test_whoever_comes_back_by_its_last_id_misses_nothing_and_gets_nothing_twice(
    tmp_path: Path, how: str, path: str
) -> None:
    several = path == SEVERAL
    with Server(tmp_path, *UNLIMITED) as server:
        source = EventSource(server, path)
        for step in range(4):
            await say(server, step * 50 + 1, step * 50 + 50)
            if several:
                await say(server, step * 20 + 1, step * 20 + 20, "s")
            await source.read(step * 50 + 50, (step * 20 + 20) if several else 0)
            if how == "cut" and source.stream is not None:
                source.stream.reset()
                source.stream = None
            elif how == "kill":
                await asyncio.to_thread(server.restart)
            else:
                stopping = asyncio.create_task(asyncio.to_thread(server.stop))
                assert source.stream is not None
                blocks, whole = await source.stream.read_to_end()
                assert whole
                assert (blocks[-1].data["type"], blocks[-1].data["code"]) == ("closing", 1012)
                source.close()
                await stopping
                await asyncio.to_thread(server.start)
        source.close()
        assert source.got["r"] == list(range(1, 201))
        assert source.got["s"] == (list(range(1, 81)) if several else [])


async def test_a_cut_in_the_middle_of_what_comes_is_no_hole(tmp_path: Path) -> None:
    """Bytes are lost wherever the cut is, in the middle of a block or of a chunk."""
    with Server(tmp_path, *UNLIMITED) as server:
        await send_many(server, 3000, "x" * 50, "speaker")
        got: list[int] = []
        last_id: str | None = None
        cuts = 0
        while len(got) < 3000:
            query = f"&last_event_id={last_id}" if last_id else ""
            async with await Stream.open(server.port, ROOM + query, buffer=4096) as stream:
                for _ in range(40):
                    for block in await stream.receive(997):
                        last_id = block.id or last_id
                        if block.data["type"] == "message":
                            got.append(block.data["seq"])
                    if len(got) == 3000:
                        break
                cuts += 1
        assert got == list(range(1, 3001))
        assert cuts > 5


async def test_a_stream_that_stops_reading_catches_up_and_costs_little(tmp_path: Path) -> None:
    flags = ("--ring-bytes", str(4 * MIB), "--write-timeout", "1h", "--ping-interval", "0")
    count = 40_000
    with Server(tmp_path, *UNLIMITED, *flags) as server:
        async with (
            await Stream.open(server.port, ROOM, buffer=4096) as slow,
            await Stream.open(server.port, ROOM) as quick,
        ):
            await slow.until("synced")
            await send_many(server, 4000, "x" * 20, "warming")
            before = resident(server)
            reading = asyncio.create_task(_seqs(quick, count))
            await send_many(server, count - 4000, "x" * 20, "speaker")
            assert await reading == list(range(1, count + 1))
            assert await metric(server, "catching_up") == 1
            assert await metric(server, "outbox_bytes") < 600_000
            assert resident(server) - before < 60 * MIB
            seqs: list[int] = []
            notices: list[tuple[str, int]] = []
            while len(seqs) < count or notices[-1] != ("synced", count):
                data = await slow.hear()
                if data["type"] == "message":
                    seqs.append(data["seq"])
                else:
                    notices.append((data["type"], data["seq"]))
                    assert data["seq"] == len(seqs), "it has everything up to there"
            assert seqs == list(range(1, count + 1))
            assert notices[0][0] == "behind"


async def _seqs(stream: Stream, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        found.append((await stream.until("message"))["seq"])
    return found
