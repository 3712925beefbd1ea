"""What a device says over HTTP: that it is said again until it is answered, and what is found in the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from tests.support.chat import eventually
from tests.support.scripted_http import HANG_UP, Asked, answer, driven
from tornado_chat.verify.codecs import Data
from tornado_chat.verify.endings import Ended
from tornado_chat.verify.posts import Posts
from tornado_chat.verify.socket_transport import SocketTransport

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


def page() -> bytes:
    return answer(200, {"room": "r", "epoch": "e", "events": [], "cursor": 0, "head": 0})


def message(seq: int) -> Data:
    return {"type": "message", "room": "r", "seq": seq, "n": seq, "user": "u", "name": "U", "text": f"t{seq}", "ts": 1}


def speaking(say: Callable[[Asked], list[bytes]]) -> Callable[[Asked], list[bytes]]:
    """To commands what `say` makes of them; no event ever comes."""
    return lambda asked: [page()] if asked.method == "GET" else say(asked)


async def test_a_request_that_was_cut_is_repeated_with_the_same_ids() -> None:
    for part in (0.1, 0.9):
        async with driven(speaking(lambda asked: [acknowledged(asked)]), kind="http") as (device, ledger, server):
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
    async with driven(speaking(say), kind="http") as (device, ledger, _):
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
    async with driven(speaking(say), kind="http") as (device, ledger, _):
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
    async with driven(speaking(say), kind="http") as (device, ledger, _):
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
    async with driven(say, kind="http") as (device, ledger, _):
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
    async with driven(speaking(say), kind="http") as (device, ledger, _):
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

    async with driven(speaking(say), kind="http") as (device, ledger, _):
        await eventually(lambda: device.connected)
        while not ledger.violations:
            for _ in range(8):
                device.commands.speak({"type": "edit", "room": "r", "seq": 1, "text": "x"})
            await eventually(lambda: bool(ledger.violations) or not device.commands.unanswered)
        assert ledger.violations[0].kind in ("protocol", "ack")


async def test_an_ack_below_what_the_log_had_reached_is_found() -> None:
    async with driven(speaking(lambda asked: [acknowledged(asked, 3)]), kind="http") as (device, ledger, _):
        await eventually(lambda: device.connected)
        ledger.records["r"].see(message(5), "c2", 1.0)
        device.commands.speak({"type": "edit", "room": "r", "seq": 1, "text": "x"})
        await eventually(lambda: bool(ledger.violations))
        assert (ledger.violations[0].kind, ledger.violations[0].seq) == ("ack", 3)


async def test_a_device_that_says_nothing_more_after_a_cut_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so where it is about to end."""

    async def hearing() -> NoReturn:
        await asyncio.sleep(3600)
        raise AssertionError

    async with driven(speaking(lambda asked: [acknowledged(asked)]), kind="http") as (device, ledger, _):
        await eventually(lambda: device.connected)
        monkeypatch.setattr(device, "lose_answers", lambda: None)
        posts = Posts(device, SocketTransport(device))
        task = asyncio.create_task(posts.beside(hearing()))
        command = {"type": "send", "id": "c1.1", "room": "r", "text": "x"}
        posts.cut(command, 0.9)
        await eventually(lambda: ledger.counts["posts"] == 1)
        await asyncio.sleep(0.05)
        assert not task.done()
        assert ledger.counts["posts"] == 1
        posts.send(command)
        await eventually(lambda: ledger.counts["posts"] == 2)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_transport_that_ends_while_it_is_cancelled_is_cancelled() -> None:
    """Else its device would come back, and a run that is over would never end."""

    async def hearing() -> NoReturn:
        asyncio.get_running_loop().call_soon(task.cancel)
        raise Ended(1012)

    async with driven(speaking(lambda asked: [acknowledged(asked)]), kind="http") as (device, _, __):
        await eventually(lambda: device.connected)
        task = asyncio.create_task(Posts(device, SocketTransport(device)).beside(hearing()))
        await asyncio.wait([task])
        assert task.cancelled()
