"""The handshake over HTTP, and every reason to refuse it."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat import SECRET, eventually, running
from tests.support.plain_http import HTTP, UPGRADE, get, shake
from tests.support.raw_chat import AsyncChat
from tornado_chat.auth import mint
from tornado_chat.web.gate import client_address

OTHER_SECRET = b"another secret of tests, 32 bytes"


def token(user: str = "alice", **claims: Any) -> str:
    return mint(claims.pop("secret", SECRET), user, ttl=claims.pop("ttl", 60), **claims)


async def test_a_handshake_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        answer = await shake(here)
        assert answer.status == 101
        assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert "sec-websocket-protocol" not in answer.headers
        assert "sec-websocket-extensions" not in answer.headers
        both = await shake(here, headers={"Sec-WebSocket-Protocol": "x, chat.v1.msgpack, chat.v1.json"})
        assert both.headers["sec-websocket-protocol"] == "chat.v1.msgpack"
        deflated = await shake(here, headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
        assert "server_no_context_takeover" in deflated.headers["sec-websocket-extensions"]
        assert "client_no_context_takeover" in deflated.headers["sec-websocket-extensions"]


@pytest.mark.parametrize(
    ("path", "headers", "says"),
    [
        ("/ws", {"Sec-WebSocket-Key": None}, "Sec-WebSocket-Key"),
        ("/ws", {"Sec-WebSocket-Key": ""}, "Sec-WebSocket-Key"),
        ("/ws", {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ"}, "16 bytes in base64"),
        ("/ws", {"Sec-WebSocket-Key": "c2hvcnQ="}, "16 bytes in base64"),
        ("/ws", {"Upgrade": None}, "Upgrade"),
        ("/ws", {"Upgrade": "h2c"}, "websocket"),
        ("/ws", {"Connection": "keep-alive"}, "Connection"),
        ("/ws", {"Sec-WebSocket-Protocol": "chat.v2.json, soap"}, "chat.v1.json or chat.v1.msgpack"),
        ("/ws", {"Sec-WebSocket-Protocol": "chat.v1.json, chat.v1.json"}, "only once"),
        ("/ws", {"Sec-WebSocket-Protocol": "a b"}, "a list of names"),
        ("/ws/UPPER", {}, "room: must be 1 to 64 of a-z 0-9 . _ -"),
        ("/ws/" + "a" * 65, {}, "room: must be"),
        ("/ws/a%2fb", {}, "room: must be"),
        ("/ws/%ff", {}, "room: must be"),
        ("/ws/", {}, "room: must be"),
        ("/ws/r?after=x", {}, "after: must be a seq"),
        ("/ws/r?after=-1", {}, "after: must be a seq"),
        ("/ws/r?after=1.0", {}, "after: must be a seq"),
        ("/ws/r?after=", {}, "after: must be a seq"),
        ("/ws/r?after=9223372036854775808", {}, "after: must be a seq"),
        ("/ws/r?last=501", {}, "last: must be an integer from 0 to 500"),
        ("/ws/r?last=%D9%A1", {}, "last: must be an integer"),
        ("/ws/r?after=1&last=1", {}, "after, last: give one of the two"),
        ("/ws?name=" + "a" * 65, {}, "name: must be"),
        ("/ws?name=a%0Ab", {}, "name: must be"),
    ],
)
async def test_400(tmp_path: Path, path: str, headers: dict[str, str | None], says: str) -> None:
    async with running(tmp_path) as here:
        answer = await shake(here, path, headers)
        assert answer.status == 400
        assert answer.error["code"] == "bad_request"
        assert says in answer.error["message"]
        assert here.server.metrics.refusals == {400: 1}


async def test_400_for_http_1_0(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        answer = await shake(here, version="HTTP/1.0")
        assert answer.status == 400
        assert "HTTP/1.1" in answer.error["message"]


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "\xff", "//", "http://"])
async def test_an_origin_that_is_none_is_refused_and_not_an_error_of_ours(tmp_path: Path, origin: str) -> None:
    async with running(tmp_path) as here:
        answer = await shake(here, headers={"Origin": origin})
        assert answer.status == 403
        assert answer.error["code"] == "forbidden"


@pytest.mark.parametrize("version", [None, "8", "14", "13, 8", ""])
async def test_426_names_the_version(tmp_path: Path, version: str | None) -> None:
    async with running(tmp_path) as here:
        answer = await shake(here, headers={"Sec-WebSocket-Version": version})
        assert answer.status == 426
        assert answer.headers["sec-websocket-version"] == "13"
        assert answer.error["code"] == "bad_request"


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS", "BREW"])
async def test_405_names_the_method(tmp_path: Path, method: str) -> None:
    async with running(tmp_path) as here:
        answer = await shake(here, method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET"


async def test_a_refusal_is_the_last_on_its_connection_and_says_so(tmp_path: Path) -> None:
    """A proxy that keeps connections would else send its next request into one that closes."""
    async with running(tmp_path) as here, HTTP(here) as http:
        answer = await http.ask("/ws/UPPER", UPGRADE)
        assert answer.status == 400
        assert answer.headers["connection"] == "close"
        assert await asyncio.get_running_loop().sock_recv(http.sock, 1) == b""


async def test_a_handshake_may_follow_other_requests(tmp_path: Path) -> None:
    async with running(tmp_path) as here, HTTP(here) as http:
        for path in ("/healthz", "/readyz", "/", "/nothing"):
            assert (await http.ask(path, {"Host": "localhost"})).status in (200, 404)
        assert (await http.ask("/ws", UPGRADE)).status == 101


@pytest.mark.parametrize("hosts", [[], ["a", "b"]])
async def test_a_request_names_one_host(tmp_path: Path, hosts: list[str]) -> None:
    """RFC 9112 section 3.2, RFC 6455 section 4.2.1."""
    async with running(tmp_path) as here, HTTP(here) as http:
        http.first_lines = [f"Host: {host}" for host in hosts]
        answer = await http.ask("/ws", {name: value for name, value in UPGRADE.items() if name != "Host"})
        assert answer.status == 400


# Who it is.

PLACES = ("authorization", "cookie", "subprotocol", "query")
"""Where a token may be, the first that is present counts."""

BAD_TOKENS = {
    "empty": "",
    "no token": "hello",
    "unsigned": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.",
    "another key's": token(secret=OTHER_SECRET),
    "cut": token()[:-1],
    "a huge one": "a" * 9000,
}


def presented(places: dict[str, str]) -> tuple[str, dict[str, str | None]]:
    """A path and headers that hold these tokens."""
    path, headers = "/ws", dict[str, str | None]()
    for place, its_token in places.items():
        match place:
            case "authorization":
                headers["Authorization"] = f"Bearer {its_token}"
            case "cookie":
                headers["Cookie"] = f"a=b; chat_session={its_token}; c=d"
            case "subprotocol":
                headers["Sec-WebSocket-Protocol"] = f"bearer.{its_token}, chat.v1.json"
            case _:
                path = f"/ws?token={its_token}"
    return path, headers


@pytest.mark.parametrize("guests", [True, False])
@pytest.mark.parametrize("place", PLACES)
async def test_401_for_a_token_that_does_not_check(tmp_path: Path, place: str, guests: bool) -> None:
    """Never a guest instead."""
    async with running(tmp_path, guests=guests) as here:
        expired = token(ttl=-10)
        for bad in (*BAD_TOKENS.values(), expired):
            answer = await shake(here, *presented({place: bad}))
            assert answer.status == 401, bad
            assert answer.error["code"] == "unauthorized"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert not bad or bad not in answer.error["message"]
        good = await shake(here, *presented({place: token()}))
        assert good.status == 101


async def test_401_without_a_credential_where_guests_are_off(tmp_path: Path) -> None:
    async with running(tmp_path, guests=False) as here:
        for path in ("/ws", "/ws/lobby", "/ws?name=Ada"):
            answer = await shake(here, path)
            assert answer.status == 401
            assert "guests are not let in" in answer.error["message"]
        answer = await shake(here, f"/ws?token={token('guest-0123456789abcdef')}")
        assert answer.status == 401
        assert "guest" in answer.error["message"]
        assert not here.server.limits.users.accounts


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(PLACES, 2)))
async def test_the_first_credential_present_counts(tmp_path: Path, first: str, second: str) -> None:
    async with running(tmp_path) as here:
        path, headers = presented({first: token("first"), second: token("second")})
        lines = [f"{name}: {value}" for name, value in headers.items()]
        async with await AsyncChat.connect(int(here.address.rpartition(":")[2]), path, *lines) as chat:
            assert chat.welcome["user"] == "first"
        assert (await shake(here, *presented({first: "bad", second: token("second")}))).status == 401
        assert (await shake(here, *presented({first: token("first"), second: "bad"}))).status == 101


async def test_a_token_among_the_subprotocols_is_never_echoed(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        for offer, echoed in (
            ("bearer.{}", None),
            ("bearer.{}, chat.v1.json", "chat.v1.json"),
            ("chat.v1.msgpack, bearer.{}", "chat.v1.msgpack"),
        ):
            answer = await shake(here, headers={"Sec-WebSocket-Protocol": offer.format(token())})
            assert answer.status == 101
            assert answer.headers.get("sec-websocket-protocol") == echoed
        refused = await shake(here, headers={"Sec-WebSocket-Protocol": f"bearer.{token()}, soap"})
        assert refused.status == 400


async def test_another_scheme_of_authorization_is_no_token(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        assert (await shake(here, f"/ws?token={token()}", {"Authorization": "Basic YTpi"})).status == 101
        assert (await shake(here, headers={"Authorization": f"bearer   {token()} "})).status == 101


async def test_a_token_for_other_rooms_lets_in_but_not_there(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        client = await here.connect(f"/ws/lobby?token={token(rooms=['team-*'])}")
        assert (await client.receive())["code"] == "forbidden"


# From where.


async def test_403_for_pages_of_other_origins(tmp_path: Path) -> None:
    async with running(tmp_path, allowed_origins=("https://app.example",)) as here:
        for origin, status in {
            None: 101,
            "http://localhost": 101,
            "https://localhost": 101,
            "HTTPS://LocalHost": 101,
            "https://app.example": 101,
            "http://app.example": 403,
            "https://app.example:8443": 403,
            "https://localhost.evil.example": 403,
            "https://evil.example": 403,
            "https://evil.example/localhost": 403,
            "https://localhost@evil.example": 403,
            "null": 403,
            "": 403,
        }.items():
            answer = await shake(here, headers={"Origin": origin})
            assert answer.status == status, origin
            if status == 403:
                assert answer.error["code"] == "forbidden"
                assert "--allowed-origins" in answer.error["message"]


def networks(*names: str) -> tuple[Any, ...]:
    return tuple(map(ipaddress.ip_network, names))


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "client"),
    [
        ("10.0.0.1", None, (), "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", (), "10.0.0.1"),  # not believed
        ("10.0.0.1", "1.2.3.4", ("10.0.0.2",), "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", ("10.0.0.0/8",), "1.2.3.4"),
        ("10.0.0.1", "9.9.9.9, 1.2.3.4", ("10.0.0.0/8",), "1.2.3.4"),  # what stands before it is the client's own claim
        ("10.0.0.1", "9.9.9.9,1.2.3.4 , 10.0.0.7", ("10.0.0.0/8",), "1.2.3.4"),
        ("10.0.0.1", "10.0.0.9, 10.0.0.7", ("10.0.0.0/8",), "10.0.0.9"),
        ("10.0.0.1", "", ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", "unknown", ("10.0.0.0/8",), "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, unknown, 10.0.0.7", ("10.0.0.0/8",), "10.0.0.7"),
        ("0.0.0.0", "1.2.3.4", (), "1.2.3.4"),  # a Unix socket: only a proxy is there
        ("0.0.0.0", None, (), "0.0.0.0"),
        ("2001:db8:1:2:3:4:5:6", None, (), "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", None, (), "2001:db8:1:2::/64"),
        ("::1", "2001:db8:1:2:3:4:5:6", ("::1",), "2001:db8:1:2::/64"),
        ("10.0.0.1", "2001:db8:1:2:3:4:5:6", ("10.0.0.0/8",), "2001:db8:1:2::/64"),
        ("::1", "1.2.3.4", ("::1",), "1.2.3.4"),
        # An IPv4 address in IPv6's clothes is one client, and not all of them together.
        ("::1", "::ffff:1.2.3.4", ("::1",), "1.2.3.4"),
        ("::ffff:10.0.0.1", "1.2.3.4", ("10.0.0.0/8",), "1.2.3.4"),
    ],
)
def test_whose_limits_count(peer: str, forwarded: str | None, trusted: tuple[str, ...], client: str) -> None:
    assert client_address(peer, forwarded, networks(*trusted)) == client


async def test_429_counts_by_address_behind_a_trusted_proxy(tmp_path: Path) -> None:
    trusted = networks("127.0.0.0/8")
    async with running(tmp_path, connections_per_address=2, trusted_proxies=trusted) as here:
        first = [await here.connect(headers={"X-Forwarded-For": "1.2.3.4"}) for _ in range(2)]
        answer = await shake(here, headers={"X-Forwarded-For": "1.2.3.4"})
        assert answer.status == 429
        assert answer.error["code"] == "rate_limited"
        assert int(answer.headers["retry-after"]) > 0
        await here.connect(headers={"X-Forwarded-For": "1.2.3.5"})
        await here.connect(headers={"X-Forwarded-For": "2001:db8::1"})
        await here.connect(headers={"X-Forwarded-For": "2001:db8::2"})
        assert (await shake(here, headers={"X-Forwarded-For": "2001:db8::3"})).status == 429
        await first[0].close()
        await eventually(lambda: here.server.limits.addresses.connections("1.2.3.4") == 1)
        await here.connect(headers={"X-Forwarded-For": "1.2.3.4"})


async def test_429_believes_no_address_that_the_peer_made_up(tmp_path: Path) -> None:
    async with running(tmp_path, connections_per_address=2, trusted_proxies=networks("10.0.0.0/8")) as here:
        for number in range(2):
            await here.connect(headers={"X-Forwarded-For": f"1.2.3.{number}"})
        assert (await shake(here, headers={"X-Forwarded-For": "1.2.3.9"})).status == 429


async def test_503_for_too_many_connections(tmp_path: Path) -> None:
    async with running(tmp_path, max_connections=3) as here:
        clients = [await here.connect() for _ in range(3)]
        answer = await shake(here)
        assert answer.status == 503
        assert answer.error["code"] == "overloaded"
        assert int(answer.headers["retry-after"]) > 0
        assert (await get(here, "/healthz")).status == 200
        await clients[0].close()
        await eventually(lambda: len(here.server.lines.open) == 2)
        await here.connect()
        assert here.server.metrics.refusals == {503: 1}
