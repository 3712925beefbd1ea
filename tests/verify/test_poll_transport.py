"""A device that polls, or reads pages: what it takes, what it finds, and that it asks again for what was lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.chat import eventually
from tests.support.scripted_http import HANG_UP, WAIT, Asked, ScriptedServer, answer
from tornado_chat.verify import poll_transport
from tornado_chat.verify.address import ServerAddress
from tornado_chat.verify.codecs import JSON, Data
from tornado_chat.verify.device import Device
from tornado_chat.verify.handshake import Offer
from tornado_chat.verify.ledger import Ledger

SESSION = answer(
    200, {"user": "u", "name": "U", "token": "t2"}, "Set-Cookie: chat_session=t2; Path=/; HttpOnly; SameSite=Lax"
)


@pytest.fixture(autouse=True)
def large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test answers with is no more than was asked for, and is soon asked for again."""
    monkeypatch.setattr(poll_transport, "LIMITS", (500,))
    monkeypatch.setattr(poll_transport, "PAUSES", (0.01,))


def message(seq: int, room: str = "r") -> Data:
    return {"type": "message", "room": room, "seq": seq, "user": "u", "name": "U", "text": f"t{seq}", "ts": 1}


def page(*seqs: int, cursor: int | None = None, head: int | None = None, **more: Any) -> bytes:
    last = cursor if cursor is not None else seqs[-1] if seqs else 0
    events = [message(seq) for seq in seqs]
    document = {"room": "r", "epoch": "e", "events": events, "cursor": last, "head": last if head is None else head}
    return answer(200, document | more)


def poll(*events: tuple[str, int], more: bool = False, **cursors: int) -> bytes:
    said = [message(seq, room) for room, seq in events]
    return answer(200, {"epoch": "e", "events": said, "cursors": cursors, "more": more})


@asynccontextmanager
async def polling(
    say: Callable[[Asked], list[bytes]], *rooms: str, kind: str = "http", seed: int = 1
) -> AsyncIterator[tuple[Device, Ledger, ScriptedServer]]:
    """A device in `rooms` (r) that gets what `say` makes of each request but that for the session."""
    ledger = Ledger(rooms or ("r",))
    async with ScriptedServer(lambda asked: [SESSION] if asked.path == "/v1/session" else say(asked)) as server:
        device = Device(
            "c1",
            rooms or ("r",),
            ledger,
            ServerAddress("127.0.0.1", server.port, "/ws", False),
            kind=kind,
            token="t",
            offer=Offer(JSON),
            dice=random.Random(seed),
        )
        task = asyncio.create_task(device.run())
        try:
            yield device, ledger, server
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])


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
    async with polling(say) as (device, ledger, server):
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

    async with polling(say, "r", "s", kind="poll") as (device, ledger, server):
        await eventually(lambda: device.waits() is None and device.rooms["s"].cursor == 2)
        assert {asked.path for asked in server.asked[1:]} == {"/v1/poll"}
        assert ledger.violations == []


async def test_who_went_back_gets_all_again() -> None:
    def say(asked: Asked) -> list[bytes]:
        return [page(*range(after(asked) + 1, 6), cursor=5)]

    async with polling(say) as (device, ledger, _):
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
    async with polling(in_turn(*pages)) as (_, ledger, __):
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
    async with polling(in_turn(*polls), "r", "s", kind="poll") as (_, ledger, __):
        await eventually(lambda: bool(ledger.violations))
        assert ledger.violations[0].kind == kind, ledger.violations


async def test_an_answer_that_comes_too_soon_is_found() -> None:
    def say(asked: Asked) -> list[bytes]:
        waits.append("wait" in asked.body)
        return [poll(r=0, s=0)]

    waits: list[bool] = []
    async with polling(say, "r", "s", kind="poll") as (_, ledger, __):
        await eventually(lambda: bool(ledger.violations))
        assert ledger.violations[0].kind == "wait"
        assert waits[-1]


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


# What it says beside.

ME = {"user": "u", "name": "U"}


def acks(asked: Asked, first: int = 1) -> list[Data]:
    batch = asked.body if isinstance(asked.body, list) else [asked.body]
    return [
        {"type": "ack", "id": one["id"], "room": one["room"], "seq": seq, "ts": 1}
        for seq, one in enumerate(batch, first)
    ]


def acknowledged(asked: Asked, first: int = 1) -> bytes:
    """In whichever way it was asked."""
    if asked.path == "/v1/commands":
        return answer(200, acks(asked, first))
    id = asked.body.get("id") or asked.headers["idempotency-key"]
    return answer(201 if asked.method == "POST" else 200, {"room": "r", "seq": first, "ts": 1, "id": id})


def speaking(say: Callable[[Asked], list[bytes]]) -> Callable[[Asked], list[bytes]]:
    """To commands what `say` makes of them; no event ever comes."""
    return lambda asked: [page()] if asked.method == "GET" else say(asked)


async def test_a_request_that_was_cut_is_repeated_with_the_same_ids() -> None:
    for part in (0.1, 0.9):
        async with polling(speaking(lambda asked: [acknowledged(asked)])) as (device, ledger, server):
            await eventually(lambda: device.connected)
            device.cut({"type": "edit", "room": "r", "seq": 1, "text": "x"}, part)
            await eventually(lambda: ledger.counts["acked"] == 1)
            assert [("c1.1" in str(asked)) for asked in server.asked].count(True) == (2 if part > 0.4 else 1)
            assert device.commands.unanswered == {}
        assert ledger.violations == []


async def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    def say(asked: Asked) -> list[bytes]:
        lost.append(asked)
        return [acknowledged(asked)[:-3], HANG_UP] if len(lost) == 1 else [acknowledged(asked)]

    lost: list[Asked] = []
    async with polling(speaking(say)) as (device, ledger, _):
        await eventually(lambda: device.connected)
        device.commands.speak({"type": "edit", "room": "r", "seq": 1, "text": "x"})
        await eventually(lambda: ledger.counts["acked"] == 1)
        assert "c1.1" in str(lost[0])
        assert "c1.1" in str(lost[1])
        assert ledger.violations == []


async def test_what_passes_is_waited_for_and_sent_again() -> None:
    def say(asked: Asked) -> list[bytes]:
        refused.append(asked)
        error = {"error": {"code": "unavailable", "message": "m"}}
        return [answer(503, error) if len(refused) == 1 else acknowledged(asked)]

    refused: list[Asked] = []
    async with polling(speaking(say)) as (device, ledger, _):
        await eventually(lambda: device.connected)
        device.commands.speak({"type": "edit", "room": "r", "seq": 1, "text": "x"})
        await eventually(lambda: ledger.counts["acked"] == 1)
        assert (ledger.violations, len(refused)) == ([], 2)


EMOJI = {"type": "react", "room": "r", "seq": 7, "emoji": "❤️"}


@pytest.mark.parametrize(
    ("command", "method", "path", "body"),
    [
        ({"type": "send", "room": "r", "text": "x", "meta": {}}, "POST", "messages", {"text": "x", "meta": {}}),
        ({"type": "edit", "room": "r", "seq": 7, "text": "x"}, "PATCH", "messages/7", {"text": "x"}),
        ({"type": "delete", "room": "r", "seq": 7}, "DELETE", "messages/7", {}),
        (EMOJI | {"on": True}, "PUT", "messages/7/reactions/%E2%9D%A4%EF%B8%8F", {}),
        (EMOJI | {"on": False}, "DELETE", "messages/7/reactions/%E2%9D%A4%EF%B8%8F", {}),
    ],
)
async def test_a_command_has_an_address_of_its_own(command: Data, method: str, path: str, body: Data) -> None:
    def say(asked: Asked) -> list[bytes]:
        said.append(asked)
        if asked.path == "/v1/commands":
            return [acknowledged(asked, len(said))]
        id = asked.headers.get("idempotency-key") or asked.body["id"]
        ways.add("header" if "idempotency-key" in asked.headers else "body")
        assert (asked.method, asked.path) == (method, f"/v1/rooms/r/{path}")
        assert {name: value for name, value in (asked.body or {}).items() if name != "id"} == body
        return [answer(201 if method == "POST" else 200, {"room": "r", "seq": len(said), "ts": 1, "id": id})]

    said: list[Asked] = []
    ways: set[str] = set()
    wanted = {"header"} if method == "DELETE" else {"header", "body"}
    async with polling(speaking(say)) as (device, ledger, _):
        await eventually(lambda: device.connected)
        while ways != wanted:
            device.commands.speak(command)
            await eventually(lambda: bool(ledger.violations) or not device.commands.unanswered)
            assert ledger.violations == []


async def test_questions_have_addresses_of_their_own() -> None:
    def say(asked: Asked) -> list[bytes]:
        paths.add(asked.path)
        if asked.path.endswith("/events"):
            return [page()]
        if asked.path == "/v1/commands":
            one = asked.body if isinstance(asked.body, dict) else asked.body[0]
            found = {"type": one["type"], "id": one["id"], "room": "r"}
            more = {"messages": [], "more": False} if one["type"] == "history" else {"count": 1, "users": [ME]}
            return [answer(200, [found | more])]
        if asked.path == "/v1/rooms/r/presence":
            return [answer(200, {"type": "presence", "room": "r", "count": 1, "users": [ME]})]
        assert asked.query == {"before": ["9"], "limit": ["5"]}
        return [answer(200, {"type": "history", "room": "r", "messages": [], "more": False})]

    paths: set[str] = set()
    async with polling(say) as (device, ledger, _):
        await eventually(lambda: device.connected)
        while len(paths) < 4:
            device.questions.ask_presence("r")
            await eventually(lambda: device.questions.waits() is None)
            device.questions.ask_history("r", 9, 5)
            await eventually(lambda: bool(ledger.counts["histories"]))
            device.audit()
            ledger.counts.clear()
        assert paths == {"/v1/rooms/r/events", "/v1/commands", "/v1/rooms/r/presence", "/v1/rooms/r/messages"}
        assert ledger.violations == []


@pytest.mark.parametrize(("status", "code", "again"), [(429, "rate_limited", True), (404, "not_found", False)])
async def test_an_error_at_an_address_is_the_commands(status: int, code: str, again: bool) -> None:
    def say(asked: Asked) -> list[bytes]:
        if asked.path == "/v1/commands" or refused:
            return [acknowledged(asked, ledger.counts["acked"] + 1)]
        refused.append(asked)
        error = {"error": {"code": code, "message": "m"} | ({"retry_after": 0.01} if again else {})}
        return [answer(status, error, *(["Retry-After: 1"] if again else []))]

    refused: list[Asked] = []
    async with polling(speaking(say)) as (device, ledger, _):
        await eventually(lambda: device.connected)
        while not refused:
            device.commands.speak({"type": "edit", "room": "r", "seq": 1, "text": "x"})
            await eventually(lambda: not device.commands.unanswered)
        assert (ledger.errors, ledger.violations) == ({code: 1}, [])
        assert ledger.counts["acked"] == ledger.counts["sent"] - (not again)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda found: found[:-1],
        lambda found: found[::-1],
        lambda found: [None, *found[1:]],
        lambda found: [{"type": "pong", "id": found[0]["id"]}, *found[1:]],
        lambda found: [found[0] | {"seq": 9}, *found[1:]],
        lambda found: found[0],
    ],
)
async def test_answers_to_commands_that_a_server_must_not_give(wrong: Callable[[list[Data]], Any]) -> None:
    def say(asked: Asked) -> list[bytes]:
        if asked.path != "/v1/commands":
            return [acknowledged(asked)]
        found = acks(asked)
        return [answer(200, wrong(found) if len(found) > 1 else found)]

    async with polling(speaking(say)) as (device, ledger, _):
        await eventually(lambda: device.connected)
        while not ledger.violations:
            for _ in range(8):
                device.commands.speak({"type": "edit", "room": "r", "seq": 1, "text": "x"})
            await eventually(lambda: bool(ledger.violations) or not device.commands.unanswered)
        assert ledger.violations[0].kind in ("protocol", "ack")


async def test_an_ack_below_what_the_log_had_reached_is_found() -> None:
    async with polling(speaking(lambda asked: [acknowledged(asked, 3)])) as (device, ledger, _):
        await eventually(lambda: device.connected)
        ledger.records["r"].see(message(5), "c2", 1.0)
        device.commands.speak({"type": "edit", "room": "r", "seq": 1, "text": "x"})
        await eventually(lambda: bool(ledger.violations))
        assert (ledger.violations[0].kind, ledger.violations[0].seq) == ("ack", 3)


async def test_a_device_goes_on_as_another_kind_where_it_was() -> None:
    def say(asked: Asked) -> list[bytes]:
        return [WAIT] if "wait" in asked.query else [page(*range(after(asked) + 1, 4), cursor=3)]

    async with polling(say) as (device, ledger, server):
        await eventually(lambda: device.rooms["r"].cursor == 3)
        device.change("poll")
        await eventually(lambda: "wait" in server.asked[-1].query and after(server.asked[-1]) == 3)
        assert (ledger.counts["changes"], ledger.violations) == (1, [])
