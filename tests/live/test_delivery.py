"""Members in every encoding, over real sockets that stall, go on and re-join: all see the same events in one order."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.chat import Running, eventually, running
from tests.support.raw_chat import AsyncChat, commands
from tests.support.raw_websocket import client_frame
from tornado_chat.wire.codec import JSON
from tornado_chat.wire.encodings import websocket

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
PACKED = "Sec-WebSocket-Protocol: chat.v1.msgpack"
ENCODINGS: dict[str, Sequence[str]] = {
    "json": (),
    "msgpack": (PACKED,),
    "json, deflated": (DEFLATE,),
    "json, deflated in a small window": (f"{DEFLATE}; server_max_window_bits=9",),
    "msgpack, deflated": (PACKED, DEFLATE),
}
EVENTS = ("message", "edited", "deleted", "reacted")
MARK = 16_384
ROOM = "r"


class Member:
    """A client that checks what it is sent against the protocol, and notes each event; it stalls when it is told to."""

    def __init__(self, chat: AsyncChat, *, packed: bool) -> None:
        self.chat = chat
        self.packed = packed
        self.events: dict[int, dict[str, Any]] = {}
        self.cursor: int | None = None  # of the membership that stands
        self.live = False
        self.stalled = asyncio.Event()  # set: it reads
        self.stalled.set()
        self.joins = self.joined = 0
        self.signals = 0
        self.reading = asyncio.create_task(self._read())

    async def join(self, **cursor: int) -> None:
        self.joins += 1
        command = {"type": "join", "room": ROOM, "id": f"join {self.joins}", **cursor}
        if not self.packed:
            await self.chat.send(commands(command))
        else:
            await self.chat.send(client_frame(2, msgpack.packb(command)))

    async def _read(self) -> None:
        while True:
            await self.stalled.wait()
            for got in await self.chat.receive(8192):
                self._check(got)

    def _check(self, got: dict[str, Any]) -> None:
        kind = got["type"]
        if kind == "joined":
            self.cursor, self.live = got["cursor"], False
            self.joined += 1
        elif kind == "synced":
            assert not self.live
            assert got["seq"] == self.cursor
            self.live = True
        elif kind == "behind":
            assert self.live
            assert got["seq"] == self.cursor
            self.live = False
        elif kind in ("typing", "read", "presence"):
            assert self.live, f"a signal before synced: {got}"
            self.signals += 1
        else:
            assert kind in EVENTS, got
            assert self.cursor is not None
            assert got["seq"] == self.cursor + 1, f"{got['seq']} after {self.cursor}"
            self.cursor += 1
            before = self.events.setdefault(got["seq"], got)
            if before != got:  # it came again, after a new join, and was erased meanwhile
                assert got["deleted"] is True
                assert "text" not in got
                self.events[got["seq"]] = got


def port(here: Running) -> int:
    return int(here.address.rpartition(":")[2])


def small_buffers(here: Running) -> None:
    """What is accepted from now on has a small buffer in the kernel, so that the outbox fills soon."""
    for listener in here.server.listeners:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


async def member_of(here: Running, stack: AsyncExitStack, name: str) -> Member:
    headers = ENCODINGS[name]
    chat = await stack.enter_async_context(await AsyncChat.connect(port(here), "/ws", *headers, buffer=4096))
    member = Member(chat, packed=PACKED in headers)

    async def end() -> None:
        member.reading.cancel()
        done, _ = await asyncio.wait([member.reading])
        for task in done:
            if not task.cancelled():
                task.result()  # what it found wrong

    stack.push_async_callback(end)
    await member.join(after=0)
    await until(lambda: member.live, [member])
    return member


async def until(condition: Any, members: list[Member]) -> None:
    """Wait for `condition`; what a member found wrong fails the test at once."""

    def met() -> object:
        for member in members:
            if member.reading.done():
                member.reading.result()
        return condition()

    await eventually(met, 30)


@pytest.mark.parametrize("seed", range(6))
async def test_members_that_stall_and_go_on_and_rejoin_all_see_the_same(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    ring_bytes = chance.choice([65_536, 1 << 22])
    async with running(tmp_path, high_water_mark=MARK, ring_bytes=ring_bytes) as here, AsyncExitStack() as stack:
        small_buffers(here)
        budget, hub = here.server.hub.shared.budget, here.server.hub
        members = [await member_of(here, stack, name) for name in ENCODINGS for _ in range(2)]
        sender = await stack.enter_async_context(await AsyncChat.connect(port(here)))
        sent = 0
        messages: list[int] = []
        most = largest = 0
        for step in range(60):
            block: list[dict[str, Any]] = []
            for _ in range(chance.randrange(1, 25)):
                what = chance.randrange(12)
                target = chance.choice(messages) if messages else 0
                if what == 0 and target:
                    block.append({"type": "react", "room": ROOM, "seq": target, "emoji": "👍", "on": True})
                elif what == 1 and target:
                    block.append({"type": "edit", "room": ROOM, "seq": target, "text": f"better {step} " * 20})
                elif what == 2 and target:
                    block.append({"type": "delete", "room": ROOM, "seq": target})
                    messages.remove(target)
                else:
                    messages.append(sent + 1)
                    text = f"{step} " + "wörter und mehr " * chance.choice([1, 1, 20, 200])
                    block.append({"type": "send", "room": ROOM, "text": text})
                sent += 1
            block.append({"type": "typing", "room": ROOM, "on": step % 2 == 0})
            await sender.send(commands(*block))
            for member in chance.sample(members, 3):
                match chance.randrange(4):
                    case 0:
                        member.stalled.clear()
                    case 1:
                        member.stalled.set()
                    case 2 if member.stalled.is_set():
                        await member.join(after=chance.randrange(sent + 1))
                    case _ if member.stalled.is_set():
                        await member.join(last=chance.randrange(20))
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                room = hub.rooms[ROOM]
                await until(lambda: room.flushed >= sent - 40, members)  # noqa: B023  # called before the next round
            largest = max(largest, budget.bytes)
            most = max(most, *(connection.outbox_bytes for connection in here.server.lines.open))
        stalls = here.server.metrics.frames_deferred
        for member in members:
            member.stalled.set()
        room = hub.rooms[ROOM]
        await until(lambda: room.head == sent and all(m.live and m.cursor == sent for m in members), members)
        assert stalls > 0, "nobody fell behind: this tested too little"
        assert most <= 1.5 * MARK, "an outbox over its mark by more than one write"
        assert sum(member.signals for member in members) > 0
        for member in members:
            await member.join(after=0)
        await until(lambda: all(m.joined == m.joins and m.live and m.cursor == sent for m in members), members)
        first = members[0].events
        assert sorted(first) == list(range(1, sent + 1))
        deleted = {event["target"] for event in first.values() if event["type"] == "deleted"}
        assert {seq for seq, event in first.items() if event["type"] == "message" and "deleted" in event} == deleted
        for member in members:
            assert member.events == first
        assert not here.server.metrics.errors
        assert max(largest, budget.bytes) <= ring_bytes, "the rings hold more than they may"


async def test_signals_wait_for_synced_and_then_come(tmp_path: Path) -> None:
    async with running(tmp_path, high_water_mark=MARK, ring_bytes=65_536) as here, AsyncExitStack() as stack:
        small_buffers(here)
        sender = await stack.enter_async_context(await AsyncChat.connect(port(here)))
        for number in range(300):
            await sender.ask(type="send", room=ROOM, text="x" * 1000, id=str(number))
        late = await AsyncChat.connect(port(here), f"/ws/{ROOM}?after=0", buffer=4096)
        await stack.enter_async_context(late)
        await eventually(lambda: ROOM in here.server.hub.rooms and here.server.hub.rooms[ROOM].catching)
        for step in range(20):
            await sender.say({"type": "typing", "room": ROOM, "on": step % 2 == 0})
            await sender.ask(type="ping", id="p")
        seqs: list[int] = []
        while (got := await late.hear())["type"] != "synced":
            assert got["type"] in ("joined", "message"), got
            if got["type"] == "message":
                seqs.append(got["seq"])
        assert seqs == list(range(1, 301))
        await sender.say({"type": "typing", "room": ROOM, "on": True})
        assert (await late.hear())["type"] == "typing"


async def test_a_signal_does_not_come_to_the_devices_of_its_user_and_comes_to_all_others(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        first, typist, second = [await here.join(ROOM) for _ in range(3)]
        phone = await here.join(ROOM, path=f"/ws?token={typist.welcome['token']}")
        last = await here.join(ROOM)
        await typist.send(type="typing", room=ROOM, on=True)
        for other in (first, second, last):
            assert (await other.until("typing"))["user"] == typist.welcome["user"]
        await first.ask(type="send", room=ROOM, text="after it")
        for own in (typist, phone):
            while (got := await own.receive())["type"] != "message":
                assert got["type"] != "typing"


async def test_one_frame_is_made_for_all_members_of_an_encoding(tmp_path: Path) -> None:
    async with running(tmp_path) as here, AsyncExitStack() as stack:
        members = [await member_of(here, stack, name) for name in ENCODINGS for _ in range(4)]
        sender = await stack.enter_async_context(await AsyncChat.connect(port(here)))
        await sender.ask(type="send", room=ROOM, text="text " * 200, id="a")
        await until(lambda: all(member.cursor == 1 for member in members), members)
        (event,) = here.server.hub.rooms[ROOM].ring.events
        assert len(event.frames) == len(ENCODINGS)
        assert len({id(frame) for frame in event.frames.values()}) == len(ENCODINGS)
        assert len(event.frames[websocket(JSON, 15)]) < len(event.frames[websocket(JSON)]) / 2
        assert all(member.events == members[0].events for member in members)


async def test_rings_stay_in_their_bound_when_members_in_many_encodings_come_by(tmp_path: Path) -> None:
    """Each makes frames of its own of all that a ring holds, and no event comes that would push others out."""
    ring_bytes = 200_000
    async with running(tmp_path, ring_bytes=ring_bytes) as here, AsyncExitStack() as stack:
        keeper = await member_of(here, stack, "json")
        sender = await stack.enter_async_context(await AsyncChat.connect(port(here)))
        await sender.say(*({"type": "send", "room": ROOM, "text": f"{number} " * 200} for number in range(300)))
        await until(lambda: keeper.cursor == 300, [keeper])
        for window in range(9, 16):
            headers = f"{DEFLATE}; server_max_window_bits={window}"
            for more in ((), (PACKED,)):
                chat = await AsyncChat.connect(port(here), f"/ws/{ROOM}?after=0", headers, *more)
                await stack.enter_async_context(chat)
                await chat.until("synced", seq=300)
        assert here.server.hub.shared.budget.bytes <= ring_bytes
