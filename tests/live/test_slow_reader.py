"""A client that stops reading, or reads slowly, over real sockets: it misses nothing, costs little, delays nobody."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.raw_chat import AsyncChat, commands
from tests.support.servers import UNLIMITED, Server

MESSAGES = 200_000
SENDERS = 4
MIB = 1 << 20

MORE_MEMORY = 60 * MIB
"""What the server may hold more than before, at any moment. The messages themselves are twice as much on the wire, and
six times as much as events in memory."""


def resident(server: Server) -> int:
    """VmRSS of the process, in bytes."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def metric(server: Server, name: str) -> float:
    """A sample of `/metrics`, with its labels as they stand there; 0.0 if it is not there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"tornado_chat_{name} ")]
    return float(values[0]) if values else 0.0


async def send_many(server: Server, count: int, text: str, user: str) -> None:
    """As fast as the server takes them; returns after the ack of the last."""
    async with await AsyncChat.connect(server.port, f"/ws?name={user}") as chat:
        block = commands(*[{"type": "send", "room": "r", "text": text}] * 500)
        for number in range(1, count // 500 + 1):
            await chat.send(block)
            await asyncio.sleep(0)
            if number % 20 == 0 or number == count // 500:
                await chat.ask(type="read", room="r", seq=0, id=str(number))  # acknowledged behind all of before


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Reader:
    """A member that keeps the order and the number of what it gets, and not the messages."""

    def __init__(self, chat: AsyncChat) -> None:
        self.chat = chat
        self.seq = 0
        self.behind: list[Any] = []
        self.synced: list[Any] = []

    async def read(self, until: int, size: int = 1 << 18) -> None:
        """Read until the message with seq `until` has come."""
        while self.seq < until:
            await self.read_once(size)

    async def read_once(self, size: int) -> None:
        for got in await self.chat.receive(size):
            match got["type"]:
                case "message":
                    assert got["seq"] == self.seq + 1, f"{got['seq']} after {self.seq}"
                    self.seq += 1
                case "behind":
                    assert (got["seq"], got["room"]) == (self.seq, "r")
                    self.behind.append(got)
                case "synced":
                    assert (got["seq"], got["room"]) == (self.seq, "r")
                    self.synced.append(got)


@asynccontextmanager
async def reader_of(server: Server, buffer: int | None = None) -> AsyncIterator[Reader]:
    async with await AsyncChat.connect(server.port, "/ws/r", buffer=buffer) as chat:
        reader = Reader(chat)
        while not reader.synced:
            await reader.read_once(4096)
        yield reader


async def test_who_stops_in_the_middle_of_200000_messages_gets_every_one(tmp_path: Path) -> None:
    flags = ("--ring-bytes", str(4 * MIB), "--write-timeout", "1h", "--ping-interval", "0")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *UNLIMITED, *flags))
        slow = await stack.enter_async_context(reader_of(server, buffer=4096))
        quick = await stack.enter_async_context(reader_of(server))
        first = MESSAGES // 10
        warming = asyncio.create_task(send_many(server, first, "x" * 20, "warming"))
        await asyncio.gather(warming, slow.read(first), quick.read(first))
        before = resident(server)
        highest = before

        async def sample() -> None:
            nonlocal highest
            while True:
                highest = max(highest, resident(server))
                await asyncio.sleep(0.02)

        stack.push_async_callback(end, asyncio.create_task(sample()))
        each = (MESSAGES - first) // SENDERS
        senders = [asyncio.create_task(send_many(server, each, "x" * 20, f"s{n}")) for n in range(SENDERS)]
        await asyncio.gather(quick.read(MESSAGES), *senders)
        assert await metric(server, "catching_up") == 1
        assert await metric(server, "outbox_bytes") < 600_000, "the high-water mark, and what one write may add"
        while_stopped = highest
        assert while_stopped - before < MORE_MEMORY, (
            f"{(while_stopped - before) / MIB:.1f} MiB more while it is stopped"
        )
        assert slow.seq == first
        await slow.read(MESSAGES)
        assert highest - before < MORE_MEMORY, f"{(highest - before) / MIB:.1f} MiB more while it catches up"
        while len(slow.synced) < 2:
            await slow.read_once(4096)
        assert len(slow.behind) == 1
        assert slow.behind[0]["seq"] < slow.behind[0]["head"] <= MESSAGES
        assert not quick.behind
        assert await metric(server, "catching_up") == 0
        # Both are live again, and in step.
        async with await AsyncChat.connect(server.port) as chat:
            await chat.ask(type="send", room="r", text="after", id="x")
        await asyncio.gather(slow.read(MESSAGES + 1), quick.read(MESSAGES + 1))
        assert len(slow.behind) == 1
        print(
            f"RSS before {before / MIB:.1f} MiB, while stopped {while_stopped / MIB:.1f}, highest {highest / MIB:.1f}"
        )


async def test_who_takes_no_byte_is_cut_off_and_who_takes_few_is_not(tmp_path: Path) -> None:
    total = 1500
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *UNLIMITED, "--write-timeout", "6s", "--ring-bytes", str(MIB)))
        stopped = await stack.enter_async_context(reader_of(server, buffer=4096))
        steady = await stack.enter_async_context(reader_of(server, buffer=4096))
        quick = await stack.enter_async_context(reader_of(server))
        sending = asyncio.create_task(send_many(server, total, "x" * 8000, "sender"))
        done = False

        async def read_steadily() -> None:
            while not done:
                await steady.read_once(2048)
                await asyncio.sleep(0.02)

        reading = asyncio.create_task(read_steadily())
        stack.push_async_callback(end, reading)
        await asyncio.gather(quick.read(total), sending)  # the others do not wait for the two
        assert await metric(server, "members") == 3
        began = time.monotonic()
        while not await metric(server, 'closes_total{code="4003"}'):
            assert time.monotonic() - began < 40, "it was never cut off"
            await asyncio.sleep(0.05)
        assert await metric(server, "members") == 2, "the one that reads slowly is still there"
        done = True
        await reading
        _, closed = await stopped.chat.read_to_close()
        assert closed.code == 1006, "there was no room for a close frame"
        assert steady.seq < total // 2
        await steady.read(total)
        while len(steady.synced) < 2:
            await steady.read_once(4096)
        assert len(steady.behind) == 1
        assert not quick.behind
        assert await metric(server, 'closes_total{code="4003"}') == 1
        assert await metric(server, "outbox_bytes") == 0


async def test_a_hundred_who_read_nothing_cost_their_high_water_marks_and_no_more(tmp_path: Path) -> None:
    """100 MB are sent to their room; the others go on at once."""
    mark, stalled, total, text = 65536, 100, 12_500, "x" * 8000
    flags = ("--high-water-mark", str(mark), "--ring-bytes", str(MIB), "--write-timeout", "1h", "--ping-interval", "0")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *UNLIMITED, *flags))
        for _ in range(stalled):
            await stack.enter_async_context(reader_of(server, buffer=4096))
        quick = await stack.enter_async_context(reader_of(server))
        before = resident(server)
        await asyncio.gather(quick.read(total), send_many(server, total, text, "sender"))
        assert await metric(server, "catching_up") == stalled
        waiting = await metric(server, "outbox_bytes")
        assert stalled * 1000 < waiting <= 2 * mark * stalled
        assert resident(server) - before < stalled * 2 * mark + 20 * MIB
        assert not quick.behind


async def test_who_reads_nothing_while_100_messages_grow_costs_no_more_and_gets_what_is_there(tmp_path: Path) -> None:
    """10 MB of text are told to their room: what they lack is in the messages, and nowhere else."""
    mark, stalled, messages, parts, part = 65536, 60, 100, 50, "0123456789" * 200
    flags = ("--high-water-mark", str(mark), "--write-timeout", "1h", "--ping-interval", "0")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Server(tmp_path, *UNLIMITED, *flags))
        author = await stack.enter_async_context(await AsyncChat.connect(server.port, "/ws?name=author"))
        seqs = [(await author.ask(type="begin", room="r", id=f"m{n}"))["seq"] for n in range(messages)]
        slow = [await stack.enter_async_context(reader_of_growth(server, buffer=4096)) for _ in range(stalled)]
        quick = await stack.enter_async_context(reader_of_growth(server))
        before = resident(server)
        for number in range(parts):
            offset = number * len(part)
            appends = [
                {"type": "append", "room": "r", "stream": f"m{n}", "offset": offset, "text": part}
                for n in range(messages)
            ]
            await author.send(commands(*appends))
            await quick.read(dict.fromkeys(seqs, offset + len(part)))
        assert await metric(server, "catching_up") == stalled
        waiting = await metric(server, "outbox_bytes")
        text = parts * len(part)
        one_flush = messages * len(part)
        assert waiting <= stalled * (mark + one_flush)
        more = resident(server) - before
        assert more < stalled * (mark + one_flush) + 3 * messages * text + 20 * MIB, f"{more / MIB:.1f} MiB more"
        await slow[0].read(dict.fromkeys(seqs, text))
        for number, seq in enumerate(seqs):
            await author.ask(type="finish", room="r", stream=f"m{number}", id=f"f{number}", length=text, reason="done")
            for reader in (slow[0], quick):
                await reader.read({seq: -1})
                assert reader.texts[seq] == part * parts


class GrowthReader:
    """What a member has of each message that grows."""

    def __init__(self, chat: AsyncChat) -> None:
        self.chat = chat
        self.texts: dict[int, str] = {}
        self.ended: set[int] = set()

    async def read(self, lengths: dict[int, int]) -> None:
        """Until each message has so many characters; -1: until it has ended."""
        while any(
            seq not in self.ended if length < 0 else len(self.texts.get(seq, "")) < length
            for seq, length in lengths.items()
        ):
            for got in await self.chat.receive(1 << 18):
                self.take(got)

    def take(self, got: Any) -> None:
        chunks = got.get("chunks", ())
        if got["type"] == "stream":
            chunks = ((got["seq"], got["gen"], got["offset"], got["text"]),)
        for seq, _, offset, text in chunks:
            has = self.texts.get(seq, "")
            assert offset <= len(has), "something is missing"
            self.texts[seq] = has[:offset] + text
        if got["type"] == "finished":
            assert got["crc"] == zlib.crc32(self.texts[got["target"]].encode())
            self.ended.add(got["target"])


@asynccontextmanager
async def reader_of_growth(server: Server, buffer: int | None = None) -> AsyncIterator[GrowthReader]:
    """It has been told that it is live."""
    async with await AsyncChat.connect(server.port, "/ws/r", buffer=buffer) as chat:
        reader, synced = GrowthReader(chat), False
        while not synced:
            for got in await chat.receive(4096):
                reader.take(got)
                synced = synced or got["type"] == "synced"
        yield reader
