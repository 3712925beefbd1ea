"""What a plain request that fails is told: JSON for programs, a page for people, and nothing of what we are made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.chat import running
from tests.support.plain_http import HTTP, UPGRADE, get

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("path", ["/nothing", "/static/nothing.js", "/v1/nothing", "/ws2"])
async def test_an_address_that_is_none(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as here:
        for accept in ("*/*", "application/json"):
            answer = await get(here, path, Accept=accept)
            assert answer.status == 404
            assert answer.error["code"] == "not_found"
        answer = await get(here, path, Accept=BROWSER)
        assert answer.status == 404
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["content-security-policy"] == "default-src 'none'"
        assert b'<a href="/">' in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/healthz", "/metrics"])
async def test_a_method_that_is_none(tmp_path: Path, path: str, method: str) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        answer = await http.ask(path, {"Host": "localhost"}, method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD"
        assert answer.error["code"] == "bad_request"


async def test_a_person_who_is_refused_a_websocket_sees_a_page(tmp_path: Path) -> None:
    """By a link to /ws, say; what a client put into the message stands in it as text."""
    async with running(tmp_path) as here, HTTP(here) as http:
        answer = await http.ask("/ws", UPGRADE | {"Origin": "http://<b>evil", "Accept": BROWSER})
        assert answer.status == 403
        assert b"&lt;b&gt;evil" in answer.body
        assert b"<b>" not in answer.body


async def test_a_head_request_has_no_body(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        for path, status in (("/nothing", 404), ("/", 200), ("/metrics", 200), ("/readyz", 200)):
            assert (await http.ask(path, {"Host": "localhost"}, method="HEAD")).status == status
        assert json.loads((await http.ask("/healthz", {"Host": "localhost"})).body) == {"status": "ok"}


async def test_no_answer_says_what_the_server_is_made_of(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for path in ("/", "/static/app.js", "/nothing", "/healthz", "/readyz", "/metrics", "/ws", "/ws/UPPER"):
            answer = await get(here, path)
            assert "server" not in answer.headers, path
            assert b"ornado/" not in answer.body, path
