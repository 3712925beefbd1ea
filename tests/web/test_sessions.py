"""/v1/session, its cookie, and what a page of any origin may do with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.chat import SECRET, Running, running
from tests.support.plain_http import HTTP, Answer
from tornado_chat.auth import mint

OURS, EVIL = "https://ours.example", "https://evil.example"


async def ask(here: Running, method: str, path: str, body: object = None, **headers: str) -> Answer:
    async with HTTP(here) as http:
        return await http.tell(method, path, body, **headers)


def cookie_of(answer: Answer) -> tuple[str, set[str]]:
    """The value of the cookie that is set, and its attributes."""
    pair, *attributes = answer.headers["set-cookie"].split("; ")
    name, _, value = pair.partition("=")
    assert name == "chat_session"
    return value, set(attributes)


async def test_a_guest_becomes_a_cookie_and_stays_the_same(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        answer = await ask(here, "POST", "/v1/session", {"name": "Ada"})
        told = json.loads(answer.body)
        value, attributes = cookie_of(answer)
        assert (answer.status, told.keys()) == (200, {"user", "name", "token"})
        assert (told["name"], value) == ("Ada", told["token"])
        assert attributes == {"Path=/", "HttpOnly", "SameSite=Lax", f"Max-Age={30 * 86400}"}
        cookie = f"chat_session={value}"
        sent = await ask(here, "POST", "/v1/rooms/r/messages", {"text": "hi"}, Cookie=cookie, Origin=here.address)
        assert sent.status == 403, "the page was asked for by another name"
        own = {"Cookie": cookie, "Origin": "http://localhost"}
        sent = await ask(here, "POST", "/v1/rooms/r/messages", {"text": "hi"}, **own)
        assert sent.status == 201
        history = json.loads((await ask(here, "GET", "/v1/rooms/r/messages", Cookie=cookie)).body)
        assert [(message["user"], message["name"]) for message in history["messages"]] == [(told["user"], "Ada")]
        again = json.loads((await ask(here, "POST", "/v1/session", {"name": "Ada L."}, **own)).body)
        assert (again["user"], again["name"]) == (told["user"], "Ada L.")
        chat = await here.connect(headers={"Cookie": cookie})
        assert chat.welcome["user"] == told["user"]


async def test_who_wants_no_cookie_gets_none(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        asked = {"name": "Ada", "cookie": False}
        answer = await ask(here, "POST", "/v1/session", asked)
        told = json.loads(answer.body)
        assert (answer.status, told["name"], "set-cookie" in answer.headers) == (200, "Ada", False)
        own = {"Cookie": f"chat_session={told['token']}", "Origin": "http://localhost"}
        again = await ask(here, "POST", "/v1/session", {"cookie": False}, **own)
        assert (json.loads(again.body)["user"], "set-cookie" in again.headers) == (told["user"], False)
        wrong = await ask(here, "POST", "/v1/session", {"cookie": "no"})
        assert (wrong.status, wrong.error["message"]) == (
            400,
            "cookie: must be true or false; got a string of 2 characters",
        )


async def test_a_token_becomes_a_cookie_for_as_long_as_it_is_good_and_secure_behind_tls(tmp_path: Path) -> None:
    async with running(tmp_path, guests=False) as here:
        token = mint(SECRET, "alice", name="Alice", ttl=500, jti="one")
        answer = await ask(here, "POST", "/v1/session", Authorization=f"Bearer {token}")
        value, attributes = cookie_of(answer)
        assert json.loads(answer.body) == {"user": "alice", "name": "Alice", "token": token}
        [seconds] = [int(found[1]) for part in attributes if (found := re.fullmatch(r"Max-Age=(\d+)", part))]
        assert value == token
        assert 400 < seconds <= 501
        assert "Secure" not in attributes
        forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"}
        answer = await ask(here, "POST", f"/v1/session?token={token}", **forwarded)
        assert "Secure" in cookie_of(answer)[1]
        refused = await ask(here, "POST", "/v1/session")
        assert (refused.status, refused.error["code"]) == (401, "unauthorized")
        long = mint(SECRET, "alice", ttl=500, rooms=[f"room-{number}" for number in range(400)])
        refused = await ask(here, "POST", "/v1/session", Authorization=f"Bearer {long}")
        assert (refused.status, refused.error["code"]) == (413, "too_large")


async def test_the_end_of_a_session_revokes_it_everywhere(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        token = mint(SECRET, "alice", ttl=500, jti="one")
        chat = await here.connect(headers={"Authorization": f"Bearer {token}"})
        with_cookie = {"Cookie": f"chat_session={token}", "Origin": "http://localhost"}
        answer = await ask(here, "DELETE", "/v1/session", **with_cookie)
        assert (answer.status, json.loads(answer.body)) == (200, {"revoked": True})
        value, attributes = cookie_of(answer)
        assert (value, "Max-Age=0" in attributes) == ("", True)
        assert await chat.receive() is None
        assert chat.socket.close_code == 4002
        for method in ("DELETE", "POST"):
            answer = await ask(here, method, "/v1/session", **with_cookie)
            assert answer.status == 401
            assert "Max-Age=0" in cookie_of(answer)[1], "or nobody could sign in here again"
        forever = mint(SECRET, "bob", ttl=500)
        answer = await ask(here, "DELETE", "/v1/session", Authorization=f"Bearer {forever}")
        assert (answer.status, json.loads(answer.body)) == (200, {"revoked": False})
        assert (await ask(here, "DELETE", "/v1/session")).status == 401


async def test_guests_do_not_fill_what_is_kept_for_ever(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        here.server.limits.guest_ends.tokens = 2.0
        statuses = []
        for _ in range(4):
            token = json.loads((await http.tell("POST", "/v1/session")).body)["token"]
            answer = await http.tell("DELETE", "/v1/session", bearer=token)
            statuses.append(answer.status)
        assert statuses[:2] == [200, 200]
        assert statuses[3] == 429
        assert answer.error["retry_after"] > 0
        alice = mint(SECRET, "alice", ttl=500, jti="one")
        assert (await http.tell("DELETE", "/v1/session", bearer=alice)).status == 200


@pytest.mark.parametrize(
    ("origin", "media", "status"),
    [
        (None, "application/json", 403),
        ("null", "application/json", 403),
        (EVIL, "application/json", 403),
        (EVIL, "text/plain", 403),
        (OURS, "text/plain", 415),
        (OURS, "application/x-www-form-urlencoded", 415),
        (OURS, "application/msgpack", 415),
        (OURS, "application/json; charset=utf-8", 201),
        ("http://localhost", "application/json", 201),
    ],
)
async def test_what_another_page_may_do_with_the_cookie_of_its_visitor(
    tmp_path: Path, origin: str | None, media: str, status: int
) -> None:
    async with running(tmp_path, allowed_origins=(OURS,)) as here:
        headers = {"Cookie": f"chat_session={mint(SECRET, 'alice', ttl=500)}", "Content-Type": media}
        if origin is not None:
            headers["Origin"] = origin
        answer = await ask(here, "POST", "/v1/rooms/r/messages", {"text": "hi"}, **headers)
        assert answer.status == status
        if status == 415:
            answer = await ask(here, "POST", "/v1/commands", b"{}", **headers)
            assert answer.status == 415, "MessagePack is for those who give their token"
        bearer = {"Authorization": f"Bearer {mint(SECRET, 'alice', ttl=500)}"}
        page = await ask(here, "GET", "/v1/rooms/r/messages", **bearer)
        assert len(json.loads(page.body)["messages"]) == (status == 201)


async def test_a_page_signs_nobody_in_from_elsewhere(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        mine = mint(SECRET, "mallory", ttl=500)
        for method in ("POST", "DELETE"):
            answer = await ask(here, method, f"/v1/session?token={mine}", Origin=EVIL)
            assert answer.status == 403
            assert "set-cookie" not in answer.headers


async def test_what_browsers_are_told_of_allowed_origins(tmp_path: Path) -> None:
    async with running(tmp_path, allowed_origins=(OURS,)) as here:
        preflight = {
            "Origin": OURS,
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, last-event-id",
        }
        answer = await ask(here, "OPTIONS", "/v1/rooms/r/messages/1", **preflight)
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers
        allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
        assert set(preflight["Access-Control-Request-Headers"].split(", ")) <= set(allowed)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            assert method in answer.headers["access-control-allow-methods"]
        for path, status in (("/v1/rooms/r/messages", 200), ("/v1/nothing", 404), ("/v1/rooms/R/messages", 400)):
            answer = await ask(here, "GET", path, Origin=OURS)
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == OURS
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert answer.headers["access-control-expose-headers"] == "Retry-After"
            assert answer.headers["vary"] == "Origin"
        for method in ("OPTIONS", "GET"):
            answer = await ask(here, method, "/v1/rooms/r/messages", Origin=EVIL)
            assert answer.status == 403
            assert "access-control-allow-origin" not in answer.headers
        answer = await ask(here, "GET", "/v1/rooms/r/messages")
        assert "access-control-allow-origin" not in answer.headers


async def test_a_wrong_field_of_a_sign_in_is_named(tmp_path: Path) -> None:
    async with running(tmp_path, guests=True) as here:
        for field in ("name", "cookie"):
            answer = await ask(here, "POST", "/v1/session", {field: 7})
            assert (answer.status, answer.error["message"].partition(":")[0]) == (400, field)
