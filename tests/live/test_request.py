"""The commands of one request: what they wait for, for how long, and what is left when they are answered."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, Running, eventually, running
from tests.support.plain_http import HTTP, Answer
from tornado_chat.auth import mint
from tornado_chat.broker.local import LocalBroker
from tornado_chat.errors import LogUnavailable
from tornado_chat.live import publisher as publisher_module
from tornado_chat.live import request as request_module

TOKEN = mint(SECRET, "alice", ttl=86_400)


def sends(count: int, room: str = "r", prefix: str = "", text: str = "x") -> list[dict[str, Any]]:
    return [{"type": "send", "id": f"{prefix}{number}", "room": room, "text": text} for number in range(count)]


async def post(here: Running, body: object, path: str = "/v1/commands", token: str = TOKEN) -> Answer:
    async with HTTP(here) as http:
        return await http.tell("POST", path, body, bearer=token)


def nothing_is_left(here: Running) -> bool:
    limits = here.server.limits
    return not (
        here.server.context.requests
        or limits.users.connections("alice")
        or limits.http_bytes
        or here.server.hub.signals
    )


async def test_a_full_queue_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "QUEUE_ENTRIES", 4)
    async with running(tmp_path) as here:
        answers = await asyncio.gather(*(post(here, sends(64, prefix=f"{number}-")) for number in range(4)))
        for answer in answers:
            acks = json.loads(answer.body)
            assert [ack["type"] for ack in acks] == ["ack"] * 64
            seqs = [ack["seq"] for ack in acks]
            assert seqs == sorted(seqs), "in the order of the request"
        assert nothing_is_left(here)


async def test_a_batch_goes_into_one_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        log = here.server.log
        before = log.commits  # type: ignore[attr-defined]  # of SQLite's
        acks = json.loads((await post(here, sends(64))).body)
        assert [ack["seq"] for ack in acks] == list(range(1, 65))
        assert log.commits - before <= 2  # type: ignore[attr-defined]  # the first may go ahead of the others


async def test_what_overtakes_a_message_that_names_many_is_answered_in_its_place(tmp_path: Path) -> None:
    many = {"mentions": [f"user-{number}" for number in range(50)]}
    async with running(tmp_path) as here:
        batch = [one | many for one in (*sends(1, "r", "a"), *sends(1, "s", "b"))]
        growing = {"type": "begin", "id": "c", "room": "t"}, {"type": "begin", "id": "d", "room": "u"}
        acks = json.loads((await post(here, [*batch, *growing, *sends(1, "v", "e")])).body)
        assert [(ack["id"], ack["room"], "gen" in ack) for ack in acks] == [
            ("a0", "r", False),
            ("b0", "s", False),
            ("c", "t", True),
            ("d", "u", True),
            ("e0", "v", False),
        ]


async def test_a_rate_is_told_in_its_place_and_nobody_is_cut_off(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=1, send_burst=3) as here, HTTP(here) as http:
        for _ in range(10):
            answer = await http.tell("POST", "/v1/commands", sends(64), bearer=TOKEN)
            assert answer.status == 200
        found = json.loads(answer.body)
        assert {error["code"] for error in found if error["type"] == "error"} == {"rate_limited"}
        assert all(error["retry_after"] > 0 for error in found if error["type"] == "error")
        answer = await http.tell("POST", "/v1/rooms/r/messages", {"text": "one more"}, bearer=TOKEN)
        assert (answer.status, answer.error["code"]) == (429, "rate_limited")
        assert int(answer.headers["retry-after"]) >= answer.error["retry_after"] > 0


async def test_who_owes_bytes_is_answered_later_and_told_of_a_long_wait(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=10, send_burst=10, max_frame_bytes=8192) as here:  # 80 KiB a second
        loop = asyncio.get_running_loop()
        junk = [{"type": "ping", "junk": "x" * 8000}] * 12
        began = loop.time()
        assert (await post(here, junk)).status == 200
        assert (await post(here, [{"type": "ping"}])).status == 200
        assert loop.time() - began > 0.1, "80 KiB were free, and 20 KiB are paid at 80 KiB a second"
        junk = [{"type": "ping", "junk": "x" * 8000}] * 20
        long = asyncio.create_task(post(here, junk))
        await eventually(lambda: here.server.limits.users.connections("alice"))
        again = await post(here, junk)
        assert again.status == 429, "what is long is not kept while there are debts"
        assert again.error["retry_after"] > 0
        assert (await long).status == 200
        assert nothing_is_left(here)


@pytest.mark.logs("log unavailable entries=1 reason=it is away")
async def test_what_the_log_does_not_answer_in_time_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_module, "CARRY_OUT_SECONDS", 0.2)
    async with running(tmp_path) as here:
        away = asyncio.Event()

        async def stalls(*_: object) -> Any:
            await away.wait()
            raise LogUnavailable("it is away")

        with monkeypatch.context() as broken:
            broken.setattr(here.server.log, "append", stalls)
            answer = await post(here, [*sends(1), {"type": "history", "id": "h", "room": "r"}, *sends(1, prefix="b")])
            codes = [(error["id"], error["code"]) for error in json.loads(answer.body)]
            assert codes == [("0", "unavailable"), ("h", "overloaded"), ("b0", "overloaded")]
            one = await post(here, {"text": "x"}, "/v1/rooms/r/messages")
            assert (one.status, one.error["code"]) == (503, "unavailable")
            assert nothing_is_left(here)
            away.set()
            await eventually(lambda: not here.server.publisher.queue)
        await eventually(lambda: not here.server.failing())
        assert json.loads((await post(here, sends(1))).body)[0]["type"] == "ack"


async def test_a_question_that_is_not_answered_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_module, "CARRY_OUT_SECONDS", 0.2)
    async with running(tmp_path) as here:

        async def stalls(*_: object, **__: object) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(here.server.log, "history", stalls)
        answer = await post(here, [{"type": "ping", "id": "p"}, {"type": "history", "id": "h", "room": "r"}, *sends(1)])
        told = [(found["type"], found["id"], found.get("code")) for found in json.loads(answer.body)]
        assert told == [("pong", "p", None), ("error", "h", "unavailable"), ("error", "0", "overloaded")]
        assert nothing_is_left(here)


async def test_what_waits_to_be_paid_does_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    async with running(tmp_path, send_rate=1, send_burst=10, max_frame_bytes=8192) as here, HTTP(here) as http:
        junk = json.dumps([{"type": "ping", "junk": "x" * 8000}] * 7).encode()
        await post(here, junk)
        head = f"POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += f"Content-Length: {len(junk)}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(http.sock, head.encode() + junk)
        await eventually(lambda: here.server.limits.users.connections("alice"))
        async with asyncio.timeout(4):
            await here.server.stop()
        await eventually(lambda: not here.server.limits.users.connections("alice"))


@pytest.mark.logs("log unavailable entries=. reason=the disk is full")
@pytest.mark.logs("log unavailable reason=the disk is full")
async def test_a_log_that_fails_is_told_in_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> Any:
        raise LogUnavailable("the disk is full")

    async with running(tmp_path) as here:
        with monkeypatch.context() as broken:
            broken.setattr(here.server.log, "append", full)
            broken.setattr(here.server.log, "history", full)
            answer = await post(here, [*sends(2), {"type": "history", "room": "r"}])
            assert [error["code"] for error in json.loads(answer.body)] == ["unavailable"] * 3
        await eventually(lambda: not here.server.failing())


@pytest.mark.logs("log unavailable entries=. reason=the disk is full")
async def test_what_is_not_kept_now_is_to_be_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> Any:
        raise LogUnavailable("the disk is full")

    async with running(tmp_path) as here, HTTP(here) as http:
        with monkeypatch.context() as broken:
            broken.setattr(here.server.log, "append", full)
            answer = await http.tell("POST", "/v1/rooms/r/messages", {"text": "x", "id": "1"}, bearer=TOKEN)
        assert (answer.status, answer.error["code"]) == (503, "unavailable")
        assert float(answer.headers["retry-after"]) >= answer.error["retry_after"] > 0
        await eventually(lambda: not here.server.failing())


@pytest.mark.logs("command failed user=alice")
async def test_a_fault_of_the_server_in_a_command_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        with monkeypatch.context() as broken:
            broken.setattr("tornado_chat.live.author.Author.charge", lambda self: 1 / 0)
            answer = await post(here, sends(2))
        assert (answer.status, answer.error["code"]) == (503, "unavailable")
        assert nothing_is_left(here)
        assert (await post(here, sends(2))).status == 200


async def test_who_hangs_up_has_said_what_was_submitted_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        append, goes_on = here.server.log.append, asyncio.Event()

        async def waits(*entries: Any) -> Any:
            await goes_on.wait()
            return await append(*entries)

        monkeypatch.setattr(here.server.log, "append", waits)
        body = json.dumps([*sends(3), {"type": "presence", "room": "r"}, *sends(1, prefix="later")]).encode()
        async with HTTP(here) as http:
            head = f"POST /v1/commands HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(http.sock, head.encode() + body)
            await eventually(lambda: len(here.server.publisher.queue) == 3)
        await eventually(lambda: not len(here.server.http))
        goes_on.set()
        await eventually(lambda: nothing_is_left(here))
        async with HTTP(here) as http:
            page = json.loads((await http.tell("GET", "/v1/rooms/r/messages", bearer=TOKEN)).body)
        assert [message["id"] for message in page["messages"]] == ["0", "1", "2"]


async def test_a_request_under_way_is_answered_before_the_server_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as here:
        append, goes_on = here.server.log.append, asyncio.Event()

        async def waits(*entries: Any) -> Any:
            await goes_on.wait()
            return await append(*entries)

        monkeypatch.setattr(here.server.log, "append", waits)
        async with HTTP(here) as http:
            asked = asyncio.create_task(
                http.tell("POST", "/v1/commands", [*sends(2), {"type": "history", "room": "r"}], bearer=TOKEN)
            )
            await eventually(lambda: len(here.server.publisher.queue) == 2)
            stopping = asyncio.create_task(here.server.stop())
            await eventually(lambda: here.server.context.draining)
            goes_on.set()
            answer = await asked
            assert [found["type"] for found in json.loads(answer.body)] == ["ack", "ack", "history"]
            assert answer.headers["connection"] == "close"
            await stopping


async def test_typing_by_request_is_told_and_lapses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_chat.live.room_signals.LASTING_SECONDS", 0.3)
    async with running(tmp_path) as here:
        member = await here.join("r")
        answer = await post(here, [{"type": "typing", "room": "r", "on": True}])
        assert json.loads(answer.body) == [None]
        assert (await member.until("typing"))["user"] == "alice"
        assert not (await member.until("typing"))["on"]


async def test_who_types_in_a_room_that_is_opened_then_is_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members are on other processes until somebody joins here; the `typing` is told once, and lapses once."""
    monkeypatch.setattr("tornado_chat.live.room_signals.LASTING_SECONDS", 1.0)
    told: list[bool] = []
    monkeypatch.setattr(LocalBroker, "publish_signal", lambda broker, room, signal, not_for: told.append(signal.on))
    async with running(tmp_path) as here:
        hub = here.server.hub
        monkeypatch.setattr(hub.broker, "carries", True)
        await post(here, [{"type": "typing", "room": "r", "on": True}])
        assert hub.signals.keys() == {"r"}
        member = await here.join("r")
        assert not hub.signals
        assert not (await member.until("typing"))["on"]
        assert told == [True, False]


async def test_typing_where_nobody_is_here_is_kept_of_so_many_rooms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tornado_chat.live.room_signals.LASTING_SECONDS", 0.2)
    monkeypatch.setattr("tornado_chat.live.hub.SIGNAL_ROOMS", 2)
    async with running(tmp_path) as here:
        hub = here.server.hub
        monkeypatch.setattr(hub.broker, "carries", True)
        await post(here, [{"type": "typing", "room": room, "on": True} for room in ("a", "b", "c")])
        assert hub.signals.keys() == {"a", "b"}
        await post(here, [{"type": "typing", "room": "a", "on": False}])
        assert hub.signals.keys() == {"b"}
        await eventually(lambda: not hub.signals)


async def test_histories_of_one_request_share_a_mebibyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tornado_chat.live.questions.HISTORY_BYTES", 40_000)
    async with running(tmp_path) as here:
        await post(here, sends(20, text="x" * 8000))
        answer = await post(here, [{"type": "history", "room": "r"}] * 5)
        pages = [len(history["messages"]) for history in json.loads(answer.body)]
        assert pages[0] == 4
        assert pages[1:] == [1] * 4, "one at least, as ever"


async def test_a_backend_acts_for_its_users(tmp_path: Path) -> None:
    backend = mint(SECRET, "backend", ttl=1000, acts_as=["app-*"], rooms=["r", "s"])
    ada = {"user": "app-ada", "name": "Ada"}
    async with running(tmp_path) as here:
        member = await here.join("r")
        commands = [
            {"type": "send", "id": "1", "room": "r", "text": "hello", "as": ada},
            {"type": "edit", "id": "2", "room": "r", "seq": 1, "text": "hello!", "as": ada},
            {"type": "react", "id": "3", "room": "r", "seq": 1, "emoji": "x", "on": True, "as": {"user": "app-bob"}},
            {"type": "delete", "id": "4", "room": "r", "seq": 1},
            {"type": "send", "id": "1", "room": "r", "text": "the backend's own"},
            {"type": "read", "id": "5", "room": "r", "seq": 3, "as": ada},
            {"type": "send", "id": "6", "room": "r", "text": "x", "as": {"user": "other"}},
            {"type": "send", "id": "7", "room": "r", "text": "x", "as": {"user": "guest-1"}},
            {"type": "send", "id": "8", "room": "t", "text": "x", "as": ada},
            {"type": "send", "id": "9", "room": "r", "text": "x", "as": {"user": ""}},
        ]
        found = json.loads((await post(here, commands, token=backend)).body)
        told = [(answer["type"], answer.get("seq"), answer.get("code")) for answer in found]
        assert told == [
            ("ack", 1, None),
            ("ack", 2, None),
            ("ack", 3, None),
            ("error", None, "forbidden"),
            ("ack", 4, None),
            ("ack", None, None),
            ("error", None, "forbidden"),
            ("error", None, "forbidden"),
            ("error", None, "forbidden"),
            ("error", None, "bad_request"),
        ]
        events = await member.collect(4)
        assert [(event["type"], event["user"], event.get("name")) for event in events] == [
            ("message", "app-ada", "Ada"),
            ("edited", "app-ada", None),
            ("reacted", "app-bob", None),
            ("message", "backend", "backend"),
        ]
        token = mint(SECRET, "app-ada", ttl=1000)
        herself = await here.connect(headers={"Authorization": f"Bearer {token}"})
        assert (await herself.ask(type="join", room="r"))["read"] == 3
        again = await herself.ask(type="send", id="1", room="r", text="hello")
        assert (again["seq"], again["duplicate"]) == (1, True), "the id is hers"
        chat = await here.connect(headers={"Authorization": f"Bearer {backend}"})
        assert (await chat.ask(type="send", room="r", text="by WebSocket", **{"as": ada}))["seq"] == 5
        refused = await herself.ask(type="send", room="r", text="x", **{"as": {"user": "app-bob"}})
        assert refused["code"] == "forbidden", "who has no such claim acts for nobody"
