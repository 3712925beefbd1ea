"""Streams of server-sent events: who gets one, of which rooms, from where; what is answered where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.chat import Running, eventually, running
from tests.support.streams import Stream


def port(here: Running) -> int:
    return int(here.address.rpartition(":")[2])


ROOM = "/v1/rooms/r/events"


async def test_a_stream_of_one_room_has_an_id_on_all_that_moves_its_cursor(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.join("r")
        await client.ask(type="send", room="r", text="one", id="1")
        async with await Stream.open(port(here), ROOM + "?after=0") as stream:
            assert stream.headers == {
                "content-type": "text/event-stream",
                "cache-control": "no-store, no-transform",
                "x-accel-buffering": "no",
                "transfer-encoding": "chunked",
                "connection": "close",
            }
            assert stream.retry is not None
            welcome = stream.welcome
            assert welcome.keys() == client.welcome.keys()
            epoch = welcome["epoch"]
            joined, one, synced = [await stream.hear_block() for _ in range(3)]
            assert joined.id == f"{epoch}.0"
            assert joined.data == {"type": "joined", "room": "r", "head": 1, "cursor": 0, "read": 0, "epoch": epoch}
            assert (one.id, one.data["text"], one.event) == (f"{epoch}.1", "one", None)
            assert (synced.id, synced.data) == (None, {"type": "synced", "room": "r", "seq": 1})
            await client.ask(type="send", room="r", text="two", id="2")
            two = await stream.hear_block()
            assert (two.id, two.data["text"]) == (f"{epoch}.2", "two")
            assert len(here.server.lines.open) == 2
        await eventually(lambda: len(here.server.lines.open) == 1)


async def test_many_rooms_are_joined_by_a_post(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.connect()
        for room in ("a", "b"):
            await client.ask(type="send", room=room, text=f"in {room}", id=room)
        wanted: list[dict[str, Any]] = [{"room": "a", "after": 0}, {"room": "b", "last": 1}, {"room": "c"}]
        async with await Stream.open(
            port(here),
            "/v1/events",
            "Content-Type: application/json",
            method="POST",
            body=json.dumps({"join": wanted}).encode(),
        ) as stream:
            assert stream.status == 200
            heard = [await stream.hear_block() for _ in range(8)]
            types = {room: [block.data["type"] for block in heard if block.data["room"] == room] for room in "abc"}
            assert types == {
                "a": ["joined", "message", "synced"],
                "b": ["joined", "message", "synced"],
                "c": ["joined", "synced"],
            }
            assert all(block.id is None for block in heard)
