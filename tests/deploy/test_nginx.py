"""`deploy/nginx.conf` in the real nginx before real workers: what must pass through it, and what it must refuse."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.support.chat import eventually
from tests.support.nginx_site import CONFIGURATION, PATIENCE, Site, ask, hear, metric
from tests.support.servers import UNLIMITED
from tornado_chat.bridges.callers import WHOLE_SECONDS
from tornado_chat.config import Settings, duration, load
from tornado_chat.web.exchange import MAX_BODY_BYTES
from tornado_chat.web.texts import SILENT_SECONDS
from tornado_chat.wire.codec import MSGPACK

DEPLOY = CONFIGURATION.parent

STRANGER, OTHER_STRANGER = "127.0.0.2", "127.0.0.3"
"""Addresses that are not 127.0.0.1, and so are outside."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(*UNLIMITED) as site:
        yield site


async def say(chat: ClientConnection, **command: Any) -> None:
    await chat.send(json.dumps(command))


# The page and what is around it


def test_nginx_has_no_complaint_about_the_configuration(site: Site) -> None:
    checked = subprocess.run(site.nginx("-t"), cwd=site.folder, capture_output=True, text=True, timeout=PATIENCE)
    assert checked.returncode == 0
    assert len(checked.stderr.splitlines()) == 2, checked.stderr
    assert "syntax is ok" in checked.stderr
    assert "test is successful" in checked.stderr


def test_plain_http_is_sent_to_https(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.plain_port, timeout=PATIENCE)
    answer = ask(connection, "/ws/lobby?last=1")
    connection.close()
    assert answer.status == 308
    assert answer.headers["Location"] == "https://127.0.0.1/ws/lobby?last=1"


def test_a_certificate_can_be_renewed_by_plain_http(site: Site) -> None:
    challenge = site.folder / "acme/.well-known/acme-challenge/name"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("proof")
    connection = http.client.HTTPConnection("127.0.0.1", site.plain_port, timeout=PATIENCE)
    answer = ask(connection, "/.well-known/acme-challenge/name")
    connection.close()
    assert (answer.status, answer.body) == (200, b"proof")


def test_the_page_comes_with_its_headers(site: Site) -> None:
    page = site.get("/", {"Accept-Encoding": "gzip"})
    assert page.status == 200
    assert page.headers["Content-Encoding"] == "gzip"
    assert page.headers["Cache-Control"] == "no-cache"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Strict-Transport-Security"].startswith("max-age=")
    assert page.headers["Server"] == "nginx", "its version is nobody's business"


def test_the_page_comes_by_http_2(site: Site) -> None:
    tls = site.tls
    tls.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        assert sock.selected_alpn_protocol() == "h2"
        # HPACK by hand (RFC 7541): GET, https and / are numbers of its table; the fourth is the name :authority.
        fields = b"\x82\x87\x84\x41\x09127.0.0.1"
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS) + frame(HEADERS, 5, 1, fields))
        reader = sock.makefile("rb")
        while True:
            size, kind = struct.unpack(">I", b"\0" + reader.read(3))[0], reader.read(1)[0]
            _, payload = reader.read(5), reader.read(size)
            if kind == HEADERS:
                break
        reader.close()
    assert payload.removeprefix(b"\x20")[0] == 0x88, "not :status 200"
    tls.set_alpn_protocols(["http/1.1"])


SETTINGS, HEADERS = 4, 1


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


async def test_page_files_are_answered_from_the_cache_and_never_old() -> None:
    unbuffered = (" buffer=64k flush=5s", "")
    with Site(*UNLIMITED, changes=[unbuffered]) as site:
        first = site.get("/static/app.js?token=x")
        assert first.status == 200
        assert b"import" in first.body
        for _ in range(9):
            again = site.get("/static/app.js", {"If-None-Match": first.headers["ETag"]})
            assert (again.status, again.body) == (304, b"")
            assert again.headers["Cache-Control"] == "no-cache"

        def requests() -> list[str]:
            lines = (site.folder / "logs/access.log").read_text().splitlines()
            return [line for line in lines if 'path="/static/app.js"' in line]

        def asked() -> list[str]:
            """Of the requests, those that a worker saw."""
            return [line for line in requests() if 'worker="unix:run/' in line]

        await eventually(lambda: len(requests()) == 10)
        assert len(asked()) < 6, "a worker was asked each time"
        # A second later, it asks whether that has changed, and does not fetch it again.
        await eventually(lambda: site.get("/static/app.js") and "cache=REVALIDATED" in requests()[-1])
        assert 'worker_status="304"' in asked()[-1]
        agents = [site.get(f"/agent/{name}") for name in ("a", "b%20c", "d%2Fe")]
        assert [answer.status for answer in agents] == [200] * 3
        assert len({answer.body for answer in agents}) == 1
        lines = (site.folder / "logs/access.log").read_text().splitlines
        await eventually(lambda: sum("/agent/" in line for line in lines()) == 3)
        assert "cache=HIT" in next(line for line in lines() if "/agent/b" in line)


def test_what_is_for_operators_is_closed_to_the_outside(site: Site) -> None:
    for path in ("/metrics", "/readyz", "/metrics?x", "//metrics", "/static/../metrics", "/%6detrics"):
        assert site.get(path, source=STRANGER).status == 403, path
    assert site.get("/metrics", {"X-Forwarded-For": "127.0.0.1"}, source=STRANGER).status == 403
    assert b"tornado_chat_connections" in site.get("/metrics").body
    assert json.loads(site.get("/readyz").body)["status"] == "ok"
    assert site.get("/healthz", source=STRANGER).status == 200


# What goes with it


def test_alerts_are_about_metrics_that_there_are(site: Site) -> None:
    there = set(re.findall(r"# HELP (\w+)", site.get("/metrics").body.decode()))
    named = set(re.findall(r"tornado_chat_\w+", (DEPLOY / "prometheus.rules.yml").read_text()))
    assert {name.removesuffix("_bucket") for name in named - {"tornado_chat_nginx"}} <= there


def test_the_settings_in_the_documentation_are_those_that_nginx_expects(tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text()
    found = re.search(r"cat > chat.toml <<EOF\n(.*?)EOF\n", page, re.DOTALL)
    assert found is not None
    file = tmp_path / "chat.toml"
    file.write_text(found[1])
    settings = load({"config": str(file)}, {})
    assert settings.unix_socket is not None
    sockets = [settings.unix_socket.replace("{worker}", str(number + 1)) for number in range(settings.workers)]
    upstreams = re.findall(r"upstream \w+ \{.*?\}", CONFIGURATION.read_text(), re.DOTALL)
    assert [re.findall(r"server unix:(\S+) ", upstream) for upstream in upstreams] == [sockets] * 2


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="only systemd itself can read its units")
@pytest.mark.parametrize("name", ["tornado_chat.service", "tornado_chat_nginx.service"])
def test_systemd_understands_the_unit(name: str, tmp_path: Path) -> None:
    unit = tmp_path / name
    text = (DEPLOY / name).read_text()
    unit.write_text(re.sub(r"/srv/tornado_chat/venv/bin/tornado-chat|/usr/sbin/nginx", "/bin/true", text))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (checked.returncode, checked.stderr) == (0, "")


# WebSockets


@pytest.mark.parametrize("subprotocol", ["chat.v1.json", "chat.v1.msgpack"])
async def test_people_chat_through_it(site: Site, subprotocol: str) -> None:
    async with (
        site.connect(f"/ws/{subprotocol}?name=Ada", subprotocols=[Subprotocol(subprotocol)]) as ada,
        site.connect(f"/ws/{subprotocol}?name=Bob") as bob,
    ):
        assert ada.subprotocol == subprotocol
        await hear(bob, "synced")
        for chat in (ada, bob):
            assert chat.response is not None
            extensions = chat.response.headers["Sec-WebSocket-Extensions"]
            assert "permessage-deflate" in extensions
            assert "server_no_context_takeover" in extensions
        command = {"type": "send", "room": subprotocol, "text": "hello " * 100, "id": "1"}
        await ada.send(MSGPACK.encode(command) if subprotocol.endswith("msgpack") else json.dumps(command))
        got = await hear(bob, "message")
        assert (got["name"], got["text"], got["seq"]) == ("Ada", "hello " * 100, 1)


async def test_pages_of_its_own_origin_alone_may_connect(site: Site) -> None:
    async with site.connect(origin=Origin(f"https://127.0.0.1:{site.port}")) as chat:
        await hear(chat, "welcome")
    for origin in ("https://evil.example", "https://127.0.0.1", f"http://127.0.0.1:{site.port}"):
        with pytest.raises(InvalidStatus) as refused:
            await site.connect(origin=Origin(origin))
        assert refused.value.response.status_code == 403


async def test_large_frames_pass_both_ways(site: Site) -> None:
    async with site.connect(compression=None) as chat:
        await say(chat, type="ping", id="large", padding="x" * 65_000)
        await hear(chat, "pong", id="large")
        for number in range(100):
            await say(chat, type="send", room="large", text=f"{number:03}" + "y" * 7_990, id=str(number))
        await hear(chat, "ack", id="99")
        await say(chat, type="history", room="large", limit=100, id="all")
        history = await hear(chat, "history")
        assert [message["text"][:3] for message in history["messages"]] == [f"{number:03}" for number in range(100)]


async def test_a_token_as_long_as_the_server_takes_it_passes(site: Site) -> None:
    token = "x" * 8192
    ways: list[tuple[str, dict[str, Any]]] = [
        (f"/ws?token={token}", {}),
        ("/ws", {"additional_headers": {"Authorization": f"Bearer {token}"}}),
        ("/ws", {"subprotocols": [Subprotocol("chat.v1.json"), Subprotocol(f"bearer.{token}")]}),
    ]
    for path, options in ways:
        with pytest.raises(InvalidStatus) as refused:
            await site.connect(path, **options)
        # It was the server that refused it, for what it is, and nginx passed the answer on.
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "unauthorized"


async def test_who_reads_slowly_misses_nothing(site: Site) -> None:
    count = 3000  # 24 MB
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", site.port))
    async with (
        site.connect("/ws/slow", sock=sock, local_addr=None, compression=None, max_queue=1) as slow,
        site.connect(compression=None) as sender,
    ):
        await hear(slow, "synced")
        for number in range(1, count + 1):
            await say(sender, type="send", room="slow", text="z" * 8000, id=str(number))
            if number % 100 == 0:
                await hear(sender, "ack", id=str(number))
        await eventually(lambda: metric(site, "catching_up") == 1)  # or this would test nothing
        for seq in range(1, count + 1):
            assert (await hear(slow, "message"))["seq"] == seq


async def test_who_hangs_up_on_a_chat_completion_stops_it(site: Site) -> None:
    """So it has no id that the proxy made: by that it could be come back to."""
    ann, bot = ({"Authorization": f"Bearer {site.server.token(user)}"} for user in ("ann", "bot"))
    question = {"model": "bot", "messages": [{"role": "user", "content": "one"}], "stream": True}
    here = f"https://127.0.0.1:{site.port}"
    async with httpx.AsyncClient(base_url=here, verify=site.tls, timeout=PATIENCE) as client:
        async with client.stream("POST", "/v1/chat/completions", json=question, headers=ann) as answer:
            lines = answer.aiter_lines()
            room = json.loads((await anext(lines)).removeprefix("data: "))["room"]
            begun: list[Any] = [
                {"type": "begin", "room": room, "id": "re:1", "reply_to": 1},
                {"type": "append", "room": room, "stream": "re:1", "offset": 0, "text": "two"},
            ]
            await client.post("/v1/commands", json=begun, headers=bot)
            async for line in lines:
                if "two" in line:
                    break
        ended: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while not ended:
                page = await client.get(f"/v1/rooms/{room}/events?after=2&wait=5", headers=ann)
                ended = [event["reason"] for event in page.json()["events"] if event["type"] == "finished"]
        assert ended == ["stopped"]


def test_time_outs_leave_it_to_the_server_to_cut_off() -> None:
    settings, seconds = Settings(), duration("0", "1d")
    text = CONFIGURATION.read_text()
    streams = text.partition("location ~ ^/(static/")[0]  # the files of the page have their own
    for name in ("proxy_read_timeout", "proxy_send_timeout", "send_timeout"):
        values = re.findall(rf"^ +{name} (\S+);", streams, re.MULTILINE)
        assert values
        for value in values:
            assert seconds(value) > settings.ping_interval + settings.ping_timeout
            assert seconds(value) > settings.write_timeout
    for path in ("location ~ ^/(api/agent/chat|v1/responses)$", "location = /v1/chat/completions"):
        (value,) = re.findall(r"proxy_read_timeout (\S+);", text.partition(path)[2].partition("}")[0])
        assert seconds(value) > WHOLE_SECONDS
    for name in ("client_body_timeout", "proxy_read_timeout"):
        values = re.findall(rf"^ +{name} (\S+);", text.partition("location @grows")[2], re.MULTILINE)
        assert seconds(values[0]) > SILENT_SECONDS


async def test_an_idle_connection_lives_on_by_the_servers_pings() -> None:
    flags = ("--ping-interval", "300ms", "--ping-timeout", "500ms")
    with Site(*UNLIMITED, *flags, changes=[("90s;", "1s;")]) as site:
        async with site.connect("/ws/idle") as chat:
            await hear(chat, "synced")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.5):  # longer than nginx' time-outs; the library answers the pings
                    await hear(chat, "nothing")
            await say(chat, type="ping", id="still there")
            await hear(chat, "pong", id="still there")


# Limits


async def test_limits_for_an_address_count_the_real_one() -> None:
    with Site(*UNLIMITED, "--connections-per-address", "1", count=1) as site:
        async with site.connect(source=STRANGER):
            for forged in ("127.0.0.9", "10.1.2.3", "", "unknown"):
                with pytest.raises(InvalidStatus) as refused:
                    await site.connect(source=STRANGER, additional_headers={"X-Forwarded-For": forged})
                assert refused.value.response.status_code == 429
            async with site.connect(source=OTHER_STRANGER):
                pass


def test_too_many_requests_of_an_address_are_refused() -> None:
    # 100 a second are more than this client asks for on a slow machine.
    with Site(*UNLIMITED, changes=[("rate=100r/s", "rate=1r/s")]) as site:
        with site.http(STRANGER) as connection:
            answers = [ask(connection, "/healthz") for _ in range(600)]
        assert all(answer.status == 200 for answer in answers[:500]), "a page and its files must come in one go"
        refused = [answer for answer in answers if answer.status != 200]
        assert refused, "500 at once are allowed"
        for answer in refused:
            assert answer.status == 429
            assert answer.error["code"] == "rate_limited"
        assert len({answer.headers["Retry-After"] for answer in refused}) == 4, "they would all come back at once"
        assert site.get("/healthz").status == 200, "another address"


async def test_too_many_connections_of_an_address_are_refused() -> None:
    with Site(*UNLIMITED, changes=[("limit_conn connections 4000;", "limit_conn connections 3;")]) as site:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(site.connect(source=STRANGER))
            with pytest.raises(InvalidStatus) as refused:
                await site.connect(source=STRANGER)
            response = refused.value.response
            assert response.status_code == 429
            assert json.loads(response.body or b"")["error"]["code"] == "rate_limited"
            assert 1 <= int(response.headers["Retry-After"]) <= 4
            async with site.connect(source=OTHER_STRANGER):
                pass
        async with site.connect(source=STRANGER):
            pass


def test_a_body_has_a_limit(site: Site) -> None:
    with site.http() as connection:
        assert ask(connection, "/", body=b"x" * MAX_BODY_BYTES).status == 405, "the worker has read all of it"
    with site.http() as connection:
        refused = ask(connection, "/", body=b"x" * (MAX_BODY_BYTES + 1))
    assert refused.status == 413
    assert refused.headers["Content-Type"] == "application/json"
    assert json.loads(refused.body)["error"]["code"] == "too_large"
