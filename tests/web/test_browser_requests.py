"""Requests as a browser makes them: the cookie and its Origin, and pages of other origins."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.servers import UNLIMITED, Server
from tornado_chat.auth import mint

pytest_plugins = ["tests.support.chromium_fixtures"]

ASK = """async ([url, method, body, headers, credentials]) => {
  const options = { method, credentials, headers };
  if (body) options.body = JSON.stringify(body);
  if (body && !headers["Content-Type"]) options.headers = { ...headers, "Content-Type": "application/json" };
  try {
    const answer = await fetch(url, options);
    return [answer.status, await answer.json(), answer.headers.get("Retry-After")];
  } catch (error) {
    return [0, null, String(error)];
  }
}"""


def test_a_page_signs_in_by_cookie_which_no_script_sees(browser: Browser, tmp_path: Path) -> None:
    with Server(tmp_path, *UNLIMITED) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}/v1/docs")
        status, told, _ = page.evaluate(ASK, ["session", "POST", {"name": "Ada"}, {}, "same-origin"])
        assert (status, told["name"]) == (200, "Ada")
        assert "chat_session" not in page.evaluate("document.cookie")
        said = page.evaluate(ASK, ["rooms/r/messages", "POST", {"text": "by cookie"}, {}, "same-origin"])
        assert (said[0], said[1]["seq"]) == (201, 1)
        _, history, _ = page.evaluate(ASK, ["rooms/r/messages", "GET", None, {}, "same-origin"])
        assert [message["user"] for message in history["messages"]] == [told["user"]]
        assert page.evaluate(ASK, ["session", "DELETE", None, {}, "same-origin"])[:2] == [200, {"revoked": True}]
        assert context.cookies() == []
        context.close()


@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_of_another_origin_may_ask_if_it_is_allowed(browser: Browser, tmp_path: Path, allowed: bool) -> None:
    (tmp_path / "there").mkdir()
    with Server(tmp_path / "there") as elsewhere:
        origin = elsewhere.url.replace("127.0.0.1", "localhost")
        flags = ("--allowed-origins", origin) if allowed else ()
        with Server(tmp_path, *flags) as server:
            headers = {"Authorization": f"Bearer {mint(server.secret, 'alice', ttl=60)}", "Idempotency-Key": "one"}
            context = browser.new_context()
            page = context.new_page()
            page.goto(f"{origin}/healthz")  # a document of that origin, without a policy of its own
            address = f"{server.url}/v1/rooms/r/messages"
            status, told, reason = page.evaluate(ASK, [address, "POST", {"text": "hello"}, headers, "include"])
            if allowed:
                assert status == 201, reason
                assert told["id"] == "one"
                for method in ("PATCH", "DELETE"):
                    body = {"text": "hello!"} if method == "PATCH" else None
                    status, _, _ = page.evaluate(
                        ASK, [f"{address}/1", method, body, {"Authorization": headers["Authorization"]}, "omit"]
                    )
                    assert status == 200, method
                refused = page.evaluate(ASK, [address, "POST", {"text": ""}, headers, "include"])
                assert (refused[0], refused[1]["error"]["code"]) == (400, "bad_request"), "errors are readable, too"
            else:
                assert status == 0, reason
            context.close()
