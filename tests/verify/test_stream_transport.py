"""A device that hears a stream: what it takes, what it finds, and where it comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.chat import eventually
from tests.support.scripted_http import (
    HANG_UP,
    LAST_CHUNK,
    STREAM_HEAD,
    WAIT,
    Asked,
    answer,
    block,
    chunk,
    driven,
)
from tornado_chat.verify.codecs import Data

LIMITS = {"frame_bytes": 65536, "text_chars": 8000, "send_rate": 0, "send_burst": 0}
WELCOME: Data = {
    "type": "welcome",
    "user": "u",
    "name": "U",
    "device": "d",
    "epoch": "e",
    "server_time": 1,
    "limits": LIMITS,
    "ping_interval": 25,
}
HELLO = STREAM_HEAD + block(WELCOME)
WHOLE = STREAM_HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 2000")
PING = chunk(b"event: ping\ndata: {}\n\n")


def said(message: Data) -> bytes:
    """Not in a chunk."""
    return f"data: {json.dumps(message)}\n\n".encode()


def joined(room: str = "r", cursor: int = 0, **fields: str) -> bytes:
    return block({"type": "joined", "room": room, "head": 9, "cursor": cursor, "read": 0, "epoch": "e"}, **fields)


def message(seq: int, room: str = "r") -> Data:
    return {"type": "message", "room": room, "seq": seq, "n": seq, "user": "u", "name": "U", "text": f"t{seq}", "ts": 1}


def event(seq: int, **fields: str) -> bytes:
    return block(message(seq), **({"id": f"e.{seq}"} | fields))


def closing(code: int = 1012, retry: int = 5, **more: Any) -> bytes:
    end = {"type": "closing", "code": code, "retry_after_ms": retry, **more}
    return chunk(f"retry: {retry}\n".encode() + said(end))


def synced(seq: int, room: str = "r") -> bytes:
    return block({"type": "synced", "room": room, "seq": seq})


def once(*pieces: bytes) -> Callable[[Asked], list[bytes]]:
    """The first stream; the others are sound."""
    left = list(pieces)

    def say(asked: Asked) -> list[bytes]:
        said, left[:] = left[:], []
        return said or [HELLO, joined(cursor=int(asked.query.get("after", ["0"])[0])), WAIT]

    return say


async def test_a_sound_stream_is_resumed_by_its_last_id() -> None:
    """By the header or the query, and it counts, whatever `after` says."""
    ways = set()
    for seed in range(30):

        def say(asked: Asked) -> list[bytes]:
            came = asked.headers.get("last-event-id") or next(
                (asked.query[name][0] for name in ("last_event_id", "lastEventId") if name in asked.query), None
            )
            after = int((came or f".{asked.query['after'][0]}").rpartition(".")[2])
            if after:
                ways.add(("header" if "last-event-id" in asked.headers else "query") if came else "after")
                return [HELLO, joined(cursor=after, id=f"e.{after}"), event(after + 1), synced(after + 1), WAIT]
            return [HELLO, joined(), event(1), PING, event(2), closing(), LAST_CHUNK, HANG_UP]

        async with driven(say, seed=seed, kind="stream") as (device, ledger, server):
            await eventually(lambda: device.rooms["r"].cursor == 3)
            assert device.last_event_id == "e.3"
            assert [asked.path for asked in server.asked] == ["/v1/rooms/r/events"] * 2
            assert {asked.headers["accept"] for asked in server.asked} == {"text/event-stream"}
        assert ledger.violations == []
        assert ledger.closes == {"1012": 1}
    assert ways == {"header", "query", "after"}


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ([HELLO, joined(), event(1), event(3)], "hole"),
        ([HELLO, joined(), event(1), event(1)], "double"),
        ([HELLO, joined(), event(1), event(2, id="e.3")], "id"),
        ([HELLO, joined(), event(1), event(2, id="f.2")], "id"),
        ([HELLO, joined(id="e.1")], "id"),
        ([HELLO, joined(cursor=2)], "lost"),
        ([HELLO, joined(), synced(1)], "hole"),
        ([HELLO, joined(), block(message(1))], "protocol"),
        ([HELLO, event(1)], "protocol"),
        ([STREAM_HEAD, joined()], "protocol"),
        ([STREAM_HEAD, PING], "protocol"),
        ([HELLO, joined(), block(message(1), id="e.1", event="message")], "protocol"),
        ([HELLO, joined(), chunk(b"event: ping\ndata: {}\nid: e.1\n\n")], "protocol"),
        ([HELLO, joined(), chunk(b"id: e r:0\n\n")], "protocol"),
        ([HELLO, joined(), chunk(b": heartbeat\n\n")], "protocol"),
        ([HELLO, joined(), chunk(b"data: {\ndata: }\n\n")], "protocol"),
        ([HELLO, joined(), block({"type": "ack", "id": "x", "room": "r", "seq": 1, "ts": 1})], "protocol"),
        ([HELLO, joined(), LAST_CHUNK], "protocol"),
        ([HELLO, joined(), closing(), event(1)], "protocol"),
        ([HELLO, joined(), block({"type": "closing", "code": 1012, "retry_after_ms": 5})], "protocol"),
        ([HELLO, joined(), block({"type": "closing", "code": 1012}), LAST_CHUNK], "protocol"),
        ([HELLO, joined(), closing(1009), LAST_CHUNK], "error"),
        ([HELLO, joined(), chunk(b"data: {}"), LAST_CHUNK], "protocol"),
        ([HELLO, b"5\r\ndata: \r\n"], "protocol"),
        ([STREAM_HEAD.replace(b"text/event-stream", b"text/plain")], "protocol"),
        ([STREAM_HEAD.replace(b", no-transform", b"")], "protocol"),
        ([STREAM_HEAD.replace(b"Buffering: no", b"Buffering: yes")], "protocol"),
        ([WHOLE + said(WELCOME)], "protocol"),
        ([STREAM_HEAD, block({"type": "error", "code": "overloaded", "message": "m"}), LAST_CHUNK], "protocol"),
        ([HELLO, block({"type": "error", "room": "r", "code": "forbidden", "message": "m"})], "error"),
    ],
)
async def test_a_stream_that_a_server_must_not_send(pieces: list[bytes], kind: str) -> None:
    async with driven(once(*pieces, HANG_UP), kind="stream") as (_, ledger, __):
        await eventually(lambda: bool(ledger.violations))
        assert ledger.violations[0].kind == kind, ledger.violations


OVERLOADED: Data = {"type": "error", "code": "overloaded", "message": "m", "retry_after": 0.001}


@pytest.mark.parametrize(
    "refused",
    [
        [STREAM_HEAD, chunk(b"retry: 1\n\n"), block(OVERLOADED), LAST_CHUNK, HANG_UP],
        [WHOLE.replace(b"2000", b"%d" % len(text := b"retry: 1\n" + said(OVERLOADED))), text],
    ],
)
async def test_what_passes_is_waited_for(refused: list[bytes]) -> None:
    """A stream in place of a status, which a browser would take for the end: retry, an error, the end."""
    async with driven(once(*refused), kind="stream") as (device, ledger, server):
        await eventually(lambda: device.connected)
        assert (ledger.violations, ledger.counts["refused"], len(server.asked)) == ([], 1, 2)


async def test_a_refusal_with_a_status_is_told() -> None:
    async with driven(once(answer(403, {"error": {"code": "forbidden", "message": "m"}}), HANG_UP), kind="stream") as (
        device,
        _,
        __,
    ):
        await eventually(lambda: device.refusal is not None)
        assert "403" in str(device.refusal)


async def test_several_rooms_are_asked_for_in_every_way_and_their_ids_bring_them_back() -> None:
    ways = set()
    for seed in range(40):

        def say(asked: Asked) -> list[bytes]:
            ids = "ids" in asked.query
            came = asked.headers.get("last-event-id") or next(
                (asked.query[name][0] for name in ("last_event_id", "lastEventId") if name in asked.query), None
            )
            if asked.method == "POST":
                after = {one["room"]: one["after"] for one in asked.body["join"]}
            else:
                after = {room: int(seq) for room, _, seq in (one.partition(":") for one in asked.query["join"])}
            if came is not None:
                after |= {room: int(seq) for room, _, seq in (one.partition(":") for one in came.split(" ")[1:])}
            ways.add((asked.method, ids, came is not None))
            said = [HELLO]
            for room in after:
                said.append(joined(room, after[room]))
                if not after[room]:
                    said.append(block(message(1, room)))
                    after[room] = 1
                said.append(synced(after[room], room))
            if ids:
                said.append(block(id="e " + " ".join(f"{room}:{seq}" for room, seq in after.items())))
            return [*said, WAIT]

        async with driven(say, "r", "s", seed=seed, kind="stream") as (device, ledger, server):
            await eventually(lambda: device.waits() is None)
            device.cut(None, 0.0)
            await eventually(lambda: len(server.asked) == 2 and device.waits() is None)
        assert ledger.violations == []
    assert ways >= {("POST", False, False), ("GET", True, False), ("GET", False, False), ("GET", True, True)}


@pytest.mark.parametrize(
    "id", ["e r:0 s:0", "e r:1", "e r:1 s:0 t:0", "f r:1 s:0", "e r:1 s:1"], ids=lambda id: id.replace(" ", "_")
)
async def test_ids_that_say_something_else_than_was_shown(id: str) -> None:
    asked_for_ids: list[bool] = []

    def say(asked: Asked) -> list[bytes]:
        asked_for_ids.append("ids" in asked.query)
        said = [HELLO, joined("r"), joined("s"), block(message(1, "r"))]
        return [*said, block(id=id), WAIT] if asked_for_ids[-1] else [*said, synced(0, "s"), WAIT]

    seed = 0
    while not asked_for_ids or not asked_for_ids[-1]:
        seed += 1
        async with driven(say, "r", "s", seed=seed, kind="stream") as (device, ledger, _):
            await eventually(lambda: bool(ledger.violations) or device.rooms["s"].synced)
        assert {found.kind for found in ledger.violations} == ({"id"} if asked_for_ids[-1] else set())


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("last", ["ping", "closing"])
async def test_heartbeats_and_the_end_bring_the_cursors(last: str, told: bool) -> None:
    """Firefox heeds no id of a block without data."""

    def say(asked: Asked) -> list[bytes]:
        if "ids" not in asked.query:
            return [HELLO, joined("r"), joined("s"), synced(0, "r"), synced(0, "s"), WAIT]
        line = b"id: e r:0 s:0\n" if told else b""
        end = {"type": "closing", "code": 1012, "retry_after_ms": 20_000}
        blocks = {"ping": line + b"event: ping\ndata: {}\n\n", "closing": line + b"retry: 20000\n" + said(end)}
        asked_for_ids.append(asked)
        return [HELLO, joined("r"), joined("s"), chunk(blocks[last]), LAST_CHUNK if last == "closing" else WAIT]

    asked_for_ids: list[Asked] = []
    seed = 0
    while not asked_for_ids:
        seed += 1
        async with driven(say, "r", "s", kind="stream", seed=seed) as (device, ledger, _):
            await eventually(
                lambda: (
                    bool(ledger.violations or ledger.counts["pings"] or ledger.closes)
                    or (not asked_for_ids and device.rooms["s"].synced)
                )
            )
            assert {found.kind for found in ledger.violations} == (set() if told or not asked_for_ids else {"protocol"})


async def test_a_stream_without_a_heartbeat_is_dead() -> None:
    quick = STREAM_HEAD + block(WELCOME | {"ping_interval": 0.05})
    async with driven(once(quick, joined(), WAIT), kind="stream") as (_, ledger, __):
        await eventually(lambda: ledger.counts["connects"] == 2)
        assert ledger.closes == {"1006": 1}
        assert "without a heartbeat" in ledger.history[0]
    assert ledger.violations == []


async def test_rooms_are_joined_again_by_another_stream() -> None:
    def say(asked: Asked) -> list[bytes]:
        after = int(asked.query["after"][0])
        return [HELLO, joined(cursor=after), *map(event, range(after + 1, 6)), synced(5), WAIT]

    async with driven(say, kind="stream") as (device, ledger, server):
        await eventually(lambda: device.rooms["r"].synced)
        device.join_again("r", 3)
        await eventually(lambda: len(server.asked) == 2 and device.rooms["r"].synced)
        assert server.asked[-1].query["after"] == ["2"]
    assert ledger.violations == []
    assert ledger.closes == {"1000": 1}


async def test_who_was_told_to_come_back_later_lacks_nothing_until_there_is_more() -> None:
    """Streams end by and by; at no moment all of many are connected."""
    async with driven(
        once(HELLO, joined(), event(1), synced(1), closing(retry=20_000), LAST_CHUNK, HANG_UP), kind="stream"
    ) as (device, ledger, _):
        assert device.waits() is not None
        await eventually(lambda: ledger.closes == {"1012": 1} and not device.connected)
        assert device.waits() is None
        ledger.records["r"].see(message(2), "c2", 1.0)
        waits = device.waits()
        assert waits is not None
        assert waits[1] == 2
