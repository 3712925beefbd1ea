"""A device that polls, or reads pages: what it takes, what it finds, and that it asks again for what was lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.chat import eventually
from tests.support.scripted_http import HANG_UP, WAIT, Asked, ScriptedServer, answer, driven
from tornado_chat.verify import poll_transport
from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.codecs import JSON, Data
from tornado_chat.verify.device import Device
from tornado_chat.verify.handshake import Offer
from tornado_chat.verify.ledger import Ledger


@pytest.fixture(autouse=True)
def large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test answers with is no more than was asked for, and is soon asked for again."""
    monkeypatch.setattr(poll_transport, "LIMITS", (500,))
    monkeypatch.setattr(poll_transport, "PAUSES", (0.01,))


def message(seq: int, room: str = "r") -> Data:
    return {"type": "message", "room": room, "seq": seq, "n": seq, "user": "u", "name": "U", "text": f"t{seq}", "ts": 1}


def page(*seqs: int, cursor: int | None = None, head: int | None = None, **more: Any) -> bytes:
    last = cursor if cursor is not None else seqs[-1] if seqs else 0
    events = [message(seq) for seq in seqs]
    document = {"room": "r", "epoch": "e", "events": events, "cursor": last, "head": last if head is None else head}
    return answer(200, document | more)


def poll(*events: tuple[str, int], more: bool = False, **cursors: int) -> bytes:
    said = [message(seq, room) for room, seq in events]
    return answer(200, {"epoch": "e", "events": said, "cursors": cursors, "more": more})


def after(asked: Asked) -> int:
    return int(asked.query.get("after", ["0"])[0])


def in_turn(*pieces: bytes) -> Callable[[Asked], list[bytes]]:
    """These answers; then nothing more comes."""
    left = list(pieces)
    return lambda asked: [left.pop(0)] if left else [WAIT]


async def test_pages_one_after_another_and_a_lost_one_again() -> None:
    def say(asked: Asked) -> list[bytes]:
        lost.append(after(asked))
        if lost.count(2) == 1 and after(asked) == 2:
            return [page(3)[:-5], HANG_UP]
        return [page(*range(after(asked) + 1, min(4, after(asked) + 2) + 1), cursor=min(4, after(asked) + 2), head=4)]

    lost: list[int] = []
    async with driven(say, kind="http") as (device, ledger, server):
        await eventually(lambda: device.waits() is None and device.rooms["r"].cursor == 4)
        assert (ledger.violations, ledger.counts["delivered"]) == ([], 4)
        assert lost[:3] == [0, 2, 2]
        tokens = [asked.headers["authorization"] for asked in server.asked]
        assert tokens[:2] == ["Bearer t", "Bearer t2"], "the session's token counts from then on"


async def test_a_poll_of_several_rooms_has_more() -> None:
    def say(asked: Asked) -> list[bytes]:
        cursors = asked.body["rooms"]
        if cursors == {"r": 0, "s": 0}:
            return [poll(("r", 1), ("s", 1), ("r", 2), more=True, r=2, s=1)]
        return [poll(("s", 2), r=2, s=2)] if cursors["s"] == 1 else [WAIT]

    async with driven(say, "r", "s", kind="poll") as (device, ledger, server):
        await eventually(lambda: device.waits() is None and device.rooms["s"].cursor == 2)
        assert {asked.path for asked in server.asked[1:]} == {"/v1/poll"}
        assert ledger.violations == []


async def test_who_went_back_gets_all_again() -> None:
    def say(asked: Asked) -> list[bytes]:
        return [page(*range(after(asked) + 1, 6), cursor=5)]

    async with driven(say, kind="http") as (device, ledger, _):
        await eventually(lambda: device.rooms["r"].cursor == 5)
        device.join_again("r", 3)
        await eventually(lambda: ledger.counts["delivered"] == 8)
        assert ledger.violations == []


@pytest.mark.parametrize(
    ("pages", "kind"),
    [
        ([page(1), page(3)], "hole"),
        ([page(1), page(1)], "double"),
        ([page(2, 1)], "hole"),
        ([page(1, 2), page(cursor=1)], "lost"),
        ([page(1, cursor=2, head=2)], "cursor"),
        ([page(1, 2, cursor=1, head=2)], "cursor"),
        ([page(cursor=0, head=2)], "protocol"),
        ([page(cursor=3, head=2)], "protocol"),
        ([page(1, room="s")], "protocol"),
        ([page(1, epoch=None)], "protocol"),
        ([page(1), page(2, epoch="f")], "epoch"),
        ([page(events=[{"type": "typing", "room": "r", "user": "u", "name": "U", "on": True}])], "protocol"),
        ([page(events=[message(1, "s")], cursor=1)], "protocol"),
        ([page(*range(1, 502))], "protocol"),
        ([answer(200, [])], "protocol"),
        ([answer(500, {"error": "x"})], "protocol"),
        ([answer(403, {"error": {"code": "forbidden", "message": "m"}})], "error"),
    ],
)
async def test_pages_that_a_server_must_not_answer_with(pages: list[bytes], kind: str) -> None:
    async with driven(in_turn(*pages), kind="http") as (_, ledger, __):
        await eventually(lambda: bool(ledger.violations))
        assert ledger.violations[0].kind == kind, ledger.violations


@pytest.mark.parametrize(
    ("polls", "kind"),
    [
        ([poll(("r", 1), ("r", 3), r=3, s=0)], "hole"),
        ([poll(("r", 1), r=1, s=0), poll(("r", 1), r=1, s=0)], "double"),
        ([poll(("r", 1), r=1, s=0), poll(r=0, s=0)], "lost"),
        ([poll(("r", 1), r=1, s=1)], "cursor"),
        ([poll(("r", 1), r=1)], "protocol"),
        ([poll(("t", 1), r=1, s=0)], "protocol"),
        ([poll(r=0, s=0, more=True)], "protocol"),
        ([answer(200, {"epoch": "e", "events": [], "cursors": {"r": 0, "s": 0}})], "protocol"),
    ],
)
async def test_polls_that_a_server_must_not_answer_with(polls: list[bytes], kind: str) -> None:
    async with driven(in_turn(*polls), "r", "s", kind="poll") as (_, ledger, __):
        await eventually(lambda: bool(ledger.violations))
        assert ledger.violations[0].kind == kind, ledger.violations


async def test_an_answer_that_comes_too_soon_is_found() -> None:
    def say(asked: Asked) -> list[bytes]:
        waits.append("wait" in asked.body)
        return [poll(r=0, s=0)]

    waits: list[bool] = []
    async with driven(say, "r", "s", kind="poll") as (_, ledger, __):
        await eventually(lambda: bool(ledger.violations))
        assert ledger.violations[0].kind == "wait"
        assert True in waits


@pytest.mark.parametrize(
    "session",
    [
        answer(200, {"user": "u", "name": "U", "token": "t2"}),
        answer(200, {"user": "u", "name": "U", "token": "t2"}, "Set-Cookie: chat_session=t2; HttpOnly"),
        answer(200, {"user": "u", "token": "t2"}, "Set-Cookie: chat_session=t2; HttpOnly; SameSite=Lax"),
    ],
)
async def test_a_session_that_is_none(session: bytes) -> None:
    async with ScriptedServer(lambda asked: [session]) as server:
        ledger = Ledger(["r"])
        address = ServerAddress("127.0.0.1", server.port, "/ws", False)
        device = Device("c1", ["r"], ledger, address, kind="http", token=None, offer=Offer(JSON), dice=random.Random(1))
        task = asyncio.create_task(device.run())
        await eventually(lambda: bool(ledger.violations))
        task.cancel()
        await asyncio.wait([task])
        assert ledger.violations[0].kind == "protocol"
        assert "authorization" not in server.asked[0].headers


async def test_a_device_goes_on_as_another_kind_where_it_was() -> None:
    def say(asked: Asked) -> list[bytes]:
        return [WAIT] if "wait" in asked.query else [page(*range(after(asked) + 1, 4), cursor=3)]

    async with driven(say, kind="http") as (device, ledger, server):
        await eventually(lambda: device.rooms["r"].cursor == 3)
        device.change("poll")
        await eventually(lambda: "wait" in server.asked[-1].query and after(server.asked[-1]) == 3)
        assert (ledger.counts["changes"], ledger.violations) == (1, [])
