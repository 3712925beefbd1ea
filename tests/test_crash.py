"""`kill -9` in the middle of everything, again and again: what was acknowledged or seen is there, once, in order."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from tests.support.chat import eventually
from tests.support.raw_chat import AsyncChat, Closed
from tests.support.servers import UNLIMITED, Server

ROUNDS = 15
SENDERS = 5


class Sender:
    """One user who sends numbered messages, and remembers which of them were acknowledged as what."""

    def __init__(self, server: Server, user: str) -> None:
        self.server = server
        self.user = user
        self.token = server.token(user)
        self.count = 0
        self.unacked: dict[str, dict[str, Any]] = {}
        self.acked: dict[str, int] = {}

    def new(self) -> dict[str, Any]:
        self.count += 1
        id = f"{self.user} {self.count}"
        command = {"type": "send", "room": "r", "text": "x" * (self.count % 200 + 1), "id": id}
        self.unacked[id] = command
        return command

    async def connect(self) -> AsyncChat:
        return await AsyncChat.connect(self.server.port, "/ws", f"Authorization: Bearer {self.token}")

    async def resend(self, kept: dict[str, int]) -> None:
        """All that has no ack, in its order and in one piece: what was kept is a duplicate with the first seq."""
        async with await self.connect() as chat:
            again = list(self.unacked)
            await chat.say(*self.unacked.values())
            for id in again:
                ack = await chat.until("ack")
                assert ack["id"] == id
                assert ack.get("duplicate", False) == (id in kept), ack
                assert ack["seq"] == kept.get(id, ack["seq"])
                self.acked[id] = ack["seq"]
                del self.unacked[id]

    async def stream(self) -> None:
        """Send without waiting for an answer until the connection breaks."""
        async with await self.connect() as chat:
            sending = asyncio.create_task(self._send(chat))
            try:
                while True:
                    for got in await chat.receive():
                        if got["type"] == "ack":
                            assert "duplicate" not in got
                            self.acked[got["id"]] = got["seq"]
                            del self.unacked[got["id"]]
            except Closed:
                pass
            finally:
                sending.cancel()
                await asyncio.wait([sending])

    async def _send(self, chat: AsyncChat) -> None:
        while True:
            await chat.say(*(self.new() for _ in range(7)))
            await asyncio.sleep(0)


async def watch(server: Server, after: int, seen: dict[str, int]) -> None:
    """Note what a member is shown, until the connection breaks."""
    async with await AsyncChat.connect(server.port, f"/ws/r?after={after}") as chat:
        try:
            while True:
                for got in await chat.receive():
                    if got["type"] == "message":
                        seen[got["id"]] = got["seq"]
        except Closed:
            pass


async def read_log(server: Server, kept: dict[str, int]) -> None:
    """Add to `kept` what the log holds beyond it: numbered without a hole, and nothing twice."""
    async with await AsyncChat.connect(server.port, f"/ws/r?after={len(kept)}") as chat:
        while True:
            got = await chat.hear()
            match got["type"]:
                case "joined":
                    assert got["cursor"] == len(kept), "the log went back"
                case "message":
                    assert got["seq"] == len(kept) + 1
                    assert got["id"] not in kept, "an event twice"
                    kept[got["id"]] = got["seq"]
                case "synced":
                    assert got["seq"] == len(kept)
                    return


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(3)
    with Server(tmp_path, *UNLIMITED) as server:
        kept: dict[str, int] = {}
        senders = [Sender(server, f"user{number}") for number in range(SENDERS)]
        resent = duplicates = 0
        for _ in range(ROUNDS):
            seen: dict[str, int] = {}
            running = [asyncio.create_task(sender.stream()) for sender in senders]
            running += [asyncio.create_task(watch(server, len(kept), seen))]
            goal = sum(len(sender.acked) for sender in senders) + 50
            await eventually(lambda: sum(len(s.acked) for s in senders) >= goal and seen)  # noqa: B023  # not kept
            await asyncio.sleep(chance.random() * 0.1)  # at any moment
            server.restart()
            await asyncio.gather(*running)
            await read_log(server, kept)
            assert seen.items() <= kept.items(), "shown, and lost"
            for sender in senders:
                assert sender.acked.items() <= kept.items(), "acknowledged, and lost"
                unacked = list(sender.unacked)
                await sender.resend(kept)
                resent += len(unacked)
                duplicates += sum(id in kept for id in unacked)
        await read_log(server, kept)
        total = sum(sender.count for sender in senders)
        assert len(kept) == total == sum(len(sender.acked) for sender in senders)
        for sender in senders:
            assert not sender.unacked
            assert sender.acked.items() <= kept.items()
        assert duplicates > 0, "no kill came between a commit and its acks: this tested too little"
        assert resent > duplicates, "no kill came before a commit: this tested too little"
        numbers: dict[str, int] = {}
        for id in kept:
            user, _, number = id.partition(" ")
            first_time = int(number) == numbers.get(user, 0) + 1
            assert first_time, f"{id} came after {numbers.get(user)}"
            numbers[user] = int(number)
