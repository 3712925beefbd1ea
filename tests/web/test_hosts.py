"""On loopback: which names the server is called by, and whose pages are its own."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.chat import SECRET, running
from tests.support.plain_http import HTTP, get, shake
from tornado_chat.auth import mint
from tornado_chat.web import gate
from tornado_chat.web.gate import HOST_CHARS

ELSEWHERE = (ipaddress.ip_network("10.0.0.0/8"),)
EVIL = {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"}
"""What a browser sends for a page whose name leads to 127.0.0.1 by now."""

FORWARDED = {"Host": "chat.example", "X-Forwarded-For": "1.2.3.4"}


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("localhost.", True),
        ("127.0.0.1", True),
        ("127.0.0.53:1", True),
        ("[::1]:8080", True),
        ("[::1].example.org", False),
        ("app.example", True),
        ("app.example:8443", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[::2]", False),
        ("192.168.0.1", False),
        ("0.0.0.0:8080", False),
        ("a.localhost", False),
    ],
)
async def test_a_server_on_loopback_is_called_by_loopbacks_names(tmp_path: Path, host: str, good: bool) -> None:
    async with running(tmp_path, allowed_origins=("https://app.example",)) as here:
        for path in ("/", "/static/app.js", "/metrics", "/readyz", "/nothing"):
            assert ((await get(here, path, Host=host)).status != 403) is good, path
        answer = await shake(here, headers={"Host": host})
        assert answer.status == (101 if good else 403)
        if not good:
            assert answer.error["code"] == "forbidden"
            assert "--allowed-origins" in answer.error["message"]
        assert (await get(here, "/healthz", Host=host)).status == 200, "which tells nothing"


async def test_long_hosts_are_refused_and_not_remembered(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        gate._is_loopback_host.cache_clear()
        for length in (HOST_CHARS, HOST_CHARS + 1, 10_000):
            assert (await get(here, "/", Host="a" * length)).status == 403
        assert gate._is_loopback_host.cache_info().currsize == 1


async def test_a_page_whose_name_was_rebound_cannot_connect(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        assert (await shake(here, headers=dict(EVIL))).status == 403
        assert (await get(here, "/", **EVIL)).status == 403
        # It can add headers to a fetch(), but not to the handshake of a WebSocket.
        assert (await get(here, "/metrics", **EVIL, **{"X-Forwarded-For": "1.2.3.4"})).status == 403


async def test_what_a_trusted_proxy_forwards_has_the_sites_name(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        assert (await shake(here, headers={**FORWARDED, "Origin": "https://chat.example"})).status == 101
        for path in ("/", "/readyz", "/static/app.js"):
            assert (await get(here, path, **FORWARDED)).status == 200
    async with running(tmp_path, trusted_proxies=ELSEWHERE) as here:
        assert (await shake(here, headers=dict(FORWARDED))).status == 403
        assert (await get(here, "/", **FORWARDED)).status == 403


async def test_what_brings_no_token_through_a_proxy_needs_a_name_that_is_known(tmp_path: Path) -> None:
    """A page that was loaded by another name can add the headers of a proxy to its fetch()."""
    forwarded = {**FORWARDED, "X-Forwarded-Proto": "https", "Origin": "https://chat.example"}
    known: tuple[str, ...]
    for known, status in (((), 403), (("https://chat.example",), 200)):
        async with running(tmp_path, allowed_origins=known) as here:
            for method, path in (("GET", "/v1/rooms/r/events"), ("POST", "/v1/session")):
                async with HTTP(here) as http:
                    assert (await http.tell(method, path, **forwarded)).status == status
                    bearer = mint(SECRET, "ada", ttl=100)
                    assert (await http.tell(method, path, bearer=bearer, **forwarded)).status == 200


@pytest.mark.parametrize(
    ("proto", "origin", "good"),
    [
        ("https", "https://chat.example", True),
        ("https", "http://chat.example", False),
        ("wss", "http://chat.example", False),
        ("HTTPS , http", "http://chat.example", False),
        ("http", "http://chat.example", True),
        ("http", "https://chat.example", True),  # another proxy took TLS off before
        ("", "http://chat.example", True),
        (None, "http://chat.example", True),
    ],
)
async def test_where_the_page_is_served_by_https_one_of_http_is_another(
    tmp_path: Path, proto: str | None, origin: str, good: bool
) -> None:
    async with running(tmp_path) as here:
        headers = {**FORWARDED, "Origin": origin, "X-Forwarded-Proto": proto}
        assert (await shake(here, headers=headers)).status == (101 if good else 403)


async def test_a_stranger_says_nothing_about_the_scheme(tmp_path: Path) -> None:
    async with running(tmp_path, trusted_proxies=ELSEWHERE) as here:
        headers: dict[str, str | None] = {"Origin": "http://localhost", "X-Forwarded-Proto": "https"}
        assert (await shake(here, headers=headers)).status == 101


async def test_elsewhere_than_on_loopback_any_name_will_do(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(socket.socket(socket.AF_UNIX)) as unix, closing(socket.socket()) as tcp:
        async with running(tmp_path, unix_socket=str(path)):
            await asks_for_a_page(unix, str(path))
        async with running(tmp_path, host="0.0.0.0", secret_file="not read here") as here:
            await asks_for_a_page(tcp, ("127.0.0.1", int(here.address.rpartition(":")[2])))


async def asks_for_a_page(sock: socket.socket, address: object) -> None:
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)  # type: ignore[arg-type]  # a path, too
    await loop.sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: chat.example\r\n\r\n")
    assert (await loop.sock_recv(sock, 65536)).startswith(b"HTTP/1.1 200 ")
