"""Health, metrics and the page: what the port answers to plain requests."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pygments.lexers import get_lexer_for_filename

from tests.support import ROOT
from tests.support.chat import eventually, running
from tests.support.plain_http import HTTP, UPGRADE, get, shake
from tests.support.raw_chat import AsyncChat
from tornado_chat.errors import LogUnavailable
from tornado_chat.web.pages import without_comments

# Health and metrics.


async def test_health(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        assert json.loads((await get(here, "/healthz")).body) == {"status": "ok"}
        ready = await get(here, "/readyz")
        assert ready.status == 200
        assert json.loads(ready.body) == {"status": "ok", "failing": [], "degraded": []}
        assert ready.headers["cache-control"] == "no-store"


@pytest.mark.logs("log unavailable entries=1 reason=the disk is full")
async def test_not_ready_while_the_log_fails_and_ready_again_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> Any:
        raise LogUnavailable("the disk is full")

    async with running(tmp_path) as here:
        client = await here.connect()
        log = here.server.log
        with monkeypatch.context() as broken:
            broken.setattr(log, "append", full)
            broken.setattr(log, "probe", full)
            assert (await client.ask(type="send", room="r", text="x"))["code"] == "unavailable"
            ready = await get(here, "/readyz")
            assert ready.status == 503
            assert json.loads(ready.body) == {"status": "unavailable", "failing": ["log"], "degraded": []}
            assert (await get(here, "/healthz")).status == 200
        # Nobody sends: the server finds out by itself.
        await eventually(lambda: not here.server.failing())
        assert (await get(here, "/readyz")).status == 200


async def test_not_ready_while_the_loop_stands_still(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        await eventually(lambda: sum(here.server.metrics.lag_seconds.counts))
        time.sleep(1.6)  # noqa: ASYNC251  # this is the fault
        await eventually(lambda: here.server.lag > 1)
        assert json.loads((await get(here, "/readyz")).body)["failing"] == ["event_loop_lag"]


async def test_not_ready_and_no_more_handshakes_while_draining(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http, HTTP(here) as other:
        assert (await http.ask("/readyz", UPGRADE)).status == 200
        assert (await other.ask("/readyz", UPGRADE)).status == 200
        stubborn = await AsyncChat.connect(http.port)  # it does not answer the close
        stopping = asyncio.create_task(here.server.stop())
        await asyncio.sleep(0)
        ready = await http.ask("/readyz", UPGRADE)
        assert ready.status == 503
        assert json.loads(ready.body)["failing"] == ["draining"]
        answer = await other.ask("/ws", UPGRADE)
        assert answer.status == 503
        assert answer.error["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) > 0
        stubborn.sock.close()
        await stopping


FAMILIES = {
    "connections": "gauge",
    "polls": "gauge",
    "streams": "gauge",
    "http_connections": "gauge",
    "rooms": "gauge",
    "members": "gauge",
    "catching_up": "gauge",
    "bodies": "gauge",
    "growing_messages": "gauge",
    "growing_copies_chars": "gauge",
    "answers_followed": "gauge",
    "webhooks": "gauge",
    "webhooks_failing": "gauge",
    "webhooks_given_up": "gauge",
    "outbox_bytes": "gauge",
    "ring_bytes": "gauge",
    "users": "gauge",
    "publish_queue": "gauge",
    "events": "counter",
    "deliveries": "counter",
    "writes": "counter",
    "received_bytes": "counter",
    "received_messages": "counter",
    "sent_bytes": "counter",
    "frames_deferred": "counter",
    "signals_dropped": "counter",
    "catch_ups": "counter",
    "handshakes": "counter",
    "log_reads": "counter",
    "errors": "counter",
    "closes": "counter",
    "refusals": "counter",
    "commit_seconds": "histogram",
    "commit_batch_size": "histogram",
    "delivery_seconds": "histogram",
    "event_loop_lag_seconds": "histogram",
    "broker_messages": "counter",
    "holes": "counter",
    "throttles": "counter",
    "degraded": "gauge",
    "failing": "gauge",
    "worker_connections": "gauge",
    "worker_events": "counter",
    "worker_deliveries": "counter",
    "worker_start_time_seconds": "gauge",
    "worker_restarts": "counter",
}


async def test_metrics_are_all_there_and_say_what_happened(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        members = [await here.join("r") for _ in range(3)]
        for number in range(5):
            await members[0].ask(type="send", room="r", text="hello", id=str(number))
        for member in members[1:]:
            await member.collect(5)
        late = await here.connect("/ws/r?after=0")
        await late.until("synced")
        await members[0].ask(type="send", room="R", text="x")
        await members[0].ask(type="ping")
        await late.close()
        await shake(here, "/ws/UPPER")
        await eventually(lambda: len(here.server.limits.users.accounts) == 3)
        answer = await get(here, "/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        families = list(text_string_to_metric_families(answer.body.decode()))
        assert {family.name.removeprefix("tornado_chat_"): family.type for family in families} == FAMILIES
        assert all(family.documentation for family in families)
        assert all(family.name.startswith("tornado_chat_") for family in families)
        samples: dict[str, float] = {}
        for family in families:
            for sample in family.samples:
                labels = ",".join(sample.labels.values())
                samples[sample.name.removeprefix("tornado_chat_") + (f"[{labels}]" if labels else "")] = sample.value
        assert all(value >= 0 for value in samples.values())
        assert {name: samples[name] for name in samples if "_bucket" not in name} | {
            "connections": 3,
            "rooms": 1,
            "members": 3,
            "catching_up": 0,
            "bodies": 0,
            "growing_messages": 0,
            "growing_copies_chars": 0,
            "answers_followed": 0,
            "webhooks": 0,
            "webhooks_failing": 0,
            "webhooks_given_up": 0,
            "outbox_bytes": 0,
            "publish_queue": 0,
            "events_total": 5,
            "deliveries_total": 20,
            "frames_deferred_total": 0,
            "signals_dropped_total": 0,
            "catch_ups_total": 1,
            "handshakes_total": 4,
            "errors_total[bad_request]": 1,
            "refusals_total[400]": 1,
            "closes_total[1005]": 1,
            "commit_seconds_count": 5,
            "commit_batch_size_count": 5,
            "commit_batch_size_sum": 5,
            "delivery_seconds_count": 5,
        } == {name: samples[name] for name in samples if "_bucket" not in name}
        assert samples["writes_total"] >= 16, "each of five events to three members, and the chunk of who was late"
        assert samples["commit_batch_size_bucket[1.0]"] == 5
        assert samples["commit_seconds_bucket[+Inf]"] == 5
        assert 0 < samples["commit_seconds_sum"] < 60
        assert 0 < samples["delivery_seconds_sum"] < 60
        assert samples["received_bytes_total"] > 5 * len('{"type":"send","room":"r","text":"hello"}')
        assert samples["sent_bytes_total"] > 20 * len('{"type":"message","room":"r","text":"hello"}')
        assert 0 < samples["ring_bytes"] < 50_000
        assert samples["users"] == 3


# The page.


async def test_the_pages_headers(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        page = await get(here, "/")
        assert page.status == 200
        assert page.headers["content-type"].startswith("text/html")
        policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["base-uri"] == "'none'"
        assert not any("unsafe" in value or "*" in value or "data:" in value for value in policy.values())
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-cache"
        script = await get(here, "/static/painter.js")
        assert script.headers["content-security-policy"] == "default-src 'none'; script-src 'self'"
        client = await get(here, "/static/client/index.js", Origin="https://app.example")
        assert client.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in script.headers
        again = await get(here, "/", **{"If-None-Match": page.headers["etag"]})
        assert again.status == 304
        assert again.body == b""
        assert (await get(here, "/", **{"If-None-Match": '"another"'})).status == 200


def _spoken(name: str, source: bytes) -> list[tuple[str, str]]:
    """The tokens of a program or a style sheet but for comments and space, as another parser finds them."""
    tokens = get_lexer_for_filename(name).get_tokens(source.decode())
    return [(str(kind), text.strip()) for kind, text in tokens if "Comment" not in str(kind) and text.strip()]


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("// one\nlet a = 1; // two\n", "\nlet a = 1; // two\n"),
        ("  /** @type {A} */\nlet a;\n/*\n * b **/\n", "\nlet a;\n\n\n"),
        ("/** @type {A} */ let a;\n/* b */\n", "/** @type {A} */ let a;\n\n"),
        ("const a = 'http://b';\n", "const a = 'http://b';\n"),
    ],
)
def test_comments_on_lines_of_their_own_are_not_sent(source: str, kept: str) -> None:
    assert without_comments(source.encode()) == kept.encode()


async def test_a_file_is_compressed_for_who_asks_for_it(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        for accept, packed in (("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("br", False)):
            answer = await http.ask("/static/app.js", {"Host": "localhost", "Accept-Encoding": accept})
            assert (answer.headers.get("content-encoding") == "gzip") == packed, accept
            asked = {"Host": "localhost", "Accept-Encoding": accept, "If-None-Match": answer.headers["etag"]}
            again = await http.ask("/static/app.js", asked)
            assert (again.status, again.body) == (304, b"")
            assert again.headers["vary"] == "Accept-Encoding"
        head = await http.ask("/static/app.js", {"Host": "localhost", "Accept-Encoding": "gzip"}, method="HEAD")
        assert (head.status, head.headers["content-encoding"], head.body) == (200, "gzip", b"")
        assert int(head.headers["content-length"]) > 1000


async def test_every_file_of_the_page_is_served_with_its_type(tmp_path: Path) -> None:
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    async with running(tmp_path) as here:
        static = ROOT / "tornado_chat" / "web" / "static"
        files = [path for path in static.rglob("*") if path.is_file()]
        assert len(files) > 5
        for path in files:
            answer = await get(here, f"/static/{path.relative_to(static)}")
            packed = await get(here, f"/static/{path.relative_to(static)}", **{"Accept-Encoding": "gzip"})
            assert answer.status == packed.status == 200
            assert answer.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
            if "content-encoding" in packed.headers:
                assert len(packed.body) < len(answer.body)
                assert gzip.decompress(packed.body) == answer.body
                assert packed.headers["etag"] != answer.headers["etag"]
            if path.suffix in (".js", ".css") and "vendor" not in path.parts:
                assert "content-encoding" in packed.headers
                assert _spoken(path.name, answer.body) == _spoken(path.name, path.read_bytes())
                assert answer.body.count(b"\n") == path.read_bytes().count(b"\n")
            else:
                assert answer.body == path.read_bytes()
            assert answer.headers["x-content-type-options"] == "nosniff"
            if path.suffix in types:
                assert answer.headers["content-type"].partition(";")[0] in (
                    types[path.suffix],
                    "application/javascript",
                )


async def test_the_page_of_an_agent_is_the_page_a_folder_deeper(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        page, agents = await get(here, "/"), await get(here, "/agent/a%2Fb%20c")
        assert agents.status == 200
        assert agents.headers["content-security-policy"] == page.headers["content-security-policy"]
        assert b'src="static/app.js"' in page.body
        assert agents.body == page.body.replace(b'"static/', b'"../static/')
        for path in ("/agent/", "/agent/a/b"):
            assert (await get(here, path)).status == 404


async def test_nothing_but_the_pages_files_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/static/../../config.py"
    monkeypatch.setattr(logging.getLogger("tornado.general"), "disabled", True)  # as logs.configure quiets it
    async with running(tmp_path) as here:
        answer = await get(here, path)
        assert answer.status in (403, 404)
        assert b"Settings" not in answer.body


@pytest.mark.parametrize(
    "path", ["/nothing", "/static/nothing.js", "/static/", "/wsx", "/static/%00", "/static/" + "a" * 5000]
)
async def test_404(tmp_path: Path, path: str) -> None:
    async with running(tmp_path) as here:
        assert (await get(here, path)).status in (403, 404)
        assert (await get(here, "/healthz")).status == 200
