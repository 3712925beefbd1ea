"""Commands over HTTP: many at once, or one in HTTP's own words. They are the commands of the WebSocket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support.chat import SECRET, Running, running
from tests.support.plain_http import HTTP, Answer
from tornado_chat.auth import mint


def token(user: str = "alice", **claims: Any) -> str:
    return mint(SECRET, user, ttl=1000, **claims)


async def ask(
    here: Running, method: str, path: str, body: object = None, *, who: str | None = "alice", **headers: str
) -> Answer:
    """One request on a connection of its own; `body` is sent as JSON unless it is bytes."""
    async with HTTP(here) as http:
        return await http.tell(method, path, body, bearer=who and token(who), **headers)


async def command(here: Running, *commands: dict[str, Any], who: str = "alice") -> list[Any]:
    answer = await ask(here, "POST", "/v1/commands", list(commands), who=who)
    assert answer.status == 200, answer
    found: list[Any] = json.loads(answer.body)
    assert len(found) == len(commands)
    return found


async def test_commands_are_answered_in_their_order_as_a_websocket_would(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        member = await here.join("r")
        answers = await command(
            here,
            {"type": "send", "id": "1", "room": "r", "text": "one"},
            {"type": "typing", "room": "r", "on": True},
            {"type": "history", "id": "h", "room": "r"},
            {"type": "send", "id": "2", "room": "r", "text": "two", "reply_to": 1},
            {"type": "edit", "id": "3", "room": "r", "seq": 1, "text": "uno"},
            {"type": "send", "room": "r", "text": "without an id"},
            {"type": "join", "id": "j", "room": "r"},
            {"type": "presence", "room": "r"},
            {"type": "read", "room": "r", "seq": 2},
            {"type": "read", "id": "4", "room": "r", "seq": 2},
            {"type": "ping", "id": "p"},
            {"type": "delete", "id": "5", "room": "r", "seq": 99},
        )
        kinds = [answer and (answer["type"], answer.get("id"), answer.get("seq")) for answer in answers]
        assert kinds == [
            ("ack", "1", 1),
            None,
            ("history", "h", None),
            ("ack", "2", 2),
            ("ack", "3", 3),
            ("error", None, None),
            ("error", "j", None),
            ("presence", None, None),
            None,
            ("ack", "4", None),
            ("pong", "p", None),
            ("error", "5", None),
        ]
        assert [answer["code"] for answer in answers if answer and answer["type"] == "error"] == [
            "bad_request",
            "bad_request",
            "not_found",
        ]
        assert [message["text"] for message in answers[2]["messages"]] == ["one"], "what came after it is not in it"
        assert answers[7]["count"] == 1
        assert [event["type"] for event in await member.collect(3)] == ["message", "message", "edited"]


async def test_commands_may_come_in_messagepack_and_one_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        send = {"type": "send", "id": "1", "room": "r", "text": "é", "meta": {"a": 1}}
        for body, answers in ((send, 1), ([send, send], 2)):
            answer = await ask(
                here, "POST", "/v1/commands", msgpack.packb(body), **{"Content-Type": "application/msgpack"}
            )
            assert (answer.status, answer.headers["content-type"]) == (200, "application/msgpack")
            found = msgpack.unpackb(answer.body)
            assert [(ack["id"], ack["seq"]) for ack in found] == [("1", 1)] * answers
        assert (await command(here, send))[0]["duplicate"]


async def test_a_resend_by_any_way_finds_the_first(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        chat = await here.connect(headers={"Authorization": f"Bearer {token()}"})
        first = await chat.ask(type="send", id="one", room="r", text="hello")
        [again] = await command(here, {"type": "send", "id": "one", "room": "r", "text": "hello"})
        assert (again["seq"], again["duplicate"]) == (first["seq"], True)
        answer = await ask(here, "POST", "/v1/rooms/r/messages", {"text": "x"}, **{"Idempotency-Key": '"one"'})
        assert (answer.status, json.loads(answer.body)["seq"]) == (200, 1)


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"7", b"{", b"[1,", b"[" + b",".join([b'{"type":"ping"}'] * 65) + b"]", b"[" * 2000]
)
async def test_what_is_no_array_of_commands_is_refused_whole(tmp_path: Path, body: bytes) -> None:
    async with running(tmp_path) as here:
        answer = await ask(here, "POST", "/v1/commands", body)
        assert (answer.status, answer.error["code"]) == (400, "bad_request")


async def test_an_empty_body_is_no_command_whatever_it_is_called(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        answer = await ask(here, "POST", "/v1/commands", b"", **{"Content-Type": "text/plain"})
        assert (answer.status, answer.error["code"]) == (400, "bad_request")


async def test_a_command_that_is_wrong_is_told_in_its_place(tmp_path: Path) -> None:
    async with running(tmp_path, max_frame_bytes=16384) as here:
        body = b'[{"type":"send","id":"a","room":"R!","text":"x"},7,'
        body += b'{"type":"send","id":"b","room":"r","text":"\\ud800"},'
        body += b'{"type":"send","id":"c","room":"r","text":"fine"},{"type":"ping","junk":"' + b"x" * 20000 + b'"}]'
        answer = await ask(here, "POST", "/v1/commands", body)
        told = [(found["type"], found.get("id"), found.get("code")) for found in json.loads(answer.body)]
        assert told == [
            ("error", "a", "bad_request"),
            ("error", None, "bad_request"),
            ("error", "b", "bad_request"),
            ("ack", "c", None),
            ("error", None, "too_large"),
        ]


async def test_what_is_not_json_is_named_by_what_it_is_in_the_request(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        answer = await ask(here, "POST", "/v1/rooms/r/messages", b"{text: 1}")
        assert answer.error["message"].startswith("body: is not JSON: ")
        assert "malformed" not in answer.error["message"]
        answer = await ask(here, "POST", "/v1/commands", b"{text: 1}")
        assert answer.error["message"].startswith("body: must be a command or an array of them in json: ")
        (error,) = json.loads((await ask(here, "POST", "/v1/commands", b"[7]")).body)
        assert error["message"].startswith("command: must be an object with a type, ")


async def test_a_guest_without_a_token_reads_and_says_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await ask(here, "POST", "/v1/rooms/r/messages", {"text": "hello"})
        assert (await ask(here, "GET", "/v1/rooms/r/messages", who=None)).status == 200
        assert (await ask(here, "GET", "/v1/rooms/r/presence", who=None)).status == 200
        answer = await ask(here, "POST", "/v1/commands", {"type": "history", "room": "r"}, who=None)
        assert answer.status == 200
        for path, body in (
            ("/v1/rooms/r/messages", {"text": "x"}),
            ("/v1/commands", [{"type": "ping"}, {"type": "send", "id": "a", "room": "r", "text": "x"}]),
            ("/v1/commands", [{"type": "typing", "room": "r", "on": True}]),
            ("/v1/commands", [{"type": "status", "room": "r", "text": "x"}]),
        ):
            answer = await ask(here, "POST", path, body, who=None)
            assert (answer.status, answer.error["code"]) == (401, "unauthorized")
            assert "/v1/session" in answer.error["message"]
        history = json.loads((await ask(here, "GET", "/v1/rooms/r/messages")).body)
        assert len(history["messages"]) == 1


async def test_each_command_has_its_address(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        member = await here.join("r")
        answer = await ask(here, "POST", "/v1/rooms/r/messages", {"text": "one", "id": "a", "meta": {"k": [1]}})
        written = json.loads(answer.body)
        assert (answer.status, written.keys(), written["seq"]) == (201, {"room", "seq", "ts", "id"}, 1)
        answer = await ask(here, "POST", "/v1/rooms/r/messages", {"text": "one", "id": "a"})
        assert (answer.status, json.loads(answer.body)) == (200, written)
        made = json.loads((await ask(here, "POST", "/v1/rooms/r/messages", {"text": "two"})).body)
        assert (made["seq"], bool(made["id"])) == (2, True)
        for method, path, body, seq in (
            ("PATCH", "/v1/rooms/r/messages/1", {"text": "uno"}, 3),
            ("PUT", "/v1/rooms/r/messages/1/reactions/%F0%9F%91%8D", None, 4),
            ("DELETE", "/v1/rooms/r/messages/1/reactions/%F0%9F%91%8D", None, 5),
            ("PUT", "/v1/rooms/r/messages/1/reactions/%F0%9F%91%8D", None, 6),
            ("DELETE", "/v1/rooms/r/messages/2", {"id": "gone"}, 7),
        ):
            answer = await ask(here, method, path, body)
            assert (answer.status, json.loads(answer.body)["seq"]) == (200, seq), (method, path)
        answer = await ask(here, "PUT", "/v1/rooms/r/read", {"seq": 2})
        assert (answer.status, json.loads(answer.body)) == (200, {"room": "r"})
        events = await member.collect(7)
        assert [event["type"] for event in events] == [
            "message",
            "message",
            "edited",
            "reacted",
            "reacted",
            "reacted",
            "deleted",
        ]
        one = json.loads((await ask(here, "GET", "/v1/rooms/r/messages/1")).body)
        assert (one["text"], one["reactions"], one["meta"]) == ("uno", {"👍": ["alice"]}, {"k": [1]})
        two = json.loads((await ask(here, "GET", "/v1/rooms/r/messages/2")).body)
        assert two["deleted"]
        assert "text" not in two
        page = json.loads((await ask(here, "GET", "/v1/rooms/r/messages?limit=1&before=2")).body)
        assert ([message["seq"] for message in page["messages"]], page["more"]) == ([1], False)
        page = json.loads((await ask(here, "GET", "/v1/rooms/r/messages?limit=1")).body)
        assert ([message["seq"] for message in page["messages"]], page["more"]) == ([2], True)
        present = json.loads((await ask(here, "GET", "/v1/rooms/r/presence")).body)
        assert present["count"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/rooms/r/messages/2", None, 404),
        ("GET", "/v1/rooms/r/messages/3", None, 404),
        ("GET", "/v1/rooms/r/messages/9223372036854775807", None, 404),
        ("GET", "/v1/rooms/r/messages/9223372036854775808", None, 400),
        ("GET", "/v1/rooms/r/messages/x", None, 400),
        ("GET", "/v1/rooms/R!/messages", None, 400),
        ("GET", "/v1/rooms/r/messages?limit=0", None, 400),
        ("GET", "/v1/rooms/r/messages?limit=ten", None, 400),
        ("GET", "/v1/rooms/secret/messages", None, 403),
        ("GET", "/v1/rooms/r", None, 404),
        ("POST", "/v1/rooms/r/messages", {"text": ""}, 400),
        ("POST", "/v1/rooms/r/messages", {}, 400),
        ("POST", "/v1/rooms/r/messages", [], 400),
        ("POST", "/v1/rooms/r/messages", b"{", 400),
        ("POST", "/v1/rooms/secret/messages", {"text": "x"}, 403),
        ("PATCH", "/v1/rooms/r/messages/1", {"text": "mine?"}, 403),
        ("PATCH", "/v1/rooms/r/messages/7", {"text": "x"}, 404),
        ("DELETE", "/v1/rooms/r/messages/1", None, 403),
        ("PUT", "/v1/rooms/r/messages/1/reactions/" + "x" * 33, None, 400),
        ("PUT", "/v1/rooms/r/messages/1/reactions/%ff", None, 400),
        ("PUT", "/v1/rooms/r/read", {}, 400),
        ("DELETE", "/v1/rooms/r/messages", None, 405),
    ],
)
async def test_what_may_not_be_is_told_with_its_status(
    tmp_path: Path, method: str, path: str, body: object, status: int
) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        await http.tell("POST", "/v1/rooms/r/messages", {"text": "bob's"}, bearer=token("bob"))
        await http.tell("PATCH", "/v1/rooms/r/messages/1", {"text": "Bob's"}, bearer=token("bob"))
        answer = await http.tell(method, path, body, bearer=token(rooms=["r"]))
        assert (answer.status, bool(answer.error["code"])) == (status, True)
